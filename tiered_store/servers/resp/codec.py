"""RESP2, the protocol of Redis: reading commands, writing replies. No I/O.

The format is that of https://redis.io/docs/latest/develop/reference/protocol-spec/: a command is an array of bulk
strings, or one line of words. Only the commands that say so may have an argument too large for memory; it comes in
pieces (``servers/wire.py``).

Invariant: what is kept of an unfinished command is at most ``ARGUMENTS_MAX_BYTES`` and one read of the socket; a
length is judged before a byte of what it announces is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tiered_store.errors import ProtocolError
from tiered_store.servers.wire import SMALL_VALUE_MAX_BYTES, Buffer, Opening

__all__ = [
    "ARGUMENTS_MAX",
    "ARGUMENTS_MAX_BYTES",
    "NULL",
    "NULL_3",
    "OK",
    "VALUE_MAX_BYTES",
    "RespReader",
    "bulk",
    "error",
]

OK: Final = b"+OK\r\n"
NULL: Final = b"$-1\r\n"
#: The same in RESP3.
NULL_3: Final = b"_\r\n"
#: Redis' own bound (proto-max-bulk-len): clients know it.
VALUE_MAX_BYTES: Final = 512 * 1024 * 1024
#: Of one command, all together; a large value not counted.
ARGUMENTS_MAX: Final = 16_384
ARGUMENTS_MAX_BYTES: Final = 1024 * 1024
#: Redis' own bounds for a client that has not said its password yet.
_STRANGER_ARGUMENTS: Final = 10
_STRANGER_BYTES: Final = 16 * 1024
_LINE_MAX_BYTES: Final = 16 * 1024
#: The longest command that is tried as a usual one.
_SIMPLE_MAX_BYTES: Final = 512
#: A length with its type and its line end; 19 digits are more than any length has.
_HEADER_MAX_BYTES: Final = 24


class RespReader:
    """Cuts what a client sends into commands: lists of their words.

    Args:
        value_at: which argument of a command may be large, by the command's name in capitals.
        is_trusted: whether the client need not say a password first; may be changed when it has.
    """

    def __init__(self, value_at: Mapping[bytes, int], *, is_trusted: bool = True) -> None:
        self.is_trusted = is_trusted
        self._value_at = value_at
        self._buffer = Buffer()
        self._arguments: list[bytes] = []
        self._missing = 0  # arguments of the current command that are still to come
        self._kept = 0  # bytes of those that are there
        self._bulk = -1  # the length of the one that is on its way, or -1
        self._pieces = 0  # bytes that are still to come of a large one

    @property
    def is_midway(self) -> bool:
        """Whether the client owes the rest of a command."""
        return self._missing > 0 or len(self._buffer) > 0

    @property
    def waiting_bytes(self) -> int:
        """How much has come and was not read yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take what one read gave."""
        self._buffer.feed(data)

    def next(self) -> list[bytes] | Opening | bytes | None:
        """See ``wire.Reader``."""
        if not self._missing and self.is_trusted and len(self._buffer) <= _SIMPLE_MAX_BYTES:
            if not len(self._buffer):
                return None
            simple = _simple(self._buffer.peek(_SIMPLE_MAX_BYTES))
            if simple is not None:
                self._buffer.skip(len(self._buffer))
                return simple
        while True:
            if self._pieces:
                return self._piece()
            if not self._missing:
                words = self._begin()
                if words is None or words:
                    return words
                continue  # an empty line, an empty array: nothing was asked
            if self._bulk < 0:
                opening = self._announced()
                if opening is None or isinstance(opening, Opening):
                    return opening
            if not self._complete():
                return None
            if not self._missing:
                arguments, self._arguments = self._arguments, []
                return arguments

    def _begin(self) -> list[bytes] | None:
        """The head of an array; or a whole command in one line. Empty: go on. None: it is not there yet."""
        if self._buffer.peek(1) != b"*":
            return self._inline()
        count = self._number(b"*", "multibulk")
        if count is None:
            return None
        if count > (ARGUMENTS_MAX if self.is_trusted else _STRANGER_ARGUMENTS):
            raise ProtocolError(f"invalid multibulk length {count}")
        self._missing = max(0, count)
        self._kept = 0
        return []

    def _inline(self) -> list[bytes] | None:
        end = self._buffer.find(b"\n", _LINE_MAX_BYTES)
        if end < 0:
            if len(self._buffer) >= _LINE_MAX_BYTES:
                raise ProtocolError("too big inline request")
            return None
        words = self._buffer.take(end + 1).split()
        if any(word[:1] in b"\"'" for word in words):
            raise ProtocolError("quotes in an inline request are not understood; send an array")
        return words

    def _number(self, kind: bytes, what: str) -> int | None:
        """The number in a header line, or None if it is not there yet."""
        end = self._buffer.find(b"\r\n", _HEADER_MAX_BYTES)
        if end < 0:
            if len(self._buffer) >= _HEADER_MAX_BYTES:
                raise ProtocolError(f"too big {what} count string")
            if len(self._buffer) and self._buffer.peek(1) != kind:
                raise ProtocolError(f"expected '{kind.decode()}', got {self._buffer.peek(1)!r}")
            return None
        line = self._buffer.take(end + 2)[:-2]
        digits = line[1:]
        if line[:1] != kind:
            raise ProtocolError(f"expected '{kind.decode()}', got {line[:1]!r}")
        if digits == b"-1":
            return -1
        if not digits.isdigit():  # of bytes: ASCII digits only
            raise ProtocolError(f"invalid {what} length")
        return int(digits)

    def _announced(self) -> bool | Opening | None:
        """Read the length of the next argument: True, or that it is a large one. None: it is not there yet."""
        size = self._number(b"$", "bulk")
        if size is None:
            return None
        limit = VALUE_MAX_BYTES if self.is_trusted else _STRANGER_BYTES
        if not 0 <= size <= limit:
            raise ProtocolError("invalid bulk length")
        self._bulk = size
        if size <= SMALL_VALUE_MAX_BYTES:
            self._kept += size
            if self._kept > ARGUMENTS_MAX_BYTES:
                raise ProtocolError(f"a command has at most {ARGUMENTS_MAX_BYTES} bytes besides its value")
            return True
        command = self._arguments[0].upper() if self._arguments else b""
        if self._value_at.get(command) != len(self._arguments):
            raise ProtocolError("invalid bulk length: this argument of this command cannot be so large")
        self._pieces = size
        return Opening(size)

    def _piece(self) -> bytes | None:
        piece = self._buffer.take(self._pieces)
        self._pieces -= len(piece)
        if not self._pieces:
            self._bulk = 0  # the line end is still to come, and the argument is empty here
        return piece or None

    def _complete(self) -> bool:
        """Take the argument that was announced, if all of it is there."""
        size = self._bulk
        if len(self._buffer) < size + 2:
            return False
        self._arguments.append(self._buffer.take(size))
        if self._buffer.take(2) != b"\r\n":
            raise ProtocolError("a bulk string does not end where it should")
        self._bulk = -1
        self._missing -= 1
        return True


def _simple(data: bytes) -> list[bytes] | None:
    """The words of one whole command, spelt as every client spells it; None: it takes a closer look.

    The usual command is the usual read, and reading it thus costs a fourth.
    """
    parts = data.split(b"\r\n")
    words = parts[2::2]
    if not words or parts.pop() or len(parts) % 2 == 0 or parts[0] != b"*%d" % len(words):
        return None
    if parts[1::2] != [b"$%d" % len(word) for word in words]:
        return None
    return words


def bulk(data: bytes) -> bytes:
    """A bulk string."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def error(message: str, code: str = "ERR") -> bytes:
    """An error, in one line."""
    said = " ".join(message.split())
    return f"-{code} {said}\r\n".encode()
