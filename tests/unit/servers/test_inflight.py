"""The requests of one connection that are under way: how many, how long, and what ends them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.doors import eventually, served
from tests.unit.servers.test_connection import cancel, get_frame, ping
from tiered_store.errors import DaemonUnavailable, DeadlineExceeded, OriginUnavailable, ProtocolError
from tiered_store.protocol.frames import (
    Frame,
    Opcode,
    encode_frame,
)
from tiered_store.protocol.messages import PutRequest, encode_list_request, encode_put
from tiered_store.protocol.status import decode_error
from tiered_store.servers.inflight import InFlight
from tiered_store.servers.limits import NativeLimits, RequestBytes
from tiered_store.servers.sockets import PeerCredentials


async def test_one_more_is_refused() -> None:
    async with served(NativeLimits(max_in_flight=3)) as it:
        gate = it.rig.origin.hold("stat")
        peer = await it.connect()
        await peer.send(b"".join(encode_frame(Opcode.STAT, n, body=b"a") for n in range(1, 5)))
        error, number = await peer.error()
        assert (type(error), number, error.retryable) == (DaemonUnavailable, 4, True)
        assert await peer.is_well()
        gate.open()
        assert {(await peer.error())[1] for _ in range(3)} == {1, 2, 3}


async def test_cancelled_ones_make_room() -> None:
    """In the same read: the cancelled ones need a moment to end, and the new ones wait that long."""
    async with served(NativeLimits(max_in_flight=3)) as it:
        gate = it.rig.origin.hold("stat", "slow")
        await it.rig.there("quick", b"x")
        peer = await it.connect()
        await peer.send(b"".join(encode_frame(Opcode.STAT, n, body=b"slow") for n in (1, 2, 3)))
        await gate.reached.wait()
        await eventually(lambda: len(peer.connection.in_flight) == 3)
        await peer.send(
            b"".join(map(cancel, (1, 2, 3))) + b"".join(encode_frame(Opcode.STAT, n, body=b"quick") for n in (4, 5, 6))
        )
        answers = [await peer.receive() for _ in range(3)]
        assert {frame.request_id for frame in answers} == {4, 5, 6}
        assert {frame.opcode for frame in answers} == {Opcode.INFO}


async def test_cancelled_before_its_first_step() -> None:
    """Request and CANCEL in one read: nothing of it is left, and the id is free again."""
    async with served() as it:
        peer = await it.connect()
        for _ in range(3):
            await peer.send(encode_frame(Opcode.GET, 5, body=b"a") + cancel(5) + ping(6))
            assert (await peer.receive()).opcode == Opcode.PONG
            await eventually(lambda: not peer.connection.in_flight)
        assert it.rig.origin.calls["open"] == 0
        assert await it.door.drain(5.0)


async def test_cancelled_between_its_first_step_and_the_next() -> None:
    """What is begun at once waits for the origin when the CANCEL behind it in the same read is seen."""
    async with served() as it:
        it.rig.origin.hold("stat")
        peer = await it.connect()
        for _ in range(3):
            await peer.send(encode_frame(Opcode.STAT, 5, body=b"a", extra=60_000) + cancel(5) + ping(6))
            assert (await peer.receive()).opcode == Opcode.PONG
            await eventually(lambda: not peer.connection.in_flight)
        assert it.rig.origin.calls["stat"] == 3
        assert await it.door.drain(5.0)


async def test_cancelling_what_is_unknown() -> None:
    async with served() as it:
        peer = await it.connect()
        await peer.send(cancel(7) + cancel(0) + encode_frame(Opcode.WINDOW, 9, extra=5))
        assert await peer.is_well()


async def test_a_cancelled_one_is_not_answered() -> None:
    async with served() as it:
        gate = it.rig.origin.hold("stat")
        peer = await it.connect()
        await peer.send(encode_frame(Opcode.STAT, 5, body=b"a"))
        await gate.reached.wait()
        await peer.send(cancel(5))
        await eventually(lambda: not peer.connection.in_flight)
        gate.open()
        assert await peer.is_well()


async def test_a_deadline() -> None:
    async with served() as it:
        it.rig.origin.hold("stat")
        peer = await it.connect()
        await peer.send(encode_frame(Opcode.STAT, 5, body=b"a", extra=1))
        error, number = await peer.error()
        assert (type(error), number) == (DeadlineExceeded, 5)
        assert "within 0.001 s" in error.message


async def test_the_deadline_of_what_does_not_begin_at_once() -> None:
    async with served() as it:
        it.rig.origin.hold("open")
        peer = await it.connect()
        await peer.send(get_frame(5, "cache/cold", extra=1))
        error, number = await peer.error()
        assert (type(error), number) == (DeadlineExceeded, 5)
        await eventually(lambda: not peer.connection.in_flight)


@pytest.mark.parametrize("fault", [RuntimeError, TimeoutError])
async def test_a_fault_in_a_request(fault: type[Exception]) -> None:
    """It costs that request; a TimeoutError from below is not the deadline."""
    async with served() as it:
        it.rig.origin.fail("stat", lambda: fault("boom"))
        peer = await it.connect()
        await peer.send(encode_frame(Opcode.STAT, 5, body=b"a", extra=60_000))
        error, number = await peer.error()
        assert (error.message, number) == (f"internal error: {fault.__name__}", 5)
        assert await peer.is_well()


async def test_slow_ones_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async with served(NativeLimits(slow_request_s=0.0)) as it:
        peer = await it.connect()
        await peer.get("none")
        await eventually(lambda: "slow request" in caplog.messages)


async def test_a_flush_keeps_to_its_deadline_and_says_what_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(NativeLimits(slow_request_s=0.0, progress_interval_s=0.01), journal=tmp_path / "j") as it:
        it.rig.origin.fail("put", lambda: OriginUnavailable("down"))
        await it.rig.put("back/a", b"x")
        peer = await it.connect()
        await peer.send(encode_frame(Opcode.FLUSH, 5, extra=50))
        assert (await peer.receive()).opcode == Opcode.WINDOW  # still at work
        error, number = await peer.error()
        assert (type(error), number) == (DeadlineExceeded, 5)
        assert "1 puts" in error.message
        await eventually(lambda: not peer.connection.in_flight)
        assert not [line for line in caplog.records if "slow" in line.message and "FLUSH" in line.request]
        await peer.send(encode_frame(Opcode.FLUSH, 6, body=b"x"))
        error, number = await peer.error()
        assert (type(error), number) == (ProtocolError, 6)


async def test_a_flush_is_told_when_the_daemon_stops_and_not_when_its_peer_took_it_back(tmp_path: Path) -> None:
    async with served(journal=tmp_path / "j") as it:
        it.rig.origin.fail("put", lambda: OriginUnavailable("down"))
        await it.rig.put("back/a", b"x")
        peer = await it.connect()
        await peer.send(encode_frame(Opcode.FLUSH, 5) + encode_frame(Opcode.FLUSH, 6))
        await eventually(lambda: len(peer.connection.in_flight) == 2)
        await peer.send(encode_frame(Opcode.CANCEL, 5))
        await eventually(lambda: len(peer.connection.in_flight) == 1)
        assert await it.door.drain(5)
        frames = [frame for frame in await peer.rest() if frame.opcode != Opcode.WINDOW]
        assert [(frame.opcode, frame.request_id) for frame in frames] == [(Opcode.GOODBYE, 0), (Opcode.ERROR, 6)]
        assert isinstance(decode_error(frames[1]), DaemonUnavailable)


async def test_a_peer_that_goes_takes_its_requests_along() -> None:
    async with served() as it:
        gate = it.rig.origin.hold("stat")
        peer = await it.connect()
        await peer.send(encode_frame(Opcode.STAT, 5, body=b"a"))
        await gate.reached.wait()
        peer.sock.close()
        await eventually(lambda: peer.connection.channel.is_closed and not peer.connection.in_flight)


def put_frame(number: int, size: int) -> bytes:
    return encode_put(number, PutRequest(b"a/%d" % number, size, None, {}), body=bytes(size))


async def test_large_ones_wait_in_the_socket() -> None:
    """Not refused: what they take is known before they are worked on, and the others end by themselves."""
    async with served(NativeLimits(max_request_bytes=100_000)) as it:
        gate = it.rig.origin.hold("put")
        peer = await it.connect()
        await peer.send(b"".join(put_frame(number, 60_000) for number in (1, 2, 3)) + ping(4))
        await eventually(lambda: len(peer.connection._backlog) == 2)
        assert it.rig.origin.calls["put"] == 2
        gate.open()
        answers = [await peer.receive() for _ in range(4)]
        assert {frame.request_id for frame in answers} == {1, 2, 3, 4}
        assert it.door.request_bytes.used == 0


async def test_the_bound_of_all_connections_together() -> None:
    """A connection without such a request may have one even then, so that nobody is locked out."""
    async with served(NativeLimits(max_total_request_bytes=100_000)) as it:
        gate = it.rig.origin.hold("put")
        greedy, other = await it.connect(), await it.connect()
        await greedy.send(b"".join(put_frame(number, 60_000) for number in (1, 2, 3)))
        await eventually(lambda: len(greedy.connection._backlog) == 1)
        await other.send(put_frame(4, 60_000) + put_frame(5, 60_000))
        await eventually(lambda: len(other.connection._backlog) == 1)
        assert it.rig.origin.calls["put"] == 3
        gate.open()
        assert {(await greedy.receive()).request_id for _ in range(3)} == {1, 2, 3}
        assert {(await other.receive()).request_id for _ in range(2)} == {4, 5}


async def test_few_listings_at_once() -> None:
    """Each may be put together in memory; the others wait without having asked the origin."""
    async with served() as it:
        gate = it.rig.origin.hold("list")
        peer = await it.connect()
        await peer.send(b"".join(encode_list_request(number, b"", b"", 1000) for number in range(1, 41)))
        await gate.reached.wait()
        await eventually(lambda: len(peer.connection.in_flight) == 40)
        assert await peer.is_well()
        assert 1 <= it.rig.origin.calls["list"] <= 8
        gate.open()
        assert {(await peer.receive()).request_id for _ in range(40)} == set(range(1, 41))


async def test_an_id_that_is_used_again_at_once_has_its_own_deadline() -> None:
    """The task of the cancelled one has ended, and nobody has been told so yet."""
    loop = asyncio.get_running_loop()
    errors: asyncio.Queue[tuple[int, Exception]] = asyncio.Queue()
    in_flight = InFlight(
        PeerCredentials(0, 0, 0),
        NativeLimits(),
        RequestBytes(),
        fail=lambda number, error: errors.put_nowait((number, error)),
        ended=lambda: None,
    )

    async def for_ever() -> None:
        await loop.create_future()

    async def until_cancelled() -> None:
        try:
            await for_ever()
        finally:
            loop.call_soon(again)

    def again() -> None:
        assert len(in_flight) == 1
        in_flight.start(Frame(Opcode.STAT, 0, 0, 5, 1, b""), for_ever, at_once=False, weight=7)

    in_flight.start(Frame(Opcode.STAT, 0, 0, 5, 0, b""), until_cancelled, at_once=True, weight=0)
    in_flight.cancel(5)
    number, error = await errors.get()
    assert (number, type(error)) == (5, DeadlineExceeded)
    assert not in_flight
    assert not in_flight.is_held_up
