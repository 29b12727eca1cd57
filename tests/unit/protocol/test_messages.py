"""Messages at their edges; what they look like otherwise is golden."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tests.support.wire import info, one_frame
from tiered_store.errors import ProtocolError, TooLarge
from tiered_store.protocol.fields import TEXT_MAX_BYTES
from tiered_store.protocol.frames import HEAD_MAX_BYTES, Flag, Opcode, encode_frame
from tiered_store.protocol.messages import (
    PutRequest,
    decode_get,
    decode_hello,
    decode_info,
    decode_put,
    decode_span,
    decode_welcome,
    encode_hello,
    encode_info,
    encode_list_request,
    encode_put,
)


class TestHello:
    @pytest.mark.parametrize(
        "frame",
        [
            encode_frame(Opcode.PING, 0, head=b"TSP\x01" + bytes(8)),
            encode_frame(Opcode.HELLO, 0, head=b"TSP\x02" + bytes(8)),
            encode_frame(Opcode.HELLO, 0, head=b"TSP\x01" + bytes(7)),
            encode_frame(Opcode.HELLO, 0, head=b"TSP\x01" + bytes(9)),
            encode_frame(Opcode.HELLO, 0, body=b"TSP\x01" + bytes(8)),
        ],
    )
    def test_anything_else_first(self, frame: bytes) -> None:
        with pytest.raises(ProtocolError, match="first frame must be HELLO"):
            decode_hello(one_frame(frame))

    def test_a_name_is_for_the_log_only(self) -> None:
        frame = one_frame(encode_hello("x" * 1000))
        assert decode_hello(frame).name == "x" * 256
        assert decode_hello(frame._replace(payload=frame.head + b"\xff")).name == "�"


class TestWelcome:
    def frame(self, version: int, more: bytes = b"") -> Any:
        head = struct.pack("<BBHIIII", version, 0, 0, 0, 1, 2, 3) + more
        return one_frame(encode_frame(Opcode.WELCOME, 0, head=head))

    def test_a_longer_head_is_from_a_newer_server(self) -> None:
        assert decode_welcome(self.frame(1, b"more"))[:5] == (1, 0, 1, 2, 3)

    def test_a_version_nobody_asked_for(self) -> None:
        with pytest.raises(ProtocolError, match="answers in version 2, this client asked for 1"):
            decode_welcome(self.frame(2))

    def test_another_frame(self) -> None:
        with pytest.raises(ProtocolError, match="expected WELCOME, got <PONG"):
            decode_welcome(one_frame(encode_frame(Opcode.PONG, 0)))


class TestInfo:
    @pytest.mark.parametrize(
        "value",
        [
            info(etag="x" * (TEXT_MAX_BYTES + 1)),
            info(content_type="x" * (TEXT_MAX_BYTES + 1)),
            info(metadata={"x" * (TEXT_MAX_BYTES + 1): ""}),
            info(metadata={"": "x" * (TEXT_MAX_BYTES + 1)}),
            info(metadata={"": "x" * (TEXT_MAX_BYTES - 10)}),
            info(metadata={"a": "x" * 40_000, "b": "x" * 30_000}),
            info(metadata={str(number): "" for number in range(66_000)}),
        ],
    )
    def test_more_than_a_head_can_say(self, value: Any) -> None:
        with pytest.raises(TooLarge):
            encode_info(value)

    def test_as_much_as_a_head_can_say(self) -> None:
        empty = len(encode_info(info(content_type="")))
        value = info(content_type="x" * (HEAD_MAX_BYTES - empty))
        assert decode_info(encode_info(value))[0] == value

    @pytest.mark.parametrize("value", [info(etag="\ud800"), info(metadata={"\udc80": ""}), info(content_type="\ud800")])
    def test_what_is_not_unicode(self, value: Any) -> None:
        with pytest.raises(ProtocolError, match="not valid Unicode"):
            encode_info(value)

    def test_an_unknown_tier(self) -> None:
        raw = bytearray(encode_info(info(), "origin"))
        assert decode_info(bytes(raw))[1] == "origin"
        raw[16] = 5
        with pytest.raises(ProtocolError, match="unknown tier 5"):
            decode_info(bytes(raw))

    def test_the_receivers_key_stands_in(self) -> None:
        assert decode_info(encode_info(info("a/b"), with_key=False), "mine")[0].key == "mine"
        assert decode_info(encode_info(info("a/b")), "mine")[0].key == "a/b"
        assert decode_info(encode_info(info("a/b"), with_key=False))[0].key == ""

    def test_one_byte_too_many(self) -> None:
        with pytest.raises(ProtocolError, match="1 bytes too many"):
            decode_info(encode_info(info()) + b"\0")

    def test_text_that_is_none(self) -> None:
        with pytest.raises(ProtocolError, match="not UTF-8"):
            decode_info(encode_info(info(etag="aa")).replace(b"aa", b"\xff\xff"))

    def test_a_name_that_comes_twice(self) -> None:
        raw = encode_info(info(metadata={"a": "1", "b": "2"}))
        assert decode_info(raw.replace(b"b2", b"a2"))[0].metadata == {"a": "2"}


class TestGet:
    def test_a_head_without_a_range(self) -> None:
        with pytest.raises(ProtocolError, match="without a range has no head"):
            decode_get(one_frame(encode_frame(Opcode.GET, 1, head=b"x", body=b"key")))

    @pytest.mark.parametrize("head", [b"", bytes(15), bytes(17)])
    def test_a_range_of_another_size(self, head: bytes) -> None:
        with pytest.raises(ProtocolError):
            decode_get(one_frame(encode_frame(Opcode.GET, 1, head=head, body=b"key", flags=Flag.RANGE)))

    def test_a_span(self) -> None:
        assert decode_span(struct.pack("<QQ", 1, 2**64 - 1)) == (1, 2**64 - 1)
        with pytest.raises(ProtocolError):
            decode_span(bytes(15))


class TestPut:
    def test_the_key_stays_raw(self) -> None:
        frame = one_frame(encode_put(1, PutRequest(b"\xff\xfe", 1, None, {}), body=b"x"))
        assert decode_put(frame).key == b"\xff\xfe"
        assert frame.body == b"x"

    @pytest.mark.parametrize(
        "request_",
        [
            PutRequest(b"k" * 65_536, 0, None, {}),
            PutRequest(b"k", 0, "x" * 65_535, {}),
            PutRequest(b"k", 0, None, {"a": "x" * 65_520}),
            PutRequest(b"k", 0, None, {str(number): "" for number in range(70_000)}),
        ],
    )
    def test_more_than_a_head_can_say(self, request_: PutRequest) -> None:
        with pytest.raises(TooLarge):
            encode_put(1, request_)


def test_a_prefix_over_its_field() -> None:
    with pytest.raises(TooLarge):
        encode_list_request(1, b"x" * 65_536, b"", 1)
