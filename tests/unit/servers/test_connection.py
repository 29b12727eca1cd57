"""One connection of the native door: who may speak when, how much may be under way, what a violation costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import Any

import pytest

from tests.support.doors import Peer, Served, eventually, served
from tests.support.origins import memfd_body, open_descriptors, pattern
from tests.support.store import settle
from tests.unit.aio.test_channel import RefusesDescriptors
from tiered_store.errors import (
    DaemonUnavailable,
    InvalidKey,
    NotFound,
    ProtocolError,
    StoreError,
)
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.protocol.batches import encode_keys
from tiered_store.protocol.frames import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    STREAM_WINDOW_BYTES,
    Flag,
    Opcode,
    encode_frame,
)
from tiered_store.protocol.messages import decode_info, decode_span, decode_welcome, encode_get, encode_hello
from tiered_store.servers.connection import Connection
from tiered_store.servers.limits import NativeLimits
from tiered_store.servers.requests import HANDLERS, QUICK
from tiered_store.servers.sockets import PeerCredentials

MIB = 1 << 20


def get_frame(number: int, key: str, flags: int = Flag.ACCEPT_DESCRIPTOR, extra: int = 0) -> bytes:
    return encode_frame(Opcode.GET, number, body=key.encode(), flags=flags, extra=extra)


def ping(number: int, body: bytes = b"x") -> bytes:
    return encode_frame(Opcode.PING, number, body=body)


def cancel(number: int) -> bytes:
    return encode_frame(Opcode.CANCEL, number)


async def ends_with(peer: Peer, it: Served, message: str, kind: type[StoreError] = ProtocolError) -> None:
    """The connection ends with this error and nothing behind it; the door is well."""
    error, number = await peer.error()
    assert type(error) is kind
    assert message in error.message
    assert number == 0
    assert await peer.rest() == []
    assert await it.is_well()


class TestGreeting:
    async def test_limits_are_told(self) -> None:
        async with served(NativeLimits(max_in_flight=7)) as it:
            peer = await it.connect(hello=False)
            await peer.send(encode_hello("x", lowest=1, highest=5))
            assert decode_welcome(await peer.receive())[:5] == (1, 0, MAX_FRAME_BYTES, STREAM_WINDOW_BYTES, 7)

    @pytest.mark.parametrize("first", [ping(1), get_frame(1, "a"), encode_frame(Opcode.HELLO, 0), cancel(1)])
    async def test_anything_else_first(self, first: bytes) -> None:
        async with served() as it:
            await it.rig.there("a", b"secret")
            await it.rig.get("a")
            peer = await it.connect(hello=False)
            await peer.send(first)
            await ends_with(peer, it, "first frame must be HELLO")

    @pytest.mark.parametrize(("lowest", "highest"), [(2, 9), (0, 0), (5, 1)])
    async def test_versions_that_do_not_meet(self, lowest: int, highest: int) -> None:
        async with served() as it:
            peer = await it.connect(hello=False)
            await peer.send(encode_hello("x", lowest=lowest, highest=highest))
            await ends_with(peer, it, f"speaks version 1, the client {lowest} to {highest}")

    async def test_twice(self) -> None:
        async with served() as it:
            peer = await it.connect()
            await peer.send(encode_hello("x"))
            await ends_with(peer, it, "is not a request")

    async def test_requests_right_behind_it(self) -> None:
        async with served() as it:
            peer = await it.connect(hello=False)
            await peer.send(encode_hello("x") + ping(1))
            assert [(await peer.receive()).opcode for _ in range(2)] == [Opcode.WELCOME, Opcode.PONG]


class TestPatience:
    """The clock is the loop's; `check` is told a later time."""

    @pytest.mark.parametrize("said", [b"", encode_hello("x")[:8], encode_hello("x")[:20]])
    async def test_no_hello_in_time(self, said: bytes) -> None:
        async with served() as it:
            peer = await it.connect(hello=False)
            await peer.send(said)
            await eventually(lambda: peer.connection._reader.is_midway or not said)
            now = peer.connection._loop.time()
            peer.connection.check(now + 9)
            assert not peer.connection.channel.is_closed
            peer.connection.check(now + 11)
            await ends_with(peer, it, "no HELLO within 10.0 s")

    @pytest.mark.parametrize("size", [8, HEADER_BYTES, HEADER_BYTES + 1])
    async def test_half_a_frame_and_silence(self, size: int) -> None:
        async with served() as it:
            peer = await it.connect()
            await peer.send(ping(1, b"hello")[:size])
            await eventually(lambda: peer.connection._reader.is_midway)
            now = peer.connection._loop.time()
            peer.connection.check(now + 29)
            assert not peer.connection.channel.is_closed
            peer.connection.check(now + 31)
            await ends_with(peer, it, "a frame stalled for 30.0 s")

    async def test_silence_between_frames_is_fine(self) -> None:
        async with served() as it:
            peer = await it.connect()
            peer.connection.check(peer.connection._loop.time() + 1e6)
            assert await peer.is_well()

    async def test_half_a_frame_while_we_do_not_read(self) -> None:
        """The peer reads slowly, so its requests wait: that the last of them is cut is no fault of the peer's."""
        async with served(NativeLimits(write_buffer_bytes=MIB // 4)) as it:
            await it.rig.put("a", bytes(INLINE_MAX_BYTES))
            peer = await it.connect()
            await peer.send(get_frame(1, "a") * 20 + ping(2)[:5])
            await eventually(lambda: peer.connection._backlog)
            assert peer.connection._reader.is_midway
            for later in (31, 62, 93):
                peer.connection.channel.stalled_since = now = peer.connection._loop.time() + later  # it reads a little
                peer.connection.check(now)
            assert not peer.connection.channel.is_closed
            for _ in range(20):
                assert (await peer.receive()).opcode == Opcode.OBJECT
            await peer.send(ping(2)[5:])
            assert (await peer.receive()).opcode == Opcode.PONG


class TestViolations:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"\0" * 16, "unknown opcode 0x00"),
            (b"\xff" * 16, "unknown opcode 0xff"),
            (ping(1)[:4] + b"\x80" + ping(1)[5:], "is not a request"),
            (b"\x01\0\x10\0" + ping(1)[4:], "over the limit of 1048576"),
            (encode_frame(Opcode.ERROR, 1), "is not a request"),
            (encode_frame(Opcode.STAT, 0, body=b"a"), "request id 0"),
        ],
    )
    async def test_end_the_connection_and_no_other(self, data: bytes, message: str) -> None:
        async with served() as it:
            other = await it.connect()
            peer = await it.connect()
            await peer.send(data)
            await ends_with(peer, it, message)
            assert await other.is_well()

    async def test_nothing_behind_one_is_done(self) -> None:
        """Also while the peer does not read: what it had sent before the end must not be carried out."""
        async with served(NativeLimits(write_buffer_bytes=MIB // 4)) as it:
            await it.rig.there("kept", b"x")
            await it.rig.put("a", bytes(INLINE_MAX_BYTES))
            peer = await it.connect()
            delete = encode_frame(Opcode.DELETE, 3, body=b"kept")
            await peer.send(get_frame(1, "a") * 20 + encode_frame(Opcode.ERROR, 1) + delete * 3)
            frames = await peer.rest()
            assert [frame.opcode for frame in frames] == [Opcode.OBJECT] * 20 + [Opcode.ERROR]
            assert await it.rig.get("kept") == b"x"
            assert it.rig.origin.calls["delete"] == 0

    async def test_an_id_in_use(self) -> None:
        async with served() as it:
            gate = it.rig.origin.hold("stat")
            peer = await it.connect()
            stat = encode_frame(Opcode.STAT, 5, body=b"a")
            await peer.send(stat)
            await gate.reached.wait()
            await peer.send(stat)
            await ends_with(peer, it, "request id 5 is still in use")

    async def test_an_id_that_is_free_again(self) -> None:
        async with served() as it:
            peer = await it.connect()
            for _ in range(50):
                assert (await peer.get("none", request_id=5)).opcode == Opcode.ERROR

    @pytest.mark.parametrize("request_frame", [ping(0), get_frame(0, "a")])
    async def test_the_id_of_the_connection(self, request_frame: bytes) -> None:
        async with served() as it:
            await it.rig.there("a", b"at hand")
            peer = await it.connect()
            await peer.get("a", request_id=1)
            await peer.send(request_frame)
            await ends_with(peer, it, "request id 0")

    async def test_a_fault_of_ours(self) -> None:
        """Whatever goes wrong in the door itself is told; the peer is not left waiting."""
        async with served() as it:
            peer = await it.connect()

            def broken(_: str, no_promote: bool = False) -> None:
                raise RuntimeError("boom")

            peer.connection._peek = broken
            await peer.send(ping(1) + get_frame(2, "a"))
            assert (await peer.receive()).opcode == Opcode.PONG
            await ends_with(peer, it, "internal error: RuntimeError", StoreError)

    async def test_descriptors_come_with_one(self) -> None:
        async with served() as it:
            peer = await it.connect()
            peer.connection.expect_descriptors(+1)
            file = memfd_body(b"x")
            before = open_descriptors()
            await peer.send(b"\0" * 16, *[file.descriptor.fd] * 4)
            assert (await peer.error())[1] == 0
            await peer.rest()
            assert open_descriptors() == before - 1  # the connection's socket
            file.descriptor.close()


class TestReading:
    async def test_a_hit_alone_and_among_others(self) -> None:
        async with served() as it:
            await it.rig.put("größe/a", b"hello")
            peer = await it.connect()
            assert (await peer.get("größe/a")).body == b"hello"
            await peer.send(b"".join(get_frame(number, "größe/a") for number in range(1, 101)))
            for number in range(1, 101):
                frame = await peer.receive()
                assert (frame.request_id, frame.body) == (number, b"hello")
                assert decode_info(frame.head, "k")[1] == "memory"

    @pytest.mark.parametrize("pieces", [1, 2, 5])
    async def test_in_pieces(self, pieces: int) -> None:
        async with served() as it:
            await it.rig.put("a/b", b"hello")
            peer = await it.connect()
            data = get_frame(1, "a/b")
            step = -(-len(data) // pieces)
            for start in range(0, len(data), step):
                await peer.send(data[start : start + step])
                await settle(3)
            assert (await peer.receive()).body == b"hello"

    @pytest.mark.parametrize("key", [b"\xff", b"a//b", b"", b"x" * 2000])
    @pytest.mark.parametrize("times", [1, 2])
    async def test_bad_keys(self, key: bytes, times: int) -> None:
        async with served() as it:
            peer = await it.connect()
            await peer.send(b"".join(encode_frame(Opcode.GET, n, body=key) for n in range(1, times + 1)))
            for number in range(1, times + 1):
                error, whose = await peer.error()
                assert isinstance(error, InvalidKey)
                assert whose == number
            assert await peer.is_well()

    @pytest.mark.parametrize("times", [1, 2])
    async def test_a_head_that_should_not_be(self, times: int) -> None:
        async with served() as it:
            await it.rig.put("ab", b"x")
            peer = await it.connect()
            await peer.send(b"".join(encode_frame(Opcode.GET, n + 1, head=b"a", body=b"b") for n in range(times)))
            error, _ = await peer.error()
            assert isinstance(error, ProtocolError)

    async def test_a_misfit_of_metadata(self) -> None:
        """What cannot be said of an object in memory is an error of its own request, hit or not."""
        async with served() as it:
            await it.rig.put("a", b"x")
            entry = it.rig.store.peek("a")
            assert entry is not None
            entry.info.metadata["x"] = "lone \ud800"
            peer = await it.connect()
            for data in (get_frame(1, "a"), get_frame(1, "a") + encode_frame(Opcode.WINDOW, 9)):
                await peer.send(data)
                error, number = await peer.error()
                assert (type(error), number) == (ProtocolError, 1)
            assert await peer.is_well()

    async def test_by_descriptor(self) -> None:
        async with served() as it:
            data = pattern(INLINE_MAX_BYTES + 1)
            await it.rig.put("a", data)
            peer = await it.connect()
            await peer.send(get_frame(1, "a", Flag.ACCEPT_DESCRIPTOR) * 1)
            frame = await peer.receive()
            assert frame.opcode == Opcode.OBJECT_DESCRIPTOR
            offset, length = decode_span(frame.body)
            assert len(peer.descriptors) == 1
            assert os.pread(peer.descriptors[0].fd, length, offset) == data

    @pytest.mark.parametrize(
        ("span", "expected"),
        [
            ((0, 5), (0, 5)),
            ((7, None), (7, None)),
            ((10**6, 5), (None, 0)),
            ((2**64 - 1, None), (None, 0)),
            ((5, 2**63), (5, None)),
        ],
    )
    @pytest.mark.parametrize("flags", [0, Flag.ACCEPT_DESCRIPTOR, Flag.STREAM])
    @pytest.mark.parametrize("size", [100, 100_000])
    async def test_ranges(self, size: int, flags: int, span: Any, expected: Any) -> None:
        async with served() as it:
            data = pattern(size)
            await it.rig.put("a", data)
            peer = await it.connect()
            await peer.send(encode_get(1, b"a", flags=flags, span=span))
            frame = await peer.receive()
            if frame.opcode == Opcode.OBJECT:
                got = frame.body
            elif frame.opcode == Opcode.OBJECT_DESCRIPTOR:
                offset, length = decode_span(frame.body)
                got = os.pread(peer.descriptors[0].fd, length, offset)
            else:
                got = b""
                while (frame := await peer.receive()).opcode != Opcode.END:
                    got += frame.payload
            start, count = expected
            assert got == (b"" if start is None else data[start:] if count is None else data[start : start + count])

    @pytest.mark.parametrize("flags", [0, Flag.ACCEPT_DESCRIPTOR, Flag.STREAM])
    @pytest.mark.parametrize("size", [100, INLINE_MAX_BYTES + 1])
    async def test_a_hit_counts_once(self, size: int, flags: int) -> None:
        async with served() as it:
            await it.rig.put("a", pattern(size))
            peer = await it.connect()
            await peer.get("a", flags=flags)
            assert it.rig.store.stats()["memory"]["hits"] == 1

    async def test_a_kernel_that_passes_no_descriptor(self) -> None:
        """The object comes as a stream then, from the hot path and from a task."""
        async with served() as it:
            data = pattern(INLINE_MAX_BYTES + 1)
            await it.rig.put("hit", data)
            await it.rig.there("cold", data)
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            refusing = RefusesDescriptors(fileno=ours.detach())
            me = PeerCredentials(0, 0, 0)
            connection = Connection(
                refusing, it.door, me, handlers=HANDLERS, quick=QUICK, opened_at=it.door._loop.time()
            )
            it.door._acceptor._peers.add(connection)
            peer = Peer(theirs, connection)
            it.peers.append(peer)
            await peer.send(encode_hello("x"))
            await peer.receive()
            for key in ("hit", "cold"):
                for _ in range(2):
                    frame = await peer.get(key, flags=Flag.ACCEPT_DESCRIPTOR)
                    assert frame.opcode == Opcode.OBJECT_STREAM
                    got = b""
                    while (frame := await peer.receive()).opcode != Opcode.END:
                        got += frame.payload
                    assert got == data
            # and where nobody is left to take it
            await peer.send(get_frame(1, "hit", Flag.ACCEPT_DESCRIPTOR))
            await eventually(lambda: not connection._backlog)
            peer.sock.close()
            await eventually(lambda: connection.channel.is_closed)

    async def test_frames_of_the_largest_size(self) -> None:
        async with served() as it:
            peer = await it.connect()
            body = pattern(MAX_FRAME_BYTES)
            await peer.send(ping(1, body))
            assert (await peer.receive()).payload == body


class TestFloods:
    """A peer that asks and never reads: what waits for it is bounded, then so is our patience."""

    LIMITS = NativeLimits(write_buffer_bytes=MIB // 4)

    @pytest.mark.parametrize("burst", [1, 50])
    @pytest.mark.parametrize("size", [100, INLINE_MAX_BYTES])
    async def test_memory_is_bounded(self, size: int, burst: int) -> None:
        """One request a time, which takes the hot path, and many at once."""
        async with served(self.LIMITS) as it:
            await it.rig.put("a", bytes(size))
            peer = await it.connect()
            most, request = 0, get_frame(1, "a") * burst
            with contextlib.suppress(BlockingIOError):  # the door does not read any more: what is wanted
                for _ in range(100_000):
                    peer.sock.send(request)
                    await settle(3)
                    most = max(most, peer.connection.channel._buffered)
                raise AssertionError("the door took everything")
            assert most <= self.LIMITS.write_buffer_bytes + size + 200
            assert len(peer.connection._backlog) <= 65_536 // len(get_frame(1, "a")) + burst
            now = it.door._loop.time()
            peer.connection.check(now + 29)
            assert not peer.connection.channel.is_closed
            peer.connection.check(now + 31)
            assert peer.connection.channel.is_closed
            assert await it.is_well()

    async def test_all_is_answered_in_order_once_it_reads(self) -> None:
        async with served(self.LIMITS) as it:
            await it.rig.put("a", pattern(INLINE_MAX_BYTES))
            peer = await it.connect()
            await peer.send(b"".join(get_frame(number, "a") for number in range(1, 301)))
            await eventually(lambda: peer.connection._backlog)
            for number in range(1, 301):
                frame = await peer.receive()
                assert frame.request_id == number
                assert frame.body == pattern(INLINE_MAX_BYTES)

    async def test_batches_are_made_when_they_can_be_sent(self) -> None:
        """Hundreds of batches of half a MiB at once: of those that wait only the names are held."""
        async with served(self.LIMITS) as it:
            await it.rig.put("a", bytes(INLINE_MAX_BYTES))
            peer = await it.connect()
            many = encode_keys([b"a"] * 20)
            await peer.send(b"".join(encode_frame(Opcode.GET_MANY, n, body=many) for n in range(1, 201)))
            await eventually(lambda: len(peer.connection.in_flight) == 200 or peer.connection._backlog)
            await settle(50)
            assert peer.connection.channel._buffered <= self.LIMITS.write_buffer_bytes + MIB
            seen: dict[int, int] = {}
            while sum(seen.values()) < 200 * 20:
                frame = await peer.receive()
                (count,) = (int.from_bytes(frame.payload[:4], "little"),)
                seen[frame.request_id] = seen.get(frame.request_id, 0) + count
            assert set(seen.values()) == {20}


class TestDraining:
    async def test_what_is_under_way_is_finished(self) -> None:
        async with served() as it:
            gate = it.rig.origin.hold("stat")
            idle, busy, mute = await it.connect(), await it.connect(), await it.connect(hello=False)
            await busy.send(encode_frame(Opcode.STAT, 5, body=b"a"))
            await gate.reached.wait()
            draining = asyncio.ensure_future(it.door.drain(20.0))
            assert [frame.opcode for frame in await idle.rest()] == [Opcode.GOODBYE]
            assert await mute.rest() == []
            assert (await busy.receive()).opcode == Opcode.GOODBYE
            await busy.send(encode_frame(Opcode.STAT, 6, body=b"a"))
            error, number = await busy.error()
            assert (type(error), number) == (DaemonUnavailable, 6)
            assert not draining.done()
            gate.open()
            error, number = await busy.error()
            assert (type(error), number) == (NotFound, 5)
            assert await busy.rest() == []
            assert await draining

    async def test_not_for_ever(self) -> None:
        async with served() as it:
            gate = it.rig.origin.hold("stat")
            peer = await it.connect()
            await peer.send(encode_frame(Opcode.STAT, 5, body=b"a"))
            await gate.reached.wait()
            assert not await it.door.drain(0.0)
            assert peer.connection.channel.is_closed


class TestRefusals:
    async def refused(self, it: Served) -> StoreError:
        """A peer that sends HELLO at once reads the reason all the same."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(it.path)
        sock.send(encode_hello("x"))
        sock.setblocking(False)
        peer = Peer(sock, None)  # type: ignore[arg-type]
        error, number = await peer.error()
        assert number == 0
        assert await peer.rest() == []
        sock.close()
        return error

    async def test_too_many(self) -> None:
        async with served(NativeLimits(max_connections=2)) as it:
            peer = await it.connect()
            await it.connect()
            error = await self.refused(it)
            assert isinstance(error, DaemonUnavailable)
            assert "2 connections" in error.message
            peer.sock.close()
            await eventually(lambda: it.door.connections == 1)
            assert await it.is_well()
