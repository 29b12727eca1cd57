"""Ranges of bytes (RFC 9110, section 14): which are asked for, and how several are framed. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tiered_store.servers.http.problems import Refusal

__all__ = ["Part", "Span", "content_range", "framed", "parse_ranges"]

#: A request for more, or for parts that together are more than the whole, is answered with the whole.
_PARTS_MAX: Final = 16
_RANGE: Final = re.compile(r"([0-9]*)-([0-9]*)\Z")
_DIGITS_MAX: Final = 18


class Span(NamedTuple):
    """Bytes ``[offset, offset + length)``; at least one."""

    offset: int
    length: int


class Part(NamedTuple):
    """One part of an answer with several: what stands before its bytes, and which they are."""

    head: bytes
    span: Span


def parse_ranges(text: str, size: int) -> list[Span] | None:
    """The ranges asked for, clipped to the object; None if the field is to be ignored.

    Raises:
        Refusal: none of them has a byte of the object.
    """
    unit, _, rest = text.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    spans: list[Span] = []
    asked = [part.strip() for part in rest.split(",")]
    if not any(asked):
        return None
    for part in filter(None, asked):
        ends = _RANGE.match(part)
        if ends is None or ends[0] == "-" or len(part) > 2 * _DIGITS_MAX:
            return None
        first, last = (int(end) if end else None for end in ends.groups())
        if first is None:
            first, last = max(0, size - (last or 0)), size - 1
        elif last is None or last >= size:
            if last is not None and last < first:
                return None
            last = size - 1
        elif last < first:
            return None
        if first <= last and first < size:
            spans.append(Span(first, last - first + 1))
    if not spans:
        headers = {"Content-Range": f"bytes */{size}"}
        raise Refusal(416, "RangeNotSatisfiable", f"the object has {size} bytes", headers=headers)
    if len(spans) > _PARTS_MAX or (len(spans) > 1 and sum(span.length for span in spans) > size):
        return None
    return spans


def content_range(span: Span, size: int) -> str:
    """The field that says which bytes these are."""
    return f"bytes {span.offset}-{span.offset + span.length - 1}/{size}"


def framed(spans: list[Span], size: int, content_type: str, boundary: str) -> tuple[list[Part], bytes, int]:
    """Several ranges as a ``multipart/byteranges`` body: its parts, what ends it, and how large it is."""
    parts = []
    for number, span in enumerate(spans):
        lead = f"{'' if number == 0 else chr(13) + chr(10)}--{boundary}\r\n"
        head = f"{lead}Content-Type: {content_type}\r\nContent-Range: {content_range(span, size)}\r\n\r\n"
        parts.append(Part(head.encode(), span))
    end = f"\r\n--{boundary}--\r\n".encode()
    return parts, end, len(end) + sum(len(part.head) + part.span.length for part in parts)
