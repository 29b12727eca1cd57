"""Keys: their rules, the two kinds, and the name an object has at the origin.

A ``Key`` is a ``str`` that went through :func:`parse_key` once, at the edge; behind it nothing checks
again. This module knows no tier, no origin and no wire.

Two kinds of key exist. ``sha256:<64 lowercase hex>`` names an artifact: bytes under their own digest.
Every other key is a path such as ``sessions/abc/metadata.json``.
"""

from __future__ import annotations

import re
from typing import NewType

from tiered_store.errors import InvalidKey

__all__ = [
    "ARTIFACT_DIRECTORY",
    "ARTIFACT_PREFIX",
    "MAX_KEY_BYTES",
    "RESERVED_PREFIX",
    "Key",
    "artifact_key",
    "digest_of",
    "is_artifact",
    "key_of_name",
    "name_of_key",
    "parse_key",
    "parse_prefix",
]

Key = NewType("Key", str)

#: S3's bound for object names, so that every key fits every origin.
MAX_KEY_BYTES = 1024
ARTIFACT_PREFIX = "sha256:"
#: Where artifacts live at an origin. Path keys below it can be read but not written: their
#: content is vouched for by their name, which only the artifact door verifies.
ARTIFACT_DIRECTORY = "artifacts/sha256/"
#: Segments that start with this belong to the store itself (metadata, spool, probes).
RESERVED_PREFIX = ".tiered_store"

_ARTIFACT = re.compile(r"sha256:[0-9a-f]{64}\Z")
_ARTIFACT_NAME = re.compile(r"artifacts/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})\Z")
# C0, DEL, C1 and the two Unicode line separators: they break logs, listings and terminals.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

#: What nearly all keys look like: seen at one glance, where the rules one by one take five times as long.
_PLAIN = re.compile(r"(?:[A-Za-z0-9_\-][A-Za-z0-9_.\-]*/)*[A-Za-z0-9_\-][A-Za-z0-9_.\-]*\Z")


def _decode(raw: str | bytes, what: str) -> str:
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
        size = len(text.encode("utf-8"))
    except UnicodeError:
        raise InvalidKey(f"a {what} must be valid UTF-8", key=repr(raw)[:80]) from None
    if size > MAX_KEY_BYTES:
        raise InvalidKey(f"a {what} must have at most {MAX_KEY_BYTES} bytes, this one has {size}", key=text[:80])
    return text


def _broken_rule(path: str) -> str | None:
    """Name the rule that a path breaks, or None."""
    if _CONTROL.search(path):
        return "a key must not contain a control character"
    if "\\" in path:
        return "a key must not contain a backslash"
    if path.startswith("/") or not path:
        return "a key must not start with '/'"
    for segment in path.split("/"):
        if not segment:
            return "a key must not contain an empty segment ('//' or a '/' at the end)"
        if segment in {".", ".."}:
            return "a key must not contain a '.' or '..' segment"
        if segment.startswith(RESERVED_PREFIX):
            return f"a segment must not start with {RESERVED_PREFIX!r}, which is reserved"
    return None


def parse_key(raw: str | bytes) -> Key:
    """Check a key against the rules and give it back as a ``Key``.

    Args:
        raw: the key as the caller gave it, text or UTF-8 bytes.

    Raises:
        InvalidKey: naming the rule that is broken.
    """
    text = _decode(raw, "key")
    if _PLAIN.match(text):
        return Key(text)
    if not text:
        raise InvalidKey("a key must not be empty", key="")
    if text.startswith(ARTIFACT_PREFIX):
        if not _ARTIFACT.match(text):
            raise InvalidKey("an artifact key is 'sha256:' and 64 lowercase hex digits", key=text)
        return Key(text)
    rule = _broken_rule(text)
    if rule is not None:
        raise InvalidKey(rule, key=text)
    return Key(text)


def parse_prefix(raw: str | bytes) -> str:
    """Check the prefix of a listing: the beginning of some key, or empty.

    A prefix may end anywhere in a key, in the middle of a segment or after a ``/``.

    Raises:
        InvalidKey: if no key can start with it.
    """
    text = _decode(raw, "prefix")
    if not text:
        return ""
    if text.startswith(ARTIFACT_PREFIX):
        digits = text[len(ARTIFACT_PREFIX) :]
        if len(digits) > 64 or digits.strip("0123456789abcdef"):
            raise InvalidKey("an artifact prefix is 'sha256:' and lowercase hex digits", key=text)
        return text
    # The last segment is incomplete: only what it already shows can break a rule.
    head, slash, last = text.rpartition("/")
    rule = _broken_rule(head) if slash else None
    if rule is None and last not in {"", ".", ".."}:
        rule = _broken_rule(last)
    elif rule is None and len(text.encode()) == MAX_KEY_BYTES:
        rule = f"a key must have at most {MAX_KEY_BYTES} bytes, which leaves no room for the rest of a segment"
    if rule is not None:
        raise InvalidKey(rule.replace("a key", "a prefix", 1), key=text)
    return text


def is_artifact(key: str) -> bool:
    """Whether a checked key names an artifact."""
    return key.startswith(ARTIFACT_PREFIX)


def artifact_key(hex_digest: str) -> Key:
    """The key of the artifact with this sha256 (64 lowercase hex digits).

    Raises:
        InvalidKey: if that is no such digest.
    """
    return parse_key(ARTIFACT_PREFIX + hex_digest)


def digest_of(key: Key) -> str:
    """The 64 hex digits of an artifact key."""
    return key[len(ARTIFACT_PREFIX) :]


def name_of_key(key: Key) -> str:
    """The name of an object at the origin: a path key's own, an artifact's fanned out by two digits."""
    if key.startswith(ARTIFACT_PREFIX):
        digest = key[len(ARTIFACT_PREFIX) :]
        return f"{ARTIFACT_DIRECTORY}{digest[:2]}/{digest}"
    return key


def key_of_name(name: str) -> Key | None:
    """The key an origin's name stands for, or None where the name cannot be one.

    Files that others put into an origin can have any name; those that break the rules have no key and
    stay invisible.
    """
    match = _ARTIFACT_NAME.match(name)
    if match:
        return Key(ARTIFACT_PREFIX + match.group(2))
    if name.startswith(ARTIFACT_PREFIX) or not name:
        return None
    if len(name.encode("utf-8", "surrogateescape")) > MAX_KEY_BYTES or _broken_rule(name) is not None:
        return None
    try:
        name.encode("utf-8")
    except UnicodeError:
        return None
    return Key(name)
