"""Messages: what the frames of each opcode carry, as values, encoded and decoded by the same module.

Pure: no I/O, no clock, no idea which end calls. Keys travel as raw UTF-8; the server checks their rules.
Decoders trust nothing: every length is checked before it is used, and damage is ``ProtocolError``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from tiered_store.errors import ProtocolError, TooLarge
from tiered_store.objects import ObjectInfo
from tiered_store.protocol.fields import Cursor, pack, pack_pairs, raw_text
from tiered_store.protocol.frames import HEAD_MAX_BYTES, Flag, Frame, Opcode, encode_frame

__all__ = [
    "MAGIC",
    "SIZE_UNKNOWN",
    "VERSION",
    "GetRequest",
    "Hello",
    "PutRequest",
    "Welcome",
    "decode_get",
    "decode_hello",
    "decode_info",
    "decode_list_request",
    "decode_listing",
    "decode_put",
    "decode_span",
    "decode_welcome",
    "encode_get",
    "encode_hello",
    "encode_info",
    "encode_list_request",
    "encode_listing",
    "encode_put",
    "encode_put_head",
    "encode_span",
    "encode_welcome",
]

MAGIC: Final = b"TSP\x01"
VERSION: Final = 1
#: The size of an upload that is not known in advance.
SIZE_UNKNOWN: Final = 2**64 - 1
_HELLO = struct.Struct("<4sBBHI")  # magic, lowest and highest version, reserved, features
_WELCOME = struct.Struct("<BBHIIII")  # version, reserved x2, features, frame, window, requests in flight
_INFO = struct.Struct("<QqBBHHH")  # size, modified_ns, tier, etag, content type + 1, metadata pairs, key
_PUT = struct.Struct("<QHHH")  # size, key, content type + 1, metadata pairs
_SPAN = struct.Struct("<QQ")  # offset, length
_U16 = struct.Struct("<H")
_LIST = struct.Struct("<IHH")  # limit, prefix, cursor

#: Codes for where an answer came from.
_TIERS: Final = ("", "memory", "disk", "cdn", "origin")
_TIER_CODES: Final = {name: code for code, name in enumerate(_TIERS)}


class Hello(NamedTuple):
    """What a client says first."""

    lowest: int
    highest: int
    features: int
    name: str


class Welcome(NamedTuple):
    """What the server answers: the version spoken and the limits it enforces."""

    version: int
    features: int
    max_frame_bytes: int
    window_bytes: int
    max_in_flight: int
    name: str


class GetRequest(NamedTuple):
    """A read. ``length`` None means: to the end."""

    key: bytes
    offset: int
    length: int | None


class PutRequest(NamedTuple):
    """A write; ``size`` None means that it is not known yet. The key ``sha256:`` asks the server to name it."""

    key: bytes
    size: int | None
    content_type: str | None
    metadata: dict[str, str]


# -- hello ------------------------------------------------------------------------------------------


def encode_hello(name: str = "", *, lowest: int = VERSION, highest: int = VERSION, features: int = 0) -> bytes:
    """The client's first frame."""
    head = _HELLO.pack(MAGIC, lowest, highest, 0, features)
    return encode_frame(Opcode.HELLO, 0, head=head, body=name.encode())


def decode_hello(frame: Frame) -> Hello:
    """What the client says of itself."""
    cursor = Cursor(frame.head)
    if frame.opcode != Opcode.HELLO or len(frame.head) != _HELLO.size or frame.head[:4] != MAGIC:
        raise ProtocolError("the first frame must be HELLO with the magic of this protocol")
    _magic, lowest, highest, _reserved, features = cursor.unpack(_HELLO)
    return Hello(lowest, highest, features, frame.body.decode("utf-8", "replace")[:256])


def encode_welcome(welcome: Welcome) -> bytes:
    """The server's first frame."""
    version, features, frame, window, in_flight, name = welcome
    head = _WELCOME.pack(version, 0, 0, features, frame, window, in_flight)
    return encode_frame(Opcode.WELCOME, 0, head=head, body=name.encode())


def decode_welcome(frame: Frame) -> Welcome:
    """The server's limits. A head that is longer comes from a newer server, and its rest is not for us."""
    if frame.opcode != Opcode.WELCOME:
        raise ProtocolError(f"expected WELCOME, got {frame}")
    version, _, _, features, max_frame, window, in_flight = Cursor(frame.head).unpack(_WELCOME)
    if version != VERSION:
        raise ProtocolError(f"the daemon answers in version {version}, this client asked for {VERSION}")
    return Welcome(version, features, max_frame, window, in_flight, frame.body.decode("utf-8", "replace"))


# -- object information -----------------------------------------------------------------------------


def encode_info(info: ObjectInfo, tier: str = "", *, with_key: bool = True) -> bytes:
    """An object's information, and the tier that answered.

    Raises:
        ProtocolError, TooLarge: if a text of it cannot be sent.
    """
    etag = raw_text(info.etag, "etag")
    content_type = b"" if info.content_type is None else raw_text(info.content_type, "content type")
    type_field = 0 if info.content_type is None else len(content_type) + 1
    key = raw_text(info.key, "key") if with_key else b""
    pairs = pack_pairs(info.metadata)
    fixed = pack(
        _INFO, info.size, info.modified_ns, _TIER_CODES[tier], len(etag), type_field, len(info.metadata), len(key)
    )
    raw = b"".join((fixed, etag, content_type, key, pairs))
    if len(raw) > HEAD_MAX_BYTES:
        raise TooLarge(f"what is known of the object takes {len(raw)} bytes, at most {HEAD_MAX_BYTES} can be sent")
    return raw


def decode_info(data: bytes, key: str | None = None) -> tuple[ObjectInfo, str]:
    """Information and tier; ``key`` stands in where the sender left the key out."""
    cursor = Cursor(data)
    size, modified_ns, tier, etag_size, type_field, pairs, key_size = cursor.unpack(_INFO)
    etag = cursor.text(etag_size)
    content_type = cursor.text(type_field - 1) if type_field else None
    sent_key = cursor.text(key_size)
    metadata = cursor.pairs(pairs)
    cursor.end()
    if tier >= len(_TIERS):
        raise ProtocolError(f"unknown tier {tier}")
    info = ObjectInfo(sent_key or key or "", size, etag, content_type, metadata, modified_ns)
    return info, _TIERS[tier]


# -- get --------------------------------------------------------------------------------------------


def encode_get(
    request_id: int, key: bytes, *, flags: int = 0, span: tuple[int, int | None] | None = None, deadline_ms: int = 0
) -> bytes:
    """A GET request; ``span`` is (offset, length or None for the rest)."""
    if span is None:
        return encode_frame(Opcode.GET, request_id, body=key, flags=flags, extra=deadline_ms)
    offset, length = span
    head = _SPAN.pack(offset, SIZE_UNKNOWN if length is None else length)
    return encode_frame(Opcode.GET, request_id, head=head, body=key, flags=flags | Flag.RANGE, extra=deadline_ms)


def decode_get(frame: Frame) -> GetRequest:
    """A GET request."""
    if not frame.flags & Flag.RANGE:
        if frame.head_length:
            raise ProtocolError("a GET without a range has no head")
        return GetRequest(frame.payload, 0, None)
    offset, length = decode_span(frame.head)
    return GetRequest(frame.body, offset, None if length == SIZE_UNKNOWN else length)


def encode_span(offset: int, length: int) -> bytes:
    """Where in a descriptor's file the bytes are."""
    return _SPAN.pack(offset, length)


def decode_span(data: bytes) -> tuple[int, int]:
    """Offset and length."""
    if len(data) != _SPAN.size:
        raise ProtocolError(f"an offset and a length take {_SPAN.size} bytes, not {len(data)}")
    offset, length = _SPAN.unpack(data)
    return offset, length


# -- put --------------------------------------------------------------------------------------------


def encode_put(
    request_id: int, request: PutRequest, *, body: bytes = b"", flags: int = 0, deadline_ms: int = 0
) -> bytes:
    """A PUT request, with the bytes themselves where they are sent inline. Raises as :func:`encode_put_head`."""
    head = encode_put_head(request)
    return encode_frame(Opcode.PUT, request_id, head=head, body=body, flags=flags, extra=deadline_ms)


def encode_put_head(request: PutRequest) -> bytes:
    """What a PUT says of its object.

    Raises:
        ProtocolError, TooLarge: if content type or metadata cannot be sent.
    """
    content_type = b"" if request.content_type is None else raw_text(request.content_type, "content type")
    type_field = 0 if request.content_type is None else len(content_type) + 1
    size = SIZE_UNKNOWN if request.size is None else request.size
    fixed = pack(_PUT, size, len(request.key), type_field, len(request.metadata))
    return b"".join((fixed, request.key, content_type, pack_pairs(request.metadata)))


def decode_put(frame: Frame) -> PutRequest:
    """A PUT request."""
    cursor = Cursor(frame.head)
    size, key_size, type_field, pairs = cursor.unpack(_PUT)
    key = cursor.take(key_size)
    content_type = cursor.text(type_field - 1) if type_field else None
    metadata = cursor.pairs(pairs)
    cursor.end()
    return PutRequest(key, None if size == SIZE_UNKNOWN else size, content_type, metadata)


# -- listings ---------------------------------------------------------------------------------------


def encode_list_request(request_id: int, prefix: bytes, cursor: bytes, limit: int, *, deadline_ms: int = 0) -> bytes:
    """A LIST request; an empty cursor starts at the beginning."""
    head = pack(_LIST, limit, len(prefix), len(cursor)) + prefix + cursor
    return encode_frame(Opcode.LIST, request_id, head=head, extra=deadline_ms)


def decode_list_request(frame: Frame) -> tuple[bytes, bytes, int]:
    """Prefix, cursor, limit."""
    cursor = Cursor(frame.head)
    limit, prefix_size, cursor_size = cursor.unpack(_LIST)
    prefix, start = cursor.take(prefix_size), cursor.take(cursor_size)
    cursor.end()
    return prefix, start, limit


def encode_listing(request_id: int, items: Sequence[bytes], cursor: bytes) -> bytes:
    """A page of a listing; a cursor means that there is more.

    Args:
        request_id: of the request.
        items: what :func:`encode_info` gave for each. Whoever makes a page encodes its items one by one
            to know how many fit.
        cursor: where the next page starts, or empty.
    """
    parts = []
    for raw in items:
        parts += [_U16.pack(len(raw)), raw]
    flags = Flag.MORE if cursor else 0
    return encode_frame(Opcode.LISTING, request_id, head=cursor, body=b"".join(parts), flags=flags)


def decode_listing(frame: Frame) -> tuple[list[ObjectInfo], bytes]:
    """The items of a page and the cursor of the next one (empty at the end)."""
    body = frame.body
    cursor = Cursor(body)
    items = []
    while cursor.position < len(body):
        (size,) = cursor.unpack(_U16)
        items.append(decode_info(cursor.take(size))[0])
    return items, frame.head
