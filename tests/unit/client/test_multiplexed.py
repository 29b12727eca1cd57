"""One connection shared by many tasks, against a daemon that follows a script."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

from tests.support.links import answer, connected, echo, get, lost, until
from tests.support.origins import memfd_body, open_descriptors
from tests.support.wire import ScriptedDaemon, ServerSide, info
from tiered_store.client import operations
from tiered_store.client.multiplexed import MultiplexedLink
from tiered_store.client.operations import Upload
from tiered_store.errors import (
    DaemonUnavailable,
    DeadlineExceeded,
    IntegrityError,
    NotFound,
    PermissionDenied,
    ProtocolError,
    StoreError,
)
from tiered_store.protocol.frames import Frame, Opcode, encode_frame
from tiered_store.protocol.messages import encode_info, encode_span
from tiered_store.protocol.status import encode_error

HEAD = encode_info(info("a", 5), "memory", with_key=False)


class TestConnecting:
    async def test_nobody_there(self, tmp_path: Any) -> None:
        before = open_descriptors()
        with pytest.raises(DaemonUnavailable, match="no such socket"):
            await MultiplexedLink.connect(str(tmp_path / "none"), 1.0)
        assert open_descriptors() == before

    async def test_refused_with_a_reason(self) -> None:
        """The daemon has closed before HELLO is sent; its reason is heard all the same."""

        def refuse(side: ServerSide) -> None:
            side.send(encode_error(0, PermissionDenied("not you")))

        with ScriptedDaemon(refuse) as daemon:
            for _ in range(20):
                with pytest.raises(PermissionDenied, match="not you"):
                    await MultiplexedLink.connect(daemon.path, 20.0)

    async def test_closed_at_once(self) -> None:
        daemon = ScriptedDaemon(lambda side: side.receive())
        with daemon, pytest.raises(DaemonUnavailable, match="at once"):
            await MultiplexedLink.connect(daemon.path, 20.0)

    async def test_never_greeted(self) -> None:
        daemon = ScriptedDaemon(ServerSide.wait_for_end)
        with daemon, pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
            await MultiplexedLink.connect(daemon.path, 0.05)

    async def test_cancelled(self) -> None:
        with ScriptedDaemon(ServerSide.wait_for_end) as daemon:
            connecting = asyncio.ensure_future(MultiplexedLink.connect(daemon.path, None))
            await until(lambda: daemon.accepted == 1)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting


class TestSharing:
    async def test_a_hundred_at_once(self) -> None:
        async with connected(echo) as (link, daemon):
            keys = [f"k{number}" for number in range(100)]
            assert await asyncio.gather(*(get(link, key) for key in keys)) == [key.encode() for key in keys]
            assert daemon.accepted == 1
            assert link.is_proven

    async def test_answers_in_any_order(self) -> None:
        def backwards(side: ServerSide) -> None:
            side.greet()
            for frame in reversed([side.receive() for _ in range(10)]):
                answer(side, frame)
            side.wait_for_end()

        async with connected(backwards) as (link, _):
            keys = [f"k{number}" for number in range(10)]
            assert await asyncio.gather(*(get(link, key) for key in keys)) == [key.encode() for key in keys]

    async def test_no_more_in_flight_than_the_daemon_said(self) -> None:
        seen: list[int] = []

        def script(side: ServerSide) -> None:
            side.greet(max_in_flight=3)
            for _ in range(3):
                frames = [side.receive() for _ in range(3)]
                seen.append(len(frames) + len(side._frames))
                for frame in frames:
                    answer(side, frame)
            side.wait_for_end()

        async with connected(script) as (link, _):
            await asyncio.gather(*(get(link) for _ in range(9)))
            assert seen == [3, 3, 3]

    async def test_ids_in_use_are_passed_over(self) -> None:
        numbers: list[int] = []

        def script(side: ServerSide) -> None:
            side.greet()
            first = side.receive()
            for _ in range(2):
                frame = side.receive()
                numbers.append(frame.request_id)
                answer(side, frame)
            answer(side, first)
            side.wait_for_end()

        async with connected(script) as (link, _):
            link._request_id = 0
            slow = asyncio.ensure_future(get(link, "slow"))
            await until(lambda: 1 in link._mailboxes)
            link._request_id = 0xFFFFFFFF - 1
            await get(link)
            await get(link)
            assert numbers == [0xFFFFFFFF, 2]
            assert await slow == b"slow"


class TestCancelling:
    async def test_the_daemon_is_told_and_late_frames_are_dropped(self) -> None:
        told: list[int] = []
        file = memfd_body(b"hello")

        def script(side: ServerSide) -> None:
            side.greet()
            number = side.receive().request_id
            cancelled = side.receive()
            assert (cancelled.opcode, cancelled.request_id) == (Opcode.CANCEL, number)
            told.append(number)
            late = encode_frame(Opcode.OBJECT_DESCRIPTOR, number, head=HEAD, body=encode_span(0, 5))
            for _ in range(5):
                side.send(late, file.descriptor.fd)
            side.send(encode_frame(Opcode.DATA, number, body=b"x") + encode_frame(Opcode.END, number))
            while True:
                answer(side, side.receive())

        async with connected(script) as (link, _):
            before = open_descriptors()
            task = asyncio.ensure_future(get(link))
            await until(lambda: len(link._mailboxes) == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await get(link, "next") == b"next"
            assert told
            assert open_descriptors() == before
            assert len(link._mailboxes) == 1

    async def test_a_slot_is_given_back(self) -> None:
        def script(side: ServerSide) -> None:
            side.greet(max_in_flight=1)
            while True:
                frame = side.receive()
                if frame.payload.startswith(b"k"):
                    answer(side, frame)

        async with connected(script) as (link, _):
            for _ in range(3):
                task = asyncio.ensure_future(get(link, "stuck"))
                await until(lambda: len(link._mailboxes) == 2)
                task.cancel()
                await asyncio.wait([task])
            assert await get(link, "k") == b"k"

    async def test_one_that_waits_for_its_turn(self) -> None:
        def script(side: ServerSide) -> None:
            side.greet(max_in_flight=1)
            frames = [side.receive()]
            assert side.receive().opcode == Opcode.CANCEL
            frames.append(side.receive())
            answer(side, frames[1])
            side.wait_for_end()

        async with connected(script) as (link, _):
            first = asyncio.ensure_future(get(link, "first"))
            await until(lambda: len(link._mailboxes) == 2)
            waiting = asyncio.ensure_future(get(link, "waiting"))
            third = asyncio.ensure_future(get(link, "third"))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            first.cancel()
            assert await third == b"third"

    async def test_a_function_of_the_user_that_raises_a_store_error(self) -> None:
        """The daemon is told to stop sending, although the error is one of the store's."""
        told = threading.Event()

        def script(side: ServerSide) -> None:
            side.greet()
            number = side.receive().request_id
            side.send(encode_frame(Opcode.OBJECT_STREAM, number, head=HEAD))
            side.send(encode_frame(Opcode.DATA, number, body=b"x"))
            assert side.receive().opcode == Opcode.CANCEL
            told.set()
            while True:
                answer(side, side.receive())

        def sink(_: Any) -> Any:
            def write(_: bytes) -> None:
                raise NotFound("another store's")

            return write

        async with connected(script) as (link, _):
            with pytest.raises(NotFound):
                await get(link, sink=sink)
            assert await get(link, "next") == b"next"
            assert told.is_set()


class TestDeadlines:
    async def test_of_one_request_only(self) -> None:
        cancelled = threading.Event()

        def script(side: ServerSide) -> None:
            side.greet()
            side.receive()
            assert side.receive().opcode == Opcode.CANCEL
            cancelled.set()
            while True:
                answer(side, side.receive())

        async with connected(script, timeout_s=0.1) as (link, _):
            with pytest.raises(DeadlineExceeded, match=r"0\.1 s"):
                await get(link)
            assert await get(link, "next") == b"next"
            assert cancelled.is_set()

    async def test_an_answer_in_the_same_turn_as_the_end_of_the_time(self) -> None:
        """It counts, and the end of its time does not hurt the answer after it."""
        async with connected(echo) as (link, _):
            mailbox = link._mailboxes[0]
            frames = [Frame(Opcode.PONG, 0, 0, 0, 0, body) for body in (b"first", b"second")]
            mailbox.deliver((frames[0], None))
            mailbox._expire(1.0)
            assert await mailbox.next(None) == (frames[0], None)
            waiting = asyncio.ensure_future(mailbox.next(None))
            await asyncio.sleep(0)
            mailbox.deliver((frames[1], None))
            assert await waiting == (frames[1], None)

    async def test_a_daemon_that_takes_nothing(self) -> None:
        done = threading.Event()

        def deaf(side: ServerSide) -> None:
            side.greet()
            done.wait(20)

        async with connected(deaf, timeout_s=0.1) as (link, _):
            upload = Upload(900_000, inline=bytes(900_000))
            puts = [link.run(operations.put, "a", lambda: upload, content_type=None, metadata={}) for _ in range(8)]
            results = await asyncio.gather(*puts, return_exceptions=True)
            assert {type(result) for result in results} == {DeadlineExceeded}
            done.set()


class TestUploads:
    async def test_by_descriptor(self) -> None:
        seen: list[bytes] = []

        def script(side: ServerSide) -> None:
            side.greet()
            number = side.receive().request_id
            side.send(encode_frame(Opcode.WINDOW, number, extra=1))
            side.receive()
            seen.append(os.pread(side.descriptors[0], 10, 0))
            side.send(encode_frame(Opcode.INFO, number, head=encode_info(info("a", 4))))
            side.wait_for_end()

        file = memfd_body(b"file")
        async with connected(script) as (link, _):
            upload = Upload(4, descriptor=file.descriptor)
            stored = await link.run(operations.put, "a", lambda: upload, content_type=None, metadata={})
            assert stored == info("a", 4)
            assert seen == [b"file"]

    async def test_reading_the_source_blocks_nobody_else(self) -> None:
        """The source gives nothing until another request has been answered on the same connection."""
        go_on = threading.Event()

        def script(side: ServerSide) -> None:
            side.greet()
            while True:
                frame = side.receive()
                if frame.opcode == Opcode.PUT:
                    side.send(encode_frame(Opcode.WINDOW, frame.request_id, extra=1000))
                elif frame.opcode == Opcode.END:
                    side.send(encode_frame(Opcode.INFO, frame.request_id, head=encode_info(info("a", 4))))
                elif frame.opcode == Opcode.GET:
                    answer(side, frame)

        def read(_: int) -> bytes:
            assert go_on.wait(20)
            return b""

        async with connected(script) as (link, _):
            upload = Upload(None, read=read)
            putting = asyncio.ensure_future(
                link.run(operations.put, "a", lambda: upload, content_type=None, metadata={})
            )
            assert await get(link, "meanwhile") == b"meanwhile"
            assert not putting.done()
            go_on.set()
            assert await putting == info("a", 4)

    async def test_the_kernel_refuses_a_descriptor(self) -> None:
        def script(side: ServerSide) -> None:
            side.greet()
            side.send(encode_frame(Opcode.WINDOW, side.receive().request_id, extra=1))
            side.wait_for_end()

        async with connected(script) as (link, _):
            send = link._channel.send

            def refuse(data: bytes, descriptor: Any = None, on_refused: Any = None) -> None:
                if descriptor is not None:
                    asyncio.get_running_loop().call_soon(on_refused)
                else:
                    send(data)

            link._channel.send = refuse
            upload = Upload(4, descriptor=memfd_body(b"file").descriptor)
            with pytest.raises(DaemonUnavailable, match="on their way"):
                await link.run(operations.put, "a", lambda: upload, content_type=None, metadata={})


class TestTheDaemonMisbehaves:
    @pytest.mark.parametrize(
        ("reply", "error"),
        [
            (encode_frame(Opcode.OBJECT_DESCRIPTOR, 1, head=HEAD, body=encode_span(0, 5)), ProtocolError),
            (b"\0" * 16, ProtocolError),
            (encode_error(0, ProtocolError("you did it")), ProtocolError),
            (encode_error(0, DaemonUnavailable("going")), DaemonUnavailable),
        ],
    )
    async def test_all_under_way_hear_of_it(self, reply: bytes, error: type[StoreError]) -> None:
        def script(side: ServerSide) -> None:
            side.greet()
            for _ in range(10):
                side.receive()
            side.send(reply)
            side.wait_for_end()

        async with connected(script) as (link, _):
            results = await asyncio.gather(*(get(link) for _ in range(10)), return_exceptions=True)
            assert {type(result) for result in results} == {error}
            assert not link.is_usable
            with pytest.raises(ConnectionError):
                await get(link)

    async def test_descriptors_nobody_asked_for(self) -> None:
        file = memfd_body(b"x")

        def script(side: ServerSide) -> None:
            side.greet()
            while True:
                frame = side.receive()
                side.send(encode_frame(Opcode.OBJECT, frame.request_id, head=HEAD, body=b"hello"), file.descriptor.fd)

        async with connected(script) as (link, _):
            before = open_descriptors()
            for _ in range(20):
                assert await get(link) == b"hello"
            assert open_descriptors() == before

    async def test_descriptors_with_a_violation(self) -> None:
        file = memfd_body(b"x")

        def script(side: ServerSide) -> None:
            side.greet()
            side.receive()
            side.send(b"\0" * 16, file.descriptor.fd)
            side.wait_for_end()

        async with connected(script) as (link, _):
            before = open_descriptors()
            with pytest.raises(ProtocolError):
                await get(link)
            assert open_descriptors() < before  # the link's own socket is closed


class TestFaultsLeaveNoGarbage:
    async def test_a_deadline(self) -> None:
        def silent(side: ServerSide) -> None:
            side.greet()
            side.wait_for_end()

        async with connected(silent) as (link, _):
            link._timeout_s = 0.02  # from here on: greeting may take its time
            assert await lost(lambda kept: get(link, sink=kept), DeadlineExceeded)

    @pytest.mark.parametrize(
        ("reply", "error"), [(b"\0" * 16, ProtocolError), (b"", ConnectionError)], ids=["violation", "hangs up"]
    )
    async def test_a_connection_that_ends(self, reply: bytes, error: type[BaseException]) -> None:
        def script(side: ServerSide) -> None:
            side.greet()
            side.receive()
            side.send(reply)

        async with connected(script) as (link, _):
            assert await lost(lambda kept: get(link, sink=kept), error)

    async def test_each_fails_with_an_error_of_its_own(self) -> None:
        """One for all would collect the tracebacks of all."""

        def script(side: ServerSide) -> None:
            side.greet()
            for _ in range(10):
                side.receive()
            side.send(encode_error(0, IntegrityError("broken", key="k", expected="1", actual="2", source="disk")))

        async with connected(script) as (link, _):
            errors = await asyncio.gather(*(get(link) for _ in range(10)), return_exceptions=True)
            assert len({id(error) for error in errors}) == 10
            told = {(str(error), error.key, error.expected, error.actual, error.source) for error in errors}
            assert told == {("broken (key 'k')", "k", "1", "2", "disk")}


async def test_abandoned() -> None:
    """As after a fork: the connection is let go of without a word."""
    async with connected(echo) as (link, _):
        link._channel.pause()
        link.abandon()
        assert not link.is_usable
