"""Conversations driven by hand, against scripted frames: no socket, no clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.support.conversations import END, ID, STORED, Driver, data, refusal, window
from tests.support.origins import memfd_body, pattern
from tests.support.wire import info, one_frame
from tiered_store.client import downloads, operations
from tiered_store.client.operations import Conversation, Upload
from tiered_store.errors import (
    IntegrityError,
    InvalidKey,
    NotFound,
    OriginUnavailable,
    ProtocolError,
    QuotaExceeded,
    TooLarge,
)
from tiered_store.protocol.batches import ITEM_LARGE, decode_keys, encode_batch, encode_stored, item_status
from tiered_store.protocol.frames import DATA_MAX_BYTES, STREAM_WINDOW_BYTES, Flag, Opcode, encode_frame
from tiered_store.protocol.messages import (
    decode_list_request,
    decode_put,
    encode_info,
    encode_listing,
)


@pytest.mark.parametrize("key", ["\ud800", "x" * 1025, "ü" * 600])
def test_keys_that_cannot_be_sent(key: str) -> None:
    for operation in (
        downloads.get(ID, key, flags=0),
        operations.stat(ID, key),
        operations.delete(ID, key),
        operations.delete_prefix(ID, key),
        operations.copy(ID, key, "a"),
        operations.copy(ID, "a", key),
        operations.list_page(ID, key, b"", 1),
        operations.put(ID, key, lambda: Upload(1, inline=b"x"), content_type=None, metadata={}),
    ):
        with pytest.raises(InvalidKey):
            Driver(operation)


class TestGetMany:
    def batch(self, items: Iterable[tuple[int, bytes | int]], *, final: bool) -> bytes:
        pairs = list(items)
        sizes = [len(item) if isinstance(item, bytes) else item for _, item in pairs]
        bodies = [item for _, item in pairs if isinstance(item, bytes)]
        return encode_batch(ID, [index for index, _ in pairs], sizes, bodies, final=final)

    def test_in_several_frames_in_any_order(self) -> None:
        driver = Driver(operations.get_many(ID, ["a", "b", "c", "d"], flags=1))
        assert decode_keys(driver.sent[0].payload) == [b"a", b"b", b"c", b"d"]
        driver.give(self.batch([(2, b"C")], final=False), self.batch([(0, b"")], final=False))
        driver.give(self.batch([(3, ITEM_LARGE), (1, item_status(NotFound("")))], final=True))
        assert driver.result == ({"c": b"C", "a": b""}, ["d"])

    def test_the_first_error_is_raised_when_all_is_there(self) -> None:
        driver = Driver(operations.get_many(ID, ["a", "b"]))
        driver.give(self.batch([(1, item_status(OriginUnavailable("")))], final=False))
        driver.give(self.batch([(0, item_status(QuotaExceeded("")))], final=False))
        with pytest.raises(OriginUnavailable) as caught:
            driver.give(self.batch([], final=True))
        assert caught.value.key == "b"

    def test_a_bad_key_is_told_by_its_rule(self) -> None:
        driver = Driver(operations.get_many(ID, ["a//b"]))
        with pytest.raises(InvalidKey, match="empty segment"):
            driver.give(self.batch([(0, item_status(InvalidKey("")))], final=True))

    def test_an_index_nobody_asked_for(self) -> None:
        with pytest.raises(ProtocolError, match="answers key 2 of 2"):
            Driver(operations.get_many(ID, ["a", "b"])).give(self.batch([(2, b"x")], final=True))

    @pytest.mark.parametrize("key", ["\ud800", "x" * 70_000])
    def test_keys_that_cannot_be_sent(self, key: str) -> None:
        for operation in (operations.get_many(ID, ["a", key]), operations.exists_many(ID, ["a", key])):
            with pytest.raises(InvalidKey):
                Driver(operation)


def put(upload: Upload, key: str | None = "a/b") -> Driver:
    return Driver(operations.put(ID, key, lambda: upload, content_type="a/b", metadata={"u": "7"}, deadline_ms=9))


class Source:
    """Gives bytes in pieces as asked, and remembers how much it gave."""

    def __init__(self, content: bytes, *, piece: int = DATA_MAX_BYTES) -> None:
        self.left = content
        self.piece = piece
        self.given = 0

    def read(self, size: int) -> bytes:
        assert size <= DATA_MAX_BYTES
        part, self.left = self.left[: min(size, self.piece)], self.left[min(size, self.piece) :]
        self.given += len(part)
        return part


class TestPut:
    def test_inline(self) -> None:
        driver = put(Upload(3, inline=b"abc"))
        (frame,) = driver.sent
        assert decode_put(frame) == (b"a/b", 3, "a/b", {"u": "7"})
        assert (frame.body, frame.flags, frame.extra) == (b"abc", 0, 9)
        assert driver.give(STORED).result == info("a/b")

    def test_without_a_name(self) -> None:
        assert decode_put(put(Upload(0, inline=b""), key=None).sent[0]).key == b"sha256:"
        with pytest.raises(InvalidKey, match="64 lowercase"):
            put(Upload(0, inline=b""), key="sha256:")

    def test_a_descriptor_goes_when_it_is_asked_for(self) -> None:
        body = memfd_body(b"abc")
        driver = put(Upload(3, descriptor=body.descriptor))
        assert driver.opcodes() == ["PUT"]
        assert (driver.sent[0].flags, driver.sent[0].extra) == (Flag.DESCRIPTOR, 0)
        driver.give(window(0))  # a sign of life asks for nothing
        assert driver.descriptors == []
        driver.give(window(1))
        assert driver.opcodes() == ["PUT", "DESCRIPTOR"]
        assert driver.descriptors == [body.descriptor]
        assert driver.give(window(0), window(0), STORED).result == info("a/b")

    def test_a_refused_descriptor_is_not_sent(self) -> None:
        driver = put(Upload(3, descriptor=memfd_body(b"abc").descriptor))
        with pytest.raises(TooLarge):
            driver.give(refusal(TooLarge("too large")))
        assert driver.descriptors == []

    @pytest.mark.parametrize("piece", [20_000, 100_000, DATA_MAX_BYTES])
    def test_a_stream_keeps_to_what_was_granted(self, piece: int) -> None:
        content = pattern(3 * STREAM_WINDOW_BYTES + 12_345)
        source = Source(content, piece=piece)
        driver = put(Upload(None, read=source.read))
        assert source.given == 0
        granted, answered = STREAM_WINDOW_BYTES, 1
        driver.give(window(STREAM_WINDOW_BYTES))
        while driver.opcodes()[-1] != "END":
            sent = sum(len(frame.payload) for frame in driver.sent[1:])
            assert sent <= granted
            assert source.given - sent <= DATA_MAX_BYTES  # read ahead by one piece at most
            size = len(driver.sent[answered].payload)
            granted, answered = granted + size, answered + 1
            driver.give(window(size))
        assert b"".join(frame.payload for frame in driver.sent[1:]) == content
        assert all(frame.opcode == Opcode.DATA for frame in driver.sent[1:-1])
        assert driver.give(window(5), STORED).result == info("a/b")

    def test_grants_in_drops(self) -> None:
        driver = put(Upload(None, read=Source(b"x" * 10, piece=10).read))
        for _ in range(9):
            driver.give(window(1))
            assert driver.opcodes() == ["PUT"]
        driver.give(window(1))
        assert driver.opcodes() == ["PUT", "DATA"]
        driver.give(window(1))
        assert driver.opcodes() == ["PUT", "DATA", "END"]

    def test_nothing_to_send(self) -> None:
        driver = put(Upload(None, read=Source(b"").read)).give(window(100))
        assert driver.opcodes() == ["PUT", "END"]

    def test_refused_in_the_middle(self) -> None:
        source = Source(pattern(10 * STREAM_WINDOW_BYTES))
        driver = put(Upload(None, read=source.read)).give(window(STREAM_WINDOW_BYTES))
        before = len(driver.sent)
        with pytest.raises(QuotaExceeded):
            driver.give(refusal(QuotaExceeded("full")))
        assert len(driver.sent) == before
        assert source.given <= STREAM_WINDOW_BYTES + DATA_MAX_BYTES

    def test_refused_after_the_end(self) -> None:
        driver = put(Upload(None, read=Source(b"abc").read)).give(window(100))
        with pytest.raises(IntegrityError):
            driver.give(refusal(IntegrityError("no")))

    @pytest.mark.parametrize("frames", [[STORED], [data(b"x")], [window(100), data(b"x")], [window(100), END]])
    def test_frames_that_do_not_belong_here(self, frames: list[bytes]) -> None:
        driver = put(Upload(None, read=Source(b"abc").read)).give(*frames[:-1])
        with pytest.raises(ProtocolError, match="unexpected reply"):
            driver.give(frames[-1])

    def test_a_source_that_fails(self) -> None:
        def broken(_: int) -> bytes:
            raise OSError("no disk")

        with pytest.raises(OSError, match="no disk"):
            put(Upload(None, read=broken)).give(window(100))

    def test_each_attempt_makes_its_own_upload(self) -> None:
        made: list[int] = []

        def make() -> Upload:
            made.append(1)
            return Upload(1, inline=b"x")

        for _ in range(2):
            Driver(operations.put(ID, "a", make, content_type=None, metadata={}))
        assert len(made) == 2


class TestPutMany:
    def test_results_in_order(self) -> None:
        driver = Driver(operations.put_many(ID, [("a", b"1"), ("b", b"2")]))
        body = encode_stored([info("ignored"), TooLarge("big")])
        stored, refused = driver.give(encode_frame(Opcode.STORED_MANY, ID, body=body)).result
        assert stored == info("a")
        assert isinstance(refused, TooLarge)
        assert refused.key == "b"

    def test_another_number(self) -> None:
        driver = Driver(operations.put_many(ID, [("a", b"1"), ("b", b"2")]))
        with pytest.raises(ProtocolError):
            driver.give(encode_frame(Opcode.STORED_MANY, ID, body=encode_stored([info()])))


class TestOthers:
    def test_stat_and_copy(self) -> None:
        assert Driver(operations.stat(ID, "a/b")).give(STORED).result == info("a/b")
        assert Driver(operations.copy(ID, "c", "a/b")).give(STORED).result == info("a/b")

    def test_exists(self) -> None:
        driver = Driver(operations.exists_many(ID, ["a", "b"]))
        assert driver.give(encode_frame(Opcode.EXISTENCE, ID, body=b"\x01\x00")).result == [True, False]
        with pytest.raises(ProtocolError, match="another number"):
            Driver(operations.exists_many(ID, ["a"])).give(encode_frame(Opcode.EXISTENCE, ID, body=b"\x01\x00"))

    def test_list(self) -> None:
        driver = Driver(operations.list_page(ID, "p/", b"p/c", 5, deadline_ms=3))
        assert decode_list_request(driver.sent[0]) == (b"p/", b"p/c", 5)
        assert driver.give(encode_listing(ID, [encode_info(info("p/d"))], b"p/d")).result == ([info("p/d")], b"p/d")

    def test_delete(self) -> None:
        assert Driver(operations.delete(ID, "a")).give(encode_frame(Opcode.DONE, ID, extra=1)).result == 1
        assert Driver(operations.delete_prefix(ID, "a")).give(encode_frame(Opcode.DONE, ID, extra=9)).result == 9

    def test_ping(self) -> None:
        assert Driver(operations.ping(ID)).give(encode_frame(Opcode.PONG, ID, body=b"ping")).is_over
        with pytest.raises(IntegrityError):
            Driver(operations.ping(ID)).give(encode_frame(Opcode.PONG, ID, body=b"pong"))

    def test_stats(self) -> None:
        body = json.dumps({"uptime_s": 1}).encode()
        driver = Driver(operations.stats(ID)).give(encode_frame(Opcode.STATISTICS, ID, body=body))
        assert driver.result == {"uptime_s": 1}

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
    def test_stats_that_cannot_be_read(self, body: bytes) -> None:
        with pytest.raises(ProtocolError):
            Driver(operations.stats(ID)).give(encode_frame(Opcode.STATISTICS, ID, body=body))

    @pytest.mark.parametrize(
        "make",
        [
            lambda: operations.stat(ID, "a"),
            lambda: operations.exists_many(ID, ["a"]),
            lambda: operations.list_page(ID, "", b"", 1),
            lambda: operations.put_many(ID, [("a", b"")]),
            lambda: operations.get_many(ID, ["a"]),
            lambda: operations.delete(ID, "a"),
            lambda: operations.stats(ID),
            lambda: operations.ping(ID),
        ],
    )
    def test_errors_and_strangers(self, make: Callable[[], Conversation[Any]]) -> None:
        with pytest.raises(NotFound):
            Driver(make()).give(refusal(NotFound("x")))
        with pytest.raises(ProtocolError, match="unexpected reply"):
            Driver(make()).give(encode_frame(Opcode.GOODBYE, ID))


@pytest.mark.parametrize("opcode", list(Opcode))
def test_what_may_follow_a_frame(opcode: Opcode) -> None:
    """Behind a part of a stream more comes, behind everything else nothing."""
    parts = {Opcode.OBJECT_STREAM, Opcode.DATA, Opcode.WINDOW}
    assert operations.is_settled(one_frame(encode_frame(opcode, ID))) == (opcode not in parts)


def test_before_anything_has_come() -> None:
    assert operations.is_settled(None)
