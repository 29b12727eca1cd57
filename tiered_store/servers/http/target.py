"""A request's target, decoded once and strictly: what routing, rights and keys are judged by is one and the same text.

Pure. Whatever could mean two things to two readers is refused: a proxy in front and this door must not disagree about
which object a request is for.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from tiered_store.servers.http.problems import Refusal

__all__ = ["ALL_PLAIN", "Target", "parse_query", "parse_target"]

#: A key's 1,024 bytes, each as three, and what stands before them; the request line's own bound is above this.
_PATH_MAX_BYTES: Final = 4096
_QUERY_FIELDS_MAX: Final = 64
#: More than any path has segments.
ALL_PLAIN: Final = 2**16
#: What needs no decoding, and breaks no rule where neither a dot nor a slash follows a slash.
_PLAIN: Final = re.compile(r"/[A-Za-z0-9_.\-:~/]*[A-Za-z0-9_.\-:~]\Z")
_ORIGIN: Final = re.compile(
    r"https?://[A-Za-z0-9_.\-]+(?::[0-9]{1,5})?(?=/|\?|\Z)|https?://\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?(?=/|\?|\Z)"
)
#: RFC 3986's pchar, '/', and what browsers leave alone though it should be encoded.
_SENT: Final = re.compile(r"(?:[A-Za-z0-9_.\-~!$&'()*+,;=:@/|^`{}\[\]\"<>]|%[0-9A-Fa-f]{2})*\Z")
_SENT_QUERY: Final = re.compile(r"(?:[A-Za-z0-9_.\-~!$&'()*+,;=:@/?|^`{}\[\]\"<>]|%[0-9A-Fa-f]{2})*\Z")
_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\\\\]")


class Target(NamedTuple):
    """What a request is for.

    Attributes:
        path: decoded, without the slash that it begins with.
        query: as it was sent.
        has_double_slash: whether slashes stood together; ``path`` has one for each such run.
        plain_segments: how many segments, of those that were sent, come before the first with an escaped slash in it.
            That one is no delimiter (RFC 3986, section 2.2): it means ``/`` in a key, and nowhere else.
    """

    path: str
    query: str = ""
    has_double_slash: bool = False
    plain_segments: int = ALL_PLAIN


def parse_target(raw: str) -> Target:
    """Read a request's target, in origin form or (as a server must) in absolute form.

    Raises:
        Refusal: naming the rule that is broken.
    """
    path, question, query = raw.partition("?")
    if not question and _PLAIN.match(path) and "/." not in path and "//" not in path and len(path) <= _PATH_MAX_BYTES:
        return Target(path[1:])
    origin = _ORIGIN.match(path)
    if origin is not None:  # whom it names does not matter: this door is one place
        path = path[origin.end() :] or "/"
    if not path.startswith("/"):
        raise Refusal(400, "BadTarget", "the request's target must be a path or an http URL without a user")
    if len(path) > _PATH_MAX_BYTES:
        raise Refusal(414, "BadTarget", f"a path must have at most {_PATH_MAX_BYTES} bytes, as it is sent")
    text = _decode(path, _SENT, "path")
    if _FORBIDDEN.search(text):
        raise Refusal(400, "BadTarget", "a path must not contain a control character or a backslash")
    segments = text[1:].split("/")
    if "." in segments or ".." in segments:
        raise Refusal(400, "BadTarget", "a path must not contain a '.' or '..' segment")
    kept = [segment for segment in segments[:-1] if segment] + segments[-1:]
    return Target("/".join(kept), query, len(kept) != len(segments), _plain_segments(path))


def _plain_segments(path: str) -> int:
    if "%2f" not in path.lower():
        return ALL_PLAIN
    sent = [segment for segment in path.lower().split("/") if segment]
    return next(number for number, segment in enumerate(sent) if "%2f" in segment)


def parse_query(raw: str) -> dict[str, str]:
    """The fields of a query by name; a ``+`` is a plus.

    Raises:
        Refusal: a field that comes twice, too many, or escapes that are none.
    """
    fields: dict[str, str] = {}
    if not raw:
        return fields
    parts = raw.split("&")
    if len(parts) > _QUERY_FIELDS_MAX:
        raise Refusal(400, "BadTarget", f"a query must have at most {_QUERY_FIELDS_MAX} fields")
    for part in parts:
        name, _, value = (_decode(text, _SENT_QUERY, "query") for text in part.partition("="))
        if name in fields:
            raise Refusal(400, "BadTarget", f"the query names {name[:80]!r} twice")
        if name:
            fields[name] = value
    return fields


def _decode(text: str, allowed: re.Pattern[str], what: str) -> str:
    if not allowed.match(text):
        raise Refusal(400, "BadTarget", f"the {what} contains a bad escape, or a character that must be escaped")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        raise Refusal(400, "BadTarget", f"the {what} must be UTF-8, percent-encoded") from None
