"""Writes: ordered per key, run to their end, and followed by the tiers."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from tests.support.faults import FakeDisk
from tests.support.origins import memfd_body, pattern
from tests.support.store import MIB, NOTHING_SAID, artifact_of, settle, store_rig
from tiered_store.errors import (
    DaemonUnavailable,
    IntegrityError,
    InvalidKey,
    KeyConflict,
    NotFound,
    OriginUnavailable,
    PermissionDenied,
    QuotaExceeded,
    StoreError,
    TooLarge,
)
from tiered_store.key import name_of_key, parse_key
from tiered_store.objects import FileBody
from tiered_store.origins.base import PutHeaders
from tiered_store.store.limits import StoreLimits
from tiered_store.store.spool import Staged

K = parse_key("sessions/a")


async def test_after_a_put_the_tiers_hold_what_the_origin_holds(tmp_path: Path) -> None:
    headers = PutHeaders("text/plain", {"user": "7"})
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        info = await rig.put("sessions/a", b"hello", headers)
        assert (info.key, info.size, info.content_type, info.metadata) == ("sessions/a", 5, "text/plain", {"user": "7"})
        held = await rig.origin.inner.stat("sessions/a")
        peeked = rig.store.peek(K)
        assert peeked is not None
        assert peeked.info == info == held
        assert peeked.validated_at == rig.wall.now
        assert peeked.fresh_until == rig.clock.now + 60
        assert rig.disk.entries[K].info == info
        assert rig.counter("uploads") == 1
        assert rig.counter("origin")["bytes_written"] == 5


async def test_an_artifact_is_named_by_its_bytes() -> None:
    for data in (b"", b"small", pattern(2 * MIB)):
        async with store_rig() as rig:
            info = await rig.put(None, data)
            assert info.key == artifact_of(data)
            assert await rig.get(info.key) == data


async def test_an_artifact_that_exists_is_not_uploaded_again(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        first = await rig.put(None, b"tool")
        again = await rig.put(first.key, b"tool")
        assert again == first
        held = rig.disk.entries[parse_key(first.key)]
        assert await rig.put(None, b"tool") == first
        assert rig.disk.entries[parse_key(first.key)] is held  # not written a second time
        rig.store._cache.forget(parse_key(first.key))
        assert await rig.put(None, b"tool") == first
        assert rig.origin.calls["put"] == 1
        assert (rig.counter("uploads"), rig.counter("uploads_skipped")) == (1, 3)
        assert rig.store.peek(first.key) is not None


async def test_an_artifact_that_only_the_tiers_still_have_is_uploaded_again() -> None:
    async with store_rig() as rig:
        key = parse_key((await rig.put(None, b"tool")).key)
        await rig.origin.inner.delete([name_of_key(key)])
        assert rig.store.peek(key) is not None
        await rig.put(None, b"tool")
        assert rig.counter("uploads") == 2
        await rig.there(name_of_key(key), b"too")  # cut off by somebody
        await rig.put(None, b"tool")
        rig.store._cache.forget(key)
        assert await rig.get(key) == b"tool"


async def test_an_artifact_found_damaged_at_the_origin_is_repaired_by_putting_it() -> None:
    for data in (b"tool", pattern(MIB)):
        key = parse_key(artifact_of(data))
        async with store_rig() as rig:
            await rig.there(name_of_key(key), b"\0" * len(data))
            with pytest.raises(IntegrityError):
                await rig.get(key)
            rig.origin.fail("put", lambda: OriginUnavailable("down"))
            with pytest.raises(OriginUnavailable):
                await rig.put(None, data)
            rig.origin.heal()
            await rig.put(None, data)
            rig.store._cache.forget(key)
            assert await rig.get(key) == data
            await rig.put(None, data)
            assert (rig.counter("uploads"), rig.counter("uploads_skipped")) == (1, 1)


async def test_damage_that_no_fill_had_room_to_collect_is_repaired_as_well() -> None:
    data = pattern(2 * MIB)
    key = parse_key(artifact_of(data))
    async with store_rig(limits=StoreLimits(spool_memory_bytes=MIB)) as rig:
        await rig.there(name_of_key(key), b"\0" * len(data))
        with pytest.raises(IntegrityError):
            await rig.stream(key)
        staged = await rig.store.adopt(memfd_body(data).descriptor, len(data), hashed=True)
        await rig.store.put(key, staged, NOTHING_SAID)
        assert await rig.stream(key) == data
        del staged


@pytest.mark.parametrize("source", ["sha256", "path"])
async def test_an_artifact_known_to_be_damaged_is_not_copied(source: str) -> None:
    async with store_rig() as rig:
        key = parse_key(artifact_of(b"tool"))
        asked = key if source == "sha256" else parse_key(name_of_key(key))
        await rig.there(name_of_key(key), b"lo0t")
        with pytest.raises(IntegrityError):
            await rig.get(key)
        with pytest.raises(IntegrityError, match="putting the artifact again") as caught:
            await rig.store.copy(asked, K)
        assert (caught.value.source, caught.value.key) == ("origin", key)
        assert rig.origin.calls["copy"] == 0
        await rig.there(name_of_key(key), b"tool")  # repaired by somebody else
        assert await rig.get(key) == b"tool"
        await rig.store.copy(asked, K)
        assert await rig.get(K) == b"tool"


async def test_what_is_deleted_is_not_damaged_any_more() -> None:
    async with store_rig() as rig:
        key = parse_key(artifact_of(b"tool"))
        await rig.there(name_of_key(key), b"lo0t")
        with pytest.raises(IntegrityError):
            await rig.get(key)
        assert await rig.store.delete(key)
        with pytest.raises(NotFound):
            await rig.store.copy(key, K)


async def test_a_fill_that_a_put_has_overtaken_says_nothing_of_what_is_there_now() -> None:
    data = pattern(MIB)
    async with store_rig() as rig:
        key = parse_key(artifact_of(data))
        await rig.there(name_of_key(key), b"\0" * (len(data) - 1))
        gate = rig.origin.hold("chunk:end")
        reader = asyncio.create_task(rig.get(key))
        await gate.reached.wait()
        await rig.put(None, data)
        gate.open()
        with pytest.raises(IntegrityError):
            await reader
        assert (await rig.store.copy(key, K)).size == len(data)


async def test_an_artifact_with_other_bytes_than_its_key_says_changes_nothing() -> None:
    key = artifact_of(b"promised")
    async with store_rig() as rig:
        with pytest.raises(IntegrityError) as caught:
            await rig.put(key, b"delivered")
        error = caught.value
        assert (error.source, error.key, error.expected) == ("client", key, key.removeprefix("sha256:"))
        assert error.actual == hashlib.sha256(b"delivered").hexdigest()
        assert sum(rig.origin.calls.values()) == 0


async def test_a_digest_that_nobody_computed_is_computed() -> None:
    data = pattern(MIB)
    async with store_rig() as rig:
        spool = rig.store.spool(MIB, hashed=False)
        await spool.write(data)
        staged = await spool.finish()
        assert staged.digest is None
        info = await rig.store.put(None, staged, NOTHING_SAID)
        assert info.key == artifact_of(data)
        del spool, staged


async def test_the_origin_that_cannot_say_whether_an_artifact_exists() -> None:
    async with store_rig() as rig:
        rig.origin.fail("stat", lambda: OriginUnavailable("down"))
        with pytest.raises(OriginUnavailable):
            await rig.put(None, b"tool")
        assert rig.origin.calls["put"] == 0


@pytest.mark.parametrize("path", ["artifacts/sha256/ab/" + "ab" * 32, "artifacts/sha256/x"])
async def test_the_artifacts_directory_is_not_written_by_path(path: str) -> None:
    key = parse_key(path)
    async with store_rig() as rig:
        await rig.put("sessions/a", b"x")
        for refused in (
            rig.put(path, b"x"),
            rig.store.delete(key),
            rig.store.copy(K, key),
            rig.store.delete_prefix("artifacts/sha256/"),
            rig.store.copy(K, parse_key(artifact_of(b"x"))),
        ):
            with pytest.raises(InvalidKey):
                await refused
        assert rig.origin.calls["put"] == 1


async def test_an_artifact_can_be_deleted_and_copied_from() -> None:
    async with store_rig() as rig:
        key = parse_key((await rig.put(None, b"tool")).key)
        assert (await rig.store.copy(key, K)).key == "sessions/a"
        assert await rig.get("sessions/a") == b"tool"
        assert await rig.store.delete(key)
        assert not await rig.store.delete(key)
        with pytest.raises(NotFound):
            await rig.get(key)


async def test_too_much_metadata_is_refused() -> None:
    async with store_rig(limits=StoreLimits(max_metadata_bytes=10)) as rig:
        await rig.put("sessions/a", b"", PutHeaders("text", {"ab": "1234"}))
        with pytest.raises(TooLarge, match="at most 10 bytes, these have 12"):
            await rig.put("sessions/a", b"", PutHeaders("text", {"ab": "1234é"}))
        with pytest.raises(TooLarge):
            await rig.put("sessions/a", b"", PutHeaders("x" * 11))


async def test_objects_over_the_bound_are_refused_before_their_bytes() -> None:
    async with store_rig(limits=StoreLimits(max_object_bytes=10)) as rig:
        rig.store.check_size(10)
        with pytest.raises(TooLarge):
            rig.store.check_size(11)
        with pytest.raises(TooLarge):
            rig.store.spool(11, hashed=False)
        with pytest.raises(TooLarge):
            await rig.store.adopt(memfd_body(b"x" * 11).descriptor, 11, hashed=False)
        with pytest.raises(TooLarge):
            await rig.store.stage_file(memfd_body(b"x" * 11).descriptor, 11, hashed=False)
        await rig.there("sessions/a", pattern(MIB))  # what the origin has can be read all the same
        assert await rig.get("sessions/a") == pattern(MIB)


async def test_two_puts_of_one_key_are_ordered() -> None:
    async with store_rig() as rig:
        gate = rig.origin.hold("put")
        first = asyncio.create_task(rig.put("sessions/a", b"first"))
        await gate.reached.wait()
        second = asyncio.create_task(rig.put("sessions/a", b"second"))
        other = asyncio.create_task(rig.put("sessions/b", b"other"))
        await settle()
        assert rig.origin.calls["put"] == 2  # the other key's, but not the second of this one
        gate.open()
        await asyncio.gather(first, second, other)
        assert (await rig.origin.inner.stat("sessions/a")).size == 6
        assert rig.store.peek(K).body == b"second"  # type: ignore[union-attr]
        assert len(rig.store._writes._locks._queues) == 0


async def test_a_put_whose_client_has_gone_runs_to_its_end() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", b"old")
        gate = rig.origin.hold("put_done")
        writer = asyncio.create_task(rig.put("sessions/a", b"new"))
        await gate.reached.wait()
        writer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writer
        following = asyncio.create_task(rig.store.delete(parse_key("sessions/a")))
        await settle()
        assert not following.done()  # still in order
        gate.open()
        assert await following
        with pytest.raises(NotFound):
            await rig.get("sessions/a")


async def test_a_put_cancelled_while_it_waits_for_its_turn_does_nothing() -> None:
    async with store_rig() as rig:
        gate = rig.origin.hold("put")
        first = asyncio.create_task(rig.put("sessions/a", b"first"))
        await gate.reached.wait()
        second = asyncio.create_task(rig.put("sessions/a", b"second"))
        await settle()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.open()
        await first
        assert rig.origin.calls["put"] == 1
        assert await rig.get("sessions/a") == b"first"


@pytest.mark.parametrize("operation", ["put", "put_done"])
@pytest.mark.parametrize("fault", [OriginUnavailable, QuotaExceeded, PermissionDenied])
async def test_after_a_put_of_unknown_outcome_the_tiers_know_nothing(
    tmp_path: Path, operation: str, fault: type[StoreError]
) -> None:
    """A full disk, too, may say so when the new object is in its place already."""
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.put("sessions/a", b"old")
        rig.origin.fail(operation, lambda: fault("it went wrong"))
        with pytest.raises(fault) as caught:
            await rig.put("sessions/a", b"new")
        assert caught.value.key == "sessions/a"
        assert rig.memory.peek(K) is None
        assert rig.disk.entries == {}
        expected = b"new" if operation == "put_done" else b"old"
        assert await rig.get("sessions/a") == expected


async def test_a_refused_put_leaves_the_tiers_alone() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", b"old")
        rig.origin.fail("put", lambda: KeyConflict("a/b is in the way"))
        with pytest.raises(KeyConflict):
            await rig.put("sessions/a", b"new")
        assert rig.store.peek(K) is not None


@pytest.mark.parametrize("operation", ["delete", "delete_done"])
async def test_after_a_delete_of_unknown_outcome_the_tiers_know_nothing(operation: str) -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", b"old")
        rig.origin.fail(operation, lambda: OriginUnavailable("timed out"))
        with pytest.raises(OriginUnavailable):
            await rig.store.delete(K)
        assert rig.memory.peek(K) is None


async def test_a_delete_that_reaches_the_origin_empties_the_tiers(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.put("sessions/a", b"old")
        assert await rig.store.delete(K)
        assert rig.memory.peek(K) is None
        assert rig.disk.entries == {}
        assert not await rig.store.delete(K)


async def test_delete_prefix_removes_pages_of_objects_and_nothing_else() -> None:
    async with store_rig() as rig:
        for number in range(2500):
            await rig.there(f"sessions/a/{number:04}", b"x")
        await rig.put("sessions/a/0007", b"cached")
        await rig.put("sessions/ab", b"other")
        artifact = await rig.put(None, b"tool")
        assert await rig.store.delete_prefix("sessions/a/") == 2500
        assert rig.origin.calls["delete"] == 3
        assert rig.store.peek("sessions/a/0007") is None
        assert await rig.get("sessions/ab") == b"other"
        assert await rig.store.delete_prefix("sessions/a/") == 0
        assert await rig.store.delete_prefix("sha256:") == 1
        with pytest.raises(NotFound):
            await rig.get(artifact.key)
        assert len(rig.store._writes._locks._queues) == 0


async def test_delete_prefix_waits_for_a_put_of_one_of_its_keys() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", b"old")
        gate = rig.origin.hold("put_done")
        writer = asyncio.create_task(rig.put("sessions/a", b"new"))
        await gate.reached.wait()
        deleting = asyncio.create_task(rig.store.delete_prefix("sessions/"))
        await settle()
        assert rig.origin.calls["delete"] == 0
        gate.open()
        await writer
        assert await deleting == 1
        with pytest.raises(NotFound):
            await rig.get("sessions/a")


async def test_a_delete_of_many_that_is_refused_may_have_deleted_some() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", b"1")
        await rig.put("sessions/b", b"2")
        rig.origin.fail("delete_done", lambda: PermissionDenied("half of it"))
        with pytest.raises(PermissionDenied):
            await rig.store.delete_prefix("sessions/")
        assert rig.store.peek("sessions/a") is None
        assert rig.store.peek("sessions/b") is None


async def test_a_copy_makes_the_tiers_forget_the_target_only() -> None:
    async with store_rig() as rig:
        await rig.put("sessions/a", b"old")
        await rig.put("source", b"copied", PutHeaders("text/plain"))
        info = await rig.store.copy(parse_key("source"), K)
        assert (info.key, info.content_type) == ("sessions/a", "text/plain")
        assert rig.store.peek("source") is not None
        assert await rig.get("sessions/a") == b"copied"
        with pytest.raises(NotFound) as caught:
            await rig.store.copy(parse_key("nobody"), K)
        assert caught.value.key == "nobody"
        assert rig.store.peek(K) is not None
        rig.origin.fail("copy_done", lambda: OriginUnavailable("timed out"))
        with pytest.raises(OriginUnavailable):
            await rig.store.copy(parse_key("source"), K)
        assert rig.store.peek(K) is None


async def test_closing_waits_for_running_writes() -> None:
    async with store_rig() as rig:
        gate = rig.origin.hold("put")
        writer = asyncio.create_task(rig.put("sessions/a", b"new"))
        await gate.reached.wait()
        closing = asyncio.create_task(rig.store.close())
        await settle()
        assert not closing.done()
        gate.open()
        assert (await writer).size == 3
        await closing


async def test_a_write_that_outlasts_the_limit_is_given_up() -> None:
    async with store_rig(limits=StoreLimits(drain_s=0.01)) as rig:
        gate = rig.origin.hold("put")
        writer = asyncio.create_task(rig.put("sessions/a", b"new"))
        await gate.reached.wait()
        await rig.store.close()
        with pytest.raises(DaemonUnavailable):
            await writer


async def test_an_upload_by_descriptor_is_kept_as_it_came(tmp_path: Path) -> None:
    data = pattern(MIB - 5000)
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        body = memfd_body(data)
        staged = await rig.store.adopt(body.descriptor, len(data), hashed=True)
        info = await rig.store.put(None, staged, NOTHING_SAID)
        peeked = rig.store.peek(info.key)
        assert peeked is not None
        assert isinstance(peeked.body, FileBody)
        assert peeked.body.descriptor is body.descriptor
        copied = await rig.store.stage_file(body.descriptor, len(data), hashed=True)
        assert (await rig.store.put(None, copied, NOTHING_SAID)) == info
        del body, staged, peeked, copied


async def test_an_object_that_is_too_large_for_memory_replaces_the_old_one_there(tmp_path: Path) -> None:
    async with store_rig(disk=FakeDisk(tmp_path)) as rig:
        await rig.put("sessions/a", b"small and old")
        data = pattern(3 * MIB)
        await rig.put("sessions/a", data)
        assert rig.memory.peek(K) is None
        assert await rig.get("sessions/a") == data
        await rig.store.put(K, Staged.of_bytes(b"small again", hashed=False), NOTHING_SAID)
        assert await rig.get("sessions/a") == b"small again"


async def test_writes_whose_callers_have_gone_are_bounded() -> None:
    """They go on, so they keep their places: a peer that puts and cancels must not fill the memory with them."""
    async with store_rig(limits=StoreLimits(max_writes=2)) as rig:
        gate = rig.origin.hold("put")
        puts = [asyncio.create_task(rig.put(f"sessions/{number}", b"x")) for number in range(6)]
        await settle()
        for put in puts:
            put.cancel()
        await asyncio.gather(*puts, return_exceptions=True)
        late = asyncio.create_task(rig.put("sessions/5", b"late"))
        await settle()
        assert rig.origin.calls["put"] == 2
        gate.open()
        await late
        assert rig.origin.calls["put"] == 3
        assert [info.key for info in (await rig.store.list("sessions/")).items] == [f"sessions/{n}" for n in (0, 1, 5)]
        assert await rig.get("sessions/5") == b"late"
