"""A tool's entry: the small object behind a build tool's key. It names the content and says what the tool wants back.

Pure values. The content itself is an artifact, so that equal outputs of different tools, instances and branches are
kept once; an entry is an ordinary object whose body is a JSON document. Whoever reads one believes nothing: what does
not parse is no entry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tiered_store.errors import InvalidKey
from tiered_store.key import ARTIFACT_PREFIX, Key, parse_key

__all__ = ["ENTRY_MAX_BYTES", "ENTRY_PREFIX", "QUARANTINE_PREFIX", "Place", "ToolEntry", "decode_entry", "encode_entry"]

#: Where entries live.
ENTRY_PREFIX: Final = "build/"
#: Where entries of writers live whom nobody trusts yet.
QUARANTINE_PREFIX: Final = "quarantine/"
#: Headers that a tool wants back have some hundred bytes.
ENTRY_MAX_BYTES: Final = 16 * 1024

_FORMAT: Final = 1
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tool's keys live: those of two places never meet.

    Attributes:
        dialect: whose keys they are, such as ``"ccache"`` or ``"bazel-ac"``.
        instance: who shares them, such as a repository's name.
        writer: in whose quarantine they are; empty for those that everybody sees.

    Raises:
        InvalidKey: a name that is none: letters, digits, ``_``, ``.`` and ``-``, at most 64, a letter or digit first.
    """

    dialect: str
    instance: str
    writer: str = ""

    def __post_init__(self) -> None:
        for what, name in (("dialect", self.dialect), ("instance", self.instance), ("writer", self.writer or "x")):
            if not _NAME.match(name):
                raise InvalidKey(
                    f"a build cache's {what} is named by 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first",
                    key=name[:80],
                )

    @property
    def prefix(self) -> str:
        """What the keys of all its entries begin with."""
        place = f"{self.dialect}/{self.instance}/"
        return f"{QUARANTINE_PREFIX}{self.writer}/{place}" if self.writer else ENTRY_PREFIX + place

    @property
    def trusted(self) -> Place:
        """The same place as everybody sees it, outside any quarantine."""
        return Place(self.dialect, self.instance)

    def key(self, name: str) -> Key:
        """The key of the entry behind a tool's key.

        Raises:
            InvalidKey: it breaks the rules for keys.
        """
        return parse_key(self.prefix + name)


@dataclass(frozen=True, slots=True)
class ToolEntry:
    """What is behind a tool's key.

    Attributes:
        digest: sha256 of the content, 64 lowercase hex digits.
        size: of the content, in bytes.
        stored_ns: when it was stored, nanoseconds since the epoch.
        headers: what the tool sent with it and wants back, by lower-case name.
    """

    digest: str
    size: int
    stored_ns: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> Key:
        """The artifact that is the content."""
        return Key(ARTIFACT_PREFIX + self.digest)


def encode_entry(entry: ToolEntry) -> bytes:
    """The body of the object that an entry is; :func:`decode_entry` reads it."""
    said: dict[str, Any] = {"v": _FORMAT, "digest": entry.digest, "size": entry.size, "stored_ns": entry.stored_ns}
    if entry.headers:
        said["headers"] = dict(entry.headers)
    return json.dumps(said, separators=(",", ":"), sort_keys=True).encode()


def decode_entry(body: bytes) -> ToolEntry:
    """Read what :func:`encode_entry` wrote.

    Raises:
        ValueError: these bytes are no entry.
    """
    if len(body) > ENTRY_MAX_BYTES:
        raise ValueError(f"an entry has at most {ENTRY_MAX_BYTES} bytes")
    said = json.loads(body)
    if not isinstance(said, dict) or said.get("v") != _FORMAT:
        raise ValueError("no entry of a build cache, or one of a later version")
    if not _is_sound(said):
        raise ValueError("an entry of a build cache with fields that cannot be")
    return ToolEntry(said["digest"], said["size"], said["stored_ns"], said.get("headers", {}))


def _is_sound(said: dict[str, Any]) -> bool:
    digest, size, headers = said.get("digest"), said.get("size"), said.get("headers", {})
    return (
        isinstance(digest, str)
        and re.fullmatch("[0-9a-f]{64}", digest) is not None
        and type(size) is int
        and size >= 0
        and type(said.get("stored_ns")) is int
        and isinstance(headers, dict)
        and all(isinstance(value, str) for value in headers.values())
    )
