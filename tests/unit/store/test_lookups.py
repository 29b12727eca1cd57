"""One look into the disk tier for many keys: shared, overtaken, left, and what it brings up into memory."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from tests.support.faults import FakeDisk, Gate
from tests.support.store import Rig, artifact_of, data_of, settle, store_rig
from tiered_store.errors import DaemonUnavailable, NotFound
from tiered_store.key import Key
from tiered_store.objects import Entry
from tiered_store.store import promotion
from tiered_store.store.policy import Policy

KEYS = [Key(f"cache/{number}") for number in range(5)]


async def on_disk(rig: Rig, *keys: Key, data: bytes = b"old") -> None:
    """Put objects and let memory forget them."""
    for key in keys:
        await rig.put(key, data)
        rig.memory.discard(key)


def told(known: dict[Key, Entry | None]) -> dict[Key, bytes | None]:
    return {key: None if entry is None else data_of(entry) for key, entry in known.items()}


async def test_one_look_answers_for_all_and_counts_each_once(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig, *KEYS[:3])
        known = await rig.store.known([*KEYS[:3], KEYS[4], KEYS[0]])
        assert told(known) == {**dict.fromkeys(KEYS[:3], b"old"), KEYS[4]: None}
        assert (rig.disk.looks, rig.disk.gets) == (1, 0)
        assert (rig.counter("disk")["hits"], rig.counter("memory")["misses"]) == (3, 3)
        assert all(rig.memory.peek(key) is not None for key in KEYS[:3])
        with pytest.raises(NotFound):
            await rig.store.get(KEYS[4], has_looked=True)
        assert (rig.disk.looks, rig.disk.gets, rig.origin.calls["open"]) == (1, 0, 1)
        assert rig.counter("disk")["misses"] == 1
        assert not rig.store._lookups.flights._table


async def test_what_is_at_hand_large_or_expired_is_left_to_get(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path), policies=[Policy("cache/1", ttl_s=5)]) as rig:
        await rig.put(KEYS[0], b"in memory")
        await on_disk(rig, KEYS[1])
        await on_disk(rig, KEYS[2], data=bytes(100_000))
        path = Key("artifacts/sha256/" + "ab/ab" + "0" * 62)
        rig.advance(6)
        assert await rig.store.known([*KEYS[:3], path]) == {}
        assert rig.counter("disk")["hits"] == 0
        assert await rig.get(KEYS[1]) == b"old"
        assert rig.counter("origin")["not_modified"] == 1


async def test_without_a_disk_tier_nobody_looks() -> None:
    async with store_rig() as rig:
        assert await rig.store.known(KEYS) == {}


async def test_a_key_that_is_being_filled_is_left_to_its_fill(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there(KEYS[0], b"below")
        gate = rig.origin.hold("open")
        reader = asyncio.create_task(rig.get(KEYS[0]))
        await gate.reached.wait()
        assert await rig.store.known(KEYS[:2]) == {KEYS[1]: None}
        gate.open()
        assert await reader == b"below"


async def test_readers_of_one_key_join_the_look_for_many(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig, *KEYS[:2])
        gate = rig.disk.gate = Gate()
        many = asyncio.create_task(rig.store.known(KEYS[:3], in_memory=False))
        await gate.reached.wait()
        single = asyncio.create_task(rig.get(KEYS[0]))
        others = asyncio.create_task(rig.store.known(KEYS[:2]))
        await settle()
        assert others.done()
        many.cancel()
        gate.open()
        assert await single == b"old"
        assert (rig.disk.looks, rig.disk.gets) == (1, 0)
        assert [rig.memory.peek(key) is not None for key in KEYS[:2]] == [True, False]


async def test_who_has_joined_a_look_that_does_not_get_to_his_key_looks_himself(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig, *KEYS)
        rig.disk.looks_at = 2
        gate = rig.disk.gate = Gate()
        many = asyncio.create_task(rig.store.known(KEYS))
        await gate.reached.wait()
        readers = [asyncio.create_task(rig.get(KEYS[3])) for _ in range(3)]
        await settle()
        rig.disk.gate = None
        gate.open()
        assert told(await many) == dict.fromkeys(KEYS[:2], b"old")
        assert await asyncio.gather(*readers) == [b"old"] * 3
        assert rig.disk.gets == 1


async def test_who_comes_in_the_turn_in_which_a_look_ends_does_not_meet_it(tmp_path: Path) -> None:
    """A look that is over and in the table still would answer him at once, again and again."""

    class Ending(FakeDisk):
        async def get_many(self, keys: Sequence[Key], hashed: Collection[Key]) -> dict[Key, Entry | None]:
            found = await super().get_many(keys, hashed)
            late.append(asyncio.create_task(rig.get(KEYS[3])))
            return found

    late: list[asyncio.Task[bytes]] = []
    async with store_rig(disk=Ending(tmp_path)) as rig:
        await on_disk(rig, *KEYS)
        rig.disk.looks_at = 2
        assert told(await rig.store.known(KEYS)) == dict.fromkeys(KEYS[:2], b"old")
        assert await late[0] == b"old"


@pytest.mark.parametrize("by", ["put", "delete"])
async def test_a_write_during_a_look_for_many_wins(tmp_path: Path, by: str) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig, *KEYS[:3])
        gate = rig.disk.gate = Gate()
        many = asyncio.create_task(rig.store.known(KEYS[:3]))
        await gate.reached.wait()
        await (rig.put(KEYS[1], b"new") if by == "put" else rig.store.delete(KEYS[1]))
        rig.disk.gate = None
        gate.open()
        assert told(await many) == dict.fromkeys(KEYS[:3], b"old")  # they had asked before the write was through
        kept = rig.memory.peek(KEYS[1])
        assert (None if kept is None else kept.body) == (b"new" if by == "put" else None)
        assert rig.memory.peek(KEYS[0]) is not None


async def test_a_wrong_artifact_is_condemned_and_the_others_are_not(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        good, bad = (Key(artifact_of(data)) for data in (b"good", b"bad"))
        await on_disk(rig, good, data=b"good")
        await on_disk(rig, bad, data=b"bad")
        held = rig.disk.entries[bad]
        rig.disk.entries[bad] = Entry(held.info, b"BAD", validated_at=held.validated_at, tier="disk")
        assert told(await rig.store.known([good, bad])) == {good: b"good", bad: None}
        assert rig.counter("corrupt") == 1
        assert bad not in rig.disk.entries
        assert await rig.get(bad) == b"bad"


async def test_closing_stops_a_look_for_many(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig, *KEYS[:2])
        gate = rig.disk.gate = Gate()
        many = asyncio.create_task(rig.store.known(KEYS[:2]))
        await gate.reached.wait()
        single = asyncio.create_task(rig.get(KEYS[0]))
        await settle()
        await rig.store.close()
        for reader in (many, single):
            with pytest.raises(DaemonUnavailable):
                await reader
        with pytest.raises(DaemonUnavailable):
            await rig.store.known(KEYS)
        assert not rig.store._lookups.flights._table


async def test_a_look_that_was_stopped_before_it_began_is_in_nobodys_way(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await on_disk(rig, *KEYS[:2])
        many = asyncio.create_task(rig.store.known(KEYS[:2]))
        await asyncio.sleep(0)
        await rig.store._lookups.close()
        with pytest.raises(DaemonUnavailable):
            await many
        assert told(await rig.store.known(KEYS[:2])) == dict.fromkeys(KEYS[:2], b"old")


class TestAFlood:
    """A memory tier that is full: what moves up of what is read together."""

    async def test_pushes_nothing_out_until_it_is_read_again_soon(self, tmp_path: Path) -> None:
        async with store_rig(disk=FakeDisk(tmp_path), memory_bytes=100_000) as rig:
            hot = [Key(f"cache/hot/{number}") for number in range(9)]
            await on_disk(rig, *KEYS, data=bytes(10_000))
            for key in hot:
                await rig.put(key, bytes(10_000))
            for _ in range(2):
                assert len(await rig.store.known(KEYS[:2])) == 2
                kept = [rig.memory.peek(key) is not None for key in KEYS[:2]]
                assert all(rig.memory.peek(key) is not None for key in hot) == (not any(kept))
            assert kept == [True, True]

    async def test_that_comes_round_too_late_pushes_nothing_out(self, tmp_path: Path) -> None:
        async with store_rig(disk=FakeDisk(tmp_path), memory_bytes=100_000) as rig:
            hot = [Key(f"cache/hot/{number}") for number in range(9)]
            await on_disk(rig, *KEYS, data=bytes(10_000))
            for key in hot:
                await rig.put(key, bytes(10_000))
            for _ in range(3):
                assert len(await rig.store.known(KEYS)) == len(KEYS)
                assert all(rig.store.peek(key) is not None for key in hot)
            assert rig.counter("memory")["evictions"] == 0

    async def test_is_remembered_within_a_bound(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(promotion, "_MAX_PASSED", 2)
        async with store_rig(disk=FakeDisk(tmp_path), memory_bytes=100_000) as rig:
            await on_disk(rig, *KEYS, data=bytes(10_000))
            for number in range(9):
                await rig.put(f"cache/hot/{number}", bytes(10_000))
            await rig.store.known(KEYS)
            assert list(rig.store._promotions._passed) == KEYS[-2:]
