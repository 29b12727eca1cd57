"""The golden frames: what is on the wire, byte by byte, and what it means."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import pytest

from tests.support.wire import GOLDEN, GOLDEN_PATH, decode_message, encode_message, one_frame
from tiered_store.errors import ProtocolError
from tiered_store.protocol.frames import HEADER_BYTES, Flag, Frame, FrameReader, Opcode, encode_frame
from tiered_store.protocol.messages import VERSION

#: The layout of each version: sha256 of all golden frames of it, in the order of the file.
LAYOUTS = {1: "069aca12a138224ffb895833aaf6ea29d127a054d70da574b209a3dbb1778d59"}

every_frame = pytest.mark.parametrize("entry", GOLDEN, ids=[entry["name"] for entry in GOLDEN])


def raw(entry: dict[str, Any]) -> bytes:
    return bytes.fromhex(entry["hex"])


def header_of(frame: Frame) -> dict[str, Any]:
    names = ("flags", "head_length", "request_id", "extra")
    return {"opcode": Opcode(frame.opcode).name, **{name: getattr(frame, name) for name in names}}


def test_the_layout_of_a_version_never_changes() -> None:
    """Fails when a golden frame changes: a layout that peers already speak must stay readable for them.

    If the change is meant, raise ``VERSION`` in ``protocol/messages.py`` and add its layout here. If frames
    were only added, replace the digest of the current version.
    """
    digest = hashlib.sha256(b"".join(raw(entry) for entry in GOLDEN)).hexdigest()
    assert VERSION in LAYOUTS, "a new VERSION needs a layout of its own in LAYOUTS"
    assert digest == LAYOUTS[VERSION], (
        f"the golden frames in {GOLDEN_PATH.name} are not those of version {VERSION}: either undo the change of the "
        "layout, or raise VERSION and record the new layout (see this test's docstring)"
    )


def test_every_opcode_has_a_golden_frame() -> None:
    assert {entry["header"]["opcode"] for entry in GOLDEN} == {opcode.name for opcode in Opcode}


def test_every_flag_has_a_golden_frame() -> None:
    shown = {(entry["header"]["opcode"], bit) for entry in GOLDEN for bit in _bits(entry["header"]["flags"])}
    assert {bit for opcode, bit in shown if opcode == "GET"} >= {
        Flag.ONLY_IF_CACHED,
        Flag.NO_PROMOTE,
        Flag.ACCEPT_DESCRIPTOR,
        Flag.STREAM,
        Flag.RANGE,
    }
    replies = {("BATCH", Flag.FINAL), ("LISTING", Flag.MORE), ("ERROR", Flag.RETRYABLE)}
    assert shown >= replies | {("PUT", Flag.STREAM), ("PUT", Flag.DESCRIPTOR), ("GET_MANY", Flag.ONLY_IF_CACHED)}


def _bits(flags: int) -> list[int]:
    return [1 << bit for bit in range(8) if flags >> bit & 1]


@every_frame
class TestBothWays:
    def test_fields_to_bytes(self, entry: dict[str, Any]) -> None:
        assert encode_message(entry["header"], entry["message"]).hex() == entry["hex"]

    def test_bytes_to_fields(self, entry: dict[str, Any]) -> None:
        frame = one_frame(raw(entry))
        assert header_of(frame) == entry["header"]
        assert decode_message(frame) == entry["message"]


@every_frame
class TestCutting:
    def test_byte_by_byte(self, entry: dict[str, Any]) -> None:
        reader = FrameReader()
        data = raw(entry)
        for position in range(len(data) - 1):
            assert reader.receive(data[position : position + 1]) == []
            assert reader.is_midway
        assert reader.receive(data[-1:]) == [one_frame(data)]
        assert not reader.is_midway

    def test_with_trailing_bytes(self, entry: dict[str, Any]) -> None:
        """What follows belongs to the next frame, wherever the read happened to end."""
        data = raw(entry)
        for extra in {1, HEADER_BYTES - 1, min(HEADER_BYTES, len(data) - 1), len(data) - 1}:
            reader = FrameReader()
            assert reader.receive(data + data[:extra]) == [one_frame(data)]
            assert reader.receive(data[extra:]) == [one_frame(data)]

    def test_three_at_once(self, entry: dict[str, Any]) -> None:
        reader = FrameReader()
        assert reader.receive(raw(entry) * 3) == [one_frame(raw(entry))] * 3
        assert not reader.is_midway


@every_frame
class TestDamage:
    """A payload that was cut, or has too much, is a ProtocolError or another valid message. Nothing else."""

    def check(self, frame: Frame) -> None:
        with contextlib.suppress(ProtocolError):
            decode_message(frame)

    def test_a_body_cut_anywhere(self, entry: dict[str, Any]) -> None:
        frame = one_frame(raw(entry))
        for size in range(frame.head_length, len(frame.payload)):
            self.check(frame._replace(payload=frame.payload[:size]))

    def test_a_head_cut_anywhere(self, entry: dict[str, Any]) -> None:
        """Also: the bytes cut off the head are body then, as they would be on the wire."""
        frame = one_frame(raw(entry))
        for size in range(frame.head_length):
            self.check(frame._replace(head_length=size))
            self.check(frame._replace(head_length=size, payload=frame.payload[:size]))

    def test_more_than_there_should_be(self, entry: dict[str, Any]) -> None:
        frame = one_frame(raw(entry))
        head, body = frame.payload[: frame.head_length], frame.payload[frame.head_length :]
        for extra in (b"\0", b"\xff", b"\0" * 8, b"\xff" * 64):
            self.check(frame._replace(payload=frame.payload + extra))
            self.check(frame._replace(payload=head + extra + body, head_length=len(head) + len(extra)))

    def test_every_byte_changed(self, entry: dict[str, Any]) -> None:
        frame = one_frame(raw(entry))
        for position in range(len(frame.payload)):
            for value in (0x00, 0xFF, frame.payload[position] ^ 1, 0x80):
                damaged = bytearray(frame.payload)
                damaged[position] = value
                self.check(frame._replace(payload=bytes(damaged)))


#: Messages whose head or body is made of fields, so that a cut cannot give a valid one.
STRICT = ["HELLO", "INFO", "OBJECT_DESCRIPTOR", "GET_MANY", "EXISTS", "LIST", "STORED_MANY", "BATCH", "COPY", "WELCOME"]


@pytest.mark.parametrize("opcode", STRICT)
def test_a_structured_message_cut_is_refused(opcode: str) -> None:
    entry = next(entry for entry in GOLDEN if entry["header"]["opcode"] == opcode and entry["message"])
    frame = one_frame(raw(entry))
    head, body = frame.payload[: frame.head_length], frame.payload[frame.head_length :]
    in_head = opcode in {"HELLO", "INFO", "LIST", "BATCH", "WELCOME"}
    part = head if in_head else body
    for size in range(1, len(part)):
        short = part[:size]
        damaged = encode_frame(
            frame.opcode, 1, head=short if in_head else head, body=body if in_head else short, flags=frame.flags
        )
        with pytest.raises(ProtocolError):
            decode_message(one_frame(damaged))
