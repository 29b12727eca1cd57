"""Which of many keys exist: few questions, and the answers of ``stat``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.faults import FakeDisk, FaultyOrigin
from tests.support.store import Rig, artifact_of, store_rig
from tiered_store.errors import NotFound, OriginUnavailable, StoreError
from tiered_store.key import Key
from tiered_store.objects import ObjectInfo
from tiered_store.store.policy import Policy

KEYS = [Key(f"cache/{number}") for number in range(600)]


class Asked:
    """An origin that can be asked about many names at once."""

    def __init__(self, origin: FaultyOrigin) -> None:
        self._origin = origin
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._origin, name)

    async def stat_many(self, names: Sequence[str]) -> list[ObjectInfo | StoreError]:
        self.sizes.append(len(names))
        await self._origin.ask("stat_many", names[0])
        answers: list[ObjectInfo | StoreError] = []
        for name in names:
            try:
                answers.append(await self._origin.stat(name))
            except StoreError as error:
                answers.append(error)
        return answers


def asked_for_many(rig: Rig) -> Asked:
    origin = Asked(rig.origin)
    rig.store._upstream._origin = origin  # type: ignore[assignment]
    return origin


async def fresh(rig: Rig, *keys: Key) -> None:
    for key in keys:
        await rig.put(key, b"1")
        rig.memory.discard(key)


async def test_the_disk_tier_is_looked_into_once_and_the_origin_asked_about_the_rest(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        origin = asked_for_many(rig)
        await fresh(rig, *KEYS[:100])
        for key in KEYS[100:200]:
            await rig.there(key, b"1")
        expected = [index < 200 for index in range(600)]
        assert await rig.store.exists(KEYS) == expected
        assert origin.sizes == [156, 256, 88]
        assert rig.disk.looks == 3
        assert rig.disk.gets == 0
        assert all(rig.memory.peek(key) is None for key in KEYS)
        stats = rig.counter("origin")
        assert (stats["hits"], stats["misses"], stats["errors"]) == (100, 400, 0)
        assert await rig.store.exists(KEYS) == expected
        assert rig.counter("negative_hits") == 400
        assert sum(origin.sizes[3:]) == 100


async def test_one_that_cannot_be_told_keeps_the_question_open(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        asked_for_many(rig)
        rig.origin.fault = lambda operation, name: (
            OriginUnavailable("down") if (operation, name) == ("stat", KEYS[1]) else None
        )
        with pytest.raises(OriginUnavailable) as caught:
            await rig.store.exists(KEYS[:3])
        assert caught.value.key == KEYS[1]
        assert rig.counter("origin")["errors"] == 1
        rig.origin.fault = lambda operation, name: OriginUnavailable("gone") if operation == "stat_many" else None
        with pytest.raises(OriginUnavailable, match="gone"):
            await rig.store.exists(KEYS[3:6])
        assert rig.counter("origin")["errors"] == 2


@pytest.mark.parametrize("writes", [True, False])
async def test_a_miss_is_remembered_unless_a_write_came_meanwhile(tmp_path: Path, writes: bool) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        gate = rig.origin.hold("stat", KEYS[1])
        asking = asyncio.create_task(rig.store.exists(KEYS[:3]))
        await gate.reached.wait()
        if writes:
            await rig.put(KEYS[0], b"1")
        gate.open()
        assert await asking == [False] * 3
        assert [rig.store._negative.holds(key) for key in KEYS[:3]] == [not writes] * 3


async def test_a_fill_whose_object_was_removed_meanwhile_leaves_nothing(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        gate = rig.origin.hold("stat", KEYS[0])
        asking = asyncio.create_task(rig.store.exists(KEYS[:2]))
        await gate.reached.wait()
        await rig.there(KEYS[0], b"1")
        assert await rig.get(KEYS[0]) == b"1"
        await rig.origin.inner.delete([KEYS[0]])
        gate.open()
        assert await asking == [False, False]
        with pytest.raises(NotFound):
            await rig.get(KEYS[0])


async def test_expired_ones_are_asked_about_one_by_one(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path), policies=[Policy("cache/", ttl_s=5)]) as rig:
        await fresh(rig, *KEYS[:3])
        await rig.origin.inner.delete([KEYS[1]])
        rig.advance(6)
        assert await rig.store.exists(KEYS[:3]) == [True, False, True]
        assert rig.origin.calls["stat"] == 3


async def test_pending_puts_exist(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path), journal=tmp_path / "journal") as rig:
        gate = rig.origin.hold("put")
        await rig.put("back/x", b"1")
        rig.store._cache.forget(Key("back/x"))
        assert await rig.store.exists([Key("back/x"), Key("back/y")]) == [True, False]
        gate.open()


async def test_a_put_of_an_artifact_that_was_just_found_missing_does_not_ask_again() -> None:
    async with store_rig() as rig:
        key = Key(artifact_of(b"1"))
        assert await rig.store.exists([key]) == [False]
        await rig.put(key, b"1")
        assert (rig.origin.calls["stat"], rig.origin.calls["put"]) == (1, 1)
        await rig.put(key, b"1")
        assert (rig.origin.calls["stat"], rig.origin.calls["put"]) == (2, 1)
