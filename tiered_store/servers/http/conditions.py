"""Preconditions (RFC 9110, section 13): from header fields to "go on", "not modified" or "failed". Pure."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from multidict import CIMultiDictProxy

from tiered_store.objects import ObjectInfo
from tiered_store.servers.http.fields import etag_of
from tiered_store.servers.http.problems import Refusal
from tiered_store.store.conditions import Condition

__all__ = ["FAILED", "has_conditions", "range_holds", "read_status", "write_condition"]

FAILED: Final = Refusal(412, "PreconditionFailed", "the object is not what the request's conditions ask for")

_CONDITIONS: Final = ("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
_TAG: Final = re.compile(r'(W/)?("[!\x23-\x7e\x80-\uffff]*")')
#: With empty elements, which lists may have (RFC 9110, section 5.6.1.2).
_TAGS: Final = re.compile(rf"[\s,]*{_TAG.pattern}(?:\s*,[\s,]*{_TAG.pattern})*[\s,]*\Z")


def has_conditions(headers: CIMultiDictProxy[str]) -> bool:
    """Whether the answer depends on what the sender has already."""
    return any(name in headers for name in _CONDITIONS)


def read_status(headers: CIMultiDictProxy[str], info: ObjectInfo) -> int:
    """What a read of this object is answered with: 200, 304 or 412, in the order that section 13.2.2 gives."""
    tag = etag_of(info)
    if_match = _joined(headers, "If-Match")
    if if_match is not None:
        if not _matches(if_match, tag, weak=False):
            return 412
    else:
        since = _time(headers.get("If-Unmodified-Since"))
        if since is not None and _seconds(info) > since:
            return 412
    if_none_match = _joined(headers, "If-None-Match")
    if if_none_match is not None:
        return 304 if _matches(if_none_match, tag, weak=True) else 200
    since = _time(headers.get("If-Modified-Since"))
    return 304 if since is not None and _seconds(info) <= since else 200


def range_holds(headers: CIMultiDictProxy[str], info: ObjectInfo) -> bool:
    """Whether ``If-Range`` lets the request's ranges count.

    A date never does: an object may be written twice within its second, and the rest of the later one would be put to
    the beginning of the other. Who has an entity tag, which all answers have, must not send one (section 13.1.5).
    """
    text = headers.get("If-Range")
    return text is None or text.strip() == etag_of(info)


def write_condition(headers: CIMultiDictProxy[str]) -> Condition | None:
    """What a write asks of what the key holds now, or None.

    Raises:
        Refusal: it asks for something that cannot be judged while the key is locked.
    """
    if_match, if_none_match = _joined(headers, "If-Match"), _joined(headers, "If-None-Match")
    # Beside If-Match it must be ignored, as If-Modified-Since must in any write (sections 13.1.3 and 13.1.4).
    if if_match is None and _time(headers.get("If-Unmodified-Since")) is not None:
        raise Refusal(
            501, "UnsupportedCondition", "a write can be made to depend on entity tags (If-Match, If-None-Match) only"
        )
    if if_match is None and if_none_match is None:
        return None

    def holds(info: ObjectInfo | None) -> bool:
        tag = None if info is None else etag_of(info)
        if if_match is not None and not _matches(if_match, tag, weak=False):
            return False
        return if_none_match is None or not _matches(if_none_match, tag, weak=True)

    return holds


def _joined(headers: CIMultiDictProxy[str], name: str) -> str | None:
    """A list field, whose lines count as one. Raises Refusal where it is neither ``*`` nor a list of entity tags."""
    found = headers.getall(name, None)
    if found is None:
        return None
    text = ",".join(found)
    if text.strip() != "*" and not _TAGS.match(text):
        raise Refusal(400, "BadHeader", f"{name} must be '*' or a list of quoted entity tags")
    return text


def _matches(text: str, tag: str | None, *, weak: bool) -> bool:
    if tag is None:
        return False
    if text.strip() == "*":
        return True
    return any(found[2] == tag and (weak or not found[1]) for found in _TAG.finditer(text))


def _time(text: str | None) -> int | None:
    """Seconds since the epoch; None for what is no date, which counts as not said."""
    if text is None:
        return None
    try:
        found = parsedate_to_datetime(text)
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _seconds(info: ObjectInfo) -> int:
    """When the object was written, as ``Last-Modified`` says it."""
    return info.modified_ns // 1_000_000_000
