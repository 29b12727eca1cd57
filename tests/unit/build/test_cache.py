from __future__ import annotations

import asyncio
import hashlib
import json

import pytest

from tests.support.build import build_rig
from tests.support.origins import file_body, list_all, pattern
from tests.support.store import artifact_of, settle
from tiered_store.build.cache import BuildLimits
from tiered_store.build.entry import Place
from tiered_store.errors import DaemonUnavailable, DeadlineExceeded, InvalidKey, OriginUnavailable, TooLarge
from tiered_store.key import name_of_key, parse_key
from tiered_store.origins.base import PutHeaders
from tiered_store.store.spool import Staged

CCACHE = Place("ccache", "main")
TURBO = Place("turbo", "main")
LARGE = pattern(300_000)
NOTHING_SAID = PutHeaders()


@pytest.mark.parametrize("data", [b"", b"content", LARGE], ids=["empty", "small", "large"])
async def test_what_was_put_comes_back(data):
    async with build_rig() as build:
        assert await build.put(CCACHE, "ab/cd", data, {"x-artifact-tag": "t"})
        found = await build.cache.get(CCACHE, "ab/cd")
        assert found is not None
        assert (found.entry.size, found.entry.headers) == (len(data), {"x-artifact-tag": "t"})
        assert found.entry.digest == hashlib.sha256(data).hexdigest()
        assert await build.get(CCACHE, "ab/cd") == data
        assert await build.cache.head(CCACHE, "ab/cd") == found.entry
        del found  # which holds a file open
        stats = build.stats(CCACHE)
        assert (stats.hits, stats.misses, stats.puts) == (2, 0, 1)


async def test_what_is_not_there_is_a_miss():
    async with build_rig() as build:
        assert await build.get(CCACHE, "ab") is None
        assert await build.cache.head(CCACHE, "ab") is None
        assert await build.get(CCACHE, "no//key") is None
        assert (build.stats(CCACHE).misses, build.stats(CCACHE).failed) == (2, 0)


async def test_equal_content_is_stored_once_and_places_do_not_meet():
    async with build_rig() as build:
        await build.put(CCACHE, "a", LARGE)
        await build.put(TURBO, "b", LARGE)
        assert await list_all(build.rig.origin.inner) == [
            name_of_key(parse_key(artifact_of(LARGE))),
            "build/ccache/main/a",
            "build/turbo/main/b",
        ]
        assert await build.get(TURBO, "a") is None
        assert await build.get(Place("ccache", "other"), "a") is None


async def test_a_second_put_of_the_same_writes_nothing():
    async with build_rig() as build:
        await build.put(CCACHE, "a", b"x", {"h": "1"})
        await build.put(CCACHE, "a", b"x", {"h": "1"})
        assert build.rig.origin.calls["put"] == 2
        await build.put(CCACHE, "a", b"x", {"h": "2"})
        assert build.rig.origin.calls["put"] == 3


async def test_what_is_there_may_be_kept_or_replaced():
    async with build_rig() as build:
        assert await build.put(CCACHE, "a", b"one", overwrite=False)
        assert not await build.put(CCACHE, "a", b"two", overwrite=False)
        assert await build.get(CCACHE, "a") == b"one"
        assert await build.put(CCACHE, "a", b"two")
        assert await build.get(CCACHE, "a") == b"two"


async def test_what_was_removed_is_gone_and_shared_content_stays():
    async with build_rig() as build:
        await build.put(CCACHE, "a", b"x")
        await build.put(TURBO, "a", b"x")
        assert await build.cache.remove(CCACHE, "a")
        assert not await build.cache.remove(CCACHE, "a")
        assert await build.get(CCACHE, "a") is None
        assert await build.get(TURBO, "a") == b"x"


# ------------------------------------------------------------------------ peek


async def test_what_was_hashed_is_seen_without_a_wait():
    async with build_rig() as build:
        await build.put(CCACHE, "a", b"x", {"h": "1"})
        assert build.cache.peek(CCACHE, "a") is None
        found = await build.cache.get(CCACHE, "a")
        assert build.cache.peek(CCACHE, "a") == found
        assert build.stats(CCACHE).hits == 2
        for place, name in ((CCACHE, "b"), (CCACHE, "no//key"), (TURBO, "a")):
            assert build.cache.peek(place, name) is None
        assert build.stats(CCACHE).misses == 0


async def test_what_is_damaged_or_gone_is_not():
    async with build_rig() as build:
        await build.put(CCACHE, "a", b"content")
        await build.get(CCACHE, "a")
        await build.put(CCACHE, "a", b"other")
        assert build.cache.peek(CCACHE, "a") is None
        assert await build.get(CCACHE, "a") == b"other"
        damage_in_memory(build, b"other", wrong=b"oTher")
        assert build.cache.peek(CCACHE, "a") is None
        await build.cache.remove(CCACHE, "a")
        assert build.cache.peek(CCACHE, "a") is None


async def test_a_peek_from_quarantine_leaves_what_everybody_sees_to_a_read():
    writer = Place("ccache", "main", "pr-7")
    async with build_rig() as build:
        await build.put(CCACHE, "a", b"good")
        await build.get(CCACHE, "a")
        assert build.cache.peek(writer, "a") is None
        await build.put(writer, "a", b"evil")
        await build.get(writer, "a")
        found = build.cache.peek(writer, "a")
        assert found is not None
        assert found.body == b"evil"


# ------------------------------------------------------------------ quarantine


async def test_a_writer_in_quarantine_sees_its_own_and_what_everybody_sees():
    writer, other = Place("ccache", "main", "pr-7"), Place("ccache", "main", "pr-8")
    async with build_rig() as build:
        await build.put(CCACHE, "a", b"good")
        await build.put(writer, "b", b"new")
        assert await build.get(writer, "a") == b"good"
        await build.put(writer, "a", b"evil")
        assert await build.get(writer, "a") == b"evil"
        assert await build.get(writer, "b") == b"new"
        for reader in (CCACHE, other):
            assert await build.get(reader, "a") == b"good"
            assert await build.get(reader, "b") is None
            assert await build.cache.head(reader, "b") is None


# ---------------------------------------------------------------------- damage


def damage_in_memory(build, data, *, wrong):
    key = parse_key(artifact_of(data))
    entry = build.rig.memory.peek(key)
    assert entry is not None
    entry.body, entry.is_verified = wrong, False


async def test_damage_in_a_tier_is_dropped_and_the_origin_asked_within_the_same_read():
    async with build_rig() as build:
        await build.put(CCACHE, "a", b"content")
        damage_in_memory(build, b"content", wrong=b"cOntent")
        assert await build.get(CCACHE, "a") == b"content"
        stats = build.stats(CCACHE)
        assert (stats.hits, stats.damaged, build.rig.counter("corrupt")) == (1, 1, 1)


async def test_damage_of_a_large_file_is_found(tmp_path):
    async with build_rig() as build:
        await build.put(CCACHE, "a", LARGE)
        damage_in_memory(build, LARGE, wrong=file_body(tmp_path / "f", LARGE[:-1] + b"\0"))
        assert await build.get(CCACHE, "a") == LARGE
        assert build.stats(CCACHE).damaged == 1


async def test_damage_at_the_origin_is_a_miss_and_a_put_repairs_it():
    async with build_rig(memory_bytes=0) as build:
        await build.put(CCACHE, "a", b"content")
        await build.rig.origin.inner.put(name_of_key(parse_key(artifact_of(b"content"))), b"cOntent", NOTHING_SAID)
        assert await build.get(CCACHE, "a") is None
        assert (build.stats(CCACHE).failed, build.stats(CCACHE).damaged) == (0, 1)
        assert await build.cache.head(CCACHE, "a") is None
        await build.put(CCACHE, "a", b"content")
        assert await build.get(CCACHE, "a") == b"content"


@pytest.mark.parametrize("content", [b"content", None], ids=["its content is there", "its content is gone"])
@pytest.mark.parametrize("change", [{"size": 8}, {"digest": "0" * 64}, {"v": 9}])
async def test_an_entry_that_is_wrong_is_a_miss(change, content):
    async with build_rig(memory_bytes=0) as build:
        await build.put(CCACHE, "a", b"content")
        key = "build/ccache/main/a"
        said = json.loads(await build.rig.get(key))
        if content is None:
            await build.rig.store.delete(parse_key(artifact_of(b"content")))
        await build.rig.there(key, json.dumps(said | change).encode())
        build.rig.advance(100)
        assert await build.cache.head(CCACHE, "a") is None
        assert await build.get(CCACHE, "a") is None


async def test_an_object_that_is_far_too_large_is_no_entry():
    async with build_rig() as build:
        await build.rig.there("build/ccache/main/a", LARGE)
        assert await build.get(CCACHE, "a") is None


async def test_an_entry_without_its_content_is_a_miss():
    async with build_rig() as build:
        await build.put(CCACHE, "a", LARGE)
        await build.rig.store.delete(parse_key(artifact_of(LARGE)))
        assert await build.get(CCACHE, "a") is None
        assert await build.cache.head(CCACHE, "a") is None
        assert build.stats(CCACHE).failed == 0


# ------------------------------------------------------------------ the origin


async def test_an_origin_that_is_down_is_a_miss():
    async with build_rig(memory_bytes=0) as build:
        await build.put(CCACHE, "a", LARGE)
        build.rig.origin.fail("open", lambda: OriginUnavailable("down"))
        assert await build.get(CCACHE, "a") is None
        build.rig.origin.fail("open", lambda: ZeroDivisionError("a bug"))
        assert await build.get(CCACHE, "a") is None
        assert build.stats(CCACHE).failed == 2
        build.rig.origin.heal()
        assert await build.get(CCACHE, "a") == LARGE


async def test_a_slow_origin_is_a_miss_and_what_it_brings_is_there_for_the_next():
    limits = BuildLimits(read_timeout_s=0.01)
    async with build_rig(limits) as build:
        await build.put(CCACHE, "a", b"content")
        build.rig.store.condemn(parse_key(artifact_of(b"content")))
        gate = build.rig.origin.hold("open")
        assert await build.get(CCACHE, "a") is None
        assert build.stats(CCACHE).failed == 1
        gate.open()
        await settle(50)
        assert build.rig.store.peek(artifact_of(b"content")) is not None
        assert await build.get(CCACHE, "a") == b"content"


async def test_reads_that_are_late_are_few(monkeypatch):
    monkeypatch.setattr("tiered_store.build.deadlines._LATE_AT_ONCE", 1)
    async with build_rig(BuildLimits(read_timeout_s=0.01)) as build:
        gate = build.rig.origin.hold("open")
        assert await build.get(CCACHE, "a") is None
        assert await build.get(CCACHE, "b") is None
        await settle()
        assert len(build.cache._deadlines._reads) == 1
        gate.open()
        await settle()
        assert len(build.cache._deadlines._reads) == 0


async def test_a_judgement_made_of_many_reads_has_the_time_of_one_and_ends_with_it():
    async with build_rig(BuildLimits(read_timeout_s=0.01)) as build:
        ended = asyncio.Event()

        async def read_after_read() -> bool:
            try:
                while True:
                    await build.get(CCACHE, "a")
                    await asyncio.sleep(0)
            finally:
                ended.set()

        assert await build.cache.judge(CCACHE, read_after_read()) is False
        await ended.wait()
        await settle()
        assert build.stats(CCACHE).failed == 1
        assert len(build.cache._deadlines._reads) == 0


@pytest.mark.parametrize("says", [True, False])
async def test_a_judgement_in_time_is_what_it_says(says):
    async def work() -> bool:
        await asyncio.sleep(0)
        return says

    async with build_rig() as build:
        assert await build.cache.judge(CCACHE, work()) is says


async def test_a_reader_that_goes_takes_its_read_along():
    async with build_rig() as build:
        gate = build.rig.origin.hold("open")
        reading = asyncio.ensure_future(build.get(CCACHE, "a"))
        await gate.reached.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await settle()
        assert len(build.cache._deadlines._reads) == 0


async def test_closing_is_a_miss_for_those_who_wait():
    async with build_rig() as build:
        gate = build.rig.origin.hold("open")
        reading = asyncio.ensure_future(build.get(CCACHE, "a"))
        await gate.reached.wait()
        await build.cache.close()
        assert await reading is None


# ---------------------------------------------------------------------- writes


async def test_a_write_may_use_the_journal_where_no_policy_says_so(tmp_path):
    async with build_rig(journal=tmp_path / "journal") as build:
        gate = build.rig.origin.hold("put")
        await build.put(CCACHE, "a", LARGE)
        assert await build.get(CCACHE, "a") == LARGE
        gate.open()
        assert await build.rig.store.flush(60) <= 2
        assert len(await list_all(build.rig.origin.inner)) == 2


async def test_a_write_goes_to_the_origin_where_it_shall(tmp_path):
    async with build_rig(BuildLimits(write_back=False), journal=tmp_path / "journal") as build:
        await build.put(CCACHE, "a", LARGE)
        assert len(await list_all(build.rig.origin.inner)) == 2


async def test_a_slow_origin_is_not_waited_for():
    async with build_rig(BuildLimits(write_timeout_s=0.01)) as build:
        gate = build.rig.origin.hold("put")
        with pytest.raises(DeadlineExceeded, match=r"build\.write_timeout_s"):
            await build.put(CCACHE, "a", LARGE)
        assert build.stats(CCACHE).refused == 1
        gate.open()
        await settle(50)
        assert await build.get(CCACHE, "a") is None  # its content is there, and nothing names it
        build.rig.origin.heal()
        await build.put(CCACHE, "a", LARGE)
        assert await build.get(CCACHE, "a") == LARGE


async def test_a_writer_that_goes_takes_its_write_along():
    async with build_rig() as build:
        gate = build.rig.origin.hold("put")
        writing = asyncio.ensure_future(build.put(CCACHE, "a", b"x"))
        await gate.reached.wait()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await settle()
        assert len(build.cache._deadlines._writes) == 0
        gate.open()


async def test_closing_refuses_those_who_write():
    async with build_rig() as build:
        gate = build.rig.origin.hold("put")
        writing = asyncio.ensure_future(build.put(CCACHE, "a", b"x"))
        await gate.reached.wait()
        await build.cache.close()
        with pytest.raises(DaemonUnavailable):
            await writing
        gate.open()


async def test_what_cannot_be_stored_is_refused_and_counted():
    limits = BuildLimits(max_entry_bytes=10)
    async with build_rig(limits) as build:
        with pytest.raises(TooLarge, match=r"build\.max_entry_bytes"):
            build.cache.spool(11)
        with pytest.raises(TooLarge):
            await build.cache.put(CCACHE, "a", Staged.of_bytes(b"x" * 11, hashed=True))
        with pytest.raises(TooLarge, match="headers"):
            await build.put(CCACHE, "a", b"x", {"x-long": "x" * 20_000})
        with pytest.raises(InvalidKey):
            await build.put(CCACHE, "../a", b"x")
        build.rig.origin.fail("put", lambda: OriginUnavailable("down"))
        with pytest.raises(OriginUnavailable):
            await build.put(CCACHE, "a", b"y")
        assert (build.stats(CCACHE).puts, build.stats(CCACHE).refused) == (0, 4)


# ------------------------------------------------------------------ many keys


async def test_all_of_many_keys_are_there_or_not():
    async with build_rig() as build:
        for number in range(100):
            await build.put(CCACHE, f"{number}", b"x")
        names = [f"{number}" for number in range(100)]
        assert await build.cache.has_all(CCACHE, names)
        assert await build.cache.has_all(CCACHE, [])
        assert not await build.cache.has_all(CCACHE, [*names, "100"])
        build.rig.store.condemn(parse_key("build/ccache/main/7"))
        build.rig.origin.fail("open", lambda: OriginUnavailable("down"))
        assert not await build.cache.has_all(CCACHE, names)


async def test_counters_are_bounded():
    async with build_rig() as build:
        for number in range(40):
            await build.get(Place(f"d{number}", "main"), "a")
        counters = build.cache.counters()
        assert len(counters) == 33
        assert counters["others"]["misses"] == 8
