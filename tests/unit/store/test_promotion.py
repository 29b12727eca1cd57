"""Large objects on disk: served from there, copied into memory at the second read."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from tests.support.faults import FakeDisk, Gate
from tests.support.origins import file_body, pattern
from tests.support.store import MIB, Rig, artifact_of, settle, store_rig, until
from tiered_store.key import Key, parse_key
from tiered_store.objects import Entry, FileBody, read_body
from tiered_store.store.limits import StoreLimits

K = parse_key("sessions/a")
DATA = pattern(600_000)


async def on_disk(rig: Rig, key: str | None = "sessions/a", data: bytes = DATA) -> Key:
    """Put an object and let memory forget it."""
    stored = parse_key((await rig.put(key, data)).key)
    rig.memory.discard(stored)
    return stored


def kept(rig: Rig, key: Key = K) -> bool:
    return rig.memory.peek(key) is not None


async def promoted(rig: Rig) -> None:
    await until(lambda: not rig.store._promotions.flights._table)


async def test_it_moves_up_at_its_second_read(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig)
        assert await rig.get("sessions/a") == DATA
        await promoted(rig)
        assert not kept(rig)
        assert await rig.get("sessions/a") == DATA
        await promoted(rig)
        peeked = rig.store.peek(K)
        assert peeked is not None
        assert isinstance(peeked.body, FileBody)
        assert peeked.body.is_memory
        assert peeked.tier == "memory"
        assert read_body(peeked.body) == DATA
        del peeked


async def test_reads_by_peek_count_and_no_promote_does_not(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig)
        rig.disk.peeks = True
        for _ in range(3):
            await rig.get("sessions/a", no_promote=True)
        await promoted(rig)
        assert not kept(rig)
        assert rig.store.peek(K) is not None
        assert rig.store.peek(K) is not None
        await promoted(rig)
        assert kept(rig)


async def test_what_memory_would_not_keep_is_not_copied(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path), memory_bytes=MIB) as rig:
        await on_disk(rig)
        for _ in range(4):
            await rig.get("sessions/a")
        assert not rig.store._promotions.flights._table
        assert not kept(rig)


async def test_an_artifact_is_verified_on_its_way_up(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        key = await on_disk(rig, None)
        for _ in range(2):
            await rig.get(key)
        await promoted(rig)
        assert kept(rig, key)
        assert rig.counter("corrupt") == 0


async def test_an_artifact_with_wrong_bytes_on_disk_is_dropped_and_filled_again(tmp_path: Path) -> None:
    key = parse_key(artifact_of(DATA))
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig, None)
        info = rig.disk.entries[key].info
        wrong = file_body(tmp_path / "wrong", DATA[:-1] + b"!")
        rig.disk.entries[key] = Entry(info, wrong, validated_at=rig.wall.now, tier="disk")
        for _ in range(2):
            await rig.store.get(key)
        await promoted(rig)
        assert rig.counter("corrupt") == 1
        assert rig.disk.entries == {}
        assert await rig.get(key) == DATA
        assert rig.origin.calls["open"] == 1
        del wrong


async def test_a_file_that_cannot_be_read_is_dropped(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig)
        short = file_body(tmp_path / "short", DATA[:-1])
        body = FileBody(short.descriptor, 0, len(DATA), is_memory=False)
        rig.disk.entries[K] = Entry(rig.disk.entries[K].info, body, validated_at=rig.wall.now, tier="disk")
        for _ in range(2):
            await rig.store.get(K)
        await promoted(rig)
        assert rig.disk.entries == {}
        assert await rig.get("sessions/a") == DATA
        del short, body


@pytest.mark.parametrize("by", ["put", "delete"])
async def test_a_write_during_a_promotion_wins(tmp_path: Path, by: str) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig)
        for _ in range(2):
            await rig.get("sessions/a")
        assert len(rig.store._promotions.flights._table) == 1
        running = list(rig.store._promotions._tasks._tasks)
        await (rig.put("sessions/a", b"new") if by == "put" else rig.store.delete(K))
        await asyncio.gather(*running)
        peeked = rig.memory.peek(K)
        assert (peeked is None) if by == "delete" else (peeked is not None and peeked.body == b"new")


async def test_a_write_during_a_look_into_the_disk_tier_wins(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig, data=b"old")
        gate = rig.disk.gate = Gate()
        reader = asyncio.create_task(rig.get("sessions/a"))
        await gate.reached.wait()
        await rig.store.delete(K)
        rig.disk.gate = None
        gate.open()
        assert await reader == b"old"
        assert rig.memory.peek(K) is None


async def test_what_came_up_during_a_look_into_the_disk_tier_is_newer(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        gate = rig.disk.gate = Gate()
        reader = asyncio.create_task(rig.get("sessions/a"))
        await gate.reached.wait()
        rig.disk.gate = None
        await rig.put("sessions/a", b"new")
        gate.open()
        assert await reader == b"new"
        assert rig.origin.calls["open"] == 0


async def test_promotions_are_bounded_in_number_and_in_room(tmp_path: Path) -> None:
    limits = StoreLimits(max_background_tasks=1, spool_memory_bytes=MIB)
    async with store_rig(disk=FakeDisk(tmp_path), limits=limits) as rig:
        for name in ("one", "two"):
            await on_disk(rig, name)
        rig.disk.peeks = True
        for name in ("one", "two", "one", "two"):
            assert rig.store.peek(name) is not None
        assert len(rig.store._promotions.flights._table) == 1
        await promoted(rig)
        assert kept(rig, Key("one"))
        assert not kept(rig, Key("two"))
        rig.store._staging._memory.take(MIB)
        await rig.get("two")
        await promoted(rig)
        assert not kept(rig, Key("two"))
        rig.store._staging._memory.give(MIB)
        await rig.get("two")
        await promoted(rig)
        assert kept(rig, Key("two"))


async def test_a_lack_of_descriptors_does_not_condemn_what_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig)
        await rig.get("sessions/a")
        with monkeypatch.context() as patch:
            patch.setattr(os, "memfd_create", no_more)
            await rig.get("sessions/a")
            await promoted(rig)
        assert not kept(rig)
        assert K in rig.disk.entries
        await rig.get("sessions/a")
        await promoted(rig)
        assert kept(rig)


async def test_a_memory_file_that_the_disk_tier_still_holds_is_not_copied(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        rig.disk.room_bytes = 0  # so the upload is in memory, and waits to be written
        await on_disk(rig)
        for _ in range(2):
            await rig.get("sessions/a")
        await promoted(rig)
        assert rig.memory.peek(K).body is rig.disk.entries[K].body  # type: ignore[union-attr]


async def test_only_so_many_keys_are_remembered_as_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiered_store.store.promotion._MAX_SEEN", 1)
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        for name in ("one", "two"):
            await on_disk(rig, name)
            await rig.get(name)
        await rig.get("one")
        await settle()
        assert not rig.store._promotions.flights._table


async def test_closing_stops_looks_and_promotions(tmp_path: Path) -> None:
    from tiered_store.errors import DaemonUnavailable

    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig, data=b"x")
        gate = rig.disk.gate = Gate()
        reader = asyncio.create_task(rig.get("sessions/a"))
        await gate.reached.wait()
        await rig.store.close()
        with pytest.raises(DaemonUnavailable):
            await reader
