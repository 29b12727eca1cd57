"""Feeding a codec of the small doors in pieces, as the kernel may."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from tiered_store.servers.wire import Opening, Reader

__all__ = ["cut", "events"]


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    """The bytes in pieces that end at these places."""
    places = sorted({0, len(data), *(place for place in at if 0 < place < len(data))})
    return [data[start:end] for start, end in itertools.pairwise(places)]


def events(reader: Reader, pieces: Iterable[bytes]) -> Iterator[Any]:
    """What a codec makes of them, the pieces of one large value joined; it ends with what the codec raises."""
    value: bytearray | None = None
    for piece in pieces:
        reader.feed(piece)
        while (event := reader.next()) is not None:
            if isinstance(event, bytes):
                assert value is not None, "a piece of no value"
                value += event
                continue
            if value is not None:
                yield bytes(value)
                value = None
            if isinstance(event, Opening):
                value = bytearray()
            yield event
