"""Batches at their edges: counts, statuses in place of sizes, lengths that lie."""

from __future__ import annotations

import struct

import pytest

from tests.support.wire import info, one_frame
from tiered_store.errors import (
    IntegrityError,
    InvalidKey,
    NotFound,
    OriginUnavailable,
    ProtocolError,
    StoreError,
    TooLarge,
)
from tiered_store.objects import ObjectInfo
from tiered_store.protocol.batches import (
    ITEM_LARGE,
    MAX_BATCH_KEYS,
    decode_batch,
    decode_keys,
    decode_pairs,
    decode_stored,
    encode_batch,
    encode_keys,
    encode_pairs,
    encode_stored,
    item_error,
    item_status,
)
from tiered_store.protocol.frames import MAX_FRAME_BYTES, Opcode, encode_frame


class TestKeys:
    def test_as_many_as_allowed(self) -> None:
        keys = [b"%d" % number for number in range(MAX_BATCH_KEYS)]
        assert decode_keys(encode_keys(keys)) == keys

    def test_one_more(self) -> None:
        with pytest.raises(ProtocolError, match="1025 keys is over the limit of 1024"):
            decode_keys(encode_keys([b"x"] * (MAX_BATCH_KEYS + 1)))

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x01\0\0",
            struct.pack("<I", 1),
            struct.pack("<IH", 1, 5) + b"abcd",
            struct.pack("<IH", 1, 3) + b"abcd",
            struct.pack("<IH", 2, 4) + b"abcd",
            struct.pack("<I", 0xFFFFFFFF),
        ],
    )
    def test_lengths_that_lie(self, data: bytes) -> None:
        with pytest.raises(ProtocolError):
            decode_keys(data)

    def test_a_key_over_its_field(self) -> None:
        with pytest.raises(TooLarge):
            encode_keys([b"x" * 65_536])


class TestPairs:
    def test_as_many_as_allowed(self) -> None:
        items = [(b"%d" % number, b"body") for number in range(MAX_BATCH_KEYS)]
        assert decode_pairs(encode_pairs(items)) == items

    def test_one_more(self) -> None:
        with pytest.raises(ProtocolError, match="over the limit of 1024 keys"):
            decode_pairs(encode_pairs([(b"k", b"")] * (MAX_BATCH_KEYS + 1)))

    @pytest.mark.parametrize("data", [b"\0", struct.pack("<HI", 1, 1) + b"k", struct.pack("<HI", 0xFFFF, 0) + b"k"])
    def test_lengths_that_lie(self, data: bytes) -> None:
        with pytest.raises(ProtocolError):
            decode_pairs(data)

    def test_a_key_over_its_field(self) -> None:
        with pytest.raises(TooLarge):
            encode_pairs([(b"x" * 65_536, b"")])


class TestBatch:
    @pytest.mark.parametrize(
        "head",
        [b"", b"\0\0\0", struct.pack("<I", 1), struct.pack("<III", 2, 0, 0), struct.pack("<IIIII", 1, 0, 0, 0, 0)],
    )
    def test_a_count_that_does_not_fit(self, head: bytes) -> None:
        with pytest.raises(ProtocolError, match="count"):
            decode_batch(one_frame(encode_frame(Opcode.BATCH, 1, head=head)))

    @pytest.mark.parametrize(("size", "body"), [(3, b"ab"), (1, b"ab"), (0xFFFFFF01, b"x"), (0xFFFFFEFF, b"")])
    def test_sizes_that_do_not_add_up(self, size: int, body: bytes) -> None:
        with pytest.raises(ProtocolError, match="add up"):
            decode_batch(one_frame(encode_batch(1, [0], [size], [body], final=True)))

    def test_statuses(self) -> None:
        assert item_status(NotFound("")) == 0xFFFFFF01
        assert isinstance(item_error(item_status(NotFound("")), "k"), NotFound)
        assert item_error(item_status(NotFound("x")), "k").key == "k"
        unavailable = item_error(item_status(OriginUnavailable("")), "k")
        assert isinstance(unavailable, OriginUnavailable)
        assert unavailable.retryable
        # 255 would be ITEM_LARGE
        assert item_status(StoreError("")) == 0xFFFFFFFE != ITEM_LARGE
        assert type(item_error(item_status(StoreError("")), "k")) is StoreError


class TestStored:
    def test_results_and_errors(self) -> None:
        refused = IntegrityError("no", expected="0" * 64, actual="1" * 64, source="client")
        raw = encode_stored([info("a"), refused, OriginUnavailable("later")])
        first, second, third = decode_stored(raw, ["a", "b", "c"])
        assert first == info("a")
        assert isinstance(second, IntegrityError)
        assert (second.key, second.expected, second.actual, second.source) == ("b", "0" * 64, "1" * 64, "client")
        assert isinstance(third, OriginUnavailable)
        assert third.retryable

    def test_any_error_can_be_said(self) -> None:
        (error,) = decode_stored(encode_stored([InvalidKey("\ud800" * 10_000)]), ["k"])
        assert isinstance(error, InvalidKey)
        assert error.message == "\ud800" * 256

    @pytest.mark.parametrize("keys", [[], ["a"], ["a", "b", "c"]])
    def test_another_number_than_asked(self, keys: list[str]) -> None:
        with pytest.raises(ProtocolError):
            decode_stored(encode_stored([info("a"), info("b")]), keys)

    @pytest.mark.parametrize("raw", [b"{", b"[]", b'"message"', b"{}", b"\xff", b"[" * 60_000])
    def test_a_damaged_error(self, raw: bytes) -> None:
        (error,) = decode_stored(struct.pack("<BH", 1, len(raw)) + raw, ["k"])
        assert isinstance(error, ProtocolError)

    def test_a_full_frame_has_an_answer_that_fits_one(self) -> None:
        """As many objects with keys of 1,024 bytes as one request can name; and a full batch of failures."""
        many = (MAX_FRAME_BYTES - 16) // (1024 + 6)
        stored = [ObjectInfo("x" * 1024, 0, "e" * 64, None, {}, 1)] * many
        failed = [IntegrityError("m" * 1000, expected="0" * 64, actual="1" * 64, source="client")] * MAX_BATCH_KEYS
        assert len(encode_stored(stored)) <= MAX_FRAME_BYTES
        assert len(encode_stored(failed)) <= MAX_FRAME_BYTES
