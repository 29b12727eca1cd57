"""The disk tier with damaged objects, a broken index, planted pickles, and a directory it must not use."""

from __future__ import annotations

import os
import pickle
import sqlite3

import pytest
from diskcache.core import MODE_PICKLE

from tests.support.tiers import copied, disk_rig, entry_of, object_files, open_descriptors, until
from tiered_store.key import Key
from tiered_store.tiers.directory import INDEX_NAME

LARGE = 200_000
KEY = Key("k")


async def stored(path, data):
    """A directory that holds one object and was closed."""
    async with disk_rig(path) as rig:
        rig.tier.put(KEY, entry_of(KEY, data))
    return path


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("at", [0, 5, 9, 13, 30, 70, 4096, 4096 + LARGE // 2, 4096 + LARGE - 1])
async def test_a_flipped_bit_is_noticed_before_anybody_gets_it(tmp_path, at):
    path = await stored(tmp_path / "a", os.urandom(LARGE))
    [file] = object_files(path)
    flip(file, at)
    async with disk_rig(path) as rig:
        assert await rig.read(KEY) is None
        await rig.tier.drain()
        assert rig.corrupt == [KEY]
        assert rig.tier.stats.errors == 0
        assert rig.tier.stats.entries == 0
        assert not file.exists()


@pytest.mark.parametrize("size", [0, 3, 4096, 4096 + LARGE - 1, 4096 + LARGE + 1])
async def test_a_file_of_another_length_is_noticed(tmp_path, size):
    path = await stored(tmp_path / "a", os.urandom(LARGE))
    [file] = object_files(path)
    os.truncate(file, size)
    async with disk_rig(path) as rig:
        assert await rig.read(KEY) is None
        assert rig.corrupt == [KEY]


async def test_a_file_that_changes_while_it_is_open_is_verified_again(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        rig.tier.put(KEY, entry_of(KEY, bytes(LARGE)))
        await rig.tier.drain()
        assert await rig.read(KEY) == bytes(LARGE)
        assert rig.tier.peek(KEY) is not None
        [file] = object_files(rig.path)
        flip(file, 5000)
        assert rig.tier.peek(KEY) is None
        assert await rig.read(KEY) is None
        assert rig.corrupt == [KEY]


async def test_a_missing_file_heals_the_index_and_is_no_corruption(tmp_path):
    path = await stored(tmp_path / "a", bytes(LARGE))
    object_files(path)[0].unlink()
    async with disk_rig(path) as rig:
        assert await rig.read(KEY) is None
        await rig.tier.drain()
        assert rig.tier.stats.entries == 0
        assert rig.corrupt == []


async def test_another_keys_file_is_not_answered(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        for key in ("a", "b"):
            rig.tier.put(Key(key), entry_of(key, key.encode() * LARGE))
            await rig.tier.drain()
    first, second = object_files(rig.path)
    first.write_bytes(second.read_bytes())
    async with disk_rig(rig.path) as rig:
        answers = {await rig.read("a"), await rig.read("b")}
        assert len(rig.corrupt) == 1
        assert answers < {None, b"a" * LARGE, b"b" * LARGE}


def change_row(path, statement, *values):
    with sqlite3.connect(path / INDEX_NAME) as connection:
        connection.execute(statement, values)
    connection.close()


async def test_a_flipped_row_is_noticed(tmp_path):
    path = await stored(tmp_path / "a", b"x" * 1000)
    change_row(path, "UPDATE Cache SET value = CAST(replace(value, 'xxxx', 'xxxy') AS BLOB)")
    async with disk_rig(path) as rig:
        assert await rig.read(KEY) is None
        assert rig.corrupt == [KEY]


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("filename", [None, "objects/00/" + "0" * 30, "../../evil"])
async def test_a_planted_pickle_is_never_unpickled(tmp_path, filename):
    path = await stored(tmp_path / "a", b"data")
    payload = pickle.dumps(Payload(tmp_path / "owned"))
    if filename == "objects/00/" + "0" * 30:
        (path / "objects" / "00").mkdir(exist_ok=True)
        (path / filename).write_bytes(payload)
    value = payload if filename is None else None
    change_row(path, "UPDATE Cache SET mode = ?, filename = ?, value = ?", MODE_PICKLE, filename, value)
    async with disk_rig(path) as rig:
        assert await rig.read(KEY) is None
        assert rig.corrupt == [KEY]
        await rig.tier.drain()
        assert rig.tier.stats.entries == 0
        rig.tier.put(KEY, entry_of(KEY, b"good"))
        await rig.tier.drain()
        assert await rig.read(KEY) == b"good"
    assert not (tmp_path / "owned").exists()


async def test_a_planted_pickled_key_starts_a_new_index(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        rig.tier.put(KEY, entry_of(KEY, bytes(LARGE)))
        await rig.tier.drain()
        path = copied(rig.path, tmp_path / "b")  # an unclean stop, so that the audit reads all keys
    change_row(
        path, "INSERT INTO Cache(key, raw, mode, value) VALUES (?, 0, 1, ?)", pickle.dumps(Payload(tmp_path / "o")), b""
    )
    async with disk_rig(path) as rig:
        await until(lambda: rig.tier.is_available and not rig.tier._upkeep._auditing.is_due)
        assert rig.tier.stats.entries == 1
        assert await rig.read(KEY) == bytes(LARGE)
    assert not (tmp_path / "o").exists()


GARBAGE = {
    "no database": lambda path: path.write_bytes(os.urandom(20_000)),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, 8192),
    "another schema": lambda path: (path.unlink(), _other_schema(path)),
    "directory": lambda path: (path.unlink(), path.mkdir()),
    "impossible settings": lambda path: change_row(
        path.parent, "UPDATE Settings SET key = 'disk_evil' WHERE key = 'count'"
    ),
}


def _other_schema(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE Cache(a)")
    connection.execute("CREATE TABLE Settings(b)")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_in_place_of_the_index_is_replaced_and_rebuilt(tmp_path, kind):
    path = await stored(tmp_path / "a", bytes(LARGE))
    GARBAGE[kind](path / INDEX_NAME)
    async with disk_rig(path) as rig:
        assert rig.tier.is_available
        rig.tier.put(Key("new"), entry_of("new", b"data"))
        assert await rig.read("new") == b"data"
        await until(lambda: not rig.tier._upkeep._auditing.is_due)
        await rig.tier.drain()
        assert await rig.read(KEY) == bytes(LARGE)
        assert rig.tier.stats.entries == 2
        assert list((path / "broken").iterdir() if (path / "broken").exists() else []) == []


async def test_an_index_that_breaks_at_run_time_is_replaced(tmp_path, caplog):
    async with disk_rig(tmp_path / "a") as rig:
        for number in range(200):
            rig.tier.put(Key(f"s{number}"), entry_of(f"s{number}", bytes(5000)))
        rig.tier.put(KEY, entry_of(KEY, bytes(LARGE)))
        await rig.tier.drain()
        for suffix in ("", "-wal"):
            file = rig.path / (INDEX_NAME + suffix)
            file.write_bytes(b"\xa5" * file.stat().st_size)
        for number in range(200):
            if await rig.tier.get(Key(f"s{number}")) is None:
                break
        await until(lambda: rig.tier.suspect_before > 0)
        await until(lambda: rig.tier.is_available and not rig.tier._upkeep._auditing.is_due)
        assert rig.tier.stats.errors == 1
        assert await rig.read(KEY) == bytes(LARGE)
        rig.tier.put(Key("new"), entry_of("new", b"data"))
        await rig.tier.drain()
        assert await rig.read("new") == b"data"


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
async def test_a_directory_that_others_can_write_is_not_used(tmp_path, caplog, mode):
    path = tmp_path / "a"
    path.mkdir()
    path.chmod(mode)
    async with disk_rig(path) as rig:
        assert not rig.tier.is_available
        assert rig.tier.stats.errors == 1
        rig.tier.put(KEY, entry_of(KEY, b"data"))
        rig.tier.discard(KEY)
        assert rig.tier.peek(KEY) is None
        assert await rig.tier.get(KEY) is None
        assert await rig.tier.open_spool(10) is None
        await rig.tier.drain()
        assert list(path.iterdir()) == []
        assert "writable by others" in caplog.records[0].reason
        path.chmod(0o755)
        await until(lambda: rig.tier.is_available)
        assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory away")
async def test_a_directory_of_somebody_else_is_not_used(tmp_path, caplog):
    path = tmp_path / "a"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, -1)
    async with disk_rig(path) as rig:
        assert not rig.tier.is_available
        assert "belongs to uid 12345" in caplog.records[0].reason


async def test_files_are_for_the_owner_only(tmp_path):
    umask = os.umask(0)
    try:
        async with disk_rig(tmp_path / "deep" / "a") as rig:
            rig.tier.put(KEY, entry_of(KEY, bytes(LARGE)))
            await rig.tier.drain()
            modes = {file.stat().st_mode & 0o777 for file in rig.path.rglob("*") if file.is_file()}
            directories = {file.stat().st_mode & 0o777 for file in rig.path.rglob("*") if file.is_dir()}
        assert (rig.path / "clean").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(umask)
    assert modes == {0o600}
    assert directories == {0o700}
    assert rig.path.stat().st_mode & 0o777 == 0o700


async def test_two_daemons_do_not_share_a_directory(tmp_path, caplog):
    async with disk_rig(tmp_path / "a") as first:
        first.tier.put(KEY, entry_of(KEY, b"data"))
        async with disk_rig(tmp_path / "a") as second:
            assert not second.tier.is_available
            assert "in use by another daemon" in caplog.records[0].reason
            assert await second.read(KEY) is None
        assert await first.read(KEY) == b"data"


async def test_the_directory_is_taken_over_when_the_other_daemon_ends(tmp_path):
    async with disk_rig(tmp_path / "a") as first:
        first.tier.put(KEY, entry_of(KEY, b"data"))
        second = disk_rig(tmp_path / "a", wall=lambda: 2e9)
        rig = await second.__aenter__()
        assert not rig.tier.is_available
    await until(lambda: rig.tier.is_available)
    assert await rig.read(KEY) == b"data"
    # What was discarded through the second one before it was its turn never reached the disk.
    assert rig.tier.suspect_before == 2e9
    await second.__aexit__(None, None, None)


@pytest.mark.parametrize("place", ["file", "file above"])
async def test_a_path_that_cannot_be_a_directory_is_set_aside(tmp_path, place):
    (tmp_path / "a").write_text("not a directory")
    path = tmp_path / "a" if place == "file" else tmp_path / "a" / "b"
    before = open_descriptors()
    async with disk_rig(path) as rig:
        assert not rig.tier.is_available
        (tmp_path / "a").unlink()
        await until(lambda: rig.tier.is_available)
        rig.tier.put(KEY, entry_of(KEY, b"data"))
        await rig.tier.drain()
        assert await rig.read(KEY) == b"data"
    assert open_descriptors() <= before


async def test_a_directory_that_vanishes_is_made_again(tmp_path):
    async with disk_rig(tmp_path / "a") as rig:
        rig.tier.put(KEY, entry_of(KEY, bytes(LARGE)))
        await rig.tier.drain()
        rig.path.rename(tmp_path / "gone")
        assert await rig.tier.open_spool(10) is None
        await until(lambda: rig.tier.is_available)
        assert await rig.read(KEY) is None
        rig.tier.put(KEY, entry_of(KEY, bytes(LARGE)))
        await rig.tier.drain()
        assert await rig.read(KEY) == bytes(LARGE)
        assert len(object_files(rig.path)) == 1
