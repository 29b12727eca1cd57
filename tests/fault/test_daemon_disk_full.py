"""A daemon whose cache or origin has no byte, or no file, left."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.mounts import Mounts, fill_up, fill_up_inodes
from tests.support.processes import until
from tests.support.tiers import ManualClock, disk_rig
from tiered_store import Client, QuotaExceeded

pytestmark = pytest.mark.slow

MIB = 1 << 20
#: Over what one object may take of the memory tier, so that only the disk tier or the origin has it.
MEMORY_BYTES = MIB

Start = Callable[..., RunningDaemon]
Fill = Callable[[Path], Path]


CONFIG: dict[str, Any] = {
    "memory": {"max_bytes": MEMORY_BYTES},
    "disk": {"max_bytes": 1 << 30, "min_free_bytes": 0, "min_free_inodes": 0},
}


def objects(seed: int, count: int, size: int) -> dict[str, bytes]:
    rng = random.Random(seed)
    return {f"cache/{seed}/{number}": rng.randbytes(size) for number in range(count)}


def assert_whole(client: Client, items: dict[str, bytes]) -> None:
    for key, data in items.items():
        assert client.get(key) == data, f"wrong bytes for {key}"


def is_kept_on_disk(client: Client) -> bool:
    """Whether the disk tier takes new objects and gives them back."""
    data = random.randbytes(300_000)
    client.put("sessions/probe", data)
    before = client.stats()["disk"]["hits"]
    assert client.get("sessions/probe") == data
    return bool(client.stats()["disk"]["hits"] > before)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("size", [500, 300_000])
def test_more_objects_than_the_file_system_of_the_cache_holds(
    daemon_factory: Start, mounts: Mounts, home: Path, size: int
) -> None:
    mounts.tmpfs(home / "data/cache", size="16m")
    client = daemon_factory(CONFIG, directory=home).client()
    items = objects(1, 40 if size < 1000 else 90, size)
    for key, data in items.items():
        client.put(key, data)
    assert_whole(client, items)
    assert_whole(client, items)
    assert client.stats()["corrupt"] == 0
    # Making room for one object does not cost all the others.
    assert client.stats()["disk"]["entries"] > 10
    until(lambda: is_kept_on_disk(client), "the disk tier takes objects in spite of the small file system")


@pytest.mark.parametrize("fill", [fill_up, fill_up_inodes])
def test_the_cache_is_filled_by_somebody_else(daemon_factory: Start, mounts: Mounts, home: Path, fill: Fill) -> None:
    cache = mounts.tmpfs(home / "data/cache", size="16m", nr_inodes=600)
    daemon = daemon_factory(CONFIG, directory=home)
    client = daemon.client()
    before, small = objects(1, 10, 200_000), objects(2, 30, 800)
    for key, data in {**before, **small}.items():
        client.put(key, data)
    ballast = fill(cache)
    during = objects(3, 20, 200_000)
    replaced = dict(zip(small, objects(4, 30, 900).values(), strict=True))
    for key, data in {**during, **replaced}.items():
        client.put(key, data)
    gone = list(before)[:3]
    for key in gone:
        assert client.delete(key)
        del before[key]
    for _ in range(2):
        assert_whole(client, {**before, **during, **replaced})
    assert not any(client.exists_many(gone).values())
    remove(ballast)
    until(lambda: is_kept_on_disk(client), "the disk tier is back", limit_s=40)
    assert_whole(client, {**before, **during, **replaced})
    assert client.stats()["corrupt"] == 0
    # What was on disk before must not come back with the next start either.
    assert daemon.stop() == 0
    again = daemon_factory(CONFIG, directory=home).client()
    assert_whole(again, {**before, **during, **replaced})
    assert not any(again.exists_many(gone).values())


@pytest.mark.parametrize("fill", [fill_up, fill_up_inodes])
def test_a_daemon_starts_with_a_full_cache_directory(
    daemon_factory: Start, mounts: Mounts, home: Path, fill: Fill
) -> None:
    cache = mounts.tmpfs(home / "data/cache", size="16m", nr_inodes=600)
    ballast = fill(cache)
    client = daemon_factory(CONFIG, directory=home).client()
    items = {**objects(1, 5, 200_000), **objects(2, 5, 100)}
    for key, data in items.items():
        client.put(key, data)
    assert_whole(client, items)
    remove(ballast)
    until(lambda: is_kept_on_disk(client), "the disk tier is taken into use", limit_s=40)


@pytest.mark.parametrize("fill", [fill_up, fill_up_inodes])
@pytest.mark.parametrize("size", [20_000, 1_000_000])
def test_a_full_origin_refuses_and_keeps_what_it_has(
    daemon_factory: Start, mounts: Mounts, home: Path, fill: Fill, size: int
) -> None:
    origin = mounts.tmpfs(home / "data/origin", size="16m", nr_inodes=600)
    client = daemon_factory(CONFIG, directory=home).client()
    old, new = random.randbytes(size), random.randbytes(size)
    client.put("sessions/a", old, content_type="text/old", metadata={"v": "old"})
    there = sorted(path for path in origin.rglob("*") if path.name != "ballast")
    ballast = fill(origin)
    for key in ("sessions/a", "sessions/b", "cache/deep/er/c"):
        with pytest.raises(QuotaExceeded, match=r"full|quota") as caught:
            client.put(key, new, content_type="text/new", metadata={"v": "new"})
        assert caught.value.key == key
    with pytest.raises(QuotaExceeded):
        client.put_artifact(new)
    with pytest.raises(QuotaExceeded):
        client.put_many({f"sessions/many/{number}": bytes(9000) for number in range(4)})
    with pytest.raises(QuotaExceeded):
        client.copy("sessions/a", "sessions/copy")
    info = client.stat("sessions/a")
    assert (client.get("sessions/a"), info.content_type, info.metadata) == (old, "text/old", {"v": "old"})
    remove(ballast)
    assert [path for path in sorted(origin.rglob("*")) if path.is_file() and path not in there] == []
    client.put("sessions/a", new, content_type="text/new", metadata={"v": "new"})
    info = client.stat("sessions/a")
    assert (client.get("sessions/a"), info.content_type, info.metadata) == (new, "text/new", {"v": "new"})
    assert client.put_artifact(new).startswith("sha256:")


def test_deleting_makes_room_in_a_full_origin(daemon_factory: Start, mounts: Mounts, home: Path) -> None:
    origin = mounts.tmpfs(home / "data/origin", size="16m")
    client = daemon_factory(CONFIG, directory=home).client()
    client.put("sessions/large", random.randbytes(4 * MIB))
    fill_up(origin)
    with pytest.raises(QuotaExceeded):
        client.put("sessions/next", random.randbytes(MIB))
    assert client.delete("sessions/large")
    data = random.randbytes(MIB)
    client.put("sessions/next", data)
    assert client.get("sessions/next") == data


async def test_nobody_waits_for_room_that_culling_cannot_make(home: Path, mounts: Mounts) -> None:
    cache = mounts.tmpfs(home / "cache", size="16m")
    # On this clock no time to wait is ever over: the answer must come from knowing better.
    clock = ManualClock()
    async with disk_rig(cache, max_bytes=1 << 30, clock=clock) as rig:
        fill_up(cache)
        clock.now += 60  # what was known of the file system is out of date
        assert await rig.tier.open_spool(MIB) is None
