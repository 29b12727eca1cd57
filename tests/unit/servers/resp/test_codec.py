"""Reading RESP2: golden bytes, every limit, and whatever else may come."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pieces import cut, events
from tiered_store.errors import ProtocolError
from tiered_store.servers.resp.codec import ARGUMENTS_MAX, ARGUMENTS_MAX_BYTES, VALUE_MAX_BYTES, RespReader, bulk, error
from tiered_store.servers.wire import SMALL_VALUE_MAX_BYTES, Opening

LARGE = SMALL_VALUE_MAX_BYTES + 1


def reader(*, is_trusted: bool = True) -> RespReader:
    return RespReader({b"SET": 2, b"SETEX": 3}, is_trusted=is_trusted)


def array(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(map(bulk, words))


def read(data: bytes, **options: Any) -> list[Any]:
    return list(events(reader(**options), [data]))


def test_a_command_is_an_array_of_bulk_strings() -> None:
    assert read(b"*2\r\n$3\r\nGET\r\n$5\r\nccach\r\n") == [[b"GET", b"ccach"]]


def test_a_command_may_be_a_line_of_words() -> None:
    assert read(b"PING\r\nGET  a\nset b c\r\n") == [[b"PING"], [b"GET", b"a"], [b"set", b"b", b"c"]]


def test_nothing_is_asked_by_empty_lines_and_arrays() -> None:
    assert read(b"\r\n\n*0\r\n*-1\r\n  \r\nPING\r\n") == [[b"PING"]]


def test_an_argument_may_hold_anything() -> None:
    odd = b"\r\n$5\r\n\x00\xff"
    assert read(array(b"SET", odd, b"")) == [[b"SET", odd, b""]]


def test_a_large_value_comes_before_its_command() -> None:
    value = bytes(range(256)) * 1024
    found = read(array(b"SET", b"k", value, b"EX", b"7") + b"PING\r\n")
    assert found == [Opening(len(value)), value, [b"SET", b"k", b"", b"EX", b"7"], [b"PING"]]


def test_a_value_at_the_bound_is_part_of_its_command() -> None:
    value = b"v" * SMALL_VALUE_MAX_BYTES
    assert read(array(b"set", b"k", value)) == [[b"set", b"k", value]]


@pytest.mark.parametrize(
    "data",
    [
        b"*x\r\n",
        b"*1x\r\n",
        b"*+1\r\n",
        b"*\r\n",
        b"*-2\r\n",
        b"*1_0\r\n",
        b"*99999999999999999999999999",
        b"*%d\r\n" % (ARGUMENTS_MAX + 1),
        b"*1\r\n+OK\r\n",
        b"*1\r\nx",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*1\r\n$3\r\nabcd\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (VALUE_MAX_BYTES + 1),
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9223372036854775807\r\n",
        b"*2\r\n$3\r\nGET\r\n$%d\r\n" % LARGE,
        b"*1\r\n$%d\r\n" % LARGE,
        b"*3\r\n$3\r\nSET\r\n$%d\r\n" % LARGE,
        b"x" * (16 * 1024),
        b'SET "a b" c\r\n',
        b"*2\r\n" + b"$60000\r\n" + b"x" * 60_000 + b"\n\n",
    ],
)
def test_what_means_nothing_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(data)


def test_the_arguments_of_one_command_are_bounded_together() -> None:
    words = [b"x" * 60_000] * (ARGUMENTS_MAX_BYTES // 60_000 + 1)
    with pytest.raises(ProtocolError, match="at most 1048576 bytes"):
        read(array(b"MGET", *words))


class TestBeforeThePassword:
    def test_a_login_can_be_read(self) -> None:
        words = [b"HELLO", b"2", b"AUTH", b"default", b"secret"]
        assert read(array(*words), is_trusted=False) == [words]

    @pytest.mark.parametrize("data", [b"*11\r\n", b"*2\r\n$4\r\nAUTH\r\n$16385\r\n", b"*3\r\n$3\r\nSET\r\n$65537\r\n"])
    def test_nothing_large_can(self, data: bytes) -> None:
        with pytest.raises(ProtocolError):
            read(data, is_trusted=False)


_words = st.lists(
    st.one_of(st.binary(max_size=40), st.sampled_from([b"*1\r\n", b"$3\r\n", b"\r\n", b"v" * LARGE])), max_size=6
)


@st.composite
def commands(draw: st.DrawFn) -> list[bytes]:
    """A command as a client may send it: large only where that is allowed."""
    rest = [word if len(word) < LARGE else b"large" for word in draw(_words)]
    if draw(st.booleans()):
        return [b"SET", b"k", draw(st.sampled_from([b"v" * LARGE, b"small"])), *rest]
    return [b"GET", *rest]


@given(st.lists(commands(), max_size=4), st.lists(st.integers(0, 200_000), max_size=30))
@settings(deadline=None)
def test_how_it_is_cut_makes_no_difference(asked: list[list[bytes]], places: list[int]) -> None:
    data = b"".join(array(*words) for words in asked)
    whole, parts = reader(), reader()
    assert list(events(whole, [data])) == list(events(parts, cut(data, places)))
    assert not whole.is_midway
    assert not parts.is_midway


_FRAGMENTS = [b"*", b"$", b"-1", b"3", b"\r\n", b"\n", b"SET", b"GET", b"70000", b"*3\r\n$3\r\nSET\r\n", b"$1\r\nk\r\n"]


@given(
    st.lists(st.one_of(st.sampled_from(_FRAGMENTS), st.binary(max_size=30)), max_size=40), st.lists(st.integers(0, 500))
)
@settings(deadline=None, max_examples=400)
def test_anything_is_commands_or_an_error(parts: list[bytes], places: list[int]) -> None:
    it = reader()
    try:
        for event in events(it, cut(b"".join(parts), places)):
            assert isinstance(event, Opening | bytes) or all(isinstance(word, bytes) for word in event)
    except ProtocolError:
        return


def test_a_command_that_never_ends_does_not_grow() -> None:
    """The pieces of a large value are given on, and what announces itself as too much is refused."""
    it = reader()
    it.feed(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % VALUE_MAX_BYTES)
    assert it.next() == Opening(VALUE_MAX_BYTES)
    piece = b"x" * 65_536
    tracemalloc.start()
    try:
        for _ in range(200):
            it.feed(piece)
            assert it.next() == piece
            assert it.next() is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(piece)


def test_an_error_is_one_line() -> None:
    assert error("no\r\n room\n", "OOM") == b"-OOM no room\r\n"
