"""Write-back through the whole store: acknowledged early, read at once, in order at the origin, never undone."""

from __future__ import annotations

import asyncio
import gc
import shutil
from pathlib import Path

import pytest

from tests.support.faults import FakeDisk, Gate
from tests.support.origins import pattern
from tests.support.store import Rig, artifact_of, settle, store_rig, until
from tests.unit.store.test_sources import both
from tiered_store.errors import DeadlineExceeded, InvalidKey, KeyConflict, NotFound, OriginUnavailable
from tiered_store.key import Key, name_of_key, parse_key
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.origins.base import PutHeaders
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.store.backlog import BacklogLimits
from tiered_store.store.journal import Journal
from tiered_store.store.limits import StoreLimits
from tiered_store.store.policy import Policy

K = parse_key("back/a")
LARGE = INLINE_MAX_BYTES + 1000
SIZES = pytest.mark.parametrize("size", [0, 100, LARGE])


class Kept(MemoryOrigin):
    """An origin that one store after the other uses."""

    async def close(self) -> None:
        pass


def down(rig: Rig, *operations: str) -> None:
    for operation in operations or ("put", "open", "stat", "delete", "copy", "list"):
        rig.origin.fail(operation, lambda: OriginUnavailable("down"))


async def at_origin(rig: Rig, key: str) -> bytes | None:
    try:
        read = await rig.origin.inner.open(name_of_key(parse_key(key)))
    except NotFound:
        return None
    return b"".join([chunk async for chunk in read.chunks()])


def evict(rig: Rig, *keys: str) -> None:
    """The tiers forget everything that anybody could have kept."""
    for key in keys:
        rig.store._cache.forget(Key(key))


def waiting(rig: Rig) -> int:
    return rig.counter("write_back")["entries"]


def damage(journal: Path) -> None:
    """Flip a bit in the body of the one put that waits."""
    (file,) = journal.glob("*.put")
    with file.open("r+b") as opened:
        first = opened.read(1)
        opened.seek(0)
        opened.write(bytes([first[0] ^ 1]))


# ----------------------------------------------------------------------------------------- puts


@SIZES
async def test_a_put_is_acknowledged_while_the_origin_is_busy_and_gets_there(tmp_path: Path, size: int) -> None:
    headers = PutHeaders("text/plain", {"user": "7"})
    async with store_rig(journal=tmp_path / "j", disk=FakeDisk(tmp_path)) as rig:
        gate = rig.origin.hold("put")
        info = await rig.put("back/a", pattern(size), headers)
        assert (info.key, info.size, info.content_type, info.metadata) == ("back/a", size, "text/plain", {"user": "7"})
        assert await at_origin(rig, "back/a") is None
        assert await rig.get("back/a") == pattern(size)
        assert await rig.store.stat(K) == info
        assert waiting(rig) == 1
        gate.open()
        assert await rig.store.flush() == 1
        assert await at_origin(rig, "back/a") == pattern(size)
        held = await rig.origin.inner.stat("back/a")
        assert (held.content_type, held.metadata) == ("text/plain", {"user": "7"})
        assert waiting(rig) == 0
        assert await rig.store.flush() == 0


async def test_only_keys_whose_policy_says_so_are_written_back(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        down(rig, "put")
        with pytest.raises(OriginUnavailable):
            await rig.put("other/a", b"x")
        await rig.put("back/a", b"x")


async def test_without_a_journal_the_policy_alone_does_nothing() -> None:
    async with store_rig(policies=[Policy("back/", write_back=True)]) as rig:
        await rig.put("back/a", b"x")
        assert await at_origin(rig, "back/a") == b"x"
        assert await rig.store.flush() == 0
        assert rig.counter("write_back")["max_bytes"] == 0


async def test_a_put_does_not_wait_for_an_upload_of_its_key(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        gate = rig.origin.hold("put")
        await rig.put("back/a", b"1")
        await gate.reached.wait()
        await rig.put("back/a", b"2")
        await rig.put("back/a", b"3")
        assert await rig.get("back/a") == b"3"
        gate.open()
        await rig.store.flush()
        assert await at_origin(rig, "back/a") == b"3"
        assert rig.origin.calls["put_done"] == 2
        assert (await rig.store.stat(K)) == await rig.origin.inner.stat("back/a")


async def test_a_put_does_not_wait_for_writes_that_all_wait_for_the_origin(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j", limits=StoreLimits(max_writes=2)) as rig:
        gate = rig.origin.hold("put")
        stuck = [asyncio.create_task(rig.put(f"other/{number}", b"x")) for number in range(4)]
        await gate.reached.wait()
        await rig.put("back/a", b"1")
        gate.open()
        await asyncio.gather(*stuck)


async def test_a_full_journal_lets_puts_through_in_order(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j", backlog=BacklogLimits(max_bytes=2000)) as rig:
        gate = rig.origin.hold("put")
        await rig.put("back/a", b"1")
        await gate.reached.wait()
        through = asyncio.create_task(rig.put("back/a", pattern(3000)))
        await settle()
        assert not through.done()  # behind the upload of the key
        gate.open()
        await through
        assert await at_origin(rig, "back/a") == pattern(3000)
        assert await rig.get("back/a") == pattern(3000)
        assert waiting(rig) == 0
        assert rig.counter("write_back")["bypassed"] == 1


async def test_a_put_that_goes_through_replaces_what_is_pending_for_good(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j", backlog=BacklogLimits(max_bytes=2000)) as rig:
        rig.origin.fail("put", lambda: OriginUnavailable("down"))
        await rig.put("back/a", b"old")
        await until(lambda: rig.counter("write_back")["failing"] == 1)
        rig.origin.heal()
        await rig.put("back/a", pattern(3000))
        assert list((tmp_path / "j").glob("*.put")) == []  # before it was acknowledged
        assert rig.counter("write_back")["superseded"] == 1
        await rig.store.flush()
        assert await at_origin(rig, "back/a") == pattern(3000)


async def test_a_put_that_fails_at_the_origin_leaves_what_is_pending(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j", backlog=BacklogLimits(max_bytes=2000)) as rig:
        down(rig)
        await rig.put("back/a", b"old")
        with pytest.raises(OriginUnavailable):
            await rig.put("back/a", pattern(3000))
        assert await rig.get("back/a") == b"old"
        rig.origin.heal()
        await rig.store.flush()
        assert await at_origin(rig, "back/a") == b"old"


async def test_a_put_is_no_success_while_an_older_one_could_come_back(tmp_path: Path, monkeypatch) -> None:
    async with store_rig(journal=tmp_path / "j", backlog=BacklogLimits(max_bytes=2000)) as rig:
        down(rig)
        await rig.put("back/a", b"old")
        rig.origin.heal()

        def fails(*_: object) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "remove", fails)
            with pytest.raises(OriginUnavailable, match="older put cannot be removed"):
                await rig.put("back/a", pattern(3000))
            with pytest.raises(OriginUnavailable, match="older put cannot be removed"):
                await rig.store.delete(K)
            await rig.put("back/a", b"newer")  # a newer entry of the journal is safe beside the old one
        await rig.store.flush()
        assert await at_origin(rig, "back/a") == b"newer"


async def test_a_refused_put_waits_and_is_shown(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        rig.origin.fail("put", lambda: KeyConflict("a file is in the way"))
        await rig.put("back/a", b"1")
        await until(lambda: rig.counter("write_back")["failing"] == 1)
        assert rig.counter("write_back")["last_error"].startswith("a file is in the way")
        with pytest.raises(DeadlineExceeded, match="a file is in the way"):
            await rig.store.flush(0.05)
        assert await rig.store.delete(K)
        assert await rig.store.flush() == 0


# ------------------------------------------------------------------------------------- artifacts


ARTIFACTS = Policy("sha256:", immutable=True, write_back=True)


async def test_artifacts_are_written_back_and_uploaded_once(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j", policies=[ARTIFACTS]) as rig:
        gate = rig.origin.hold("put")
        info = await rig.put(None, b"tool")
        assert info.key == artifact_of(b"tool")
        again = await rig.put(None, b"tool")
        assert again == info
        assert rig.counter("uploads_skipped") == 1
        gate.open()
        await rig.store.flush()
        assert await at_origin(rig, info.key) == b"tool"
        await rig.put(None, b"tool")
        await rig.store.flush()
        assert rig.origin.calls["put"] == 1  # it was asked whether it is there
        assert rig.counter("uploads") == 1


@pytest.mark.parametrize("size", [100, LARGE])
async def test_an_artifact_that_is_put_again_repairs_a_damaged_one_that_waits(tmp_path: Path, size: int) -> None:
    """What an earlier run has left was not read by this one: that it waits does not prove that it is sound."""
    async with store_rig(journal=tmp_path / "j", policies=[ARTIFACTS]) as rig:
        down(rig)
        key = (await rig.put(None, pattern(size))).key
    damage(tmp_path / "j")
    async with store_rig(journal=tmp_path / "j", policies=[ARTIFACTS]) as rig:
        gate = rig.origin.hold("put")
        locked = Key(key)
        await rig.store._writes.origin_locks.acquire(locked)  # the upload, which would notice, has not begun
        await rig.put(None, pattern(size))
        rig.store._writes.origin_locks.release(locked)
        gate.open()
        await rig.store.flush()
        assert await at_origin(rig, key) == pattern(size)


async def test_a_copy_gives_the_origin_no_damaged_bytes(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        down(rig, "put")
        await rig.put("back/a", pattern(LARGE))
        # Else its upload has it open, and verified.
        await until(lambda: rig.counter("write_back")["failing"] == 1 and not rig.store._uploader._under_way)
        gc.collect()
        damage(tmp_path / "j")
        rig.origin.heal()
        await rig.there("back/a", b"older")
        await rig.store.copy(K, parse_key("other/b"))
        assert await at_origin(rig, "other/b") == b"older"  # as every reader sees it from now on


# ----------------------------------------------------------------------------------------- reads


@SIZES
async def test_what_is_pending_is_read_from_the_journal_whatever_was_evicted(tmp_path: Path, size: int) -> None:
    async with store_rig(journal=tmp_path / "j", disk=FakeDisk(tmp_path)) as rig:
        await rig.there("back/a", b"older")
        down(rig)
        info = await rig.put("back/a", pattern(size))
        evict(rig, K)
        assert await rig.store.stat(K) == info
        assert await rig.store.exists([K]) == [True]
        assert await rig.get("back/a", only_if_cached=True, no_promote=True) == pattern(size)
        assert rig.store.peek(K) is None
        assert await rig.stream("back/a", 1, 10) == pattern(size)[1:11]
        assert rig.counter("write_back")["hits"] == 2
        assert (rig.store.peek(K) is None) == (size > INLINE_MAX_BYTES)
        assert rig.origin.calls["open"] == rig.origin.calls["stat"] == 0


async def test_many_readers_of_what_was_evicted_are_one_read_of_the_journal(tmp_path: Path, monkeypatch) -> None:
    reads = []
    real = Journal.read
    monkeypatch.setattr(Journal, "read", lambda *a, **o: reads.append(1) or real(*a, **o))
    async with store_rig(journal=tmp_path / "j") as rig:
        down(rig)
        await rig.put("back/a", b"x")
        await until(lambda: rig.counter("write_back")["failing"] == 1)
        evict(rig, K)
        reads.clear()
        assert await asyncio.gather(*(rig.get("back/a") for _ in range(50))) == [b"x"] * 50
        assert len(reads) == 1


@pytest.mark.parametrize("tier", ["memory", "disk"])
async def test_an_expired_copy_of_what_is_pending_is_right_and_the_origin_is_not_asked(
    tmp_path: Path, tier: str
) -> None:
    async with store_rig(journal=tmp_path / "j", disk=FakeDisk(tmp_path)) as rig:
        await rig.there("back/a", b"older")
        down(rig, "put")
        await rig.put("back/a", b"newer")
        if tier == "disk":
            rig.memory.discard(K)
        rig.advance(100_000)
        assert await rig.get("back/a") == b"newer"
        assert await rig.get("back/a") == b"newer"
        assert rig.origin.calls["open"] == rig.origin.calls["stat"] == 0
        rig.origin.heal()
        await rig.store.flush()
        rig.advance(100_000)
        assert await rig.get("back/a") == b"newer"


async def test_a_miss_that_is_remembered_is_forgotten_by_a_put_and_by_its_arrival(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        with pytest.raises(NotFound):
            await rig.get("back/a")
        gate = rig.origin.hold("put")
        await rig.put("back/a", b"x")
        evict(rig, K)
        assert await rig.get("back/a") == b"x"
        gate.open()
        await rig.store.flush()
        evict(rig, K)
        assert await rig.get("back/a") == b"x"


async def test_a_put_overtakes_a_fill(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        await rig.there("back/a", b"older")
        gate, put_gate = rig.origin.hold("chunk:0"), rig.origin.hold("put")
        reading = asyncio.create_task(rig.get("back/a"))
        await gate.reached.wait()
        await rig.put("back/a", b"newer")
        gate.open()
        assert await reading == b"older"  # it began before
        assert await rig.get("back/a") == b"newer"
        put_gate.open()
        await rig.store.flush()
        assert await rig.get("back/a") == b"newer"


@SIZES
async def test_after_the_upload_the_origins_information_is_told(tmp_path: Path, size: int) -> None:
    async with store_rig(journal=tmp_path / "j", disk=FakeDisk(tmp_path)) as rig:
        first = await rig.put("back/a", pattern(size))
        await rig.store.flush()
        held = await rig.origin.inner.stat("back/a")
        assert held.etag != first.etag
        assert await rig.store.stat(K) == held
        assert (await rig.store.get(K)).info == held
        assert rig.disk.entries[K].info == held
        opened = rig.origin.calls["open"]
        rig.memory.discard(K)
        assert await rig.get("back/a") == pattern(size)
        rig.advance(100)
        assert await rig.get("back/a") == pattern(size)
        assert rig.origin.calls["open"] == opened + 1  # asked whether it has changed, and it has not
        assert rig.counter("origin")["not_modified"] == 1


async def test_the_arrival_of_an_older_put_changes_nothing_for_a_newer_one(tmp_path: Path) -> None:
    disk = FakeDisk(tmp_path)
    async with store_rig(journal=tmp_path / "j", disk=disk) as rig:
        await rig.put("back/a", b"1")
        gate = disk.gate = Gate()  # where the tiers learn of the upload
        await gate.reached.wait()
        held = rig.origin.hold("put")
        newer = await rig.put("back/a", b"2")
        gate.open()
        await held.reached.wait()
        assert await rig.store.stat(K) == newer
        assert rig.disk.entries[K].info == newer
        disk.gate = None
        held.open()
        await rig.store.flush()
        assert await at_origin(rig, "back/a") == b"2"


async def test_the_cdn_is_not_asked_meanwhile_and_is_purged_when_the_origin_has_it(tmp_path: Path) -> None:
    policy = Policy("back/public/", write_back=True, cdn=True)
    async with both(tmp_path, purge=True, journal=tmp_path / "j", policies=[policy]) as at:
        key = Key("back/public/a")
        await at.there(key, b"older")
        gate = at.rig.origin.hold("put")
        await at.rig.put(key, b"newer")
        evict(at.rig, key)
        assert await at.rig.get(key) == b"newer"
        await gate.reached.wait()
        assert at.server.purged == []
        gate.open()
        await at.rig.store.flush()
        assert at.server.purged == [key]
        evict(at.rig, key)
        assert await at.rig.get(key) == b"newer"


# ----------------------------------------------------------------------------- deletes and copies


async def test_a_delete_of_what_is_pending_is_one_at_the_origin_too(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        rig.origin.fail("put", lambda: OriginUnavailable("down"))
        await rig.put("back/a", b"x")
        await rig.there("back/a", b"older")
        assert await rig.store.delete(K) is True
        assert await at_origin(rig, "back/a") is None
        assert list((tmp_path / "j").glob("*.put")) == []
        rig.origin.heal()
        assert await rig.store.flush() == 0
        with pytest.raises(NotFound):
            await rig.get("back/a")
        assert await rig.store.delete(K) is False
        await rig.put("back/a", b"never there")
        assert await rig.store.delete(K) is True


async def test_a_delete_that_fails_changes_nothing(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        down(rig)
        await rig.put("back/a", b"x")
        with pytest.raises(OriginUnavailable):
            await rig.store.delete(K)
        assert await rig.get("back/a") == b"x"
        assert waiting(rig) == 1
        rig.origin.heal()
        await rig.store.flush()
        assert await at_origin(rig, "back/a") == b"x"


async def test_a_delete_waits_for_the_upload_under_way(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        gate = rig.origin.hold("put_done")
        await rig.put("back/a", b"x")
        await gate.reached.wait()
        deleting = asyncio.create_task(rig.store.delete(K))
        await settle()
        assert rig.origin.calls["delete"] == 0
        gate.open()
        assert await deleting is True
        assert await at_origin(rig, "back/a") is None


async def test_delete_prefix_takes_pending_keys_along(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        await rig.there("back/there", b"1")
        await rig.there("back/both", b"1")
        await rig.put("backwards", b"")
        rig.origin.fail("put", lambda: OriginUnavailable("down"))
        await rig.put("back/both", b"2")
        await rig.put("back/pending", b"2")
        assert await rig.store.delete_prefix("back/") == 3
        rig.origin.heal()
        assert await rig.store.flush() == 0
        assert (await rig.store.list("back/")).items == []


@SIZES
async def test_a_copy_of_what_is_pending_is_a_put_of_its_bytes(tmp_path: Path, size: int) -> None:
    headers = PutHeaders("text/plain", {"user": "7"})
    async with store_rig(journal=tmp_path / "j") as rig:
        gate = rig.origin.hold("put", "back/a")
        await rig.put("back/a", pattern(size), headers)
        down(rig, "copy")
        evict(rig, K)
        info = await rig.store.copy(K, parse_key("other/b"))
        assert (info.size, info.content_type, info.metadata) == (size, "text/plain", {"user": "7"})
        assert await at_origin(rig, "other/b") == pattern(size)
        await rig.store.copy(K, parse_key("back/c"))
        await rig.store.copy(K, K)
        gate.open()
        await rig.store.flush()
        assert await at_origin(rig, "back/c") == await at_origin(rig, "back/a") == pattern(size)
        rig.origin.heal()
        await rig.store.copy(K, parse_key("back/c"))
        assert rig.origin.calls["copy"] == 1


async def test_a_copy_onto_what_is_pending_replaces_it_for_good(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        await rig.there("source", b"new")
        rig.origin.fail("put", lambda: OriginUnavailable("down"))
        await rig.put("back/a", b"old")
        await rig.store.copy(parse_key("source"), K)
        assert list((tmp_path / "j").glob("*.put")) == []
        rig.origin.heal()
        await rig.store.flush()
        assert await rig.get("back/a") == b"new"


async def test_keys_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    async with store_rig(
        journal=tmp_path / "j", policies=[Policy("artifacts/", immutable=True, write_back=True)]
    ) as rig:
        with pytest.raises(InvalidKey):
            await rig.put("artifacts/sha256/x", b"x")
        assert waiting(rig) == 0


# --------------------------------------------------------------------------------------- listing


async def test_pending_keys_are_listed_among_the_others(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j", policies=[ARTIFACTS]) as rig:
        for name in ("a", "back/b", "back/d", "z"):
            await rig.there(name, b"old")
        rig.origin.fail("put", lambda: OriginUnavailable("down"))
        for name in ("back/a", "back/b", "back/e"):
            await rig.put(name, b"newer")
        artifact = (await rig.put(None, b"tool")).key
        everything = sorted(["a", "back/a", "back/b", "back/d", "back/e", artifact, "z"])
        for limit in range(1, 9):
            found, after, more = [], "", True
            while more:
                page = await rig.store.list("", after=after, limit=limit)
                found += page.items
                assert len(page.items) <= limit
                after, more = page.items[-1].key, page.more
            assert [info.key for info in found] == everything
            assert {info.key: info.size for info in found}["back/b"] == 5
        assert [info.key for info in (await rig.store.list("sha256:")).items] == [artifact]
        assert [info.key for info in (await rig.store.list("back/", after="back/a", limit=2)).items] == [
            "back/b",
            "back/d",
        ]


async def test_a_key_that_arrives_during_a_listing_is_in_it_once(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        put_gate = rig.origin.hold("put")
        await rig.put("back/a", b"x")
        gate = rig.origin.hold("list")
        listing = asyncio.create_task(rig.store.list("back/"))
        await gate.reached.wait()
        put_gate.open()
        await rig.store.flush()
        gate.open()
        assert [info.key for info in (await listing).items] == ["back/a"]


# --------------------------------------------------------------------------- stopping and starting


async def test_what_is_left_at_a_stop_is_uploaded_by_the_next_run(tmp_path: Path) -> None:
    origin = Kept()
    disk = FakeDisk(tmp_path)
    async with store_rig(journal=tmp_path / "j", origin=origin, disk=disk) as rig:
        await rig.there("back/a", b"older")
        assert await rig.get("back/a") == b"older"
        down(rig)
        kept = dict(disk.entries)
        await rig.put("back/a", b"newer")
        await rig.put("back/b", pattern(INLINE_MAX_BYTES))
        await until(lambda: rig.counter("write_back")["failures"] == 2)
    disk.entries = kept  # as far as a crash may set the disk tier back
    disk.is_closed = False
    async with store_rig(journal=tmp_path / "j", origin=origin, disk=disk) as rig:
        assert await rig.get("back/a") == b"newer"
        assert await rig.get("back/b") == pattern(INLINE_MAX_BYTES)
        await rig.store.flush()
        assert await at_origin(rig, "back/a") == b"newer"
        assert await at_origin(rig, "back/b") == pattern(INLINE_MAX_BYTES)


async def test_a_store_that_starts_while_the_origin_is_down_serves_the_journal(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        down(rig)
        await rig.put("back/a", b"x")
    async with store_rig(journal=tmp_path / "j") as rig:
        down(rig)
        await until(lambda: rig.counter("write_back")["failing"] == 1)
        assert await rig.get("back/a") == b"x"
        assert await rig.store.exists([K]) == [True]
        rig.origin.heal()
        await rig.store.flush()
        assert await at_origin(rig, "back/a") == b"x"


async def test_a_policy_that_says_it_no_more_leaves_nothing_behind(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        down(rig)
        await rig.put("back/a", b"x")
    async with store_rig(journal=tmp_path / "j", policies=[Policy("back/a", write_back=False)]) as rig:
        assert await rig.store.flush() in {0, 1}
        assert await at_origin(rig, "back/a") == b"x"
        await rig.put("back/a", b"y")
        assert await at_origin(rig, "back/a") == b"y"


async def test_a_stop_uploads_within_its_limit(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j") as rig:
        calls = rig.origin.calls
        for number in range(50):
            await rig.put(f"back/{number}", b"x")
    assert calls["put_done"] == 50
    assert list((tmp_path / "j").glob("*.put")) == []


async def test_a_stop_ends_although_an_upload_does_not(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "j", limits=StoreLimits(drain_s=0.05)) as rig:
        gate = rig.origin.hold("put")
        await rig.put("back/a", b"x")
        await gate.reached.wait()
    assert len(list((tmp_path / "j").glob("*.put"))) == 1


async def test_a_crash_at_any_moment_of_an_upload_loses_nothing_and_undoes_nothing(tmp_path: Path) -> None:
    """The journal as it lies on disk before, during and after the upload, each met by a fresh store."""
    for operation in ("put", "put_done"):
        origin = Kept()
        async with store_rig(journal=tmp_path / operation, origin=origin) as rig:
            await rig.put("back/a", b"1")
            await rig.store.flush()
            gate = rig.origin.hold(operation)
            await rig.put("back/a", b"2")
            await gate.reached.wait()
            shutil.copytree(tmp_path / operation, tmp_path / f"{operation}-killed")
            gate.open()
        async with store_rig(journal=tmp_path / f"{operation}-killed", origin=origin) as rig:
            assert await rig.get("back/a") == b"2"
            await rig.store.flush()
            assert await at_origin(rig, "back/a") == b"2"
