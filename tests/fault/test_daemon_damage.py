"""Cache files and index rows that somebody, or a bad disk, has changed: never served, counted, refilled."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.processes import until
from tests.support.tiers import object_files
from tiered_store import Client

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


def assert_refilled(client: Client, daemon_factory: Start, daemon: RunningDaemon, items: dict[str, bytes]) -> None:
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


@pytest.mark.parametrize("damage", FILE_DAMAGES)
@pytest.mark.parametrize("key", ["cache/object", "sessions/object"])
def test_a_file_is_damaged_while_the_daemon_is_stopped(daemon_factory: Start, damage: str, key: str) -> None:
    daemon = daemon_factory(CONFIG)
    items = stored(daemon, key)
    assert daemon.stop() == 0
    (path,) = object_files(cache_of(daemon))
    FILE_DAMAGES[damage](path)
    client = restarted(daemon_factory, daemon)
    assert client.get(key) == items[key]
    assert client.stats()["corrupt"] == 1
    info = client.stat(key)
    assert (info.content_type, info.metadata) == ("text/plain", {"key": key})
    assert_refilled(client, daemon_factory, daemon, items)


@pytest.mark.parametrize("damage", FILE_DAMAGES)
def test_a_file_is_damaged_while_the_daemon_runs(daemon_factory: Start, damage: str) -> None:
    daemon = daemon_factory(CONFIG)
    items = stored(daemon, "cache/object")
    client = daemon.client()
    assert client.get("cache/object") == items["cache/object"]  # the file is verified and open now
    (path,) = object_files(cache_of(daemon))
    FILE_DAMAGES[damage](path)
    for _ in range(3):
        assert client.get("cache/object") == items["cache/object"]
    # What is still open of a file that lost its name may be served: it is what it was.
    assert client.stats()["corrupt"] == 1
    assert_refilled(client, daemon_factory, daemon, items)


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
    assert_refilled(client, daemon_factory, daemon, items)


def test_many_damaged_files_do_not_cost_the_tier(daemon_factory: Start) -> None:
    daemon = daemon_factory(CONFIG)
    items = stored(daemon, *(f"cache/{number}" for number in range(12)))
    assert daemon.stop() == 0
    damages = [into_directory, into_link, into_pipe, lambda path: os.truncate(path, 100)]
    for number, path in enumerate(object_files(cache_of(daemon))):
        damages[number % len(damages)](path)
    client = restarted(daemon_factory, daemon)
    for key, data in items.items():
        assert client.get(key) == data
    assert client.stats()["corrupt"] == len(items)
    assert_refilled(client, daemon_factory, daemon, items)
    assert "the disk tier is set aside" not in daemon.events()


def test_an_artifact_whose_file_and_record_were_both_forged(daemon_factory: Start) -> None:
    """Checksums that fit help nobody: an artifact is hashed before it crosses to another tier."""
    daemon = daemon_factory(CONFIG)
    client = daemon.client()
    data = random.randbytes(50_000)  # a row
    key = client.put_artifact(data)
    until(lambda: client.stats()["disk"]["entries"] == 1, "the disk tier has written the artifact")
    assert daemon.stop() == 0
    from tiered_store.tiers.cachefile import Record, decode, encode

    def forge(value: bytes) -> bytes:
        import zlib

        record, start = decode(value)
        forged = bytes([value[start] ^ 1]) + value[start + 1 :]
        return encode(Record(record.info, zlib.crc32(forged), record.validated_at, record.epoch)) + forged

    change_row(cache_of(daemon), forge)
    client = restarted(daemon_factory, daemon)
    assert client.get(key) == data
    assert client.stats()["corrupt"] == 1
    assert client.get(key) == data


# -- rows --------------------------------------------------------------------------------------------------


def change_row(cache: Path, change: Callable[[bytes], bytes]) -> None:
    connection = sqlite3.connect(cache / "cache.db")
    with connection:
        (value,) = connection.execute("SELECT value FROM Cache").fetchone()
        connection.execute("UPDATE Cache SET value = ?", (change(value),))
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


@pytest.mark.parametrize("damage", ROW_DAMAGES)
@pytest.mark.parametrize("size", [1000, SIZE])
def test_a_row_is_damaged(daemon_factory: Start, damage: str, size: int) -> None:
    daemon = daemon_factory(CONFIG)
    items = stored(daemon, "cache/object", size=size)
    assert daemon.stop() == 0
    change = ROW_DAMAGES[damage]
    if size == SIZE and damage in {"longer"}:
        pytest.skip("bytes after the record of a file's row mean nothing")
    change_row(cache_of(daemon), change)
    client = restarted(daemon_factory, daemon)
    assert client.get("cache/object") == items["cache/object"]
    assert client.stats()["corrupt"] == 1
    assert client.get("cache/object") == items["cache/object"]
    assert client.stats()["corrupt"] == 1


@pytest.mark.parametrize(
    "assignment",
    [
        "value = NULL",
        "value = 7",
        "value = 'text'",
        "mode = 3",
        "mode = 99",
        "mode = NULL",
        "filename = '../../origin/cache/object'",
        "filename = '/etc/passwd'",
        "filename = 'objects/../../secret'",
        "filename = NULL",
        "filename = 7",
        "raw = 0",
        "expire_time = 1.0",
        "key = x'00ff'",
        "key = CAST(x'ff6b' AS TEXT)",
    ],
)
@pytest.mark.parametrize("size", [1000, SIZE])
def test_columns_that_nobody_wrote(daemon_factory: Start, assignment: str, size: int) -> None:
    daemon = daemon_factory(CONFIG)
    items = stored(daemon, "cache/object", size=size)
    assert daemon.stop() == 0
    execute(cache_of(daemon), f"UPDATE Cache SET {assignment}")
    client = restarted(daemon_factory, daemon)
    for _ in range(2):
        assert client.get("cache/object") == items["cache/object"]
    assert client.delete("cache/object")
    assert not client.exists("cache/object")
    client.put("cache/object", b"new")
    assert client.get("cache/object") == b"new"


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


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
@pytest.mark.parametrize("raw", [0, 1])
@pytest.mark.parametrize("as_file", [False, True])
def test_a_planted_pickle_is_never_unpickled(
    daemon_factory: Start, tmp_path: Path, mode: int, raw: int, as_file: bool
) -> None:
    trap = tmp_path / "unpickled"
    bomb = pickle.dumps(Bomb(trap))
    pickle.loads(bomb)
    assert trap.exists(), "the bomb itself does not work"
    trap.unlink()

    daemon = daemon_factory(CONFIG)
    items = stored(daemon, "cache/object", "cache/other", size=1000)
    cache = cache_of(daemon)
    daemon.kill9()  # the next start looks at every row, besides
    name = None
    if as_file:
        name = f"objects/ab/{'0' * 30}"
        (cache / "objects/ab").mkdir(exist_ok=True)
        (cache / name).write_bytes(bomb)
    key: object = bomb if raw == 0 else "cache/object"
    execute(
        cache,
        "UPDATE Cache SET key = ?, raw = ?, mode = ?, filename = ?, value = ? WHERE key = 'cache/object'",
        *(key, raw, mode, name, None if as_file else bomb),
    )
    execute(cache, "INSERT OR REPLACE INTO Settings (key, value) VALUES ('planted', ?)", bomb)
    client = restarted(daemon_factory, daemon)
    for _ in range(2):
        assert {key: client.get(key) for key in items} == items
    until(lambda: bool(client.stats()["disk"]["entries"] >= 1), "the disk tier works")
    client.put("cache/object", b"new")
    assert client.get("cache/object") == b"new"
    assert client.delete("cache/other")
    assert not trap.exists()
