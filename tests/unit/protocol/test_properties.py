"""What holds for all messages and for all bytes."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.wire import GOLDEN, decode_message, encode_message, one_frame
from tiered_store.errors import ProtocolError, TooLarge
from tiered_store.objects import ObjectInfo
from tiered_store.protocol.batches import (
    decode_batch,
    decode_keys,
    decode_pairs,
    decode_stored,
    encode_batch,
    encode_keys,
    encode_pairs,
    encode_stored,
)
from tiered_store.protocol.frames import HEADER_BYTES, MAX_FRAME_BYTES, Frame, FrameReader, Opcode, encode_frame
from tiered_store.protocol.messages import (
    GetRequest,
    PutRequest,
    decode_get,
    decode_hello,
    decode_info,
    decode_list_request,
    decode_listing,
    decode_put,
    decode_span,
    encode_get,
    encode_hello,
    encode_info,
    encode_list_request,
    encode_listing,
    encode_put,
    encode_span,
)
from tiered_store.protocol.status import decode_error

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
u8, u16, u32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
u64, i64 = st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)
below_u64 = st.integers(0, 2**64 - 2)
raw = st.binary(max_size=60)
metadata = st.dictionaries(texts, texts, max_size=4)
infos = st.builds(ObjectInfo, texts, u64, texts, st.none() | texts, metadata, i64)
frames = st.builds(
    lambda opcode, head, body, flags, request_id, extra: encode_frame(
        opcode, request_id, head=head, body=body, flags=flags, extra=extra
    ),
    st.sampled_from(list(Opcode)),
    raw,
    raw,
    u8,
    u32,
    u32,
)


class TestRoundTrips:
    @given(st.sampled_from(list(Opcode)), raw, raw, u8, u32, u32)
    def test_frames(self, opcode: Opcode, head: bytes, body: bytes, flags: int, request_id: int, extra: int) -> None:
        frame = one_frame(encode_frame(opcode, request_id, head=head, body=body, flags=flags, extra=extra))
        assert frame == Frame(opcode, flags, len(head), request_id, extra, head + body)
        assert (frame.head, frame.body) == (head, body)

    @given(u8, u8, u32, texts)
    def test_hello(self, lowest: int, highest: int, features: int, name: str) -> None:
        encoded = encode_hello(name, lowest=lowest, highest=highest, features=features)
        assert decode_hello(one_frame(encoded)) == (lowest, highest, features, name)

    @given(infos, st.sampled_from(["", "memory", "disk", "cdn", "origin"]))
    def test_info(self, info: ObjectInfo, tier: str) -> None:
        assert decode_info(encode_info(info, tier)) == (info, tier)

    @given(raw, st.none() | st.tuples(u64, st.none() | below_u64), u32)
    def test_get(self, key: bytes, span: tuple[int, int | None] | None, deadline_ms: int) -> None:
        frame = one_frame(encode_get(3, key, span=span, deadline_ms=deadline_ms))
        assert decode_get(frame) == GetRequest(key, *(span or (0, None)))
        assert frame.extra == deadline_ms

    @given(st.builds(PutRequest, raw, st.none() | below_u64, st.none() | texts, metadata), raw)
    def test_put(self, request: PutRequest, body: bytes) -> None:
        frame = one_frame(encode_put(3, request, body=body))
        assert decode_put(frame) == request
        assert frame.body == body

    @given(u64, u64)
    def test_span(self, offset: int, length: int) -> None:
        assert decode_span(encode_span(offset, length)) == (offset, length)

    @given(raw, raw, u32)
    def test_list(self, prefix: bytes, cursor: bytes, limit: int) -> None:
        assert decode_list_request(one_frame(encode_list_request(1, prefix, cursor, limit))) == (prefix, cursor, limit)

    @given(st.lists(infos, max_size=5), raw)
    def test_listing(self, items: list[ObjectInfo], cursor: bytes) -> None:
        frame = one_frame(encode_listing(1, [encode_info(item) for item in items], cursor))
        assert decode_listing(frame) == (items, cursor)
        assert bool(frame.flags) == bool(cursor)

    @given(st.lists(raw, max_size=20))
    def test_keys(self, keys: list[bytes]) -> None:
        assert decode_keys(encode_keys(keys)) == keys

    @given(st.lists(st.tuples(raw, raw), max_size=20))
    def test_pairs(self, items: list[tuple[bytes, bytes]]) -> None:
        assert decode_pairs(encode_pairs(items)) == items

    @given(st.lists(st.tuples(u32, raw | st.integers(0xFFFFFF00, 0xFFFFFFFF)), max_size=20))
    def test_batch(self, items: list[tuple[int, bytes | int]]) -> None:
        sizes = [len(item) if isinstance(item, bytes) else item for _, item in items]
        bodies = [item if isinstance(item, bytes) else b"" for _, item in items]
        frame = one_frame(encode_batch(1, [index for index, _ in items], sizes, bodies, final=False))
        expected = [(index, size, body) for (index, _), size, body in zip(items, sizes, bodies, strict=True)]
        assert list(zip(*decode_batch(frame), strict=True)) == expected

    @given(st.lists(infos, max_size=5))
    def test_stored(self, items: list[ObjectInfo]) -> None:
        assert decode_stored(encode_stored(items), [item.key for item in items]) == items


@given(st.lists(frames, max_size=8), st.data())
def test_however_it_is_split_the_frames_are_the_same(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(messages)
    expected = [one_frame(message) for message in messages]
    assert FrameReader().receive(stream) == expected
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    reader, received = FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += reader.receive(stream[start:end])
    assert received == expected
    assert not reader.is_midway


@given(st.lists(st.binary(max_size=200) | frames, max_size=30))
def test_no_bytes_raise_anything_else_or_are_kept_without_bound(pieces: list[bytes]) -> None:
    reader = FrameReader()
    for piece in pieces:
        try:
            for frame in reader.receive(piece):
                _decode_as_everything(frame)
        except ProtocolError:
            pass
        assert len(reader._pending) < HEADER_BYTES + MAX_FRAME_BYTES
        assert bool(reader._pending) == reader.is_midway


@given(st.sampled_from(GOLDEN), st.data())
def test_a_damaged_message_is_a_protocol_error_or_another_message(entry: dict[str, Any], data: st.DataObject) -> None:
    frame = one_frame(bytes.fromhex(entry["hex"]))
    payload = bytearray(frame.payload)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(payload)))
        payload[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    head_length = data.draw(st.integers(0, len(payload)))
    damaged = frame._replace(payload=bytes(payload), head_length=head_length, flags=data.draw(u8))
    _decode_as_everything(damaged)
    with contextlib.suppress(ProtocolError):
        decode_message(damaged)


def _decode_as_everything(frame: Frame) -> None:
    """Every decoder on every frame: whoever calls one need not have looked at the opcode."""
    decode_error(frame)
    for decode in (
        decode_hello,
        decode_get,
        decode_put,
        decode_list_request,
        decode_listing,
        decode_batch,
        lambda frame: decode_info(frame.head),
        lambda frame: decode_span(frame.body),
        lambda frame: decode_keys(frame.payload),
        lambda frame: decode_pairs(frame.payload),
        lambda frame: decode_stored(frame.payload, ["a", "b"]),
    ):
        try:
            decode(frame)
        except ProtocolError:
            continue


@given(st.sampled_from(GOLDEN))
def test_what_was_decoded_encodes_to_the_same(entry: dict[str, Any]) -> None:
    frame = one_frame(bytes.fromhex(entry["hex"]))
    try:
        assert encode_message(entry["header"], decode_message(frame)).hex() == entry["hex"]
    except TooLarge:
        raise AssertionError("what came in a frame must fit one") from None
