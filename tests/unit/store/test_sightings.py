from __future__ import annotations

import asyncio

from tests.support.faults import ManualClock
from tests.support.store import artifact_of, store_rig
from tiered_store.key import Key, artifact_key, name_of_key, parse_key
from tiered_store.objects import ObjectInfo
from tiered_store.store.limits import StoreLimits
from tiered_store.store.sightings import ExistingArtifacts

TTL_S = 60.0
LIMITS = StoreLimits(exists_ttl_s=TTL_S)
ONE, TWO, THREE = (artifact_key(f"{number:064x}") for number in range(3))


def info_of(key: str, **metadata: str) -> ObjectInfo:
    return ObjectInfo(key, 1, "etag", None, metadata)


def test_an_answer_holds_for_its_time_from_the_question_on() -> None:
    clock = ManualClock()
    existing = ExistingArtifacts(clock, TTL_S)
    sight = existing.look()
    clock.advance(10)
    existing.remember(ONE, info_of(ONE), sight)
    clock.advance(49)
    assert existing.get(ONE) == info_of(ONE)
    assert existing.get(TWO) is None
    clock.advance(1)
    assert existing.get(ONE) is None
    assert not existing._seen


def test_what_was_removed_meanwhile_is_not_remembered() -> None:
    existing = ExistingArtifacts(ManualClock(), TTL_S)
    sight = existing.look()
    existing.forget(ONE)
    existing.remember(ONE, info_of(ONE), sight)
    assert existing.get(ONE) is None
    existing.remember(ONE, info_of(ONE), existing.look())
    existing.forget("a/path")  # of no interest here
    assert existing.get(ONE) is not None
    existing.forget(ONE)
    assert existing.get(ONE) is None


def test_it_is_bounded_and_of_small_artifacts_only() -> None:
    existing = ExistingArtifacts(ManualClock(), TTL_S, max_keys=2)
    for key in (ONE, TWO, ONE, THREE):  # seen again, the first is the younger
        existing.remember(key, info_of(key), existing.look())
    assert [existing.get(key) is not None for key in (ONE, TWO, THREE)] == [True, False, True]
    existing.forget(ONE)
    existing.remember(ONE, info_of(ONE, much="x" * 300), existing.look())
    existing.remember("a/path", info_of("a/path"), existing.look())
    assert [*existing._seen] == [THREE]


def test_no_time_is_no_memory() -> None:
    existing = ExistingArtifacts(ManualClock(), 0)
    existing.remember(ONE, info_of(ONE), existing.look())
    assert not existing._seen


class TestPuts:
    """What it is for: a put of an artifact that the origin has, by its own word, asks nothing."""

    async def test_after_a_put(self) -> None:
        async with store_rig(limits=LIMITS) as rig:
            infos = await asyncio.gather(*(rig.put(None, b"tool") for _ in range(5)))
            assert len(set(map(str, infos))) == 1
            assert (rig.origin.calls["put"], rig.origin.calls["stat"]) == (1, 1)
            assert (rig.counter("uploads"), rig.counter("uploads_skipped")) == (1, 4)
            rig.advance(TTL_S)
            await rig.put(None, b"tool")
            assert (rig.origin.calls["put"], rig.origin.calls["stat"]) == (1, 2)

    async def test_after_a_question_or_a_read(self) -> None:
        async with store_rig(limits=LIMITS) as rig:
            keys = [parse_key(artifact_of(data)) for data in (b"one", b"two")]
            for key, data in zip(keys, (b"one", b"two"), strict=True):
                await rig.there(name_of_key(key), data)
            assert await rig.store.exists(keys[:1]) == [True]
            assert await rig.get(keys[1]) == b"two"
            before = rig.origin.calls["stat"]
            await rig.put(None, b"one")
            await rig.put(None, b"two")
            assert (rig.origin.calls["put"], rig.origin.calls["stat"]) == (0, before)
            assert rig.counter("uploads_skipped") == 2

    async def test_not_after_a_delete_or_a_miss(self) -> None:
        async with store_rig(limits=LIMITS) as rig:
            key = parse_key((await rig.put(None, b"tool")).key)
            await rig.store.delete(key)
            await rig.put(None, b"tool")
            assert rig.counter("uploads") == 2
            await rig.store.delete_prefix("sha256:")
            await rig.put(None, b"tool")
            assert rig.counter("uploads") == 3
            await self._gone(rig, key)
            await rig.put(None, b"tool")
            assert rig.counter("uploads") == 4

    async def _gone(self, rig, key: Key) -> None:
        """Somebody else has deleted it, and a reader notices."""
        await rig.origin.inner.delete([name_of_key(key)])
        rig.store._cache.forget(key)
        assert await rig.store.exists([key]) == [False]

    async def test_not_what_is_damaged_or_cut_off(self) -> None:
        async with store_rig(limits=LIMITS) as rig:
            key = parse_key(artifact_of(b"tool"))
            for wrong in (b"lo0t", b"too"):
                await rig.there(name_of_key(key), wrong)
                rig.store._cache.forget(key)
                await asyncio.gather(rig.get(key), return_exceptions=True)
                before = rig.counter("uploads")
                await rig.put(None, b"tool")
                assert rig.counter("uploads") == before + 1
