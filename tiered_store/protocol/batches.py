"""Batches: many keys in one round trip. Pure, like ``messages``."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final

from tiered_store.errors import ProtocolError, StoreError
from tiered_store.objects import ObjectInfo
from tiered_store.protocol.fields import Cursor
from tiered_store.protocol.frames import Flag, Frame, Opcode, encode_frame
from tiered_store.protocol.messages import decode_info, encode_info
from tiered_store.protocol.status import error_of_status, status_of_error

__all__ = [
    "ITEM_LARGE",
    "MAX_BATCH_KEYS",
    "decode_batch",
    "decode_keys",
    "decode_pairs",
    "decode_stored",
    "encode_batch",
    "encode_keys",
    "encode_pairs",
    "encode_stored",
    "item_error",
    "item_status",
]

#: How many keys one batch may name; clients split larger ones.
MAX_BATCH_KEYS: Final = 1024
#: In a batch the size field doubles as status: sizes stay far below these.
_ITEM_STATUS: Final = 0xFFFFFF00
#: The object is too large for a batch; fetch it by itself.
ITEM_LARGE: Final = 0xFFFFFFFF

_COUNT = struct.Struct("<I")
_U16 = struct.Struct("<H")
_ITEM = struct.Struct("<HI")  # put_many: key, size
_STORED = struct.Struct("<BH")  # put_many: status, length


def encode_keys(keys: Sequence[bytes]) -> bytes:
    """A list of keys, for the body of a batch request."""
    pack = _U16.pack
    parts = [_COUNT.pack(len(keys))]
    for key in keys:
        parts.append(pack(len(key)))
        parts.append(key)
    return b"".join(parts)


def decode_keys(data: bytes) -> list[bytes]:
    """The keys of a batch request, at most ``MAX_BATCH_KEYS``."""
    cursor = Cursor(data)
    (count,) = cursor.unpack(_COUNT)
    if count > MAX_BATCH_KEYS:
        raise ProtocolError(f"a batch of {count} keys is over the limit of {MAX_BATCH_KEYS}")
    keys = []
    position, available = cursor.position, len(data)
    unpack = _U16.unpack_from
    for _ in range(count):
        if position + 2 > available:
            raise ProtocolError("a message ends in the middle of a field")
        end = position + 2 + unpack(data, position)[0]
        keys.append(data[position + 2 : end])
        position = end
    if position != available:
        raise ProtocolError("a list of keys does not end where its message ends")
    return keys


def item_status(error: StoreError) -> int:
    """What a batch says in place of a size for a key that has an error."""
    return _ITEM_STATUS + min(status_of_error(error), 254)


def item_error(size: int, key: str) -> StoreError:
    """The error behind the size field of a batch item."""
    status = size - _ITEM_STATUS
    retryable = 20 <= status < 40
    return error_of_status(status, "no such object" if status == 1 else "the read failed", key=key, retryable=retryable)


def encode_batch(
    request_id: int, indexes: Sequence[int], sizes: Sequence[int], bodies: Iterable[bytes], *, final: bool
) -> bytes:
    """Part of the answer to GET_MANY: positions in the request, sizes (or statuses), and the bytes in a row."""
    count = len(indexes)
    head = struct.pack(f"<I{count}I{count}I", count, *indexes, *sizes)
    return encode_frame(Opcode.BATCH, request_id, head=head, body=b"".join(bodies), flags=Flag.FINAL if final else 0)


def decode_batch(frame: Frame) -> list[tuple[int, int, bytes]]:
    """(index, size or status, bytes) for each item; the bytes are empty where the size is a status."""
    payload = frame.payload
    if frame.head_length < 4:
        raise ProtocolError("a batch without a count")
    (count,) = _COUNT.unpack_from(payload)
    if count * 8 + 4 != frame.head_length:
        raise ProtocolError("a batch whose count does not fit its head")
    fields = struct.unpack_from(f"<{2 * count}I", payload, 4)
    items = []
    start = frame.head_length
    for index, size in zip(fields[:count], fields[count:], strict=True):
        end = start if size >= _ITEM_STATUS else start + size
        items.append((index, size, payload[start:end]))
        start = end
    if start != len(payload):
        raise ProtocolError("a batch whose sizes do not add up")
    return items


def encode_pairs(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Keys and small bodies, for PUT_MANY and COPY."""
    parts = []
    for key, body in items:
        parts += [_ITEM.pack(len(key), len(body)), key, body]
    return b"".join(parts)


def decode_pairs(data: bytes) -> list[tuple[bytes, bytes]]:
    """The keys and bodies of a PUT_MANY, or the one pair of names of a COPY."""
    cursor = Cursor(data)
    items: list[tuple[bytes, bytes]] = []
    while cursor.position < len(data):
        if len(items) >= MAX_BATCH_KEYS:
            raise ProtocolError(f"a batch is over the limit of {MAX_BATCH_KEYS} keys")
        key_size, size = cursor.unpack(_ITEM)
        items.append((cursor.take(key_size), cursor.take(size)))
    return items


def encode_stored(results: Iterable[ObjectInfo | StoreError]) -> bytes:
    """For each item of a PUT_MANY: its information, or its error."""
    parts = []
    for result in results:
        if isinstance(result, ObjectInfo):
            status, raw = 0, encode_info(result)
        else:
            status, raw = status_of_error(result), result.message.encode("utf-8", "replace")[:512]
        parts += [_STORED.pack(status, len(raw)), raw]
    return b"".join(parts)


def decode_stored(data: bytes) -> list[ObjectInfo | StoreError]:
    """What became of each item of a PUT_MANY."""
    cursor = Cursor(data)
    results: list[ObjectInfo | StoreError] = []
    while cursor.position < len(data):
        status, size = cursor.unpack(_STORED)
        raw = cursor.take(size)
        if status:
            results.append(error_of_status(status, raw.decode("utf-8", "replace"), retryable=20 <= status < 40))
        else:
            results.append(decode_info(raw)[0])
    return results
