"""CRSH, version 1: what ccache says to a storage helper, and how it is answered. No I/O.

The format is that of ccache's ``doc/remote_storage_helper_spec.md``; numbers are in the machine's own byte order. A put
with a large value comes in pieces (``servers/wire.py``).

Invariant: what is kept of an unfinished request is at most one key, one small value and one read of the socket.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from tiered_store.errors import ProtocolError
from tiered_store.servers.wire import SMALL_VALUE_MAX_BYTES, Buffer, Opening

__all__ = [
    "DONE",
    "GREETING",
    "NOTHING",
    "NO_GREETING",
    "VALUE_MAX_BYTES",
    "CrshReader",
    "Operation",
    "Request",
    "error",
    "found",
    "identity",
    "presence",
]

_SIZE: Final = struct.Struct("=Q")
#: Version 1; get, put and remove; info; exists.
GREETING: Final = b"\x01\x03\x00\x01\x02"
#: To a peer that is not let in: without any capability ccache goes on without this storage.
NO_GREETING: Final = b"\x01\x00"
DONE: Final = b"\x00"
NOTHING: Final = b"\x01"
_FAILED: Final = b"\x02"
_MESSAGE_MAX_BYTES: Final = 255
_MESSAGES_MAX: Final = 255
#: No compiler writes anything like it: whoever announces more has lost the thread.
VALUE_MAX_BYTES: Final = 2**40
_OVERWRITE: Final = 0x01


class Operation(enum.IntEnum):
    """What is asked."""

    GET = 0
    PUT = 1
    REMOVE = 2
    STOP = 3
    INFO = 4
    EXISTS = 5


_WITH_KEY: Final = frozenset({Operation.GET, Operation.PUT, Operation.REMOVE, Operation.EXISTS})
_KNOWN: Final = {int(operation): operation for operation in Operation}


class Request(NamedTuple):
    """One request.

    Attributes:
        operation: what is asked.
        key: about what; empty where the operation has none.
        overwrite: of a put: whether it may replace what is there.
        value: of a put; empty where it came in pieces.
    """

    operation: Operation
    key: bytes = b""
    overwrite: bool = False
    value: bytes = b""


class CrshReader:
    """Cuts what a client sends into requests."""

    def __init__(self) -> None:
        self._buffer = Buffer()
        self._put: Request | None = None  # a put whose value is on its way
        self._left = 0  # bytes of that value that are still to come
        self._is_large = False

    @property
    def is_midway(self) -> bool:
        """Whether the client owes the rest of a request."""
        return self._put is not None or len(self._buffer) > 0

    @property
    def waiting_bytes(self) -> int:
        """How much has come and was not read yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take what one read gave."""
        self._buffer.feed(data)

    def next(self) -> Request | Opening | bytes | None:
        """See ``wire.Reader``."""
        if self._put is not None:
            return self._value(self._put)
        head = self._buffer.peek(2)
        if not head:
            return None
        operation = _KNOWN.get(head[0])
        if operation is None:
            raise ProtocolError(f"there is no operation {head[0]}")
        if operation not in _WITH_KEY:
            self._buffer.skip(1)
            return Request(operation)
        if len(head) < 2 or len(self._buffer) < 2 + head[1]:
            return None
        if operation is Operation.PUT:
            return self._begin_put(head[1])
        self._buffer.skip(2)
        return Request(operation, self._buffer.take(head[1]))

    def _begin_put(self, key_size: int) -> Request | Opening | None:
        size = 2 + key_size + 1 + _SIZE.size
        head = self._buffer.peek(size)
        if len(head) < size:
            return None
        self._buffer.skip(size)
        (self._left,) = _SIZE.unpack_from(head, size - _SIZE.size)
        if self._left > VALUE_MAX_BYTES:
            raise ProtocolError(f"a value of {self._left} bytes")
        self._put = Request(Operation.PUT, head[2 : 2 + key_size], bool(head[2 + key_size] & _OVERWRITE))
        self._is_large = self._left > SMALL_VALUE_MAX_BYTES
        if self._is_large:
            return Opening(self._left)
        whole = self._value(self._put)
        assert not isinstance(whole, bytes)
        return whole

    def _value(self, put: Request) -> Request | bytes | None:
        if self._is_large and self._left:
            piece = self._buffer.take(self._left)
            self._left -= len(piece)
            return piece or None
        if len(self._buffer) < self._left:
            return None
        self._put = None
        value = self._buffer.take(self._left)
        self._left = 0
        return put._replace(value=value)


def found(size: int) -> bytes:
    """What comes before the value of a hit."""
    return DONE + _SIZE.pack(size)


def presence(*, is_there: bool) -> bytes:
    """The answer to EXISTS."""
    return DONE + (b"\x01" if is_there else b"\x00")


def error(message: str) -> bytes:
    """An error, as much of it as there is room for."""
    return _FAILED + _message(message)


def identity(name: str, diagnostics: Sequence[str] = ()) -> bytes:
    """The answer to INFO."""
    told = diagnostics[:_MESSAGES_MAX]
    return _message(name) + bytes([len(told)]) + b"".join(map(_message, told))


def _message(text: str) -> bytes:
    raw = text.encode()[:_MESSAGE_MAX_BYTES].decode(errors="ignore").encode()
    return bytes([len(raw)]) + raw
