"""The disk tier after the process was killed: a copy of its directory in use is opened by another tier."""

from __future__ import annotations

import random
import shutil

import pytest

from tests.support.tiers import copied, disk_rig, disk_use, entry_of, object_files, spooled, until
from tiered_store.key import Key
from tiered_store.tiers.directory import INDEX_NAME

LARGE = 100_000


async def audited(rig):
    await until(lambda: not rig.tier._upkeep._auditing.is_due)


async def test_after_an_orderly_stop_nothing_is_suspect(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        rig.tier.put(Key("k"), entry_of("k", b"data"))
    async with disk_rig(tmp_path / "a") as rig:
        assert rig.tier.suspect_before == 0.0
        assert await rig.read("k") == b"data"


async def test_after_a_kill_everything_from_before_is_suspect(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        rig.tier.put(Key("k"), entry_of("k", b"data", validated_at=100.0))
        await rig.tier.drain()
        copied(rig.path, tmp_path / "b")
    async with disk_rig(tmp_path / "b", wall=lambda: 5000.0) as rig:
        assert rig.tier.suspect_before == 5000.0
        entry = await rig.tier.get(Key("k"))
        assert entry is not None
        assert entry.validated_at < 5000.0


async def test_a_wall_clock_set_back_makes_no_stale_entry_good(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        rig.tier.put(Key("k"), entry_of("k", b"data", validated_at=9000.0))
        await rig.tier.drain()
        copied(rig.path, tmp_path / "b")
    async with disk_rig(tmp_path / "b", wall=lambda: 5000.0) as rig:
        entry = await rig.tier.get(Key("k"))
        assert entry is not None
        assert entry.validated_at < rig.tier.suspect_before
        rig.tier.put(Key("k"), entry_of("k", b"new", validated_at=5001.0))
        await rig.tier.drain()
        entry = await rig.tier.get(Key("k"))
        assert entry is not None
        assert entry.validated_at == 5001.0


async def test_suspicion_outlives_an_orderly_stop(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        rig.tier.put(Key("k"), entry_of("k", b"data"))
        await rig.tier.drain()
        copied(rig.path, tmp_path / "b")
    async with disk_rig(tmp_path / "b", wall=lambda: 2e9) as rig:
        await audited(rig)
    async with disk_rig(tmp_path / "b", wall=lambda: 3e9) as rig:
        assert rig.tier.suspect_before == 2e9


async def test_a_second_kill_is_noticed_too(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        rig.tier.put(Key("k"), entry_of("k", b"data"))
    async with disk_rig(tmp_path / "a"):
        copied(tmp_path / "a", tmp_path / "b")
    async with disk_rig(tmp_path / "b", wall=lambda: 2e9) as rig:
        assert rig.tier.suspect_before == 2e9


@pytest.mark.parametrize("seed", range(3))
async def test_killed_at_any_moment_only_whole_versions_answer(tmp_path, seed):
    chance = random.Random(seed)
    versions: dict[str, set[bytes]] = {}
    async with disk_rig(tmp_path / "a") as rig:
        for number in range(60):
            key = f"k{chance.randrange(8)}"
            data = chance.randbytes(chance.choice([10, 5000, LARGE]))
            versions.setdefault(key, set()).add(data)
            body = await spooled(rig.tier, data) if len(data) == LARGE and number % 2 else data
            rig.tier.put(Key(key), entry_of(key, body))
            if number % 11 == 0:
                await rig.tier.drain()
        found = copied(rig.path, tmp_path / "b")
    async with disk_rig(found) as rig:
        answers = {key: await rig.read(key) for key in versions}
        assert any(answers.values())
        assert all(data is None or data in versions[key] for key, data in answers.items())
        await audited(rig)
        assert rig.corrupt == []
        assert len(object_files(found)) == await _file_rows(rig)


async def _file_rows(rig):
    count = 0
    for number in range(8):
        data = await rig.read(f"k{number}")
        count += data is not None and len(data) == LARGE
    return count


async def test_leftover_spools_are_removed_and_counted_until_then(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        body = await spooled(rig.tier, bytes(LARGE))
        found = copied(rig.path, tmp_path / "b")
        assert len(list((found / "spool").iterdir())) == 1
        del body
    async with disk_rig(found) as rig:
        await audited(rig)
        assert list((found / "spool").iterdir()) == []


async def test_a_file_without_a_row_is_adopted(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        rig.tier.put(Key("k"), entry_of("k", bytes(LARGE)))
        await rig.tier.drain()
        found = copied(rig.path, tmp_path / "b")
        rig.tier.discard(Key("k"))
        await rig.tier.drain()
        without_row = copied(rig.path, tmp_path / "c")
    shutil.copytree(found / "objects", without_row / "objects", dirs_exist_ok=True)
    async with disk_rig(without_row) as rig:
        await audited(rig)
        assert await rig.read("k") == bytes(LARGE)
        assert rig.tier.stats.entries == 1


async def test_a_second_file_of_a_key_is_removed(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        rig.tier.put(Key("k"), entry_of("k", bytes(LARGE)))
        await rig.tier.drain()
        [file] = object_files(rig.path)
        found = copied(rig.path, tmp_path / "b")
    other = found / "objects" / "00" / ("0" * 30)
    other.parent.mkdir(exist_ok=True)
    shutil.copy(file, other)
    async with disk_rig(found) as rig:
        await audited(rig)
        assert not other.exists()
        assert await rig.read("k") == bytes(LARGE)


async def test_rows_whose_file_is_gone_are_dropped(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        for number in range(5):
            rig.tier.put(Key(f"k{number}"), entry_of(f"k{number}", bytes(LARGE + number)))
        rig.tier.put(Key("small"), entry_of("small", b"data"))
        await rig.tier.drain()
        found = copied(rig.path, tmp_path / "b")
    for file in object_files(found)[:2]:
        file.unlink()
    async with disk_rig(found) as rig:
        await audited(rig)
        assert rig.tier.stats.entries == 4
        assert rig.corrupt == []


async def test_foreign_and_half_written_files_are_removed(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        rig.tier.put(Key("k"), entry_of("k", bytes(LARGE)))
        await rig.tier.drain()
        found = copied(rig.path, tmp_path / "b")
    [file] = object_files(found)
    whole = file.read_bytes()
    strays = [file.with_name("f" * 30), file.with_name("notes.txt"), file.with_name("e" * 30), file.with_name("d" * 30)]
    for stray, data in zip(strays[:3], [b"", b"hello", whole[:-1]], strict=True):
        stray.write_bytes(data)
    strays[3].symlink_to("/etc/hostname")
    kept = file.with_name("directory")
    kept.mkdir()
    async with disk_rig(found) as rig:
        await audited(rig)
        assert object_files(found) == sorted([file, kept])
        assert await rig.read("k") == bytes(LARGE)


@pytest.mark.parametrize("leftover", ["-wal", None])
async def test_a_deleted_index_is_rebuilt_from_the_files(tmp_path, leftover):
    path = tmp_path / "a"
    async with disk_rig(path) as rig:
        for number in range(150):
            rig.tier.put(
                Key(f"k{number}"), entry_of(f"k{number}", number.to_bytes(1, "big") * LARGE, etag=f"e{number}")
            )
            if number % 40 == 0:
                await rig.tier.drain()
        rig.tier.put(Key("small"), entry_of("small", b"lost"))
    for file in path.glob(f"{INDEX_NAME}*"):
        file.unlink()
    async with disk_rig(path, wall=lambda: 2e9) as rig:
        assert rig.tier.is_available
        assert rig.tier.suspect_before == 2e9
        rig.tier.put(Key("k7"), entry_of("k7", b"newer"))
        await audited(rig)
        await rig.tier.drain()
        for number in range(150):
            expected = b"newer" if number == 7 else number.to_bytes(1, "big") * LARGE
            assert await rig.read(f"k{number}") == expected
        assert await rig.read("small") is None
        assert rig.tier.stats.entries == 150
        assert not (path / "rebuild").exists()
        assert len(object_files(path)) == 149


async def test_an_interrupted_rebuild_goes_on_at_the_next_start(tmp_path):
    path = tmp_path / "a"
    async with disk_rig(path) as rig:
        rig.tier.put(Key("k"), entry_of("k", bytes(LARGE)))
    (path / INDEX_NAME).unlink()
    async with disk_rig(path):
        pass
    async with disk_rig(path) as rig:
        await audited(rig)
        assert await rig.read("k") == bytes(LARGE)


async def test_the_newer_of_two_files_wins_a_rebuild(tmp_path):
    path = tmp_path / "a"
    async with disk_rig(path) as rig:
        rig.tier.put(Key("k"), entry_of("k", b"1" * LARGE, validated_at=1.0))
        await rig.tier.drain()
        [first] = object_files(path)
        old = first.read_bytes()
        rig.tier.put(Key("k"), entry_of("k", b"2" * LARGE, validated_at=2.0))
        await rig.tier.drain()
        [second] = object_files(path)
    for name in ("00", "ff"):  # so that one is seen before the other, whichever the order
        (path / "objects" / name).mkdir(exist_ok=True)
        (path / "objects" / name / ("0" * 30)).write_bytes(old)
    (path / INDEX_NAME).unlink()
    async with disk_rig(path) as rig:
        await audited(rig)
        assert await rig.read("k") == b"2" * LARGE
        assert object_files(path) == [second]


async def test_the_bound_holds_during_a_rebuild(tmp_path):
    path, bound = tmp_path / "a", 8 * 1024 * 1024
    async with disk_rig(path, max_bytes=bound) as rig:
        for number in range(60):
            rig.tier.put(Key(f"k{number}"), entry_of(f"k{number}", bytes(LARGE)))
            await rig.tier.drain()
    (path / INDEX_NAME).unlink()
    async with disk_rig(path, max_bytes=bound) as rig:
        for number in range(60, 120):
            rig.tier.put(Key(f"k{number}"), entry_of(f"k{number}", bytes(LARGE)))
            await rig.tier.drain()
            assert disk_use(path) <= bound
        await audited(rig)


async def test_lru_order_is_kept_across_a_restart(tmp_path):
    path, bound = tmp_path / "a", 8 * 1024 * 1024
    async with disk_rig(path, max_bytes=bound) as rig:
        for number in range(60):
            rig.tier.put(Key(f"k{number}"), entry_of(f"k{number}", bytes(LARGE)))
            await rig.tier.drain()
        for number in range(10):
            assert await rig.read(f"k{number}") is not None
    async with disk_rig(path, max_bytes=bound) as rig:
        for number in range(60, 90):
            rig.tier.put(Key(f"k{number}"), entry_of(f"k{number}", bytes(LARGE)))
            await rig.tier.drain()
        assert rig.tier.stats.evictions > 0
        assert [await rig.read(f"k{number}") is not None for number in range(10)] == [True] * 10
        assert await rig.read("k10") is None
