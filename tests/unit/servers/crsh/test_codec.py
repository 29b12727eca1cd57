"""Reading CRSH: golden bytes, every limit, and whatever else may come."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pieces import cut, events
from tiered_store.errors import ProtocolError
from tiered_store.servers.crsh.codec import (
    VALUE_MAX_BYTES,
    CrshReader,
    Operation,
    Request,
    error,
    found,
    identity,
    presence,
)
from tiered_store.servers.wire import SMALL_VALUE_MAX_BYTES, Opening

KEY = bytes(range(20))
LARGE = b"v" * (SMALL_VALUE_MAX_BYTES + 1)


def read(data: bytes) -> list[Any]:
    return list(events(CrshReader(), [data]))


def put(key: bytes, value: bytes, flags: int = 1) -> bytes:
    return bytes([1, len(key)]) + key + bytes([flags]) + struct.pack("=Q", len(value)) + value


def test_requests_with_a_key_and_without() -> None:
    asked = b"\x00\x14" + KEY + b"\x02\x14" + KEY + b"\x05\x01k" + b"\x04" + b"\x03"
    assert read(asked) == [
        Request(Operation.GET, KEY),
        Request(Operation.REMOVE, KEY),
        Request(Operation.EXISTS, b"k"),
        Request(Operation.INFO),
        Request(Operation.STOP),
    ]


@pytest.mark.parametrize(("flags", "overwrite"), [(0, False), (1, True), (0xFE, False), (0xFF, True)])
def test_of_the_flags_of_a_put_one_has_a_meaning(flags: int, overwrite: bool) -> None:
    assert read(put(KEY, b"value", flags)) == [Request(Operation.PUT, KEY, overwrite, b"value")]


def test_a_put_of_nothing() -> None:
    assert read(put(KEY, b"")) == [Request(Operation.PUT, KEY, True)]


def test_a_large_value_comes_before_its_command() -> None:
    asked = put(KEY, LARGE) + b"\x04"
    assert read(asked) == [Opening(len(LARGE)), LARGE, Request(Operation.PUT, KEY, True), Request(Operation.INFO)]


@pytest.mark.parametrize(
    "data", [b"\x06", b"\xff", b"GET / HTTP/1.1", b"\x01\x00\x01" + struct.pack("=Q", VALUE_MAX_BYTES + 1)]
)
def test_what_means_nothing_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(data)


def test_answers() -> None:
    assert found(5) == b"\x00" + struct.pack("=Q", 5)
    assert presence(is_there=True) == b"\x00\x01"
    assert presence(is_there=False) == b"\x00\x00"
    assert error("no") == b"\x02\x02no"
    assert identity("me", ["a", "bc"]) == b"\x02me\x02\x01a\x02bc"


def test_a_long_message_is_cut_between_characters() -> None:
    message = error("é" * 200)
    assert message[:2] == b"\x02\xfe"
    assert message[2:].decode() == "é" * 127


_requests = st.one_of(
    st.builds(put, st.binary(max_size=255), st.one_of(st.binary(max_size=300), st.just(LARGE)), st.integers(0, 255)),
    st.builds(lambda op, key: bytes([op, len(key)]) + key, st.sampled_from([0, 2, 5]), st.binary(max_size=255)),
    st.sampled_from([b"\x03", b"\x04"]),
)


@given(st.lists(_requests, max_size=5), st.lists(st.integers(0, 200_000), max_size=30))
@settings(deadline=None)
def test_how_it_is_cut_makes_no_difference(asked: list[bytes], places: list[int]) -> None:
    data = b"".join(asked)
    whole, parts = CrshReader(), CrshReader()
    assert list(events(whole, [data])) == list(events(parts, cut(data, places)))
    assert not whole.is_midway
    assert not parts.is_midway


@given(st.binary(max_size=600), st.lists(st.integers(0, 600)))
@settings(deadline=None, max_examples=400)
def test_anything_is_requests_or_an_error(data: bytes, places: list[int]) -> None:
    try:
        for event in events(CrshReader(), cut(data, places)):
            assert isinstance(event, Request | Opening | bytes)
    except ProtocolError:
        return
