"""Expired entries: asked again by etag, given out while that runs or fails, dropped when gone."""

import asyncio
from pathlib import Path

import pytest

from tests.support.faults import FakeDisk, Gate
from tests.support.origins import pattern
from tests.support.store import MIB, settle, store_rig
from tiered_store.errors import DeadlineExceeded, NotFound, OriginUnavailable, PermissionDenied
from tiered_store.key import Key, parse_key
from tiered_store.store.limits import StoreLimits
from tiered_store.store.policy import Policy

K = parse_key("sessions/a")
SWR = Policy("", ttl_s=10, stale_while_revalidate_s=20, stale_if_error_s=100)


async def test_an_unchanged_object_is_asked_for_once_and_fresh_again() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", b"hello")
        rig.advance(61)
        assert rig.store.peek(K) is None
        assert await rig.get("sessions/a") == b"hello"
        assert rig.counter("origin")["not_modified"] == 1
        assert rig.store.peek(K) is not None
        rig.advance(59)
        assert rig.store.peek(K) is not None
        assert rig.origin.calls["open"] == 1


async def test_a_changed_object_is_fetched() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", b"old")
        await rig.there("sessions/a", b"changed by hand")
        assert await rig.get("sessions/a") == b"old"
        rig.advance(61)
        assert await rig.get("sessions/a") == b"changed by hand"
        assert rig.counter("origin")["not_modified"] == 0


async def test_a_large_object_on_disk_is_asked_for_once_per_ttl(tmp_path: Path) -> None:
    data = pattern(3 * MIB)
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.put("sessions/a", data)
        rig.advance(61)
        for _ in range(3):
            assert await rig.get("sessions/a") == data
        assert rig.origin.calls["open"] == 1
        rig.advance(61)
        assert await rig.get("sessions/a") == data
        assert rig.origin.calls["open"] == 2


async def test_an_object_in_both_tiers_is_refreshed_in_memory(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.put("sessions/a", b"hello")
        rig.advance(61)
        expired = await rig.disk.get(K)
        rig.store._fills.revalidate(K, expired)
        await settle(20)
        peeked = rig.store.peek(K)
        assert peeked is not None
        assert peeked.tier == "memory"


async def test_many_readers_of_one_expired_key_ask_once() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", b"hello")
        rig.advance(61)
        gate = rig.origin.hold("open")
        readers = [asyncio.create_task(rig.get("sessions/a")) for _ in range(20)]
        await gate.reached.wait()
        await settle()
        gate.open()
        assert await asyncio.gather(*readers) == [b"hello"] * 20
        assert rig.origin.calls["open"] == 1


async def test_gone_at_the_origin_is_gone_in_the_tiers(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.put("sessions/a", b"hello")
        await rig.origin.inner.delete(["sessions/a"])
        rig.advance(61)
        for _ in range(2):
            with pytest.raises(NotFound):
                await rig.get("sessions/a")
        assert rig.memory.peek(K) is None
        assert rig.disk.entries == {}
        assert rig.origin.calls["open"] == 1
        assert rig.counter("negative_hits") == 1


async def test_immutable_objects_are_never_asked_for_again() -> None:
    async with store_rig() as rig:
        await rig.put("cache/a", b"hello")
        rig.advance(1e9)
        assert rig.store.peek("cache/a") is not None
        assert await rig.get("cache/a") == b"hello"
        assert rig.origin.calls["open"] == 0


@pytest.mark.parametrize("error", [OriginUnavailable("down"), DeadlineExceeded("slow")])
async def test_a_stale_copy_stands_in_for_an_origin_that_does_not_answer(error: Exception) -> None:
    async with store_rig(policies=[SWR]) as rig:
        await rig.put("sessions/a", b"hello")
        rig.advance(40)
        rig.origin.fail("open", lambda: error)
        assert await rig.get("sessions/a") == b"hello"
        assert await rig.stream("sessions/a") == b"hello"
        assert rig.counter("stale_served") == 2
        rig.advance(71)
        with pytest.raises(type(error)):
            await rig.get("sessions/a")
        with pytest.raises(type(error)):
            await rig.store.read(K)


@pytest.mark.parametrize("error", [NotFound("gone"), PermissionDenied("no")])
async def test_no_stale_copy_stands_in_for_an_answer(error: Exception) -> None:
    async with store_rig(policies=[SWR]) as rig:
        await rig.put("sessions/a", b"hello")
        rig.advance(40)
        rig.origin.fail("open", lambda: error)
        with pytest.raises(type(error)):
            await rig.get("sessions/a")
        assert rig.counter("stale_served") == 0


async def test_a_stale_copy_stands_in_when_the_new_bytes_break_off() -> None:
    async with store_rig(policies=[SWR]) as rig:
        await rig.put("sessions/a", b"old")
        await rig.there("sessions/a", pattern(3 * MIB))
        rig.advance(40)
        rig.origin.fail("chunk:2", lambda: OriginUnavailable("broken"))
        assert await rig.get("sessions/a") == b"old"


async def test_while_revalidating_readers_get_the_stale_copy_at_once() -> None:
    async with store_rig(policies=[SWR]) as rig:
        await rig.put("sessions/a", b"old")
        await rig.there("sessions/a", b"new")
        rig.advance(15)
        gate = rig.origin.hold("open")
        assert await rig.get("sessions/a") == b"old"
        assert await rig.get("sessions/a") == b"old"
        await gate.reached.wait()
        gate.open()
        await settle(20)
        assert rig.origin.calls["open"] == 1
        assert rig.store.peek(K).body == b"new"  # type: ignore[union-attr]
        assert rig.counter("stale_served") == 2


async def test_while_revalidating_stat_answers_as_get_does() -> None:
    async with store_rig(policies=[SWR]) as rig:
        old = await rig.put("sessions/a", b"old")
        new = await rig.there("sessions/a", b"newer")
        rig.advance(15)
        gate = rig.origin.hold("open")
        assert [await rig.store.stat(K) for _ in range(3)] == [old] * 3
        assert await rig.store.exists([K]) == [True]
        assert await rig.get("sessions/a") == b"old"
        await gate.reached.wait()
        gate.open()
        await settle(20)
        assert (rig.origin.calls["open"], rig.origin.calls["stat"]) == (1, 0)  # one re-read for all of them
        assert (await rig.store.stat(K)).etag == new.etag
        assert rig.counter("stale_served") == 5


async def test_after_that_stat_waits_for_the_origin() -> None:
    async with store_rig(policies=[SWR]) as rig:
        await rig.put("sessions/a", b"old")
        new = await rig.there("sessions/a", b"newer")
        rig.advance(31)
        assert (await rig.store.stat(K)).etag == new.etag
        assert (rig.origin.calls["open"], rig.origin.calls["stat"]) == (0, 1)
        assert rig.counter("stale_served") == 0


async def test_revalidations_for_stat_are_bounded_too() -> None:
    async with store_rig(policies=[SWR], limits=StoreLimits(max_background_tasks=2)) as rig:
        keys = [parse_key(f"k{number}") for number in range(5)]
        for key in keys:
            await rig.put(key, b"old")
        rig.advance(15)
        gate = rig.origin.hold("open")
        assert await rig.store.exists(keys) == [True] * 5
        await settle(20)
        assert rig.origin.calls["open"] == 2
        gate.open()
        await settle(20)


async def test_what_may_have_missed_a_write_is_no_answer_of_stat(tmp_path: Path) -> None:
    async with store_rig(policies=[SWR], disk=FakeDisk(tmp_path)) as rig:
        await rig.put("sessions/a", b"old")
        await rig.origin.inner.delete(["sessions/a"])
        rig.advance(15)
        rig.disk.suspect_before = rig.wall()
        rig.memory.discard(K)
        with pytest.raises(NotFound):
            await rig.store.stat(K)


async def test_background_revalidations_are_bounded() -> None:
    limits = StoreLimits(max_background_tasks=2)
    async with store_rig(policies=[SWR], limits=limits) as rig:
        for number in range(5):
            await rig.put(f"k{number}", b"old")
        rig.advance(15)
        gate = rig.origin.hold("open")
        for number in range(5):
            assert await rig.get(f"k{number}") == b"old"
        await settle(20)
        assert rig.origin.calls["open"] == 2
        gate.open()
        await settle(20)
        assert await rig.get("k4") == b"old"
        await settle(20)
        assert rig.origin.calls["open"] == 3


async def test_a_background_revalidation_that_fails_hurts_nobody() -> None:
    async with store_rig(policies=[SWR]) as rig:
        await rig.put("sessions/a", b"old")
        rig.advance(15)
        rig.origin.fail("open", lambda: OriginUnavailable("down"))
        assert await rig.get("sessions/a") == b"old"
        await settle(20)
        assert await rig.get("sessions/a") == b"old"
        assert rig.counter("origin")["errors"] == 1  # the second is under way


async def test_a_put_during_a_revalidation_wins() -> None:
    async with store_rig(policies=[SWR]) as rig:
        await rig.put("sessions/a", b"old")
        rig.advance(40)
        gate = rig.origin.hold("open")
        reader = asyncio.create_task(rig.get("sessions/a"))
        await gate.reached.wait()
        await rig.put("sessions/a", b"new")
        gate.open()
        assert await reader == b"new"  # not the stale one: the origin was asked and has a new one
        assert await rig.get("sessions/a") == b"new"


async def test_an_unchanged_answer_that_a_delete_overtook_vouches_for_nothing() -> None:
    async with store_rig(policies=[SWR]) as rig:
        info = await rig.put("sessions/a", b"old")
        rig.advance(40)
        gate = rig.origin.hold("open")
        reader = asyncio.create_task(rig.get("sessions/a"))
        await gate.reached.wait()
        rig.origin.inner.open = _not_modified  # type: ignore[method-assign]
        await rig.store.delete(K)
        gate.open()
        assert await reader == b"old"
        assert rig.memory.peek(K) is None
        assert info.size == 3


async def _not_modified(*_: object, **__: object) -> None:
    return None


async def test_only_if_cached_gives_what_may_be_given_without_the_origin() -> None:
    async with store_rig(policies=[SWR]) as rig:
        await rig.put("sessions/a", b"old")
        rig.advance(15)
        assert await rig.get("sessions/a", only_if_cached=True) == b"old"
        await settle()
        assert rig.origin.calls["open"] == 0
        rig.advance(20)
        with pytest.raises(NotFound):
            await rig.get("sessions/a", only_if_cached=True)


async def test_what_may_have_missed_a_write_is_asked_for_once(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        for key in ("sessions/a", "cache/a"):
            await rig.put(key, b"old")
            rig.memory.discard(parse_key(key))
        await rig.there("cache/a", b"new")
        rig.advance(5)
        rig.disk.suspect_before = rig.wall.now - 1
        assert await rig.get("sessions/a") == b"old"
        assert await rig.get("cache/a") == b"new"
        assert rig.origin.calls["open"] == 2
        rig.memory.discard(K)
        rig.memory.discard(parse_key("cache/a"))
        assert await rig.get("sessions/a") == b"old"
        assert await rig.get("cache/a") == b"new"
        assert rig.origin.calls["open"] == 2


async def test_suspects_are_served_when_the_origin_is_down(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.put("cache/a", b"old")
        rig.memory.discard(parse_key("cache/a"))
        rig.disk.suspect_before = rig.wall.now + 1
        rig.origin.fail("open", lambda: OriginUnavailable("down"))
        assert await rig.get("cache/a") == b"old"
        assert rig.counter("stale_served") == 1


async def test_a_version_that_a_write_has_replaced_is_no_stale_copy(tmp_path: Path) -> None:
    """A reader finds it on disk while it is replaced; one who asks after that write joins the fill of the first."""
    disk = FakeDisk(tmp_path)
    async with store_rig(disk=disk, policies=[Policy("", ttl_s=60, stale_if_error_s=3600)]) as rig:
        await rig.put("a", b"old")
        rig.memory.discard(Key("a"))
        rig.advance(61)
        disk.gate = Gate()
        first = asyncio.create_task(rig.get("a"))
        await disk.gate.reached.wait()
        await rig.put("a", b"new")
        rig.store._cache.forget(Key("a"))  # evicted
        opening = rig.origin.hold("open")
        disk.gate.open()
        await opening.reached.wait()
        second = asyncio.create_task(rig.get("a"))
        await settle()
        rig.origin.fail("chunk:0", lambda: OriginUnavailable("down"))
        opening.open()
        for reader in (first, second):
            with pytest.raises(OriginUnavailable):
                await reader
