"""Cutting bytes into frames: limits, violations, and how little is kept."""

from __future__ import annotations

import pytest

from tiered_store.errors import ProtocolError, TooLarge
from tiered_store.protocol.frames import (
    HEAD_MAX_BYTES,
    HEADER,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Frame,
    FrameReader,
    Opcode,
    encode_frame,
)


def kept_bytes(reader: FrameReader) -> int:
    return len(reader._pending)


class TestEncode:
    @pytest.mark.parametrize("head", [0, 1, HEAD_MAX_BYTES])
    def test_up_to_the_limit(self, head: int) -> None:
        data = encode_frame(Opcode.PUT, 1, head=b"h" * head, body=b"b" * (MAX_FRAME_BYTES - head))
        (frame,) = FrameReader().receive(data)
        assert (frame.head, frame.body) == (b"h" * head, b"b" * (MAX_FRAME_BYTES - head))

    def test_one_byte_more(self) -> None:
        with pytest.raises(TooLarge, match="1048577"):
            encode_frame(Opcode.PUT, 1, head=b"h", body=b"b" * MAX_FRAME_BYTES)

    def test_a_head_over_its_field(self) -> None:
        with pytest.raises(TooLarge, match="head 65536"):
            encode_frame(Opcode.PUT, 1, head=b"h" * (HEAD_MAX_BYTES + 1))


class TestLimits:
    def test_a_frame_of_the_largest_size_in_pieces(self) -> None:
        data = encode_frame(Opcode.DATA, 1, body=bytes(range(256)) * 4096)
        reader = FrameReader()
        frames = [
            frame for start in range(0, len(data), 65536) for frame in reader.receive(data[start : start + 65536])
        ]
        assert [frame.payload for frame in frames] == [data[HEADER_BYTES:]]
        assert not reader.is_midway
        assert kept_bytes(reader) == 0

    def test_one_byte_over_is_refused_before_it_comes(self) -> None:
        reader = FrameReader()
        with pytest.raises(ProtocolError, match="1048577 bytes is over the limit"):
            reader.receive(HEADER.pack(MAX_FRAME_BYTES + 1, Opcode.DATA, 0, 0, 1, 0))
        assert kept_bytes(reader) == 0

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (HEADER.pack(0, 0x7F, 0, 0, 1, 0), "unknown opcode 0x7f"),
            (HEADER.pack(0, 0, 0, 0, 1, 0), "unknown opcode 0x00"),
            (HEADER.pack(3, Opcode.GET, 0, 4, 1, 0), "head of 4 bytes does not fit its payload of 3"),
            (HEADER.pack(0xFFFFFFFF, Opcode.GET, 0, 0, 1, 0), "4294967295 bytes"),
        ],
    )
    @pytest.mark.parametrize("rest", [b"", b"abc", b"x" * 100])
    def test_headers_that_cannot_be(self, header: bytes, message: str, rest: bytes) -> None:
        """Whole, cut in two, and behind a good frame."""
        good = encode_frame(Opcode.PING, 1, body=b"x")
        for pieces in ([header + rest], [header[:7], header[7:] + rest], [good + header + rest]):
            reader = FrameReader()
            for piece in pieces[:-1]:
                reader.receive(piece)
            with pytest.raises(ProtocolError, match=message):
                reader.receive(pieces[-1])
            assert kept_bytes(reader) == 0
            with pytest.raises(ProtocolError, match=message):
                reader.receive(good)  # nothing behind a violation can be trusted

    def test_the_error_keeps_nothing_alive(self) -> None:
        """Each raise is an exception of its own, so no traceback holds what came with an earlier one."""
        reader = FrameReader()
        raised = []
        for _ in range(2):
            with pytest.raises(ProtocolError) as caught:
                reader.receive(HEADER.pack(0, 0x7F, 0, 0, 1, 0))
            raised.append(caught.value)
        assert raised[0] is not raised[1]


class TestMidway:
    def test_half_a_header(self) -> None:
        reader = FrameReader()
        data = encode_frame(Opcode.PING, 1)
        assert reader.receive(data[:8]) == []
        assert reader.is_midway
        assert reader.receive(b"") == []
        assert reader.is_midway
        assert len(reader.receive(data[8:])) == 1
        assert not reader.is_midway

    def test_a_frame_and_a_half(self) -> None:
        reader = FrameReader()
        data = encode_frame(Opcode.PING, 1, body=b"abc")
        assert len(reader.receive(data + data[:17])) == 1
        assert reader.is_midway
        assert len(reader.receive(data[17:] + data)) == 2
        assert not reader.is_midway


class TestFrame:
    def test_head_and_body(self) -> None:
        frame = Frame(Opcode.PUT, 0, 2, 1, 0, b"hhbbb")
        assert (frame.head, frame.body) == (b"hh", b"bbb")
        whole = frame._replace(head_length=0)
        assert whole.head == b""
        assert whole.body is whole.payload

    def test_in_a_message(self) -> None:
        assert str(Frame(Opcode.GET, 4, 0, 7, 100, b"abc")) == "<GET #7 flags=0x4 extra=100 3 bytes>"
        assert str(Frame(0x7F, 0, 0, 0, 0, b"")) == "<0x7f #0 flags=0x0 extra=0 0 bytes>"
