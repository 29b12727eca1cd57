"""The read path: which tier answers, what moves up, what is remembered."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.faults import FakeDisk, Gate
from tests.support.origins import pattern
from tests.support.store import MIB, artifact_of, settle, store_rig
from tiered_store.errors import DaemonUnavailable, NotFound, OriginUnavailable
from tiered_store.key import Key, parse_key
from tiered_store.objects import INLINE_MAX_BYTES, Entry, FileBody, ObjectInfo
from tiered_store.store.limits import StoreLimits

CHUNK = MIB
K = parse_key("sessions/a")


@pytest.mark.parametrize(
    "size",
    [0, 1, INLINE_MAX_BYTES - 1, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7],
)
@pytest.mark.parametrize("has_disk", [True, False])
async def test_sizes_round_every_threshold(tmp_path: Path, size: int, has_disk: bool) -> None:
    data = pattern(size)
    async with store_rig(disk=FakeDisk(tmp_path) if has_disk else None) as rig:
        for key in ("sessions/a", artifact_of(data)):
            await rig.put(key, data)
            assert await rig.get(key) == data
            rig.store._cache.forget(parse_key(key))
            assert await rig.get(key) == data
            assert await rig.get(key) == data
            assert await rig.stream(key) == data
            assert await rig.stream(key, offset=size // 2, length=10) == data[size // 2 : size // 2 + 10]


async def test_a_read_goes_down_once_and_is_answered_from_memory_after_that(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there("sessions/a", b"hello")
        assert rig.store.peek("sessions/a") is None
        entry = await rig.store.get(K)
        assert (entry.tier, entry.info.key, entry.body) == ("origin", "sessions/a", b"hello")
        assert rig.disk.entries[K].body == b"hello"
        peeked = rig.store.peek("sessions/a")
        assert peeked is not None
        assert peeked.tier == "memory"
        assert (await rig.store.get(K)).tier == "memory"
        assert rig.origin.calls["open"] == 1
        stats: dict[str, Any] = rig.store.stats()
        assert stats["memory"]["hits"] == 2
        assert (stats["memory"]["misses"], stats["disk"]["misses"], stats["fills"]) == (1, 1, 1)
        assert stats["origin"]["hits"] == 1
        assert stats["origin"]["bytes_read"] == 5


async def test_peek_takes_any_text_and_counts_nothing_when_it_knows_nothing(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        for text in ("", "../etc", "a\0b", "sha256:short", "nobody"):
            assert rig.store.peek(text) is None
        assert rig.counter("memory")["misses"] == 0
        assert rig.counter("disk")["misses"] == 0


async def test_many_bodies_at_once_or_none(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        rig.disk.peeks = True
        for name in ("a", "b", "c"):
            await rig.put(name, name.encode())
        rig.memory.discard(Key("b"))
        assert rig.store.peek_bodies(["c", "a"], 2) == [b"c", b"a"]
        assert rig.counter("memory")["hits"] == 2
        for keys, max_bytes in ((["c", "nobody"], 10), (["c", "b"], 10), (["a\0"], 10), (["a", "c"], 1)):
            assert rig.store.peek_bodies(keys, max_bytes) is None
        rig.advance(61)
        assert rig.store.peek_bodies(["a"], 10) is None
        assert rig.store.peek_bodies([], 10) == []
        assert (rig.counter("memory")["hits"], rig.counter("disk")["hits"]) == (2, 0)


async def test_a_small_object_on_disk_moves_up_at_its_first_read(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.put("sessions/a", b"hello")
        rig.memory.discard(K)
        assert (await rig.store.get(K)).tier == "disk"
        assert (await rig.store.get(K)).tier == "memory"
        assert rig.origin.calls["open"] == 0
        assert rig.counter("disk")["hits"] == 1


async def test_no_promote_leaves_memory_alone(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there("sessions/a", b"hello")
        assert await rig.get("sessions/a", no_promote=True) == b"hello"
        assert rig.memory.peek(K) is None
        assert await rig.get("sessions/a", no_promote=True) == b"hello"
        assert rig.memory.peek(K) is None
        assert await rig.get("sessions/a") == b"hello"
        assert rig.memory.peek(K) is not None


async def test_one_reader_who_wants_it_in_memory_is_enough() -> None:
    async with store_rig() as rig:
        await rig.there("sessions/a", b"hello")
        gate = rig.origin.hold("chunk:0")
        reader = rig.store._fills.join(K, in_memory=False)
        await gate.reached.wait()
        other = rig.store._fills.join(K, in_memory=True)
        gate.open()
        await other.entry()
        rig.store._fills.leave(reader)
        rig.store._fills.leave(other)
        assert rig.memory.peek(K) is not None


async def test_what_the_disk_tier_has_at_hand_is_given_without_waiting(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        rig.disk.peeks = True
        await rig.put("sessions/a", b"hello")
        rig.memory.discard(K)
        entry = rig.store.peek(K)
        assert entry is not None
        assert entry.tier == "disk"
        assert rig.counter("disk")["hits"] == 1
        assert rig.memory.peek(K) is not None
        rig.memory.discard(K)
        assert (await rig.store.get(K)).tier == "disk"
        assert rig.disk.gets == 0
        rig.memory.discard(K)
        rig.advance(61)
        assert rig.store.peek(K) is None  # expired


async def test_many_readers_of_one_key_on_disk_are_one_look(tmp_path: Path) -> None:
    import asyncio

    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.put("sessions/a", b"hello")
        rig.memory.discard(K)
        rig.disk.gate = Gate()
        readers = [asyncio.create_task(rig.get("sessions/a")) for _ in range(50)]
        await rig.disk.gate.reached.wait()
        await settle()
        readers[0].cancel()
        rig.disk.gate.open()
        results = await asyncio.gather(*readers, return_exceptions=True)
        assert results[1:] == [b"hello"] * 49
        assert rig.disk.gets == 1
        assert rig.origin.calls["open"] == 0


async def test_misses_are_remembered_and_a_put_ends_that() -> None:
    async with store_rig() as rig:
        for _ in range(3):
            with pytest.raises(NotFound) as caught:
                await rig.get("sessions/a")
            assert caught.value.key == "sessions/a"
        assert rig.origin.calls["open"] == 1
        assert rig.counter("negative_hits") == 2
        await rig.put("sessions/a", b"now")
        assert await rig.get("sessions/a") == b"now"


async def test_a_copy_ends_a_remembered_miss_and_time_does() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/b", b"hello")
        with pytest.raises(NotFound):
            await rig.get("sessions/a")
        await rig.store.copy(parse_key("sessions/b"), K)
        assert await rig.get("sessions/a") == b"hello"
        with pytest.raises(NotFound):
            await rig.get("sessions/c")
        await rig.there("sessions/c", b"by hand")
        with pytest.raises(NotFound):
            await rig.store.stat(parse_key("sessions/c"))
        rig.advance(2)
        assert await rig.get("sessions/c") == b"by hand"


async def test_only_if_cached_asks_no_origin(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.there("sessions/a", b"hello")
        with pytest.raises(NotFound) as caught:
            await rig.get("sessions/a", only_if_cached=True)
        assert caught.value.key == "sessions/a"
        assert sum(rig.origin.calls.values()) == 0
        await rig.get("sessions/a")
        rig.memory.discard(K)
        assert await rig.get("sessions/a", only_if_cached=True) == b"hello"


async def test_an_artifact_can_be_read_by_its_path_and_is_the_same_object() -> None:
    data = b"tool"
    key = artifact_of(data)
    digest = key.removeprefix("sha256:")
    path = f"artifacts/sha256/{digest[:2]}/{digest}"
    async with store_rig() as rig:
        await rig.put(None, data)
        entry = await rig.store.get(parse_key(path))
        assert (entry.info.key, entry.body, entry.tier) == (key, data, "memory")
        assert (await rig.store.stat(parse_key(path))).key == key
        await rig.there("artifacts/sha256/odd", b"put there by hand")
        assert await rig.get("artifacts/sha256/odd") == b"put there by hand"


async def test_objects_over_the_memory_share_stay_out_of_it_silently() -> None:
    data = pattern(2 * MIB)
    async with store_rig(memory_bytes=8 * MIB) as rig:
        await rig.put("sessions/a", data)
        assert rig.store.peek(K) is None
        assert await rig.get("sessions/a") == data
        assert rig.store.peek(K) is None
        assert rig.counter("memory")["entries"] == 0


async def test_a_memory_tier_that_keeps_nothing_is_no_trouble(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path), memory_bytes=1000) as rig:
        for _ in range(2):
            await rig.put("sessions/a", b"hello")
            assert (await rig.store.get(K)).tier == "disk"
        assert rig.counter("memory")["entries"] == 0


async def test_large_objects_in_memory_are_sealed_memfds() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", pattern(MIB - 5000))
        peeked = rig.store.peek(K)
        assert peeked is not None
        assert isinstance(peeked.body, FileBody)
        assert peeked.body.is_memory
        del peeked


async def test_stat_is_answered_by_a_fresh_entry_else_by_the_origin(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.put("sessions/a", b"hello")
        assert (await rig.store.stat(K)).size == 5
        rig.memory.discard(K)
        assert (await rig.store.stat(K)).size == 5
        assert rig.memory.peek(K) is None  # asking does not promote
        assert rig.origin.calls["stat"] == 0
        await rig.get("sessions/a")
        rig.advance(61)
        await rig.there("sessions/a", b"changed")
        assert (await rig.store.stat(K)).size == 7
        assert rig.origin.calls["stat"] == 1


async def test_stat_of_an_unchanged_object_makes_its_entry_fresh_again() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", b"hello")
        rig.advance(61)
        assert rig.store.peek(K) is None
        await rig.store.stat(K)
        assert rig.store.peek(K) is not None


async def test_stat_serves_stale_information_when_the_origin_is_down_and_forgets_what_is_gone() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", b"hello")
        rig.advance(61)
        rig.origin.fail("stat", lambda: OriginUnavailable("down"))
        assert (await rig.store.stat(K)).size == 5
        assert rig.counter("stale_served") == 1
        with pytest.raises(OriginUnavailable):
            await rig.store.stat(parse_key("sessions/unknown"))
        rig.origin.heal()
        await rig.origin.inner.delete(["sessions/a"])
        with pytest.raises(NotFound):
            await rig.store.stat(K)
        assert rig.memory.peek(K) is None
        with pytest.raises(NotFound):
            await rig.get("sessions/a")
        assert rig.counter("negative_hits") == 1


async def test_a_miss_of_stat_is_not_remembered_across_a_put() -> None:
    import asyncio

    async with store_rig() as rig:
        gate = rig.origin.hold("stat")
        rig.origin.fail("stat_done", lambda: NotFound("gone"))
        asking = asyncio.create_task(rig.store.stat(K))
        await gate.reached.wait()
        # The answer "not found" was on its way when the put came: it must not be believed any more.
        stale_answer = NotFound("no such object", key="sessions/a")
        await rig.put("sessions/a", b"new")
        rig.origin.inner.stat = _raising(stale_answer)  # type: ignore[method-assign]
        gate.open()
        with pytest.raises(NotFound):
            await asking
        assert await rig.get("sessions/a") == b"new"
        rig.store._cache.forget(K)
        assert await rig.get("sessions/a") == b"new"


def _raising(error: Exception):  # type: ignore[no-untyped-def]
    async def fail(*_: object) -> None:
        raise error

    return fail


async def test_exists_asks_tiers_first_and_the_origin_for_the_rest() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", b"1")
        for number in range(100):
            await rig.there(f"t/{number}", b"1")
        keys = [parse_key(k) for k in ["sessions/a", "nobody", *(f"t/{n}" for n in range(100)), "sessions/a"]]
        assert await rig.store.exists(keys) == [True, False, *([True] * 100), True]
        assert rig.origin.calls["stat"] == 101
        assert await rig.store.exists([]) == []
        assert await rig.store.exists([parse_key("nobody")]) == [False]
        assert rig.counter("negative_hits") == 1


async def test_exists_does_not_say_no_when_nobody_knows() -> None:
    async with store_rig() as rig:
        rig.origin.fail("stat", lambda: OriginUnavailable("down"))
        with pytest.raises(OriginUnavailable):
            await rig.store.exists([parse_key("a"), parse_key("b")])


async def test_list_and_stats() -> None:
    async with store_rig() as rig:
        await rig.put("b", b"1")
        await rig.put(None, b"artifact")
        await rig.put("t", b"1")
        page = await rig.store.list("", limit=2)
        assert [info.key for info in page.items] == ["b", artifact_of(b"artifact")]
        assert page.more
        page = await rig.store.list("", after=page.items[-1].key)
        assert [info.key for info in page.items] == ["t"]
        stats: dict[str, Any] = rig.store.stats()
        assert set(stats) >= {"memory", "disk", "cdn", "origin", "fills", "coalesced", "corrupt", "stale_served"}
        assert set(stats["disk"]) == set(stats["memory"])
        assert set(stats["cdn"].values()) == {0}
        rig.store.found_corrupt(Key("t"))
        assert rig.counter("corrupt") == 1


async def test_a_closed_store_refuses() -> None:
    async with store_rig(limits=StoreLimits(drain_s=0.1)) as rig:
        await rig.put("sessions/a", b"1")
        await rig.store.close()
        assert rig.store.peek(K) is None
        for refused in (
            rig.store.get(K),
            rig.store.read(K),
            rig.store.stat(K),
            rig.store.exists([K]),
            rig.store.list(""),
            rig.store.delete(K),
            rig.store.delete_prefix("s"),
            rig.store.copy(K, K),
        ):
            with pytest.raises(DaemonUnavailable):
                await refused
        with pytest.raises(DaemonUnavailable):
            rig.store.spool(1, hashed=False)


async def test_a_small_artifact_is_verified_when_it_moves_up_from_disk(tmp_path: Path) -> None:
    data = b"tool" * 100
    key = parse_key(artifact_of(data))
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.put(None, data)
        rig.memory.discard(key)
        info = ObjectInfo(key, len(data), "etag")
        rig.disk.entries[key] = Entry(info, b"lies" * 100, validated_at=rig.wall.now, tier="disk")
        assert await rig.get(key) == data
        assert rig.counter("corrupt") == 1
        assert rig.origin.calls["open"] == 1
        assert rig.disk.entries[key].body == data
        # The same when the disk tier has it at hand.
        rig.memory.discard(key)
        rig.disk.peeks = True
        rig.disk.entries[key] = Entry(info, b"lies" * 100, validated_at=rig.wall.now, tier="disk")
        assert rig.store.peek(key) is None
        rig.disk.entries[key] = Entry(info, b"lies" * 100, validated_at=rig.wall.now, tier="disk")
        assert await rig.get(key) == data
        assert rig.counter("corrupt") == 3
