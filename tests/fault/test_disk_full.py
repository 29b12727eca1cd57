"""The disk tier on file systems that are full, small or read-only; and its bound, by what the disk says."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import resource
import subprocess
from contextlib import contextmanager, suppress

import pytest

from tests.support.tiers import disk_rig, disk_use, entry_of, object_files, open_descriptors, spooled, until
from tiered_store.key import Key
from tiered_store.tiers import disk, spoolfile

MIB = 1024 * 1024
LARGE = 100_000


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MiB of its own."""
    if os.geteuid() != 0:
        if os.environ.get("CI"):
            pytest.fail("these tests need root, and CI must not skip them")
        pytest.skip("mounting needs root")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["mount", "-o", "remount,rw", str(path)], check=True)
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path):
    """Leave no byte free on the file system."""
    with (path / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(65536))
    assert os.statvfs(path).f_bavail == 0


async def test_a_full_disk_declines_goes_on_reading_and_recovers(small_disk):
    async with disk_rig(small_disk / "cache", max_bytes=6 * MIB) as rig:
        rig.tier.put(Key("large"), entry_of("large", b"l" * LARGE))
        rig.tier.put(Key("small"), entry_of("small", b"s"))
        rig.tier.put(Key("old"), entry_of("old", b"old version"))
        await rig.tier.drain()
        assert await rig.read("large") is not None
        fill(small_disk)
        for number in range(10):
            rig.tier.put(Key(f"n{number}"), entry_of(f"n{number}", os.urandom(LARGE)))
        rig.tier.put(Key("old"), entry_of("old", os.urandom(LARGE)))
        await until(lambda: rig.tier.stats.errors > 0 or rig.tier.stats.evictions > 0)
        assert rig.tier.is_available
        answer = await rig.read("old")
        assert answer is None or len(answer) == LARGE
        (small_disk / "ballast").unlink()

        async def works():
            rig.tier.put(Key("again"), entry_of("again", b"a" * LARGE))
            await rig.tier.drain()
            return any(file.read_bytes().endswith(b"a" * LARGE) for file in object_files(rig.path))

        while not await works():
            await asyncio.sleep(0.01)
        assert await rig.read("again") == b"a" * LARGE
        assert await rig.read("old") != b"old version"
        assert rig.corrupt == []


async def test_a_full_disk_does_not_stop_reads(small_disk):
    async with disk_rig(small_disk / "cache", max_bytes=6 * MIB, max_open_files=1) as rig:
        for number in range(5):
            rig.tier.put(Key(f"k{number}"), entry_of(f"k{number}", bytes([number]) * LARGE))
            rig.tier.put(Key(f"s{number}"), entry_of(f"s{number}", bytes([number]) * 100))
        await rig.tier.drain()
        fill(small_disk)
        for number in range(5):
            assert await rig.read(f"k{number}") == bytes([number]) * LARGE
            assert await rig.read(f"s{number}") == bytes([number]) * 100


async def test_a_spool_on_a_full_disk_says_so(small_disk, monkeypatch):
    monkeypatch.setattr(disk, "_ROOM_WAIT_S", 0.1)
    monkeypatch.setattr(spoolfile, "_WAIT_S", 0.1)
    before = open_descriptors()
    async with disk_rig(small_disk / "cache", max_bytes=64 * MIB) as rig:
        spool = await rig.tier.open_spool(None)
        assert spool is not None
        await asyncio.to_thread(spool.write, bytes(3 * MIB))
        with pytest.raises(OSError, match=r"(?i)no (room|space) left") as caught:
            await asyncio.to_thread(spool.write, bytes(20 * MIB))
        assert caught.value.errno == errno.ENOSPC
        spool.discard()
        del spool, caught
        assert list((rig.path / "spool").iterdir()) == []
        assert await rig.tier.open_spool(20 * MIB) is None
        assert rig.tier.is_available
    assert open_descriptors() <= before


async def test_room_is_left_for_others(small_disk):
    async with disk_rig(small_disk / "cache", max_bytes=64 * MIB, min_free_bytes=3 * MIB) as rig:
        for number in range(150):
            rig.tier.put(Key(f"k{number}"), entry_of(f"k{number}", bytes(LARGE)))
            await rig.tier.drain()
            system = os.statvfs(small_disk)
            assert system.f_bavail * system.f_frsize >= 3 * MIB - MIB // 4
        assert rig.tier.stats.evictions > 0
        held = rig.tier.stats.entries
        (small_disk / "other").write_bytes(bytes(MIB))  # somebody else needs some
        await until(lambda: rig.tier.stats.entries <= held - 5)
        await until(lambda: os.statvfs(small_disk).f_bavail * 4096 >= 3 * MIB - MIB // 4)


async def test_inodes_are_left_for_others(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "_ROOM_WAIT_S", 0.1)
    free = os.statvfs(tmp_path).f_favail
    async with disk_rig(tmp_path / "cache", min_free_inodes=free + 1_000_000) as rig:
        assert await rig.tier.open_spool(10) is None
        assert rig.tier.is_available


@contextmanager
def failing_writes():
    """Every write to any file fails, in the system call."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("how", ["row", "file", "spool"])
async def test_a_disk_that_stops_working_is_set_aside_and_taken_back(tmp_path, caplog, how):
    async with disk_rig(tmp_path / "cache", wall=lambda: 2e9) as rig:
        rig.tier.put(Key("k"), entry_of("k", b"1"))
        rig.tier.put(Key("f"), entry_of("f", bytes(LARGE)))
        await rig.tier.drain()
        assert rig.tier.suspect_before == 0.0
        new = await spooled(rig.tier, bytes(LARGE)) if how == "spool" else bytes(10 if how == "row" else LARGE)
        entry = entry_of("new", new)
        with failing_writes():
            rig.tier.put(Key("new"), entry)
            await rig.tier.drain()
            assert not rig.tier.is_available
            assert rig.tier.stats.errors == 1
            assert rig.tier.peek(Key("f")) is None
            assert await rig.tier.get(Key("k")) is None
            assert await rig.tier.open_spool(10) is None
            rig.tier.discard(Key("k"))
            rig.tier.put(Key("f"), entry_of("f", b"newer"))
            await until(lambda: rig.tier._upkeep._probe_backoff > 2)  # some probes, which fail and are not logged
        await until(lambda: rig.tier.is_available)
        # The discard and the put were not written; so the store must ask the origin again.
        for key in ("k", "f"):
            entry = await rig.tier.get(Key(key))
            assert entry is None or entry.validated_at < rig.tier.suspect_before == 2e9
        assert await rig.tier.get(Key("new")) is None
        assert [record.message for record in caplog.records] == [
            "the disk tier is set aside",
            "the disk tier is back",
        ]
        rig.tier.put(Key("k"), entry_of("k", b"2", validated_at=2e9 + 1))
        await rig.tier.drain()
        assert await rig.read("k") == b"2"


async def test_a_read_only_directory_at_the_start(small_disk):
    (small_disk / "cache").mkdir(mode=0o700)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    async with disk_rig(small_disk / "cache") as rig:
        assert not rig.tier.is_available
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        await until(lambda: rig.tier.is_available)
        rig.tier.put(Key("k"), entry_of("k", b"1"))
        await rig.tier.drain()
        assert await rig.read("k") == b"1"


@pytest.mark.parametrize("seed", range(3))
async def test_the_bound_is_never_exceeded_in_a_storm(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(disk, "_ROOM_WAIT_S", 0.1)
    monkeypatch.setattr(spoolfile, "_WAIT_S", 0.1)
    chance = random.Random(seed)
    bound = 8 * MIB
    spools = []
    async with disk_rig(tmp_path / "cache", max_bytes=bound) as rig:
        for number in range(250):
            size = chance.choice([100, 2000, 30_000, LARGE, 400_000])
            key = f"k{chance.randrange(300)}"
            match chance.randrange(6):
                case 0:
                    spool = await rig.tier.open_spool(chance.choice([None, size]))
                    if spool is not None:
                        try:
                            await asyncio.to_thread(spool.write, bytes(size))
                            spools.append((spool, size))
                        except OSError:
                            spool.discard()
                    if len(spools) > 3:
                        spool, size = spools.pop(0)
                        rig.tier.put(Key(key), entry_of(key, spool.body()))
                    spool = None
                case 1:
                    await rig.tier.get(Key(key))
                case 2:
                    rig.tier.discard(Key(key))
                case _:
                    rig.tier.put(Key(key), entry_of(key, os.urandom(size)))
            if number % 5 == 0:
                await rig.tier.drain()
            assert disk_use(rig.path) <= bound
            assert rig.tier.stats.bytes <= bound
        spools.clear()
        await rig.tier.drain()
        assert rig.tier.stats.evictions > 0
        assert rig.tier.stats.bytes >= disk_use(rig.path) - 300 * 4096  # directories and the like
        # A thread that has just given its answer may hold what it was given for a moment longer.
        await until(lambda: not any((rig.path / "spool").iterdir()))


async def test_a_spool_makes_the_tier_cull(tmp_path):
    bound = 16 * MIB
    async with disk_rig(tmp_path / "cache", max_bytes=bound) as rig:
        for number in range(140):
            rig.tier.put(Key(f"k{number}"), entry_of(f"k{number}", bytes(LARGE)))
            await rig.tier.drain()
        body = await spooled(rig.tier, os.urandom(8 * MIB), 8 * MIB)
        rig.tier.put(Key("large"), entry_of("large", body))
        del body
        await rig.tier.drain()
        assert disk_use(rig.path) <= bound
        assert len(await rig.read("large") or b"") == 8 * MIB
        assert rig.tier.stats.evictions > 0


async def test_a_growing_spool_makes_the_tier_cull(tmp_path):
    bound = 16 * MIB
    async with disk_rig(tmp_path / "cache", max_bytes=bound) as rig:
        for number in range(140):
            rig.tier.put(Key(f"k{number}"), entry_of(f"k{number}", bytes(LARGE)))
            await rig.tier.drain()
        spool = await rig.tier.open_spool(None)
        assert spool is not None
        for _ in range(32):
            await asyncio.to_thread(spool.write, bytes(MIB // 4))
            assert disk_use(rig.path) <= bound
        assert spool.size == 8 * MIB


async def test_what_can_never_fit_is_refused_at_once(tmp_path):
    async with disk_rig(tmp_path / "cache", max_bytes=8 * MIB) as rig:
        rig.tier.put(Key("k"), entry_of("k", bytes(LARGE)))
        await rig.tier.drain()
        assert await rig.tier.open_spool(8 * MIB) is None
        assert rig.tier.stats.evictions == 0


async def test_room_that_comes_between_the_attempt_and_the_look(tmp_path, monkeypatch):
    monkeypatch.setattr("tiered_store.tiers.disk._ROOM_WAIT_S", 0.05)
    async with disk_rig(tmp_path / "cache", max_bytes=8 * MIB) as rig:
        first = await rig.tier.open_spool(5 * MIB)
        assert first is not None
        assert await rig.tier.open_spool(5 * MIB) is None  # and now the tier knows that it has nothing to cull
        look = rig.tier._upkeep.can_make_room

        def late(size):
            first.discard()
            return look(size)

        monkeypatch.setattr(rig.tier._upkeep, "can_make_room", late)
        monkeypatch.setattr("tiered_store.tiers.disk._ROOM_WAIT_S", 60.0)
        assert await rig.tier.open_spool(5 * MIB) is not None


async def test_room_in_use_by_spools_is_waited_for_and_then_refused(tmp_path):
    async with disk_rig(tmp_path / "cache", max_bytes=8 * MIB) as rig:
        first = await rig.tier.open_spool(5 * MIB)
        assert first is not None
        waiting = asyncio.ensure_future(rig.tier.open_spool(5 * MIB))
        await asyncio.wait([waiting], timeout=0.05)
        assert not waiting.done()
        first.discard()
        second = await waiting
        assert second is not None
