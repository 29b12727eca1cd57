"""Cache files and index rows that somebody, or a bad disk, has changed: never served, counted, refilled."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.processes import until
from tests.support.tiers import object_files
from tiered_store import Client
from tiered_store.tiers.cachefile import Record, decode, encode

Start = Callable[..., RunningDaemon]
SECRET = b"a file that is none of the cache's business\n" * 10_000
#: The memory tier takes no object of the sizes used here for files.
CONFIG: dict[str, Any] = {"memory": {"max_bytes": 1 << 20}, "disk": {"min_free_bytes": 0, "min_free_inodes": 0}}
SIZE = 300_000


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def flip(path: Path, at: int) -> None:
    byte = path.read_bytes()[at]
    overwrite(path, at, bytes([byte ^ 1]))


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def into_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"x")


def into_link(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(SECRET)
    path.unlink()
    path.symlink_to(secret)


def into_whole_link(path: Path) -> None:
    """A link to a right copy: it would be answered rightly, and still is not ours."""
    elsewhere = path.parent.parent / "copy"
    shutil.copy(path, elsewhere)
    path.unlink()
    path.symlink_to(elsewhere)


def into_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FILE_DAMAGES: dict[str, Callable[[Path], None]] = {
    "first byte of the body": lambda path: flip(path, 4096),
    "last byte of the body": lambda path: flip(path, 4096 + SIZE - 1),
    "magic": lambda path: flip(path, 0),
    "length in the record": lambda path: flip(path, 8),
    "checksum in the record": lambda path: flip(path, 17),
    "key in the record": lambda path: flip(path, 64),
    "cut in the body": lambda path: os.truncate(path, 4096 + SIZE // 2),
    "one byte short": lambda path: os.truncate(path, 4096 + SIZE - 1),
    "cut in the record": lambda path: os.truncate(path, 20),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, 4096 + SIZE + 1),
    "a hole": lambda path: overwrite(path, 8192, bytes(65_536)),
    "another file": lambda path: replace(path, SECRET[: 4096 + SIZE]),
    "a directory": into_directory,
    "a link": into_link,
    "a link to a whole copy": into_whole_link,
    "a pipe": into_pipe,
}


def restarted(daemon_factory: Start, daemon: RunningDaemon) -> Client:
    return daemon_factory(CONFIG, directory=daemon.socket_path.parent).client()


def stored(daemon: RunningDaemon, *keys: str, size: int = SIZE) -> dict[str, bytes]:
    """Put these, and wait until the disk tier has them."""
    client = daemon.client()
    items = {key: random.randbytes(size) for key in keys}
    for key, data in items.items():
        client.put(key, data, content_type="text/plain", metadata={"key": key})
    until(lambda: client.stats()["disk"]["entries"] >= len(items), "the disk tier has written the objects")
    return items


def cache_of(daemon: RunningDaemon) -> Path:
    return daemon.data_dir / "cache"


def assert_refilled(client: Client, items: dict[str, bytes]) -> None:
    """What is in the disk tier now is right, and is what is served."""
    for key, data in items.items():
        assert client.get(key) == data
    before = client.stats()
    for key, data in items.items():
        assert client.get(key) == data
    after = client.stats()
    assert after["disk"]["hits"] - before["disk"]["hits"] == len(items)
    assert after["origin"]["bytes_read"] == before["origin"]["bytes_read"]
    assert after["corrupt"] == before["corrupt"]


def file_of_key(cache: Path) -> dict[str, Path]:
    """Where each object is, by what the files say of themselves."""
    return {decode(path.read_bytes())[0].info.key: path for path in object_files(cache)}


def assert_noticed(client: Client, items: dict[str, bytes], damages: dict[str, str]) -> None:
    """Each damaged object is read rightly, and counted as corrupt, once."""
    for key, data in items.items():
        before = client.stats()["corrupt"]
        assert client.get(key) == data, f"wrong bytes: {damages[key]}"
        assert client.stats()["corrupt"] - before == 1, f"not counted, or twice: {damages[key]}"
        info = client.stat(key)
        assert (info.content_type, info.metadata) == ("text/plain", {"key": key}), damages[key]


def test_files_are_damaged_while_the_daemon_is_stopped(daemon_factory: Start) -> None:
    daemon = daemon_factory(CONFIG)
    damages = {f"{prefix}{n}": name for prefix in ("cache/", "sessions/") for n, name in enumerate(FILE_DAMAGES)}
    items = stored(daemon, *damages)
    assert daemon.stop() == 0
    for key, path in file_of_key(cache_of(daemon)).items():
        FILE_DAMAGES[damages[key]](path)
    client = restarted(daemon_factory, daemon)
    assert_noticed(client, items, damages)
    assert_refilled(client, items)
    assert "the disk tier is set aside" not in daemon.events()


def test_files_are_damaged_while_the_daemon_runs(daemon_factory: Start) -> None:
    daemon = daemon_factory(CONFIG)
    damages = {f"cache/{n}": name for n, name in enumerate(FILE_DAMAGES)}
    items = stored(daemon, *damages)
    client = daemon.client()
    assert {key: client.get(key) for key in items} == items  # the files are verified and open now
    for key, path in file_of_key(cache_of(daemon)).items():
        FILE_DAMAGES[damages[key]](path)
    assert_noticed(client, items, damages)
    assert_refilled(client, items)
    assert "the disk tier is set aside" not in daemon.events()


def test_a_damaged_file_that_readers_have_open_is_replaced_for_the_next_ones(daemon_factory: Start) -> None:
    daemon = daemon_factory(CONFIG)
    items = stored(daemon, "cache/object")
    client = daemon.client()
    (path,) = object_files(cache_of(daemon))
    flip(path, 5000)
    os.utime(path)
    for _ in range(3):
        assert client.get("cache/object") == items["cache/object"]
        with client.get_view("cache/object") as view:
            assert bytes(view) == items["cache/object"]
    assert client.stats()["corrupt"] == 1


def test_files_of_two_keys_are_exchanged(daemon_factory: Start) -> None:
    daemon = daemon_factory(CONFIG)
    items = stored(daemon, "cache/one", "cache/two")
    assert daemon.stop() == 0
    one, two = object_files(cache_of(daemon))
    content = one.read_bytes()
    replace(one, two.read_bytes())
    replace(two, content)
    client = restarted(daemon_factory, daemon)
    for key, data in items.items():
        assert client.get(key) == data
    assert client.stats()["corrupt"] == 2
    assert_refilled(client, items)


def test_an_artifact_whose_file_and_record_were_both_forged(daemon_factory: Start) -> None:
    """Checksums that fit help nobody: an artifact is hashed before it crosses to another tier."""
    daemon = daemon_factory(CONFIG)
    client = daemon.client()
    data = random.randbytes(50_000)  # a row
    key = client.put_artifact(data)
    until(lambda: client.stats()["disk"]["entries"] == 1, "the disk tier has written the artifact")
    assert daemon.stop() == 0

    def forge(value: bytes) -> bytes:
        record, start = decode(value)
        forged = bytes([value[start] ^ 1]) + value[start + 1 :]
        return encode(Record(record.info, zlib.crc32(forged), record.validated_at, record.epoch)) + forged

    change_row(cache_of(daemon), key, forge)
    client = restarted(daemon_factory, daemon)
    assert client.get(key) == data
    assert client.stats()["corrupt"] == 1
    assert client.get(key) == data


# -- rows --------------------------------------------------------------------------------------------------


def change_row(cache: Path, key: str, change: Callable[[bytes], bytes]) -> None:
    connection = sqlite3.connect(cache / "cache.db")
    with connection:
        (value,) = connection.execute("SELECT value FROM Cache WHERE key = ?", (key,)).fetchone()
        connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (change(value), key))
    connection.close()


def execute(cache: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(cache / "cache.db")
    with connection:
        connection.execute(statement, values)
    connection.close()


ROW_DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "first byte": lambda value: bytes([value[0] ^ 1]) + value[1:],
    "a byte of the record": lambda value: value[:30] + bytes([value[30] ^ 1]) + value[31:],
    "last byte": lambda value: value[:-1] + bytes([value[-1] ^ 1]),
    "one byte short": lambda value: value[:-1],
    "cut in the record": lambda value: value[:20],
    "empty": lambda value: b"",
    "longer": lambda value: value + b"x",
    "foreign": lambda value: SECRET[: len(value)],
}


@pytest.mark.parametrize("size", [1000, SIZE])
def test_rows_are_damaged(daemon_factory: Start, size: int) -> None:
    daemon = daemon_factory(CONFIG)
    damages = {f"cache/{n}": name for n, name in enumerate(ROW_DAMAGES)}
    if size == SIZE:  # what follows the record in the row of a file means nothing
        damages = {key: name for key, name in damages.items() if name != "longer"}
    items = stored(daemon, *damages, size=size)
    assert daemon.stop() == 0
    for key, damage in damages.items():
        change_row(cache_of(daemon), key, ROW_DAMAGES[damage])
    client = restarted(daemon_factory, daemon)
    assert_noticed(client, items, damages)
    assert {key: client.get(key) for key in items} == items


#: What a row of the index never holds, as an assignment of SQL.
FOREIGN_COLUMNS = [
    "value = NULL",
    "value = 7",
    "value = 'text'",
    "mode = 3",
    "mode = 99",
    "mode = NULL",
    "filename = '../../origin/cache/0'",
    "filename = '/etc/passwd'",
    "filename = 'objects/../../secret'",
    "filename = 7",
]


@pytest.mark.parametrize("size", [1000, SIZE])
def test_columns_that_nobody_wrote(daemon_factory: Start, size: int) -> None:
    daemon = daemon_factory(CONFIG)
    damages = {f"cache/{n}": assignment for n, assignment in enumerate(FOREIGN_COLUMNS)}
    items = stored(daemon, *damages, size=size)
    assert daemon.stop() == 0
    for key, assignment in damages.items():
        execute(cache_of(daemon), f"UPDATE Cache SET {assignment} WHERE key = ?", key)
    client = restarted(daemon_factory, daemon)
    assert_noticed(client, items, damages)
    assert {key: client.get(key) for key in items} == items
    assert client.delete_prefix("cache/") == len(items)
    assert not any(client.exists_many(items).values())


@pytest.mark.parametrize("assignment", ["raw = 0", "expire_time = 1.0", "key = x'00ff'", "key = CAST(x'ff6b' AS TEXT)"])
def test_keys_that_nobody_wrote(daemon_factory: Start, assignment: str) -> None:
    daemon = daemon_factory(CONFIG)
    items = {**stored(daemon, "cache/row", size=1000), **stored(daemon, "cache/file")}
    daemon.kill9()  # so that the next start goes through all rows
    execute(cache_of(daemon), f"UPDATE Cache SET {assignment} WHERE key = 'cache/row'")
    client = restarted(daemon_factory, daemon)
    for _ in range(2):
        assert {key: client.get(key) for key in items} == items
    assert client.delete("cache/row")
    assert not client.exists("cache/row")
    client.put("cache/row", b"new")
    assert client.get("cache/row") == b"new"


def test_rows_of_two_keys_are_exchanged(daemon_factory: Start) -> None:
    daemon = daemon_factory(CONFIG)
    items = stored(daemon, "cache/one", "cache/two", size=1000)
    assert daemon.stop() == 0
    execute(cache_of(daemon), "UPDATE Cache SET value = (SELECT value FROM Cache WHERE key = 'cache/two')")
    client = restarted(daemon_factory, daemon)
    for key, data in items.items():
        assert client.get(key) == data
    assert client.stats()["corrupt"] == 1


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("raw", [0, 1])
def test_a_planted_pickle_is_never_unpickled(daemon_factory: Start, tmp_path: Path, raw: int) -> None:
    trap = tmp_path / "unpickled"
    bomb = pickle.dumps(Bomb(trap))
    pickle.loads(bomb)
    assert trap.exists(), "the bomb itself does not work"
    trap.unlink()

    daemon = daemon_factory(CONFIG)
    plants = {f"cache/{n}": plant for n, plant in enumerate((mode, kind) for mode in range(6) for kind in "vfk")}
    items = stored(daemon, *plants, size=1000)
    cache = cache_of(daemon)
    daemon.kill9()  # the next start goes through all rows, besides
    (cache / "objects/ab").mkdir(exist_ok=True)
    for number, (key, (mode, kind)) in enumerate(plants.items()):
        name = f"objects/ab/{number:030x}" if kind == "f" else None
        if name is not None:
            (cache / name).write_bytes(bomb)
        new_key = bomb + bytes([number]) if kind == "k" else key
        columns = (new_key, raw, mode, name, None if kind == "f" else bomb, key)
        execute(cache, "UPDATE Cache SET key = ?, raw = ?, mode = ?, filename = ?, value = ? WHERE key = ?", *columns)
    execute(cache, "INSERT OR REPLACE INTO Settings (key, value) VALUES ('planted', ?)", bomb)
    client = restarted(daemon_factory, daemon)
    for _ in range(2):
        assert {key: client.get(key) for key in items} == items
    until(lambda: is_audited(cache), "every row has been looked at")
    client.put("cache/0", b"new")
    assert client.get("cache/0") == b"new"
    assert client.delete("cache/1")
    assert not trap.exists()


def is_audited(cache: Path) -> bool:
    """Whether no planted row or file is left in the index in use, nor where a broken one is put."""
    connection = sqlite3.connect(cache / "cache.db")
    try:
        rows = connection.execute("SELECT COUNT(*) FROM Cache WHERE raw = 0 OR typeof(key) != 'text'").fetchone()
    except sqlite3.Error:
        return False  # being replaced just now
    finally:
        connection.close()
    broken = cache / "broken"
    return rows == (0,) and not list((cache / "objects/ab").glob("0000*")) and not list(broken.glob("*"))
