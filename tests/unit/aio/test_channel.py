"""The channel over real socketpairs, on both event loops.

The other end is a plain socket whose reads happen when the test says so. `step` lets the loop turn until
something holds; nothing here waits for time to pass.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import os
import socket
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from tests.support.origins import memfd_body, open_descriptors, pattern
from tiered_store.aio.channel import READ_BYTES, Channel
from tiered_store.aio.rights import ANCILLARY_BYTES, own_descriptors
from tiered_store.objects import Descriptor

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """The first loop of a kind opens descriptors that stay."""
    for factory in LOOPS.values():
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.sleep(0))


def on_both_loops(cls: type) -> type:
    """Make each async test of a class one that runs on either event loop."""
    for name, test in list(vars(cls).items()):
        if inspect.iscoroutinefunction(test):
            setattr(cls, name, _on_either(test))
    return cls


def _on_either(test: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any, str], None]:
    @pytest.mark.parametrize("loop", sorted(LOOPS))
    def run(self: Any, loop: str) -> None:
        before = open_descriptors()
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(test(self))
        assert open_descriptors() == before

    run.__doc__ = test.__doc__
    return run


class Ends:
    """A channel, what it has reported, and the plain socket at the other end."""

    def __init__(
        self,
        *,
        high_water: int = 64 * 1024,
        gather: bool = False,
        buffer: int | None = None,
        kind: type[socket.socket] = socket.socket,
    ) -> None:
        plain, self.peer = socket.socketpair()
        ours = kind(fileno=plain.detach())
        self.peer.setblocking(False)
        if buffer is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        self.fd = ours.fileno()
        self.received: list[tuple[bytes, list[Descriptor]]] = []
        self.closed: list[BaseException | None] = []
        self.drained = 0
        self.channel = Channel(
            ours,
            on_data=lambda data, descriptors: self.received.append((data, descriptors)),
            on_close=self.closed.append,
            on_drained=self._count,
            high_water=high_water,
            gather=gather,
        )
        self.channel.start()

    def _count(self) -> None:
        self.drained += 1

    def read(self, size: int = 1 << 20) -> bytes:
        """What waits for the peer now; b"" at the end of the stream, too."""
        try:
            return self.peer.recv(size)
        except BlockingIOError:
            return b""

    async def read_all(self, size: int) -> bytes:
        """So many bytes, while the loop turns."""
        data = b""
        async with asyncio.timeout(20):
            while len(data) < size:
                piece = self.read()
                data += piece
                await asyncio.sleep(0)
        return data

    def messages(self) -> list[tuple[bytes, list[Descriptor]]]:
        """All that waits for the peer, each read with its descriptors."""
        found = []
        while True:
            try:
                data, ancillary, _, _ = self.peer.recvmsg(1 << 20, ANCILLARY_BYTES)
            except BlockingIOError:
                return found
            if not data:
                return found
            found.append((data, own_descriptors(ancillary)))


class Reason(Exception):
    """One that can be referred to weakly."""


class RefusesDescriptors(socket.socket):
    """As the kernel does when too many of a user's descriptors are on their way."""

    def sendmsg(self, buffers: Any, ancillary: Any = (), *rest: Any) -> int:
        if ancillary:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))
        return super().sendmsg(buffers, ancillary, *rest)


class Broken(socket.socket):
    """Cannot be read."""

    def recvmsg(self, *_: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))


async def step(until: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not until():
            await asyncio.sleep(0)


@asynccontextmanager
async def ends(**options: Any) -> AsyncIterator[Ends]:
    """Closed at the end, and reported so once."""
    pair = Ends(**options)
    try:
        yield pair
    finally:
        pair.channel.close()
        pair.peer.close()
        assert len(pair.closed) == 1


def memfd(data: bytes = b"file") -> Descriptor:
    descriptor = Descriptor(os.memfd_create("test", os.MFD_CLOEXEC))
    os.write(descriptor.fd, data)
    return descriptor


def contents(descriptor: Descriptor) -> bytes:
    return os.pread(descriptor.fd, 1000, 0)


@on_both_loops
class TestReading:
    async def test_bytes_arrive_in_order(self) -> None:
        async with ends() as pair:
            data = pattern(300_000)
            sent = 0
            while sent < len(data):
                try:
                    sent += pair.peer.send(data[sent : sent + 50_000])
                except BlockingIOError:
                    await asyncio.sleep(0)
            await step(lambda: sum(len(part) for part, _ in pair.received) == len(data))
            assert b"".join(part for part, _ in pair.received) == data
            assert max(len(part) for part, _ in pair.received) <= READ_BYTES

    async def test_descriptors_arrive_with_their_bytes(self) -> None:
        async with ends() as pair:
            files = [memfd(b"%d" % number) for number in range(3)]
            for number, file in enumerate(files):
                socket.send_fds(pair.peer, [b"<%d>" % number], [file.fd])
            pair.peer.send(b"rest")
            await step(lambda: b"".join(data for data, _ in pair.received).endswith(b"rest"))
            with_files = [(data, [contents(file) for file in files]) for data, files in pair.received if files]
            assert with_files == [(b"<0>", [b"0"]), (b"<1>", [b"1"]), (b"<2>", [b"2"])]

    async def test_unwelcome_descriptors_are_closed(self) -> None:
        async with ends() as pair:
            pair.channel.takes_descriptors = False
            file = memfd()
            before = open_descriptors()
            socket.send_fds(pair.peer, [b"x"], [file.fd])
            await step(lambda: bool(pair.received))
            assert pair.received == [(b"x", [])]
            assert open_descriptors() == before

    async def test_paused_reads_nothing(self) -> None:
        async with ends() as pair:
            pair.channel.pause()
            pair.channel.pause()
            pair.peer.send(b"x")
            for _ in range(10):
                await asyncio.sleep(0)
            assert pair.received == []
            pair.channel.start()
            pair.channel.start()
            await step(lambda: pair.received == [(b"x", [])])

    async def test_the_peer_ends(self) -> None:
        async with ends() as pair:
            pair.peer.close()
            await step(lambda: pair.channel.is_closed)
            assert pair.closed == [None]

    async def test_the_peer_resets(self) -> None:
        """A unix socket that is closed with unread bytes in it is a reset for the other end."""
        async with ends() as pair:
            pair.channel.send(b"never read")
            pair.peer.close()
            await step(lambda: pair.channel.is_closed)
            assert isinstance(pair.closed[0], ConnectionResetError)


@on_both_loops
class TestWriting:
    async def test_at_once(self) -> None:
        async with ends() as pair:
            pair.channel.send(b"a")
            assert pair.read() == b"a"
            assert pair.channel.stalled_since is None

    async def test_partial_writes_keep_order(self) -> None:
        """Pieces of all sizes through a buffer smaller than most of them."""
        async with ends(buffer=4096, high_water=1 << 20) as pair:
            pieces = [pattern(size, seed) for seed, size in enumerate([10, 5000, 1, 70_000, 20_000, 3, 16_384] * 3)]
            for piece in pieces:
                pair.channel.send(piece)
            assert pair.channel.stalled_since is not None
            expected = b"".join(pieces)
            assert await pair.read_all(len(expected)) == expected
            assert pair.channel.stalled_since is None

    async def test_more_buffers_than_one_call_takes(self) -> None:
        async with ends(buffer=4096, high_water=1 << 24) as pair:
            pieces = [pattern(1000, seed) for seed in range(200)]
            for piece in pieces:
                pair.channel.send(memoryview(piece))
            assert await pair.read_all(200_000) == b"".join(pieces)

    async def test_descriptors_go_with_their_first_byte(self) -> None:
        async with ends() as pair:
            pair.channel.cork()
            pair.channel.send(b"before")
            pair.channel.send(b"first", memfd(b"1"))
            pair.channel.send(b"between")
            pair.channel.send(b"second", memfd(b"2"))
            pair.channel.send(b"after")
            pair.channel.uncork()
            data = b""
            seen = {}
            for part, files in pair.messages():
                for file in files:
                    # one read gives bytes up to and including the message with the descriptor
                    seen[contents(file)] = data + part
                data += part
            assert data == b"beforefirstbetweensecondafter"
            assert seen == {b"1": b"beforefirst", b"2": b"beforefirstbetweensecond"}

    async def test_a_descriptor_goes_once_when_its_bytes_go_in_parts(self) -> None:
        async with ends(buffer=4096, high_water=1 << 20) as pair:
            big = pattern(200_000)
            pair.channel.send(pattern(100_000, 2))
            pair.channel.send(big, memfd())
            data, files = b"", []
            async with asyncio.timeout(20):
                while len(data) < 300_000:
                    for part, got in pair.messages():
                        data += part
                        files += got
                    await asyncio.sleep(0)
            assert data == pattern(100_000, 2) + big
            assert [contents(file) for file in files] == [b"file"]

    async def test_a_descriptor_that_waits_is_held(self) -> None:
        async with ends(buffer=4096, high_water=1 << 20) as pair:
            pair.channel.send(bytes(100_000))
            file = memfd()
            held = weakref.ref(file)
            pair.channel.send(b"x", file)
            del file
            assert held() is not None
            await pair.read_all(100_001)
            assert held() is None

    async def test_gather(self) -> None:
        """All of one turn of the loop leaves in one write."""
        async with ends(gather=True) as pair:
            for number in range(10):
                pair.channel.send(b"%d" % number)
            assert pair.read() == b""
            await asyncio.sleep(0)
            await step(lambda: not pair.channel._queue)
            assert pair.read() == b"0123456789"

    async def test_corked(self) -> None:
        async with ends() as pair:
            pair.channel.cork()
            pair.channel.send(b"a")
            pair.channel.send(b"b")
            assert pair.read() == b""
            pair.channel.uncork()
            assert pair.read() == b"ab"
            pair.channel.uncork()


@on_both_loops
class TestCongestion:
    async def test_tells_when_there_is_too_much_and_when_no_more(self) -> None:
        async with ends(buffer=4096, high_water=50_000) as pair:
            pair.channel.send(bytes(40_000))
            assert not pair.channel.is_congested
            pair.channel.send(bytes(60_000))
            assert pair.channel.is_congested
            waiting = asyncio.ensure_future(pair.channel.writable())
            await asyncio.sleep(0)
            assert not waiting.done()
            await pair.read_all(100_000)
            await waiting
            await step(lambda: pair.drained == 1)
            assert not pair.channel.is_congested

    async def test_files_that_wait_are_counted_too(self) -> None:
        """A reply by descriptor is small: the bound in bytes alone would let a peer hold thousands of files open."""
        async with ends(high_water=1_000_000) as pair:
            file = memfd_body(b"x").descriptor
            pair.channel.cork()
            for _ in range(16):
                assert not pair.channel.is_congested
                pair.channel.send(b"reply", file)
            assert pair.channel.is_congested
            pair.channel.uncork()
            assert not pair.channel.is_congested
            await step(lambda: pair.drained == 1)

    async def test_all_may_leave_in_one_go(self) -> None:
        """What was corked was too much, and the kernel takes all of it: whoever paused is told even so."""
        async with ends(high_water=1000) as pair:
            pair.channel.cork()
            for _ in range(20):
                pair.channel.send(bytes(100))
            assert pair.channel.is_congested
            waiting = asyncio.ensure_future(pair.channel.writable())
            await asyncio.sleep(0)
            pair.channel.uncork()
            assert not pair.channel.is_congested
            await step(lambda: pair.drained == 1)
            await waiting

    async def test_grown_while_a_little_waited(self) -> None:
        """Too much came while the socket was not writable, and leaves in one go as soon as it is."""
        async with ends(buffer=4096, high_water=20_000) as pair:
            while pair.channel.stalled_since is None:
                pair.channel.send(b"x" * 100)
            pair.channel.send(b"y" * 20_000)
            assert pair.channel.is_congested
            await step(lambda: pair.read() == b"" and pair.drained == 1)

    async def test_progress_moves_the_stall(self) -> None:
        """Whoever watches for peers that do not read sees the last progress, not the first byte that waited."""
        async with ends(buffer=4096, high_water=1 << 20) as pair:
            pair.channel.send(bytes(100_000))
            first = pair.channel.stalled_since
            assert first is not None

            def moved() -> bool:
                pair.read(100)
                return pair.channel.stalled_since != first

            await step(moved)
            assert pair.channel.stalled_since is not None
            assert pair.channel.stalled_since > first

    async def test_closing_wakes_who_waits(self) -> None:
        async with ends(buffer=4096, high_water=1000) as pair:
            pair.channel.send(bytes(100_000))
            waiting = [asyncio.ensure_future(pair.channel.writable()) for _ in range(3)]
            await asyncio.sleep(0)
            pair.channel.close(TimeoutError("too slow"))
            await asyncio.gather(*waiting)
            assert isinstance(pair.closed[0], TimeoutError)
            pair.channel.send(b"ignored")
            pair.channel.uncork()


@on_both_loops
class TestEnding:
    async def test_sends_what_waits_then_closes(self) -> None:
        async with ends(buffer=4096, high_water=1000) as pair:
            reason = RuntimeError("why")
            pair.channel.send(pattern(100_000))
            pair.channel.end(reason)
            pair.channel.end()
            pair.channel.send(b"ignored")
            assert not pair.channel.is_closed
            assert await pair.read_all(100_000) == pattern(100_000)
            await step(lambda: pair.channel.is_closed)
            assert pair.closed == [reason]
            assert pair.read() == b""

    async def test_with_nothing_waiting(self) -> None:
        async with ends() as pair:
            pair.channel.end()
            assert pair.channel.is_closed
            pair.channel.end()
            pair.channel.close()

    async def test_while_corked(self) -> None:
        async with ends() as pair:
            pair.channel.cork()
            pair.channel.send(b"last words")
            pair.channel.end()
            assert not pair.channel.is_closed
            pair.channel.uncork()
            assert pair.channel.is_closed
            assert pair.read() == b"last words"

    async def test_takes_no_input(self) -> None:
        async with ends(buffer=4096) as pair:
            pair.channel.send(bytes(100_000))
            pair.channel.end()
            pair.channel.start()
            pair.peer.send(b"x")
            await pair.read_all(100_000)
            await step(lambda: pair.channel.is_closed)
            assert pair.received == []

    async def test_the_reason_is_let_go(self) -> None:
        """Its traceback holds the frames it went through, and they hold what had come: descriptors, too."""
        async with ends() as pair:
            reason = Reason("why")
            held = weakref.ref(reason)
            pair.channel.end(reason)
            pair.closed[:] = [None]
            del reason
            assert held() is None


@on_both_loops
class TestFailing:
    async def test_a_peer_that_has_gone_is_heard_out(self) -> None:
        """Whoever refuses a connection says why and closes it; the first write then fails, the reason is there."""
        async with ends() as pair:
            pair.peer.send(b"too many connections")
            pair.peer.close()
            pair.channel.send(b"hello")
            pair.channel.send(b"ignored")
            await step(lambda: pair.channel.is_closed)
            assert pair.received == [(b"too many connections", [])]

    async def test_while_much_waits(self) -> None:
        async with ends(buffer=4096, high_water=1000) as pair:
            pair.channel.pause()
            pair.channel.send(bytes(100_000))
            pair.channel.send(b"x", memfd())
            waiting = asyncio.ensure_future(pair.channel.writable())
            await asyncio.sleep(0)
            pair.peer.close()
            await step(lambda: pair.channel.is_closed)
            await waiting
            assert isinstance(pair.closed[0], BrokenPipeError | ConnectionResetError)
            assert pair.received == []

    async def test_the_kernel_refuses_a_descriptor(self) -> None:
        """The bytes are dropped with it, the rest goes on, and who sent it hears of it, later."""

        async with ends(kind=RefusesDescriptors) as pair:
            refused: list[str] = []

            def answer_otherwise() -> None:
                refused.append("refused")
                pair.channel.send(b"[stream]")

            pair.channel.cork()
            pair.channel.send(b"before")
            pair.channel.send(b"dropped", memfd(), answer_otherwise)
            pair.channel.send(b"after")
            pair.channel.uncork()
            assert refused == []
            await step(lambda: refused == ["refused"])
            assert pair.read() == b"beforeafter[stream]"
            pair.channel.send(b"x", memfd())  # nobody to tell
            await step(lambda: pair.channel.is_closed)
            assert pair.closed[0].errno == errno.ETOOMANYREFS

    async def test_reading_fails(self) -> None:
        async with ends(kind=Broken) as pair:
            pair.peer.send(b"x")
            await step(lambda: pair.channel.is_closed)
            assert pair.closed[0].errno == errno.EIO

    async def test_woken_for_nothing(self) -> None:
        async with ends() as pair:
            pair.channel._readable()
            pair.channel.takes_descriptors = False
            pair.channel._readable()
            assert pair.received == []
            assert not pair.channel.is_closed


@on_both_loops
class TestLettingGo:
    async def test_abandon_says_nothing_to_the_peer(self) -> None:
        """After a fork the socket is the parent's: letting go must not be felt by anybody else who has it."""
        pair = Ends()
        parents = os.dup(pair.fd)
        pair.channel.pause()  # the child has no loop that reads
        pair.channel.abandon()
        assert pair.channel.is_closed
        assert pair.closed == []
        pair.channel.close()
        assert pair.closed == []
        with socket.socket(fileno=parents) as parent:
            parent.send(b"still there")
            assert pair.read() == b"still there"
        pair.peer.close()

    async def test_descriptors_stay_level_over_many_exchanges(self) -> None:
        async with ends() as pair:
            file = memfd()
            before = open_descriptors()
            for number in range(200):
                pair.channel.send(b"a", file)
                socket.send_fds(pair.peer, [b"b"], [file.fd])
                await step(lambda seen=number + 1: len(pair.received) == seen)  # type: ignore[misc]
                pair.received[-1] = (b"", [])
                pair.messages()
            assert open_descriptors() == before
