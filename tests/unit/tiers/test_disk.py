"""The disk tier on the loop: hot reads, overtaking, suspicion, spools, and what a cancelled caller leaves."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import zlib

import pytest

from tests.support.tiers import (
    ManualClock,
    Rig,
    disk_rig,
    entry_of,
    memfd,
    object_files,
    open_descriptors,
    spooled,
    until,
)
from tiered_store.key import Key
from tiered_store.objects import Entry, FileBody, ObjectInfo, read_body
from tiered_store.tiers import disk, waiting
from tiered_store.tiers.faults import Kind, TierFault

LARGE = 200_000
KEY = Key("k")


@pytest.fixture
async def rig(tmp_path):
    async with disk_rig(tmp_path / "cache", max_open_files=3) as rig:
        yield rig


class Gate:
    """Holds the calls of a blocking method until the test opens it."""

    def __init__(self, monkeypatch, owner, name):
        self.entered, self._open, self.calls = threading.Event(), threading.Event(), 0
        original = getattr(owner, name)

        def gated(*args, **kwargs):
            self.calls += 1
            self.entered.set()
            assert self._open.wait(30)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, gated)

    async def reached(self):
        await asyncio.to_thread(self.entered.wait, 30)

    def open(self):
        self._open.set()


async def store(rig: Rig, data: bytes, key: str = KEY, **entry) -> None:
    rig.tier.put(Key(key), entry_of(key, data, **entry))
    await rig.tier.drain()


async def test_a_second_read_needs_no_thread(rig):
    await store(rig, os.urandom(LARGE))
    assert rig.tier.peek(KEY) is None
    entry = await rig.tier.get(KEY)
    assert rig.tier.peek(KEY) is entry
    assert entry is not None
    assert entry.tier == "disk"


async def test_an_adopted_spool_is_open_already(rig):
    data = os.urandom(LARGE)
    rig.tier.put(KEY, entry_of(KEY, await spooled(rig.tier, data)))
    await rig.tier.drain()
    entry = rig.tier.peek(KEY)
    assert entry is not None
    assert read_body(entry.body) == data


async def test_open_files_are_bounded(rig):
    for number in range(6):
        await store(rig, bytes(LARGE), f"k{number}")
        await rig.read(f"k{number}")
    gc.collect()
    before = open_descriptors()
    for number in range(6):
        await rig.read(f"k{number}")
    assert open_descriptors() <= before
    assert [rig.tier.peek(Key(f"k{number}")) is not None for number in range(6)] == [False] * 3 + [True] * 3


async def test_evicted_files_are_not_held_open(rig, monkeypatch):
    await store(rig, bytes(LARGE))
    entry = await rig.tier.get(KEY)
    await asyncio.wrap_future(rig.tier._writer._pool.submit(rig.tier._room.settle, 63 * 1024 * 1024))
    rig.tier._upkeep.wake()
    await until(lambda: rig.tier.stats.evictions == 1)
    assert rig.tier.peek(KEY) is None
    assert object_files(rig.path) == []
    assert entry is not None
    assert read_body(entry.body) == bytes(LARGE)


async def test_a_spool_is_adopted_by_its_name_and_not_copied(rig):
    body = await spooled(rig.tier, os.urandom(LARGE), LARGE)
    inode = os.fstat(body.descriptor.fd).st_ino
    rig.tier.put(KEY, entry_of(KEY, body))
    waiting_entry = rig.tier.peek(KEY)
    assert waiting_entry is not None
    assert waiting_entry.body is body
    await rig.tier.drain()
    [file] = object_files(rig.path)
    assert file.stat().st_ino == inode
    assert list((rig.path / "spool").iterdir()) == []
    assert body.descriptor.spool is None


async def test_an_adopted_spool_gives_its_writable_descriptor_back(rig):
    await store(rig, b"warm up")
    await rig.read(KEY)
    gc.collect()
    before = open_descriptors()
    body = await spooled(rig.tier, bytes(LARGE))
    rig.tier.put(KEY, entry_of(KEY, body))
    del body
    await rig.tier.drain()
    await until(lambda: open_descriptors() <= before + 1)  # the writing thread drops its reference when it likes
    assert rig.tier.peek(KEY) is not None


async def test_a_small_spool_becomes_a_row(rig):
    rig.tier.put(KEY, entry_of(KEY, await spooled(rig.tier, b"small")))
    await rig.tier.drain()
    assert await rig.read(KEY) == b"small"
    assert object_files(rig.path) == []
    while list((rig.path / "spool").iterdir()):  # the thread that wrote it lets go of it a moment after it has said so
        await asyncio.sleep(0.001)


async def test_one_spool_under_two_keys_is_copied_once(rig):
    data = os.urandom(LARGE)
    body = await spooled(rig.tier, data)
    for key in ("a", "b"):
        rig.tier.put(Key(key), entry_of(key, body))
    await rig.tier.drain()
    assert [await rig.read("a"), await rig.read("b")] == [data, data]
    assert len(object_files(rig.path)) == 2


@pytest.mark.parametrize("kind", ["part", "discarded"])
async def test_a_spool_that_is_not_whole_is_copied(rig, kind):
    spool = await rig.tier.open_spool(None)
    assert spool is not None
    await asyncio.to_thread(spool.write, b"a" * LARGE)
    body = spool.body()
    if kind == "part":
        await asyncio.to_thread(spool.write, b"more")
    else:
        spool.discard()
    rig.tier.put(KEY, entry_of(KEY, body))
    await rig.tier.drain()
    assert await rig.read(KEY) == b"a" * LARGE


async def test_bytes_over_the_inline_limit_become_a_file(rig):
    data = os.urandom(LARGE)
    rig.tier.put(KEY, Entry(ObjectInfo(KEY, LARGE, "e"), data, validated_at=1.0))
    await rig.tier.drain()
    assert await rig.read(KEY) == data


async def test_a_revalidated_file_stays_where_it_is(rig):
    await store(rig, bytes(LARGE), validated_at=1.0)
    entry = await rig.tier.get(KEY)
    assert entry is not None
    [file] = object_files(rig.path)
    used = rig.tier.stats.bytes
    info = ObjectInfo(KEY, LARGE, "v1", metadata={"new": "yes"})
    rig.tier.put(KEY, Entry(info, entry.body, validated_at=2.0, crc=entry.crc))
    await rig.tier.drain()
    assert object_files(rig.path) == [file]
    assert rig.tier.stats.bytes == used
    again = await rig.tier.get(KEY)
    assert again is not None
    assert (again.validated_at, again.info.metadata) == (2.0, {"new": "yes"})


@pytest.mark.parametrize("gone", ["row", "file", "other"])
async def test_a_body_whose_file_has_gone_is_stored_again(rig, gone):
    data = os.urandom(LARGE)
    await store(rig, data)
    entry = await rig.tier.get(KEY)
    assert entry is not None
    if gone == "row":
        rig.tier.discard(KEY)
        await rig.tier.drain()
    elif gone == "file":
        object_files(rig.path)[0].unlink()
    else:
        await store(rig, bytes(LARGE))
    rig.tier.put(KEY, Entry(entry.info, entry.body, validated_at=2.0))
    await rig.tier.drain()
    assert await rig.read(KEY) == data


@pytest.mark.parametrize("wrong", ["crc", "size", "short"])
async def test_an_entry_that_contradicts_itself_is_declined(rig, wrong):
    await store(rig, b"old")
    body = memfd(bytes(LARGE))
    info = ObjectInfo(KEY, LARGE + (wrong == "size"), "e")
    if wrong == "short":
        body = FileBody(body.descriptor, 0, LARGE + 1, is_memory=True)
        info = ObjectInfo(KEY, LARGE + 1, "e")
    crc = zlib.crc32(b"other") if wrong == "crc" else None
    rig.tier.put(KEY, Entry(info, body, validated_at=1.0, crc=crc))
    await rig.tier.drain()
    assert await rig.tier.get(KEY) is None
    assert object_files(rig.path) == []
    assert rig.tier.stats.entries == 0


async def test_a_record_that_is_too_long_is_declined(rig):
    await store(rig, b"old")
    rig.tier.put(KEY, entry_of(KEY, b"new", metadata={"m": "x" * 300_000}))
    await rig.tier.drain()
    assert await rig.tier.get(KEY) is None


async def test_a_long_record_is_kept_behind_the_body(rig):
    data = os.urandom(LARGE)
    for body in (memfd(data), await spooled(rig.tier, data)):
        rig.tier.put(KEY, entry_of(KEY, body, metadata={"m": "x" * 20_000}))
        await rig.tier.drain()
        rig.tier._files.clear()
        entry = await rig.tier.get(KEY)
        assert entry is not None
        assert len(entry.info.metadata["m"]) == 20_000
        assert read_body(entry.body) == data


async def test_the_body_is_read_through_once_in_a_run(tmp_path, monkeypatch):
    async with disk_rig(tmp_path / "cache") as rig:
        await store(rig, bytes(LARGE))
    async with disk_rig(tmp_path / "cache", max_open_files=1) as rig:
        gate = Gate(monkeypatch, rig.tier._volume, "verify")
        readers = [asyncio.ensure_future(rig.tier.get(KEY)) for _ in range(20)]
        await gate.reached()
        gate.open()
        answers = await asyncio.gather(*readers)
        assert all(answer is not None for answer in answers)
        rig.tier._files.drop(KEY)
        assert await rig.tier.get(KEY) is not None
        assert gate.calls == 1


async def test_a_failed_reader_does_not_speak_for_the_others(tmp_path, monkeypatch):
    async with disk_rig(tmp_path / "cache") as rig:
        await store(rig, bytes(LARGE))
    async with disk_rig(tmp_path / "cache") as rig:
        gate = Gate(monkeypatch, rig.tier._volume, "verify")
        first = asyncio.ensure_future(rig.tier.get(KEY))
        await gate.reached()
        second = asyncio.ensure_future(rig.tier.get(KEY))
        await until(lambda: rig.tier._reads._tickets[KEY].readers == 2)
        first.cancel()
        gate.open()
        assert await second is not None
        with pytest.raises(asyncio.CancelledError):
            await first


@pytest.mark.parametrize("change", ["put", "discard"])
@pytest.mark.parametrize("is_written", [False, True])
async def test_a_read_under_way_does_not_answer_what_was_replaced(rig, monkeypatch, change, is_written):
    await store(rig, b"old")
    gate = Gate(monkeypatch, rig.tier._volume, "lookup")
    reading = asyncio.ensure_future(rig.tier.get(KEY))
    await gate.reached()
    if change == "put":
        rig.tier.put(KEY, entry_of(KEY, b"new"))
    else:
        rig.tier.discard(KEY)
    if is_written:
        await rig.tier.drain()
    gate.open()
    entry = await reading
    assert (entry and entry.body) == (b"new" if change == "put" else None)


async def test_a_damaged_file_that_was_replaced_meanwhile_is_nobodys_concern(rig, monkeypatch):
    await store(rig, bytes(LARGE))
    object_files(rig.path)[0].write_bytes(b"garbage")
    gate = Gate(monkeypatch, rig.tier._volume, "lookup")
    reading = asyncio.ensure_future(rig.tier.get(KEY))
    await gate.reached()
    rig.tier.put(KEY, entry_of(KEY, b"new"))
    gate.open()
    entry = await reading
    assert entry is not None
    assert entry.body == b"new"
    assert rig.corrupt == []


async def test_a_key_that_never_rests_reads_as_a_miss(rig, monkeypatch):
    await store(rig, b"old")

    def lookup(key):
        rig.tier._reads.overtake(key)

    monkeypatch.setattr(rig.tier._volume, "lookup", lookup)
    assert await rig.tier.get(KEY) is None
    assert len(rig.tier._reads) == 0


async def test_cancelled_readers_leave_nothing(tmp_path, monkeypatch):
    async with disk_rig(tmp_path / "cache") as rig:
        for number in range(10):
            await store(rig, bytes(LARGE), f"k{number}")
            await rig.read(f"k{number}")
        rig.tier._files.clear()
        gc.collect()
        before = open_descriptors()
        gate = Gate(monkeypatch, rig.tier._volume, "lookup")
        readers = [asyncio.ensure_future(rig.tier.get(Key(f"k{number}"))) for number in range(10)]
        await gate.reached()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        gate.open()
        assert await rig.tier.get(Key("unknown")) is None  # behind them in the one reading thread
        assert open_descriptors() <= before
        assert len(rig.tier._reads) == 0


async def test_a_cancelled_open_spool_leaves_nothing(rig, monkeypatch):
    gate = Gate(monkeypatch, rig.tier._volume, "open_spool")
    used = rig.tier.stats.bytes
    opening = asyncio.ensure_future(rig.tier.open_spool(1000))
    await gate.reached()
    opening.cancel()
    await asyncio.wait([opening])
    gate.open()
    await until(lambda: gate.calls == 1 and rig.tier.stats.bytes == used)
    await until(lambda: list((rig.path / "spool").iterdir()) == [])


async def test_the_writers_own_fields_travel_with_a_waiting_entry(rig):
    entry = entry_of(KEY, b"x")
    entry.fresh_until, entry.wire = 5.0, b"wire"
    rig.tier.put(KEY, entry)
    got = rig.tier.peek(KEY)
    assert got is not None
    assert got is not entry
    assert (got.fresh_until, got.wire, got.tier, entry.tier) == (5.0, b"wire", "disk", "origin")


async def test_too_much_waiting_is_declined_and_the_old_version_gone(rig, monkeypatch):
    await store(rig, b"old")
    gate = Gate(monkeypatch, rig.tier._volume, "apply")
    monkeypatch.setattr(rig.tier._waiting, "_max_entries", 5)
    for number in range(5):
        rig.tier.put(Key(f"k{number}"), entry_of(f"k{number}", b"x"))
    rig.tier.put(KEY, entry_of(KEY, b"new"))
    assert await rig.tier.get(KEY) is None
    gate.open()
    await rig.tier.drain()
    assert await rig.tier.get(KEY) is None
    assert rig.tier.stats.entries == 5


async def test_more_discards_than_can_wait_deny_all_that_was_there(rig, monkeypatch, caplog):
    for number in range(20):
        rig.tier.put(Key(f"k{number}"), entry_of(f"k{number}", b"old"))
    rig.tier.put(Key("f"), entry_of("f", bytes(LARGE)))
    await rig.tier.drain()
    await rig.read("f")
    gate = Gate(monkeypatch, rig.tier._volume, "apply")
    rig.tier.put(Key("first"), entry_of("first", b"x"))
    await gate.reached()
    monkeypatch.setattr(rig.tier._waiting, "_max_tombstone_bytes", 5 * (waiting._KEY_OVERHEAD_BYTES + 3))
    for number in range(10):
        rig.tier.discard(Key(f"k{number}"))
    assert "starts anew" in caplog.text
    assert rig.tier.peek(Key("f")) is None
    rig.tier.put(Key("k3"), entry_of("k3", b"new"))
    gate.open()
    await rig.tier.drain()
    answers = {key: await rig.read(key) for key in ["first", "f", *(f"k{number}" for number in range(20))]}
    assert {key: data for key, data in answers.items() if data} == {"k3": b"new"}
    await rig.tier.close()
    async with disk_rig(rig.path) as again:
        assert await again.read("k15") is None
        assert await again.read("k3") == b"new"


def failing(kind):
    def fail(*args, **kwargs):
        raise TierFault(kind, "test")

    return fail


async def test_one_unreadable_object_is_a_miss_and_gone(rig, monkeypatch):
    await store(rig, b"data")
    with monkeypatch.context() as patch:
        patch.setattr(rig.tier._volume, "lookup", failing(Kind.FAULTY))
        assert await rig.tier.get(KEY) is None
    assert rig.tier.is_available
    assert rig.tier.stats.errors == 1
    await rig.tier.drain()
    assert rig.tier.stats.entries == 0


async def test_reads_that_keep_failing_set_the_tier_aside(rig, monkeypatch):
    await store(rig, b"data")
    with monkeypatch.context() as patch:
        patch.setattr(rig.tier._volume, "lookup", failing(Kind.FAULTY))
        for number in range(3):
            assert await rig.tier.get(Key(f"k{number}")) is None
        assert not rig.tier.is_available
        rig.tier._upkeep.report(TierFault(Kind.FAULTY, "again"))  # known already
        assert rig.tier.stats.errors == 3
    await until(lambda: rig.tier.is_available)
    assert rig.tier.suspect_before > 0


async def test_a_shortage_of_descriptors_is_a_miss(rig, monkeypatch):
    await store(rig, b"data")
    with monkeypatch.context() as patch:
        patch.setattr(rig.tier._volume, "lookup", failing(Kind.BUSY))
        assert await rig.tier.get(KEY) is None
    assert rig.tier.is_available
    assert await rig.read(KEY) == b"data"


async def test_spools_of_unknown_size_start_small_and_those_of_known_size_whole(rig):
    empty = rig.tier.stats.bytes
    small = await rig.tier.open_spool(None)
    assert rig.tier.stats.bytes - empty == 4 * 1024 * 1024
    large = await rig.tier.open_spool(10_000_000)
    assert rig.tier.stats.bytes - empty >= 14_000_000
    del small, large
    await until(lambda: rig.tier.stats.bytes == empty)


async def test_a_spool_that_cannot_be_made_is_none(rig, monkeypatch):
    monkeypatch.setattr(rig.tier._volume._directory, "new_spool", lambda: rig.path / "missing" / "spool")
    assert await rig.tier.open_spool(10) is None
    assert not rig.tier.is_available


async def test_no_room_is_waited_for_only_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_ROOM_WAIT_S", 0.02)
    async with disk_rig(tmp_path / "cache", max_bytes=8 * 1024 * 1024) as rig:
        first = await rig.tier.open_spool(6 * 1024 * 1024)
        assert first is not None
        assert await rig.tier.open_spool(6 * 1024 * 1024) is None


async def test_small_files_from_another_threshold_are_answered_as_bytes(tmp_path, monkeypatch):
    async with disk_rig(tmp_path / "cache") as rig:
        await store(rig, b"d" * LARGE, "good")
        await store(rig, b"d" * LARGE, "bad")
    monkeypatch.setattr("tiered_store.tiers.volume.INLINE_MAX_BYTES", LARGE)
    for file in object_files(rig.path):
        data = bytearray(file.read_bytes())
        if b"\x03\0\x02\0" in data[:80]:  # the lengths of "bad" and its etag
            data[-1] ^= 1
            file.write_bytes(bytes(data))
    async with disk_rig(tmp_path / "cache") as rig:
        entry = await rig.tier.get(Key("good"))
        assert entry is not None
        assert entry.body == b"d" * LARGE
        assert rig.tier.peek(Key("good")) is None
        assert await rig.tier.get(Key("bad")) is None
        assert rig.corrupt == ["bad"]


async def test_recency_is_written_now_and_then(tmp_path, monkeypatch):
    clock = ManualClock()
    async with disk_rig(tmp_path / "cache", clock=clock) as rig:
        await store(rig, b"data")
        gate = Gate(monkeypatch, rig.tier._volume, "touch")
        gate.open()
        for _ in range(5):
            await rig.read(KEY)
        await store(rig, b"x", "other")
        assert gate.calls == 0
        clock.now += 31
        await store(rig, b"x", "other")
        await until(lambda: gate.calls == 1)


async def test_a_full_index_declines_and_goes_on(rig, monkeypatch, caplog):
    await store(rig, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(rig.tier._volume, "apply", failing(Kind.FULL))
        rig.tier.put(KEY, entry_of(KEY, b"new"))
        await rig.tier.drain()
        assert await rig.tier.get(KEY) is None
        assert rig.tier.is_available
        assert rig.tier.stats.errors >= 1
    await until(lambda: rig.tier.stats.entries == 0)
    assert caplog.text.count("declines for a while") == 1


async def test_a_busy_index_is_tried_again_and_at_last_set_aside(rig, monkeypatch):
    monkeypatch.setattr("tiered_store.tiers.upkeep._RETRY_S", 0.0)
    monkeypatch.setattr("tiered_store.tiers.upkeep._MAX_RETRY_S", 0.0)
    calls = 0
    original = rig.tier._volume.apply

    def busy(*args):
        nonlocal calls
        calls += 1
        if calls < 4:
            raise TierFault(Kind.BUSY, "test")
        original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rig.tier._volume, "apply", busy)
        rig.tier.put(KEY, entry_of(KEY, b"data"))
        await until(lambda: rig.tier.stats.entries == 1)
    assert await rig.read(KEY) == b"data"
    with monkeypatch.context() as patch:
        patch.setattr(rig.tier._volume, "apply", failing(Kind.BUSY))
        rig.tier.put(KEY, entry_of(KEY, b"more"))
        await until(lambda: rig.tier.suspect_before > 0)


async def test_a_bug_in_the_background_sets_the_tier_aside_and_is_logged(rig, monkeypatch, caplog):
    def bug(*args):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(rig.tier._volume, "apply", bug)
        rig.tier.put(KEY, entry_of(KEY, b"data"))
        await until(lambda: not rig.tier.is_available)
    assert "ZeroDivisionError" in caplog.text
    await until(lambda: rig.tier.is_available)


async def test_an_index_that_cannot_be_moved_away_sets_the_tier_aside(rig, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(rig.tier._volume, "abandon_index", failing(Kind.FAULTY))
        rig.tier._upkeep.report(TierFault(Kind.CORRUPT, "test"))
        await until(lambda: not rig.tier.is_available)
    await until(lambda: rig.tier.is_available)


async def test_a_cull_on_a_full_disk_is_left_for_later(rig, monkeypatch):
    await store(rig, bytes(LARGE))
    monkeypatch.setattr(rig.tier._volume, "cull", failing(Kind.FULL))
    errors = rig.tier.stats.errors
    await until(lambda: rig.tier.stats.errors == errors + 1)
    assert rig.tier.is_available
    await store(rig, b"x", "other")
    assert await rig.read("other") == b"x"


async def test_a_fault_in_the_audit_lets_it_begin_again(tmp_path, monkeypatch):
    async with disk_rig(tmp_path / "cache") as rig:
        await store(rig, bytes(LARGE))
    (tmp_path / "cache" / "clean").unlink()
    async with disk_rig(tmp_path / "cache") as rig:
        original, calls = rig.tier._volume.step, []

        def step(audit):
            calls.append(audit)
            if len(calls) == 1:
                raise TierFault(Kind.BUSY, "test")
            return original(audit)

        monkeypatch.setattr(rig.tier._volume, "step", step)
        await until(lambda: not rig.tier._upkeep._auditing.is_due)
        assert calls[0] is not calls[1]


async def test_a_tier_that_never_started_can_be_closed(tmp_path):
    rig = disk_rig(tmp_path / "cache")
    started = await rig.__aenter__()
    tier = disk.DiskTier(
        tmp_path / "other",
        max_bytes=10**7,
        min_free_bytes=0,
        min_free_inodes=0,
        max_open_files=1,
        offload=started.offload,
        on_corrupt=lambda key: None,
    )
    assert not tier.is_available
    assert tier.peek(KEY) is None
    await tier.close()
    await rig.__aexit__(None, None, None)


async def test_a_starved_spool_after_the_loop_is_gone_is_no_error(tmp_path):
    async with disk_rig(tmp_path / "cache") as rig:
        pass
    rig.tier._upkeep._loop = asyncio.new_event_loop()
    rig.tier._upkeep._loop.close()
    rig.tier._starved()
    rig.tier._upkeep._loop = None
    rig.tier._starved()


async def test_what_still_waits_at_the_stop_is_no_orderly_stop(rig, monkeypatch):
    await store(rig, b"old")
    monkeypatch.setattr(rig.tier._volume, "apply", failing(Kind.FULL))
    rig.tier.discard(KEY)
    await rig.tier.close()
    assert not (rig.path / "clean").exists()


async def test_a_stop_on_a_disk_that_is_gone_is_quiet(rig):
    await store(rig, b"old")
    rig.path.rename(rig.path.parent / "gone")
    await rig.tier.close()
    assert not rig.path.exists()
