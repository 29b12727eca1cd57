"""Batches: many keys in one round trip. Pure, like ``messages``."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import AnyStr, Final

from tiered_store.errors import ProtocolError, StoreError, TooLarge
from tiered_store.objects import ObjectInfo
from tiered_store.protocol.fields import Cursor, pack
from tiered_store.protocol.frames import Flag, Frame, Opcode, encode_header
from tiered_store.protocol.messages import decode_info, encode_info
from tiered_store.protocol.status import describe_error, error_described, error_of_status, status_of_error

__all__ = [
    "ITEM_LARGE",
    "MAX_BATCH_KEYS",
    "decode_batch",
    "decode_keys",
    "decode_pairs",
    "decode_stored",
    "decode_texts",
    "encode_batch",
    "encode_keys",
    "encode_pairs",
    "encode_stored",
    "is_status",
    "item_error",
    "item_status",
]

#: How many keys one batch may name; clients split larger ones.
MAX_BATCH_KEYS: Final = 1024
#: In a batch the size field doubles as status: sizes stay far below these.
_ITEM_STATUS: Final = 0xFFFFFF00
#: The object is too large for a batch; fetch it by itself.
ITEM_LARGE: Final = 0xFFFFFFFF

#: Of an error's message in a batch, in characters: 1,024 errors have to fit one frame.
_BATCH_TEXT_MAX: Final = 256

#: The positions of a batch that answers its request in order, which is the rule: compared, not taken apart.
_IN_ORDER: Final = struct.pack(f"<{MAX_BATCH_KEYS}I", *range(MAX_BATCH_KEYS))

_KEYS_END = "a list of keys does not end where its message ends"

_COUNT = struct.Struct("<I")
_ITEM = struct.Struct("<HI")  # put_many: key, size
_STORED = struct.Struct("<BH")  # put_many: status, length


def encode_keys(keys: Sequence[bytes]) -> bytes:
    """A list of keys, for the body of a batch request: their number, all lengths, all bytes.

    Raises:
        TooLarge: a key's length does not fit its field.
    """
    try:
        lengths = struct.pack(f"<I{len(keys)}H", len(keys), *map(len, keys))
    except struct.error:
        raise TooLarge("a key is too long to be sent") from None
    return lengths + b"".join(keys)


def decode_keys(data: bytes) -> list[bytes]:
    """The keys of a batch request, at most ``MAX_BATCH_KEYS``."""
    start, lengths = _key_lengths(data)
    return _cut(data, start, lengths, _KEYS_END)


def decode_texts(data: bytes) -> list[str]:
    """As :func:`decode_keys`, to be looked up: bytes that are no UTF-8 become what no key contains."""
    start, lengths = _key_lengths(data)
    if data.isascii():  # then all of it is decoded at once
        return _cut(data.decode("ascii"), start, lengths, _KEYS_END)
    return [raw.decode("utf-8", "surrogateescape") for raw in _cut(data, start, lengths, _KEYS_END)]


def _key_lengths(data: bytes) -> tuple[int, Sequence[int]]:
    """Where the bytes of the keys begin, and how many each has."""
    (count,) = Cursor(data).unpack(_COUNT)
    if count > MAX_BATCH_KEYS:
        raise ProtocolError(f"a batch of {count} keys is over the limit of {MAX_BATCH_KEYS}")
    start = _COUNT.size + 2 * count
    if start > len(data):
        raise ProtocolError("a message ends in the middle of a field")
    return start, struct.unpack_from(f"<{count}H", data, _COUNT.size)


def _cut(data: AnyStr, start: int, lengths: Iterable[int], complaint: str) -> list[AnyStr]:
    """The consecutive pieces of these lengths that fill ``data`` from ``start`` to its end."""
    ends = list(accumulate(lengths, initial=start))
    if ends[-1] != len(data):
        raise ProtocolError(complaint)
    return [data[begin:end] for begin, end in pairwise(ends)]


def item_status(error: StoreError) -> int:
    """What a batch says in place of a size for a key that has an error."""
    return _ITEM_STATUS + min(status_of_error(error), 254)


def item_error(size: int, key: str) -> StoreError:
    """The error behind the size field of a batch item."""
    status = size - _ITEM_STATUS
    retryable = 20 <= status < 40
    return error_of_status(status, "no such object" if status == 1 else "the read failed", key=key, retryable=retryable)


def encode_batch(
    request_id: int, indexes: Sequence[int], sizes: Sequence[int], bodies: Sequence[bytes], *, final: bool
) -> bytes:
    """Part of the answer to GET_MANY: positions in the request, sizes (or statuses), and the bytes in a row."""
    count = len(indexes)
    if isinstance(indexes, range):
        positions = _IN_ORDER[4 * indexes.start : 4 * indexes.stop]
    else:
        positions = struct.pack(f"<{count}I", *indexes)
    head = _COUNT.pack(count) + positions + struct.pack(f"<{count}I", *sizes)
    flags = Flag.FINAL if final else 0
    header = encode_header(Opcode.BATCH, request_id, len(head), sum(map(len, bodies)), flags=flags)
    return b"".join((header, head, *bodies))  # the one copy of the bodies


def decode_batch(frame: Frame) -> tuple[Sequence[int], Sequence[int], list[bytes]]:
    """Positions in the request, sizes or statuses, and bodies, which are empty where the size is a status.

    The positions are a ``range`` from 0 where they are in order.
    """
    payload = frame.payload
    if frame.head_length < _COUNT.size:
        raise ProtocolError("a batch without a count")
    (count,) = _COUNT.unpack_from(payload)
    if count * 8 + _COUNT.size != frame.head_length:
        raise ProtocolError("a batch whose count does not fit its head")
    middle = _COUNT.size + 4 * count
    indexes: Sequence[int] = range(count)
    if payload[_COUNT.size : middle] != _IN_ORDER[: 4 * count]:
        indexes = struct.unpack_from(f"<{count}I", payload, _COUNT.size)
    sizes = struct.unpack_from(f"<{count}I", payload, middle)
    lengths = sizes
    if count and max(sizes) >= _ITEM_STATUS:
        lengths = tuple(0 if size >= _ITEM_STATUS else size for size in sizes)
    return indexes, sizes, _cut(payload, frame.head_length, lengths, "a batch whose sizes do not add up")


def is_status(size: int) -> bool:
    """Whether the size field of a batch item is none."""
    return size >= _ITEM_STATUS


def encode_pairs(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Keys and small bodies, for PUT_MANY and COPY."""
    parts = []
    for key, body in items:
        parts += [pack(_ITEM, len(key), len(body)), key, body]
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
    """For each item of a PUT_MANY: its information, or its error.

    Without the keys, which the client knows: with them the answer to a frame full of long keys would not
    fit a frame.
    """
    parts = []
    for result in results:
        if isinstance(result, ObjectInfo):
            status, raw = 0, encode_info(result, with_key=False)
        else:
            status = status_of_error(result)
            raw = describe_error(result, max_chars=_BATCH_TEXT_MAX, with_key=False)
        parts += [_STORED.pack(status, len(raw)), raw]
    return b"".join(parts)


def decode_stored(data: bytes, keys: Sequence[str]) -> list[ObjectInfo | StoreError]:
    """What became of each item of a PUT_MANY, by the keys of the request."""
    cursor = Cursor(data)
    results: list[ObjectInfo | StoreError] = []
    for key in keys:
        status, size = cursor.unpack(_STORED)
        raw = cursor.take(size)
        if status:
            results.append(error_described(status, raw, key=key, retryable=20 <= status < 40))
        else:
            results.append(decode_info(raw, key)[0])
    cursor.end()
    return results
