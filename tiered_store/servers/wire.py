"""What the codecs of the small doors have in common: bytes in, one command after the other out, large values in pieces.

No I/O, no clock. A codec is asked for the next thing that is whole; what it keeps is bounded by its own limits and by
whoever feeds it, who is told how much waits.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

__all__ = ["SMALL_VALUE_MAX_BYTES", "Buffer", "Opening", "Reader"]

#: Values up to this size are part of their command; larger ones come in pieces before it.
SMALL_VALUE_MAX_BYTES = 64 * 1024


class Opening(NamedTuple):
    """A command with a large value begins; ``size`` bytes of it follow as pieces, then the command without them."""

    size: int


class Reader(Protocol):
    """A codec's reading half."""

    @property
    def is_midway(self) -> bool:
        """Whether the peer owes the rest of something."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """How much has come and was not read yet."""
        ...

    def feed(self, data: bytes) -> None:
        """Take what one read gave."""
        ...

    def next(self) -> Any:
        """A command, an :class:`Opening`, a piece of a value (``bytes``), or None: more has to come first.

        Raises:
            ProtocolError: these bytes mean nothing; nothing after them can be read.
        """
        ...


class Buffer:
    """Bytes that have come and were not read yet."""

    __slots__ = ("_at", "_data")

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0

    def __len__(self) -> int:
        return len(self._data) - self._at

    def feed(self, data: bytes) -> None:
        """Append."""
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data

    def peek(self, size: int) -> bytes:
        """The next bytes, at most so many, which stay."""
        return bytes(self._data[self._at : self._at + size])

    def take(self, size: int) -> bytes:
        """The next bytes, at most so many."""
        taken = bytes(self._data[self._at : self._at + size])
        self._at += len(taken)
        return taken

    def skip(self, size: int) -> None:
        """Leave out bytes that are there."""
        self._at += size

    def find(self, what: bytes, within: int) -> int:
        """How many bytes come before ``what``, of which ``within`` are looked at; -1: it is not there."""
        found = self._data.find(what, self._at, self._at + within)
        return found - self._at if found >= 0 else -1
