"""The index of the disk tier is gone, or is not what it was: the daemon starts, serves and rebuilds."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.processes import until
from tests.support.tiers import object_files
from tiered_store import Client

pytestmark = pytest.mark.slow

Start = Callable[..., RunningDaemon]
CONFIG: dict[str, Any] = {"memory": {"max_bytes": 1 << 20}, "disk": {"min_free_bytes": 0, "min_free_inodes": 0}}
GARBAGE = random.Random(7).randbytes(100_000)
LARGE = {f"cache/large/{n}": random.Random(n).randbytes(200_000 + n) for n in range(12)}
SMALL = {f"sessions/small/{n}": random.Random(n).randbytes(900 + n) for n in range(20)}
ITEMS = {**LARGE, **SMALL}


def write_garbage(name: str, garbage: bytes = GARBAGE) -> Callable[[Path], None]:
    def damage(cache: Path) -> None:
        (cache / name).write_bytes(garbage)

    return damage


def remove(*names: str) -> Callable[[Path], None]:
    def damage(cache: Path) -> None:
        for name in names:
            (cache / name).unlink(missing_ok=True)

    return damage


def both(*damages: Callable[[Path], None]) -> Callable[[Path], None]:
    def damage(cache: Path) -> None:
        for one in damages:
            one(cache)

    return damage


def truncate(name: str, share: float) -> Callable[[Path], None]:
    def damage(cache: Path) -> None:
        path = cache / name
        if path.exists():
            os.truncate(path, int(path.stat().st_size * share))

    return damage


def overwrite_pages(cache: Path) -> None:
    """All but the first page, which is what SQLite looks at when it opens the file."""
    path = cache / "cache.db"
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(8).randbytes(path.stat().st_size - 4096))


def index_is_directory(cache: Path) -> None:
    (cache / "cache.db").unlink()
    (cache / "cache.db").mkdir()


#: What takes the index away altogether: objects in rows are lost then, those in files must come back.
LOST: dict[str, Callable[[Path], None]] = {
    "deleted": remove("cache.db", "cache.db-wal", "cache.db-shm"),
    "deleted but for its log": remove("cache.db"),
    "garbage": both(remove("cache.db-wal", "cache.db-shm"), write_garbage("cache.db")),
    "garbage everywhere": both(*(write_garbage(f"cache.db{end}") for end in ("", "-wal", "-shm"))),
    "empty": both(remove("cache.db-wal"), truncate("cache.db", 0)),
    "cut in half": both(remove("cache.db-wal"), truncate("cache.db", 0.5)),
    "cut in its first page": both(remove("cache.db-wal"), truncate("cache.db", 0.001)),
    "pages overwritten": both(remove("cache.db-wal"), overwrite_pages),
}
#: What SQLite, or the tier, may survive without a new index.
SHAKEN: dict[str, Callable[[Path], None]] = {
    "garbage as log": write_garbage("cache.db-wal"),
    "garbage as shared memory": write_garbage("cache.db-shm"),
    "log cut": truncate("cache.db-wal", 0.6),
    "log deleted": remove("cache.db-wal"),
    "run number deleted": remove("lock"),
    "run number garbage": write_garbage("lock"),
    "marks garbage": write_garbage("clean"),
    "run number negative": write_garbage("lock", b"-7"),
    "run number huge": write_garbage("lock", b"9" * 30),
    "marks of wrong types": write_garbage("clean", b'{"epoch": "1", "suspect_epoch": null}'),
    "marks too deep": write_garbage("clean", b"[" * 100_000),
    "marks empty": both(write_garbage("clean"), truncate("clean", 0)),
    "index is a directory": index_is_directory,
}


def filled(daemon_factory: Start) -> RunningDaemon:
    daemon = daemon_factory(CONFIG)
    client = daemon.client()
    for key, data in ITEMS.items():
        client.put(key, data, content_type="text/x", metadata={"key": key})
    until(lambda: client.stats()["disk"]["entries"] == len(ITEMS), "the disk tier has written everything")
    return daemon


def end(daemon: RunningDaemon, how: str) -> Path:
    if how == "stopped":
        assert daemon.stop() == 0
    else:
        daemon.kill9()
    return daemon.data_dir / "cache"


def assert_serves(client: Client) -> None:
    for key, data in ITEMS.items():
        assert client.get(key) == data
        info = client.stat(key)
        assert (info.content_type, info.metadata) == ("text/x", {"key": key})


@pytest.mark.parametrize("how", ["stopped", "killed"])
@pytest.mark.parametrize("damage", LOST)
def test_a_lost_index_is_rebuilt_from_the_files(daemon_factory: Start, damage: str, how: str) -> None:
    daemon = filled(daemon_factory)
    cache = end(daemon, how)
    LOST[damage](cache)
    client = daemon_factory(CONFIG, directory=daemon.socket_path.parent).client()
    client.ping()
    # Before anybody reads: what is there now was found, not fetched.
    until(lambda: client.stats()["disk"]["entries"] >= len(LARGE), "the large objects are in the index again")
    before = client.stats()["origin"]
    for key, data in LARGE.items():
        assert client.get(key) == data
    assert client.stats()["origin"]["bytes_read"] == before["bytes_read"]
    assert_serves(client)
    assert len(object_files(cache)) == len(LARGE)
    until(lambda: not (cache / "rebuild").exists(), "the rebuild has come to its end")


@pytest.mark.parametrize("damage", SHAKEN)
def test_a_shaken_index(daemon_factory: Start, damage: str) -> None:
    daemon = filled(daemon_factory)
    # Only a daemon that was killed leaves a log, only one that was stopped leaves marks.
    cache = end(daemon, "killed" if "log" in damage else "stopped")
    SHAKEN[damage](cache)
    client = daemon_factory(CONFIG, directory=daemon.socket_path.parent).client()
    assert_serves(client)
    assert_serves(client)
    client.put("cache/large/0", b"new", content_type="text/new")
    assert (client.get("cache/large/0"), client.stat("cache/large/0").content_type) == (b"new", "text/new")
    assert client.delete("cache/large/1")
    assert not client.exists("cache/large/1")


def test_changes_between_the_loss_of_the_index_and_its_rebuild_win(daemon_factory: Start) -> None:
    daemon = filled(daemon_factory)
    cache = end(daemon, "stopped")
    shutil.copytree(cache / "objects", cache.parent / "objects")
    LOST["deleted"](cache)
    again = daemon_factory(CONFIG, directory=daemon.socket_path.parent)
    client = again.client()
    client.put("cache/large/0", GARBAGE)
    assert client.delete("cache/large/1")
    client.put("cache/large/2", b"small now")
    again.kill9()
    # All old files are there again, as if nothing of this had reached the disk.
    shutil.copytree(cache.parent / "objects", cache / "objects", dirs_exist_ok=True)
    LOST["deleted"](cache)
    client = daemon_factory(CONFIG, directory=daemon.socket_path.parent).client()
    until(lambda: not (cache / "rebuild").exists(), "the rebuild has come to its end")
    for _ in range(2):
        assert client.get("cache/large/0") == GARBAGE
        assert client.get("cache/large/2") == b"small now"
        assert not client.exists("cache/large/1")
        assert client.get("cache/large/3") == LARGE["cache/large/3"]


def test_an_index_is_replaced_while_it_is_in_use(daemon_factory: Start) -> None:
    daemon = filled(daemon_factory)
    client = daemon.client()
    cache = daemon.data_dir / "cache"
    overwrite_pages(cache)
    write_garbage("cache.db-wal")(cache)
    assert_serves(client)
    for key in SMALL:
        client.put(key, b"2" + ITEMS[key])
    for _ in range(2):
        for key in SMALL:
            assert client.get(key) == b"2" + ITEMS[key]
