"""Streaming readers: at their own pace, over what is there and what is still coming."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.support.faults import FakeDisk
from tests.support.origins import pattern
from tests.support.store import MIB, artifact_of, collect, settle, store_rig
from tiered_store.errors import NotFound, OriginUnavailable
from tiered_store.key import name_of_key, parse_key
from tiered_store.store.reading import PIECE_BYTES

K = parse_key("sessions/a")
DATA = pattern(4 * MIB)


async def test_bytes_reach_a_reader_while_the_fill_still_runs(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there("sessions/a", DATA)
        gate = rig.origin.hold("chunk:2")
        reading = await rig.store.read(K)
        assert (reading.info.key, reading.info.size) == ("sessions/a", len(DATA))
        pieces = reading.chunks()
        received = [await anext(pieces) for _ in range(8)]
        await gate.reached.wait()
        assert b"".join(received) == DATA[: 2 * MIB]
        assert max(map(len, received)) <= PIECE_BYTES
        gate.open()
        received += [piece async for piece in pieces]
        assert b"".join(received) == DATA
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)
        entry = await reading.entry()
        assert entry.info == reading.info
        reading.close()
        del entry, reading, pieces


async def test_readers_keep_their_own_pace_and_start_where_they_like(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there("sessions/a", DATA)
        gate = rig.origin.hold("chunk:3")
        slow = await rig.store.read(K)
        slow_pieces = slow.chunks()
        first = await anext(slow_pieces)
        fast = asyncio.create_task(rig.stream("sessions/a"))
        middle = asyncio.create_task(rig.stream("sessions/a", offset=MIB + 1, length=MIB))
        assert await middle == DATA[MIB + 1 : 2 * MIB + 1]  # while the fill is held
        gate.open()
        assert await fast == DATA
        assert first + b"".join([piece async for piece in slow_pieces]) == DATA
        slow.close()
        assert rig.origin.calls["open"] == 1
        del slow, slow_pieces


async def test_a_late_reader_joins_a_growing_object(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there("sessions/a", DATA)
        gate = rig.origin.hold("chunk:1")
        first = asyncio.create_task(rig.stream("sessions/a"))
        await gate.reached.wait()
        late = await rig.store.read(K)
        assert late.info.size == len(DATA)
        gate.open()
        assert b"".join([piece async for piece in late.chunks()]) == DATA
        late.close()
        assert await first == DATA
        assert rig.counter("coalesced") == 1
        del late


async def test_the_last_piece_of_an_artifact_waits_for_the_verdict(tmp_path: Path) -> None:
    key = parse_key(artifact_of(DATA))
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there(name_of_key(key), DATA)
        gate = rig.origin.hold("chunk:end")
        reading = await rig.store.read(key)
        pieces = reading.chunks()
        received = b""
        while len(received) < len(DATA) - PIECE_BYTES:
            received += await anext(pieces)
        await gate.reached.wait()
        last = asyncio.ensure_future(anext(pieces))
        await settle(20)
        assert not last.done()
        gate.open()
        assert received + await last == DATA
        reading.close()
        del reading, pieces, last


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, 0, b""),
        (len(DATA), None, b""),
        (len(DATA) + 5, 10, b""),
        (len(DATA) - 3, 10, DATA[-3:]),
        (5, 7, DATA[5:12]),
        (PIECE_BYTES - 1, PIECE_BYTES + 2, DATA[PIECE_BYTES - 1 : 2 * PIECE_BYTES + 1]),
    ],
)
async def test_ranges(tmp_path: Path, offset: int, length: int | None, expected: bytes) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there("sessions/a", DATA)
        assert await rig.stream("sessions/a", offset, length) == expected  # filling
        await rig.get("sessions/a")
        assert await rig.stream("sessions/a", offset, length) == expected  # from disk
        small = await rig.put("sessions/small", DATA[:1000])
        assert await rig.stream(small.key, offset, length) == DATA[:1000][offset:][:length]


async def test_a_fill_that_breaks_is_never_short(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there("sessions/a", DATA)
        rig.origin.fail("chunk:2", lambda: OriginUnavailable("broken"))
        reading, received = await rig.store.read(K), bytearray()
        with pytest.raises(OriginUnavailable):
            await collect(reading, received)
        assert DATA.startswith(received)
        with pytest.raises(OriginUnavailable):
            await reading.entry()
        reading.close()


async def test_a_reader_that_stops_early_leaves_nothing(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there("sessions/a", DATA)
        gate = rig.origin.hold("chunk:1")
        reading = await rig.store.read(K)
        async for _ in reading.chunks():
            break
        await gate.reached.wait()
        reading.close()
        reading.close()
        await settle()
        assert rig.counter("fills_cancelled") == 1
        del reading


async def test_a_reader_cancelled_while_it_waits_for_the_origin_leaves() -> None:
    async with store_rig() as rig:
        await rig.there("sessions/a", DATA)
        gate = rig.origin.hold("open")
        reader = asyncio.create_task(rig.store.read(K))
        await gate.reached.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert rig.counter("fills_cancelled") == 1
        del reader


async def test_a_missing_object_is_missed_before_the_first_byte() -> None:
    async with store_rig() as rig:
        with pytest.raises(NotFound):
            await rig.store.read(K)


async def test_a_cached_file_that_ends_early_is_an_error_and_forgotten(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.put("sessions/a", DATA)
        reading = await rig.store.read(K)
        entry = rig.disk.entries[K]
        os.truncate(entry.body.descriptor.spool.path, 4096 + MIB)
        received = bytearray()
        with pytest.raises(OriginUnavailable, match="dropped"):
            await collect(reading, received)
        reading.close()
        assert received == DATA[:MIB]
        assert rig.disk.entries == {}
        assert await rig.get("sessions/a") == DATA
        del reading, entry
