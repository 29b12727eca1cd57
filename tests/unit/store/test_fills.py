"""Fills: shared by all readers, stopped by none but the last, overtaken by writes, bounded in memory."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from tests.support.faults import FakeDisk, LyingOrigin
from tests.support.origins import pattern
from tests.support.store import MIB, artifact_of, collect, settle, store_rig, until
from tiered_store.errors import DaemonUnavailable, IntegrityError, NotFound, OriginUnavailable, QuotaExceeded
from tiered_store.key import name_of_key, parse_key
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.origins.base import OriginRead
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.store.limits import StoreLimits

K = parse_key("sessions/a")
LARGE = pattern(4 * MIB)


async def test_ten_thousand_readers_of_one_cold_key_are_one_origin_read(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there("sessions/a", LARGE)
        gate = rig.origin.hold("chunk:2")
        readers = [asyncio.create_task(rig.store.get(K)) for _ in range(10_000)]
        await gate.reached.wait()
        gate.open()
        entries = await asyncio.gather(*readers)
        assert len({id(entry) for entry in entries}) == 1
        assert await rig.get("sessions/a") == LARGE
        assert rig.origin.calls["open"] == 1
        assert rig.disk.gets == 2  # before the fill, and the last read
        assert rig.counter("fills") == 1
        assert rig.counter("coalesced") == 9_999
        del entries, readers


async def test_cancelling_the_first_of_many_readers_disturbs_nobody() -> None:
    async with store_rig() as rig:
        await rig.there("sessions/a", b"hello")
        gate = rig.origin.hold("chunk:0")
        first = asyncio.create_task(rig.get("sessions/a"))
        await gate.reached.wait()
        others = [asyncio.create_task(rig.get("sessions/a")) for _ in range(3)]
        await settle()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.open()
        assert await asyncio.gather(*others) == [b"hello"] * 3
        assert rig.origin.calls["open"] == 1
        assert rig.counter("fills_cancelled") == 0


async def test_when_the_last_reader_has_gone_the_fill_stops() -> None:
    async with store_rig() as rig:
        await rig.there("sessions/a", LARGE)
        gate = rig.origin.hold("chunk:1")  # a quarter is through
        readers = [asyncio.create_task(rig.get("sessions/a")) for _ in range(2)]
        await gate.reached.wait()
        await settle()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        assert rig.counter("fills_cancelled") == 1
        await until(lambda: rig.origin.open_reads == 0)
        assert len(rig.store._fills.flights._table) == 0
        gate.open()
        assert await rig.get("sessions/a") == LARGE
        assert rig.origin.calls["open"] == 2
        del reader, readers  # a cancelled task keeps its frames, and they the spool


async def test_a_fill_that_is_more_than_half_done_goes_on_without_readers(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there("sessions/a", LARGE)
        gate = rig.origin.hold("chunk:3")  # three quarters are through
        reader = asyncio.create_task(rig.get("sessions/a"))
        await gate.reached.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert len(rig.store._fills.flights._table) == 1
        late = asyncio.create_task(rig.get("sessions/a"))
        await settle()
        late.cancel()
        gate.open()
        while rig.store._fills.flights._table:
            await asyncio.sleep(0)
        assert rig.counter("fills_cancelled") == 0
        assert await rig.get("sessions/a") == LARGE
        assert rig.origin.calls["open"] == 1
        del reader, late  # a cancelled task keeps its frames, and they the entry


async def test_a_fill_that_is_cancelled_before_it_began() -> None:
    async with store_rig() as rig:
        fill = rig.store._fills.join(K)
        rig.store._fills.leave(fill)
        await settle()
        with pytest.raises(DaemonUnavailable):
            await fill.entry()
        assert rig.origin.calls["open"] == 0


@pytest.mark.parametrize("operation", ["open", "chunk:0", "chunk:2", "chunk:end"])
async def test_the_fills_error_reaches_every_reader_each_as_its_own(operation: str) -> None:
    async with store_rig() as rig:
        await rig.there("sessions/a", LARGE)
        gate = rig.origin.hold("open")
        readers = [asyncio.create_task(rig.get("sessions/a")) for _ in range(3)]
        streams = [asyncio.create_task(rig.stream("sessions/a")) for _ in range(3)]
        await gate.reached.wait()
        await settle()
        rig.origin.fail(operation, lambda: OriginUnavailable("broken", key="sessions/a"))
        if operation == "open":
            rig.origin.inner.open = _broken  # type: ignore[method-assign]
        gate.open()
        results = await asyncio.gather(*readers, *streams, return_exceptions=True)
        assert [type(result) for result in results] == [OriginUnavailable] * 6
        assert len({id(result) for result in results}) == 6
        assert {str(result) for result in results} == {"broken (key 'sessions/a')"}
        assert rig.memory.peek(K) is None
        assert len(rig.store._fills.flights._table) == 0
        del results


async def _broken(*_: object, **__: object) -> None:
    raise OriginUnavailable("broken", key="sessions/a")


async def test_a_bug_in_the_origin_is_logged_and_reaches_the_readers(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:  # cannot be copied
            super().__init__("odd")

    async with store_rig() as rig:
        rig.origin.fail("open", lambda: Odd(1, 2))
        with caplog.at_level(logging.ERROR), pytest.raises(Odd):
            await rig.get("sessions/a")
        await settle()
        assert "a fill failed" in caplog.text


@pytest.mark.parametrize("size", [1000, 3 * MIB])
@pytest.mark.parametrize("lie", [lambda data: data[:-1], lambda data: data + b"!"])
async def test_an_origin_that_gives_too_little_or_too_much(size: int, lie) -> None:  # type: ignore[no-untyped-def]
    async with store_rig(origin=LyingOrigin(MemoryOrigin(), lie)) as rig:  # type: ignore[arg-type]
        await rig.there("sessions/a", pattern(size))
        for read in (rig.get, rig.stream):
            with pytest.raises(OriginUnavailable, match="other bytes than it announced"):
                await read("sessions/a")
        assert rig.memory.peek(K) is None


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("size", [1, 1000, INLINE_MAX_BYTES, 3 * MIB])
async def test_an_artifact_with_wrong_bytes_from_the_origin(tmp_path: Path, size: int) -> None:
    data = pattern(size)
    key = parse_key(artifact_of(data))
    async with store_rig(origin=LyingOrigin(MemoryOrigin(), flip), disk=FakeDisk(tmp_path)) as rig:  # type: ignore[arg-type]
        await rig.there(name_of_key(key), data)
        with pytest.raises(IntegrityError) as caught:
            await rig.get(key)
        error = caught.value
        assert (error.key, error.source, error.expected) == (key, "origin", key.removeprefix("sha256:"))
        assert error.actual == artifact_of(flip(data)).removeprefix("sha256:")
        assert rig.counter("corrupt") == 1
        assert rig.memory.peek(key) is None
        assert rig.disk.entries == {}
        # Whoever streams it gets the error in place of the last bytes.
        if size > INLINE_MAX_BYTES:
            reading, received = await rig.store.read(key), bytearray()
            with pytest.raises(IntegrityError):
                await collect(reading, received)
            reading.close()
            assert len(received) < size
            assert data.startswith(received)
        else:
            with pytest.raises(IntegrityError):
                await rig.store.read(key)


async def test_a_range_of_a_bad_artifact_is_not_given_either(tmp_path: Path) -> None:
    data = pattern(3 * MIB)
    key = parse_key(artifact_of(data))
    async with store_rig(origin=LyingOrigin(MemoryOrigin(), flip), disk=FakeDisk(tmp_path)) as rig:  # type: ignore[arg-type]
        await rig.there(name_of_key(key), data)
        with pytest.raises(IntegrityError):
            await rig.stream(key, offset=10, length=100)


@pytest.mark.parametrize("size", [1000, 4 * MIB])
async def test_a_put_during_a_fill_wins(tmp_path: Path, size: int) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        old, new = pattern(size, 1), pattern(size, 2)
        await rig.there("sessions/a", old)
        gate = rig.origin.hold("chunk:0")
        early = asyncio.create_task(rig.get("sessions/a"))
        await gate.reached.wait()
        await rig.put("sessions/a", new)
        assert await rig.get("sessions/a") == new  # at once: does not join the older fill
        gate.open()
        assert await early == old  # it asked before the put
        assert await rig.get("sessions/a") == new
        rig.memory.discard(K)
        assert await rig.get("sessions/a") == new
        assert rig.counter("fills_superseded") == 1


async def test_a_fill_that_starts_during_the_put_is_overtaken_too() -> None:
    async with store_rig() as rig:
        await rig.there("sessions/a", b"old")
        put_gate = rig.origin.hold("put")
        writer = asyncio.create_task(rig.put("sessions/a", b"new"))
        await put_gate.reached.wait()
        fill_gate = rig.origin.hold("chunk:0")
        reader = asyncio.create_task(rig.get("sessions/a"))
        await fill_gate.reached.wait()
        put_gate.open()
        await writer
        fill_gate.open()
        assert await reader == b"old"
        assert await rig.get("sessions/a") == b"new"
        assert rig.memory.peek(K).body == b"new"  # type: ignore[union-attr]


@pytest.mark.parametrize("by", ["delete", "prefix", "copy"])
async def test_a_delete_or_copy_during_a_fill_wins(by: str) -> None:
    async with store_rig() as rig:
        await rig.there("sessions/a", b"old")
        await rig.there("source", b"copied")
        gate = rig.origin.hold("chunk:0", "sessions/a")
        reader = asyncio.create_task(rig.get("sessions/a"))
        await gate.reached.wait()
        if by == "delete":
            assert await rig.store.delete(K)
        elif by == "prefix":
            assert await rig.store.delete_prefix("sessions/") == 1
        else:
            await rig.store.copy(parse_key("source"), K)
        gate.open()
        assert await reader == b"old"
        assert rig.memory.peek(K) is None
        if by == "copy":
            assert await rig.get("sessions/a") == b"copied"
        else:
            with pytest.raises(NotFound):
                await rig.get("sessions/a")


async def test_a_miss_that_a_put_overtook_is_not_remembered() -> None:
    async with store_rig() as rig:
        gate = rig.origin.hold("open")
        reader = asyncio.create_task(rig.get("sessions/a"))
        await gate.reached.wait()
        await rig.put("sessions/a", b"new")
        await rig.origin.inner.delete(["sessions/a"])
        gate.open()
        with pytest.raises(NotFound):
            await reader
        assert await rig.get("sessions/a") == b"new"  # from the tier: that miss was of before the put


async def test_fills_share_a_budget_and_waiting_ones_can_be_cancelled() -> None:
    limits = StoreLimits(fill_buffer_bytes=2 * MIB)
    async with store_rig(limits=limits) as rig:
        for name in ("one", "two", "three"):
            await rig.there(name, LARGE)
        gate = rig.origin.hold("chunk:0", "one")
        one = asyncio.create_task(rig.get("one"))
        await gate.reached.wait()
        two = asyncio.create_task(rig.get("two"))
        three = asyncio.create_task(rig.get("three"))
        await settle(20)
        assert rig.origin.calls["chunk:0"] == 1  # the others wait for their turn
        assert rig.store._staging._budget.used_bytes == 2 * MIB
        two.cancel()
        with pytest.raises(asyncio.CancelledError):
            await two
        gate.open()
        assert await one == LARGE
        assert await three == LARGE
        assert rig.store._staging._budget.used_bytes == 0


async def test_small_fills_run_side_by_side_within_the_budget() -> None:
    limits = StoreLimits(fill_buffer_bytes=4 * INLINE_MAX_BYTES)
    async with store_rig(limits=limits) as rig:
        for number in range(10):
            await rig.there(f"k{number}", b"x")
        gate = rig.origin.hold("open")
        readers = [asyncio.create_task(rig.get(f"k{number}")) for number in range(10)]
        await settle(20)
        assert rig.origin.calls["open"] == 4
        gate.open()
        assert await asyncio.gather(*readers) == [b"x"] * 10


async def test_closing_the_store_stops_fills_and_tells_their_readers() -> None:
    async with store_rig() as rig:
        await rig.there("sessions/a", LARGE)
        gate = rig.origin.hold("chunk:1")
        reader = asyncio.create_task(rig.get("sessions/a"))
        stream = asyncio.create_task(rig.stream("sessions/a"))
        await gate.reached.wait()
        unstarted = asyncio.create_task(rig.get("sessions/b"))
        await asyncio.sleep(0)
        await rig.store.close()
        for task in (reader, stream, unstarted):
            with pytest.raises(DaemonUnavailable):
                await task


async def test_without_room_for_the_whole_object_it_can_still_be_streamed(tmp_path: Path) -> None:
    limits = StoreLimits(spool_memory_bytes=MIB)
    disk = FakeDisk(tmp_path)
    disk.room_bytes = 0
    key = artifact_of(LARGE)
    async with store_rig(limits=limits, disk=disk) as rig:
        await rig.there("sessions/a", LARGE)
        await rig.there(name_of_key(parse_key(key)), LARGE)
        with pytest.raises(QuotaExceeded):
            await rig.get("sessions/a")
        for name in ("sessions/a", key):
            assert await rig.stream(name) == LARGE
            assert await rig.stream(name, length=0) == b""
            assert await rig.stream(name, offset=MIB - 5, length=MIB) == LARGE[MIB - 5 : 2 * MIB - 5]
        reading = await rig.store.read(K)
        assert reading.info.size == len(LARGE)
        with pytest.raises(QuotaExceeded, match="only be streamed"):
            await reading.entry()
        reading.close()
        reading.close()
        await settle()
        assert rig.store._staging._budget.used_bytes == 0
        rig.origin.fail("chunk:1", lambda: OriginUnavailable("broken"))
        with pytest.raises(OriginUnavailable):
            await rig.stream("sessions/a")


async def test_streaming_past_a_full_machine_is_verified_too(tmp_path: Path) -> None:
    key = parse_key(artifact_of(LARGE))
    limits = StoreLimits(spool_memory_bytes=MIB)
    async with store_rig(limits=limits, origin=LyingOrigin(MemoryOrigin(), flip)) as rig:  # type: ignore[arg-type]
        await rig.there(name_of_key(key), LARGE)
        reading, received = await rig.store.read(key), bytearray()
        with pytest.raises(IntegrityError):
            await collect(reading, received)
        reading.close()
        assert len(received) < len(LARGE)


async def test_an_origin_that_is_gone_when_room_was_not_there(tmp_path: Path) -> None:
    async with store_rig(limits=StoreLimits(spool_memory_bytes=MIB)) as rig:
        await rig.there("sessions/a", LARGE)
        gate = rig.origin.hold("chunk:0")
        del gate
        opens = iter([None, OriginUnavailable("gone now")])
        rig.origin.fault = lambda operation, _: next(opens) if operation == "open" else None
        with pytest.raises(OriginUnavailable, match="gone now"):
            await rig.store.read(K)
        assert rig.store._staging._budget.used_bytes == 0


async def test_what_the_disk_cannot_take_while_a_fill_runs_goes_to_memory(tmp_path: Path) -> None:
    disk = FakeDisk(tmp_path)
    disk.room_bytes = 5 * MIB // 2
    async with store_rig(disk=disk) as rig:
        await rig.there("sessions/a", LARGE)
        gate = rig.origin.hold("chunk:2")
        streams = [asyncio.create_task(rig.stream("sessions/a")) for _ in range(3)]
        await gate.reached.wait()
        gate.open()
        assert await asyncio.gather(*streams) == [LARGE] * 3


class FewConnections(MemoryOrigin):
    """An origin each of whose reads holds one of few connections from its beginning to its end."""

    def __init__(self, connections: int) -> None:
        super().__init__()
        self.free = asyncio.Semaphore(connections)

    async def open(self, name: str, **arguments: Any) -> Any:
        await self.free.acquire()
        read = await super().open(name, **arguments)
        return None if read is None else _Connected(read, self.free)


class _Connected:
    def __init__(self, read: OriginRead, free: asyncio.Semaphore) -> None:
        self.info, self.chunks, self._read = read.info, read.chunks, read
        self._free: asyncio.Semaphore | None = free

    async def close(self) -> None:
        await self._read.close()
        free, self._free = self._free, None
        if free is not None:
            free.release()


async def test_fills_that_hold_connections_and_fills_that_hold_memory_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    limits = StoreLimits(fill_buffer_bytes=3 * MIB, max_fills=4)  # one stream, and room for sixteen beginnings
    async with store_rig(origin=FewConnections(4), disk=FakeDisk(tmp_path), limits=limits) as rig:
        for number in range(64):
            await rig.there(f"k{number}", LARGE)
        async with asyncio.timeout(60):
            found = await asyncio.gather(*(rig.get(f"k{number}") for number in range(64)))
        assert all(data == LARGE for data in found)


async def test_readers_without_room_wait_for_a_place_and_give_it_back() -> None:
    limits = StoreLimits(spool_memory_bytes=MIB, max_through_reads=1)
    async with store_rig(limits=limits) as rig:
        await rig.there("sessions/a", LARGE)
        first = await rig.store.read(K)
        second = asyncio.create_task(rig.stream("sessions/a"))
        await until(lambda: rig.origin.calls["open"] >= 3)  # two fills that found no room, and the first's read
        await settle()
        assert not second.done()
        first.close()
        assert await second == LARGE
