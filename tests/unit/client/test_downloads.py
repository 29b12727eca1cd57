"""Reading one object, driven by hand; and both clients at a daemon whose stream fails in the middle."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.conversations import END, HEAD, ID, LONG_STREAM, STORED, STREAM, Driver, data, refusal, window
from tests.support.origins import memfd_body
from tests.support.wire import ScriptedDaemon, ServerSide, info
from tiered_store import AsyncClient, Client
from tiered_store.client import downloads
from tiered_store.errors import (
    DaemonUnavailable,
    DeadlineExceeded,
    IntegrityError,
    NotFound,
    OriginUnavailable,
    ProtocolError,
    StoreError,
)
from tiered_store.protocol.frames import DATA_MAX_BYTES, STREAM_WINDOW_BYTES, Flag, Opcode, encode_frame
from tiered_store.protocol.messages import decode_get, encode_info, encode_span
from tiered_store.protocol.status import encode_error


class TestGet:
    def test_what_is_asked(self) -> None:
        driver = Driver(downloads.get(ID, "größe", flags=5, span=(3, None), deadline_ms=9))
        (frame,) = driver.sent
        assert decode_get(frame) == ("größe".encode(), 3, None)
        assert (frame.request_id, frame.flags, frame.extra) == (ID, 5 | Flag.RANGE, 9)

    def test_inline(self) -> None:
        driver = Driver(downloads.get(ID, "a", flags=0)).give(encode_frame(Opcode.OBJECT, ID, head=HEAD, body=b"abc"))
        assert driver.result.data == b"abc"
        assert driver.result.file is None
        assert driver.result.info.key == "a"

    def test_by_descriptor(self) -> None:
        body = memfd_body(b"file")
        reply = encode_frame(Opcode.OBJECT_DESCRIPTOR, ID, head=HEAD, body=encode_span(4096, 10))
        driver = Driver(downloads.get(ID, "a", flags=0)).give(reply, descriptor=body.descriptor)
        file = driver.result.file
        assert (file.descriptor, file.offset, file.size) == (body.descriptor, 4096, 10)

    def test_by_descriptor_without_one(self) -> None:
        reply = encode_frame(Opcode.OBJECT_DESCRIPTOR, ID, head=HEAD, body=encode_span(0, 10))
        with pytest.raises(ProtocolError, match="without its descriptor"):
            Driver(downloads.get(ID, "a", flags=0)).give(reply)

    def test_a_stream_is_collected_and_granted(self) -> None:
        driver = Driver(downloads.get(ID, "a", flags=0)).give(LONG_STREAM, data(b"hello"), data(b"world"), END)
        assert driver.result.data == b"helloworld"
        assert [(frame.opcode, frame.extra) for frame in driver.sent[1:]] == [(Opcode.WINDOW, 5), (Opcode.WINDOW, 5)]

    def test_nothing_is_granted_beyond_the_end(self) -> None:
        """A daemon that stops closes behind its last byte; a grant that nobody needs would then fail the read."""
        size = STREAM_WINDOW_BYTES + 7
        opening = encode_frame(Opcode.OBJECT_STREAM, ID, head=encode_info(info("x", size), with_key=False))
        driver = Driver(downloads.get(ID, "a", flags=0)).give(opening)
        for _ in range(4):
            driver.give(data(bytes(DATA_MAX_BYTES)))
        driver.give(data(bytes(7)), END)
        assert [frame.extra for frame in driver.sent[1:]] == [7]
        assert len(driver.result.data) == size

    def test_a_stream_into_a_sink(self) -> None:
        taken: list[bytes] = []
        seen = []

        def sink(value: Any) -> Callable[[bytes], None]:
            seen.append(value)
            return taken.append

        driver = Driver(downloads.get(ID, "a", flags=0, sink=sink)).give(STREAM, data(b"hello"), data(b"world"), END)
        assert taken == [b"hello", b"world"]
        assert [value.size for value in seen] == [10]
        assert driver.result.data == b""

    def test_bytes_are_granted_when_they_have_been_used(self) -> None:
        """The sink is called before the window moves, so that a slow one holds the daemon back."""
        order: list[str] = []
        driver = Driver(downloads.get(ID, "a", flags=0, sink=lambda _: lambda _: order.append("used")))
        driver.give(LONG_STREAM)
        before = len(driver.sent)
        driver.give(data(b"x"))
        assert order == ["used"]
        assert len(driver.sent) == before + 1

    @pytest.mark.parametrize("frames", [[], [STREAM], [STREAM, data(b"hello")]])
    def test_an_error_at_any_time(self, frames: list[bytes]) -> None:
        driver = Driver(downloads.get(ID, "a", flags=0)).give(*frames)
        with pytest.raises(OriginUnavailable):
            driver.give(refusal(OriginUnavailable("broken", retryable=False)))

    @pytest.mark.parametrize(
        "frames",
        [[STORED], [data(b"x")], [END], [window(1)], [STREAM, window(1)], [STREAM, STREAM], [STREAM, STORED]],
    )
    def test_frames_that_do_not_belong_here(self, frames: list[bytes]) -> None:
        driver = Driver(downloads.get(ID, "a", flags=0)).give(*frames[:-1])
        with pytest.raises(ProtocolError, match="unexpected reply"):
            driver.give(frames[-1])


def broken(text: str = "the origin went away") -> OriginUnavailable:
    return OriginUnavailable(text)


class TestStreamsThatFail:
    def test_one_is_started_anew(self) -> None:
        """With the same request under the same id, and nothing of what came before is left."""
        driver = Driver(downloads.get(ID, "a", flags=3, span=(2, 10), deadline_ms=9))
        driver.give(STREAM, data(b"hel"), refusal(broken()))
        assert driver.opcodes() == ["GET", "GET"]
        assert driver.sent[0] == driver.sent[1]
        driver.give(STREAM, data(b"other"), data(b"bytes"), END)
        assert driver.result.data == b"otherbytes"

    def test_the_second_answer_may_have_another_form(self) -> None:
        driver = Driver(downloads.get(ID, "a", flags=0)).give(STREAM, data(b"hel"), refusal(broken()))
        driver.give(encode_frame(Opcode.OBJECT, ID, head=HEAD, body=b"0123456789"))
        assert driver.result.data == b"0123456789"

    def test_once(self) -> None:
        driver = Driver(downloads.get(ID, "a", flags=0)).give(STREAM, refusal(broken("first")), STREAM, data(b"x"))
        with pytest.raises(OriginUnavailable, match="second"):
            driver.give(refusal(broken("second")))

    def test_a_sink_begins_again(self) -> None:
        taken: list[list[bytes]] = []

        def sink(_: Any) -> Callable[[bytes], None]:
            taken.append([])
            return taken[-1].append

        driver = Driver(downloads.get(ID, "a", flags=0, sink=sink))
        driver.give(STREAM, data(b"hel"), refusal(broken()), STREAM, data(b"helloworld"), END)
        assert taken == [[b"hel"], [b"helloworld"]]

    def test_not_where_the_bytes_are_gone(self) -> None:
        driver = Driver(downloads.get(ID, "a", flags=0, sink=lambda _: lambda _: None, may_restart=lambda: False))
        with pytest.raises(OriginUnavailable):
            driver.give(STREAM, data(b"hel"), refusal(broken()))

    @pytest.mark.parametrize(
        "error",
        [
            OriginUnavailable("no such bucket", retryable=False),
            IntegrityError("wrong bytes"),
            DaemonUnavailable("the daemon is stopping"),
            ProtocolError("what", retryable=True),
        ],
    )
    def test_not_after_an_error_that_stays(self, error: StoreError) -> None:
        driver = Driver(downloads.get(ID, "a", flags=0)).give(STREAM, data(b"hel"))
        with pytest.raises(type(error)):
            driver.give(refusal(error))

    @pytest.mark.parametrize("error", [broken(), DeadlineExceeded("late"), NotFound("no")])
    def test_not_an_answer_that_is_no_stream(self, error: StoreError) -> None:
        with pytest.raises(type(error)):
            Driver(downloads.get(ID, "a", flags=0)).give(refusal(error))


def failing(times: int) -> Callable[[ServerSide], None]:
    """Streams that break behind "hel", so many times; then whole ones."""

    def script(side: ServerSide) -> None:
        side.greet()
        for number in itertools.count():
            frame = side.receive()
            while frame.opcode != Opcode.GET:
                frame = side.receive()
            head = encode_info(info("a", 10), "origin", with_key=False)
            side.send(encode_frame(Opcode.OBJECT_STREAM, frame.request_id, head=head))
            if number < times:
                side.send(encode_frame(Opcode.DATA, frame.request_id, body=b"hel"))
                side.send(encode_error(frame.request_id, broken()))
            else:
                side.send(encode_frame(Opcode.DATA, frame.request_id, body=b"helloworld"))
                side.send(encode_frame(Opcode.END, frame.request_id))

    return script


@pytest.fixture(params=["sync", "async"])
def called(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a client's method by its name, at a daemon whose first streams break; on one connection."""

    def call(times: int, method: str, *arguments: Any) -> Any:
        with ScriptedDaemon(failing(times)) as daemon:
            if request.param == "sync":
                with Client(daemon.path, timeout_s=20.0) as client:
                    result = getattr(client, method)(*arguments)
                    assert client.get("again") == b"helloworld"  # the connection is in order
            else:
                result = asyncio.run(_awaited(daemon.path, method, arguments))
            assert daemon.accepted == 1
            return result

    return call


async def _awaited(path: str, method: str, arguments: tuple[Any, ...]) -> Any:
    async with AsyncClient(path, timeout_s=20.0) as client:
        result = await getattr(client, method)(*arguments)
        assert await client.get("again") == b"helloworld"
        return result


class TestClients:
    def test_get(self, called: Callable[..., Any]) -> None:
        assert called(1, "get", "a") == b"helloworld"

    def test_get_view(self, called: Callable[..., Any]) -> None:
        with called(1, "get_view", "a") as view:
            assert view == b"helloworld"

    def test_get_file(self, called: Callable[..., Any], tmp_path: Path) -> None:
        assert called(1, "get_file", "a", tmp_path / "x").size == 10
        assert (tmp_path / "x").read_bytes() == b"helloworld"

    def test_get_file_leaves_nothing_when_it_fails_again(self, called: Callable[..., Any], tmp_path: Path) -> None:
        with pytest.raises(OriginUnavailable):
            called(2, "get_file", "a", tmp_path / "x")
        assert list(tmp_path.iterdir()) == []

    def test_get_into_cannot_take_pieces_back(self, called: Callable[..., Any]) -> None:
        pieces: list[bytes] = []
        with pytest.raises(OriginUnavailable, match="the origin went away"):
            called(1, "get_into", "a", pieces.append)
        assert pieces == [b"hel"]
