"""Frames: the fixed header, the opcodes, and cutting a byte stream into frames.

Nothing here does I/O, knows a clock, or knows which end of the connection it serves. A frame is 16 bytes
of header and a payload, and the payload is a *head* (fields of the message) followed by a *body* (the
object's bytes, or nothing). ``docs/protocol.md`` is normative.

Invariant: never more than one incomplete frame is buffered, and no frame over the limit is buffered at all.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

from tiered_store.errors import ProtocolError, TooLarge

__all__ = [
    "DATA_MAX_BYTES",
    "HEADER",
    "HEADER_BYTES",
    "HEAD_MAX_BYTES",
    "MAX_FRAME_BYTES",
    "STREAM_WINDOW_BYTES",
    "Flag",
    "Frame",
    "FrameReader",
    "Opcode",
    "encode_frame",
    "encode_header",
]

#: payload length, opcode, flags, head length, request id, extra (meaning by opcode); little-endian.
HEADER: Final = struct.Struct("<IBBHII")
HEADER_BYTES: Final = HEADER.size
#: The largest payload of one frame. It bounds what a connection can make its peer buffer.
MAX_FRAME_BYTES: Final = 1024 * 1024
#: The largest head; its length is 16 bits wide.
HEAD_MAX_BYTES: Final = 0xFFFF
#: The largest body of one DATA frame.
DATA_MAX_BYTES: Final = 256 * 1024
#: How many bytes of a stream may be under way before its receiver grants more. HTTP/2's default of
#: 64 KiB costs a round trip per 64 KiB; 1 MiB keeps a local socket full.
STREAM_WINDOW_BYTES: Final = 1024 * 1024


class Opcode(enum.IntEnum):
    """What a frame is. Requests are below 0x40, parts of streams below 0x80, replies above."""

    HELLO = 0x01
    PING = 0x02
    GET = 0x03
    GET_MANY = 0x04
    STAT = 0x05
    EXISTS = 0x06
    PUT = 0x07
    PUT_MANY = 0x08
    DELETE = 0x09
    DELETE_PREFIX = 0x0A
    LIST = 0x0B
    COPY = 0x0C
    STATS = 0x0D
    FLUSH = 0x0E

    DATA = 0x40  # either way: the next bytes of a stream
    END = 0x41  # either way: the stream is complete
    WINDOW = 0x42  # either way: extra more bytes may be sent; for a descriptor upload: send it now
    DESCRIPTOR = 0x43  # client: the descriptor of an upload is attached
    CANCEL = 0x44  # client: no longer interested in this request

    WELCOME = 0x80
    PONG = 0x81
    OBJECT = 0x82  # head: info; body: the bytes
    OBJECT_DESCRIPTOR = 0x83  # head: info; body: offset, length; one descriptor attached
    OBJECT_STREAM = 0x84  # head: info; DATA frames follow
    BATCH = 0x85
    INFO = 0x86
    EXISTENCE = 0x87
    STORED_MANY = 0x88
    DONE = 0x89  # extra: how many objects, or puts
    LISTING = 0x8A
    STATISTICS = 0x8B
    ERROR = 0x8C  # extra: status code
    GOODBYE = 0x8D  # the server stops: no further requests on this connection


class Flag:
    """Bits of the header's flags; their meaning depends on the opcode."""

    # GET, GET_MANY
    ONLY_IF_CACHED = 0x01
    NO_PROMOTE = 0x02
    ACCEPT_DESCRIPTOR = 0x04
    STREAM = 0x08  # GET: reply as a stream while the bytes arrive. PUT: DATA frames follow
    RANGE = 0x10  # GET: the head is offset and length
    # PUT
    DESCRIPTOR = 0x20  # a DESCRIPTOR frame follows once the server asks
    # replies
    FINAL = 0x01  # BATCH: the last one
    MORE = 0x01  # LISTING: further pages exist
    RETRYABLE = 0x01  # ERROR


_unpack: Final = HEADER.unpack_from
_OPCODES: Final = {int(opcode): opcode for opcode in Opcode}


class Frame(NamedTuple):
    """One frame as received. ``payload`` is head and body together: most messages have only one of them."""

    opcode: int
    flags: int
    head_length: int
    request_id: int
    extra: int
    payload: bytes

    @property
    def head(self) -> bytes:
        """The message's fields."""
        return self.payload[: self.head_length]

    @property
    def body(self) -> bytes:
        """The bytes behind the head."""
        return self.payload[self.head_length :] if self.head_length else self.payload

    def __str__(self) -> str:
        name = _OPCODES[self.opcode].name if self.opcode in _OPCODES else hex(self.opcode)
        return f"<{name} #{self.request_id} flags={self.flags:#x} extra={self.extra} {len(self.payload)} bytes>"


def encode_header(
    opcode: int, request_id: int, head_bytes: int, body_bytes: int, *, flags: int = 0, extra: int = 0
) -> bytes:
    """What stands before head and body of a frame.

    Raises:
        TooLarge: if the payload is over ``MAX_FRAME_BYTES``.
    """
    length = head_bytes + body_bytes
    if length > MAX_FRAME_BYTES or head_bytes > HEAD_MAX_BYTES:
        raise TooLarge(f"a message of {length} bytes (head {head_bytes}) does not fit a frame of {MAX_FRAME_BYTES}")
    return HEADER.pack(length, opcode, flags, head_bytes, request_id, extra)


def encode_frame(
    opcode: int, request_id: int, *, head: bytes = b"", body: bytes = b"", flags: int = 0, extra: int = 0
) -> bytes:
    """One frame as bytes. Raises as :func:`encode_header`."""
    header = encode_header(opcode, request_id, len(head), len(body), flags=flags, extra=extra)
    return b"".join((header, head, body))


class FrameReader:
    """Cuts received bytes into frames.

    After a violation the reader is dead: it keeps raising, because nothing that follows can be trusted.

    Attributes:
        is_midway: whether a frame has begun and not ended: the peer owes bytes.
    """

    __slots__ = ("_pending", "_violation", "_wanted", "is_midway")

    def __init__(self) -> None:
        self._pending = bytearray()
        self._wanted = HEADER_BYTES  # the size that _pending must reach before a look at it is worth while
        # The words, not the exception: its traceback would keep alive whatever its raisers hold.
        self._violation = ""
        self.is_midway = False

    def receive(self, data: bytes) -> list[Frame]:
        """Take bytes as they came and give the frames that are now complete.

        Raises:
            ProtocolError: at the first frame that breaks a rule; frames before it in ``data`` are lost.
        """
        if self._violation:
            raise ProtocolError(self._violation)
        if self.is_midway:
            self._pending += data
            if len(self._pending) < self._wanted:
                return []
            data = bytes(self._pending)
            self._pending = bytearray()
            self.is_midway = False
        elif len(data) >= HEADER_BYTES:  # the usual case first: one whole frame, nothing else
            length, opcode, flags, head_length, request_id, extra = _unpack(data)
            if len(data) == HEADER_BYTES + length and head_length <= length <= MAX_FRAME_BYTES and opcode in _OPCODES:
                return [Frame(opcode, flags, head_length, request_id, extra, data[HEADER_BYTES:])]
        frames = []
        position = 0
        available = len(data)
        while available - position >= HEADER_BYTES:
            length, opcode, flags, head_length, request_id, extra = HEADER.unpack_from(data, position)
            if length > MAX_FRAME_BYTES or head_length > length or opcode not in _OPCODES:
                self._violation = _violation(length, opcode, head_length)
                raise ProtocolError(self._violation)
            start = position + HEADER_BYTES
            end = start + length
            if end > available:
                self._wanted = HEADER_BYTES + length
                break
            frames.append(Frame(opcode, flags, head_length, request_id, extra, data[start:end]))
            position = end
        else:
            self._wanted = HEADER_BYTES
        self.is_midway = position < available
        if self.is_midway:
            self._pending += data[position:]
        return frames


def _violation(length: int, opcode: int, head_length: int) -> str:
    """Say what is wrong with a header."""
    if opcode not in _OPCODES:
        return f"unknown opcode {opcode:#04x}"
    if length > MAX_FRAME_BYTES:
        return f"a payload of {length} bytes is over the limit of {MAX_FRAME_BYTES}"
    return f"a head of {head_length} bytes does not fit its payload of {length}"
