"""The store over a real disk tier that is too small, damaged or gone, and over an origin that flaps."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.origins import pattern
from tests.support.store import MIB, Rig, artifact_of, store_rig
from tests.support.tiers import object_files
from tiered_store.aio.offload import Offload
from tiered_store.errors import OriginUnavailable, QuotaExceeded
from tiered_store.key import parse_key
from tiered_store.objects import FileBody
from tiered_store.origins.base import Origin
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.store.limits import StoreLimits
from tiered_store.store.policy import Policy
from tiered_store.tiers.disk import DiskTier

K = parse_key("cache/a")
DATA = pattern(3 * MIB)


class LastingOrigin(MemoryOrigin):
    """An origin that outlives the stores of a test."""

    async def close(self) -> None:
        pass


@asynccontextmanager
async def on_disk(path: Path, origin: Origin | None = None, **options: Any) -> AsyncIterator[Rig]:
    """A store over a disk tier in a directory."""
    offload = Offload(2, "disk")
    settings: dict[str, Any] = {
        "max_bytes": 64 * MIB,
        "min_free_bytes": 0,
        "min_free_inodes": 0,
        "max_open_files": 8,
        "probe_s": 0.01,
    }
    limits = options.pop("limits", StoreLimits())
    corrupt: list[Any] = []
    tier = DiskTier(path, offload=offload, on_corrupt=corrupt.append, **(settings | options))
    await tier.start()
    async with store_rig(
        disk=tier, origin=origin, limits=limits, memory_bytes=2 * MIB, policies=[Policy("k", ttl_s=0.0)]
    ) as rig:
        tier._on_corrupt = rig.store.found_corrupt
        try:
            yield rig
        finally:
            del rig
    await offload.close()


async def test_an_upload_becomes_a_cache_file_and_answers_after_a_restart(tmp_path: Path) -> None:
    origin = LastingOrigin()
    async with on_disk(tmp_path, origin) as rig:
        await rig.put("cache/a", DATA)
        key = parse_key((await rig.put(None, DATA + b"!")).key)
        assert await rig.get("cache/a") == DATA
        await rig.disk.drain()
        assert len(object_files(tmp_path)) == 2
    async with on_disk(tmp_path, origin) as rig:
        rig.wall.advance(1000)
        entry = await rig.store.get(K)
        assert isinstance(entry.body, FileBody)
        assert entry.tier == "disk"
        assert await rig.stream("cache/a") == DATA
        assert await rig.get(key) == DATA + b"!"
        assert rig.origin.calls["open"] == 0
        del entry


async def test_a_fill_becomes_a_cache_file(tmp_path: Path) -> None:
    async with on_disk(tmp_path) as rig:
        await rig.there("cache/a", DATA)
        assert await rig.stream("cache/a") == DATA
        await rig.disk.drain()
        assert len(object_files(tmp_path)) == 1
        assert await rig.get("cache/a") == DATA
        assert rig.origin.calls["open"] == 1


async def test_ten_thousand_readers_and_one_origin_read(tmp_path: Path) -> None:
    data = pattern(8 * MIB)
    async with on_disk(tmp_path) as rig:
        await rig.there("cache/a", data)
        gate = rig.origin.hold("chunk:4")
        readers = [asyncio.create_task(rig.store.get(K)) for _ in range(10_000)]
        await gate.reached.wait()
        gate.open()
        entries = await asyncio.gather(*readers)
        assert {entry.info.size for entry in entries} == {len(data)}
        assert rig.origin.calls["open"] == 1
        assert await rig.stream("cache/a") == data
        assert rig.origin.calls["open"] == 1
        del readers, entries


async def test_objects_that_do_not_fit_the_disk_tier_are_served_all_the_same(tmp_path: Path) -> None:
    async with on_disk(tmp_path, max_bytes=2 * MIB) as rig:
        await rig.there("cache/a", DATA)
        assert await rig.get("cache/a") == DATA
        assert await rig.stream("cache/a") == DATA
        await rig.put("cache/b", DATA)
        assert await rig.get("cache/b") == DATA
    async with on_disk(tmp_path, max_bytes=2 * MIB, limits=StoreLimits(spool_memory_bytes=MIB)) as rig:
        await rig.there("cache/a", DATA)
        with pytest.raises(QuotaExceeded):
            await rig.get("cache/a")
        assert await rig.stream("cache/a") == DATA
        with pytest.raises(QuotaExceeded):
            await rig.put("cache/b", DATA)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("artifact", [True, False])
async def test_damage_on_disk_is_noticed_before_anyone_gets_it(tmp_path: Path, damage: str, artifact: bool) -> None:
    key = artifact_of(DATA) if artifact else "cache/a"
    origin = LastingOrigin()
    async with on_disk(tmp_path, origin) as rig:
        await rig.put(key, DATA)
    (file,) = object_files(tmp_path)
    whole = file.read_bytes()
    if damage == "flip":
        file.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    elif damage == "truncate":
        file.write_bytes(whole[:-100])
    else:
        file.unlink()
    async with on_disk(tmp_path, origin) as rig:
        assert await rig.get(key) == DATA
        assert rig.origin.calls["open"] == 1
        assert rig.counter("corrupt") == (0 if damage == "remove" else 1)
        assert await rig.get(key) == DATA
        assert rig.origin.calls["open"] == 1


async def test_a_cache_directory_that_disappears_is_no_error_for_anyone(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    async with on_disk(path) as rig:
        await rig.put("cache/a", DATA)
        await rig.put("cache/small", b"small")
        await rig.disk.drain()
        shutil.rmtree(path)
        for _ in range(2):
            assert await rig.get("cache/a") == DATA
            assert await rig.get("cache/small") == b"small"
            await rig.put("cache/b", DATA)
            assert await rig.get("cache/b") == DATA
            await rig.disk.drain()


async def test_an_origin_that_flaps_never_yields_wrong_or_short_bytes(tmp_path: Path) -> None:
    chance = random.Random(7)
    objects = {f"k/{number}": pattern(chance.choice([10, 70_000, 2 * MIB + 5]), number) for number in range(12)}

    def flap(operation: str, name: str) -> Exception | None:
        return OriginUnavailable("flapped") if chance.random() < 0.15 else None

    async with on_disk(tmp_path, max_bytes=8 * MIB) as rig:
        for key, data in objects.items():
            await rig.there(key, data)
        rig.origin.fault = flap

        async def read(turn: int) -> bool:
            key = chance.choice(list(objects))
            try:
                data = await (rig.get(key) if turn % 2 else rig.stream(key))
            except OriginUnavailable:
                return False
            assert data == objects[key]
            return True

        outcomes = [await asyncio.gather(*(read(turn) for turn in range(20))) for _ in range(8)]
        flat = [outcome for batch in outcomes for outcome in batch]
        assert any(flat)
        assert not all(flat)
