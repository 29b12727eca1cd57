"""A cache directory that cannot be written: the daemon serves all the same, and uses it once it can."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.mounts import Mounts
from tests.support.processes import until
from tiered_store import Client

pytestmark = pytest.mark.slow

Start = Callable[..., RunningDaemon]
CONFIG: dict[str, Any] = {"memory": {"max_bytes": 1 << 20}, "disk": {"min_free_bytes": 0, "min_free_inodes": 0}}
OLD = {
    f"{prefix}{n}": random.Random(n).randbytes(size)
    for n, (prefix, size) in enumerate(
        [("cache/", 200_000), ("cache/", 800), ("sessions/", 200_000), ("sessions/", 800)] * 5
    )
}
GONE = ["cache/0", "cache/1", "sessions/2", "sessions/3"]


def put_all(client: Client, items: dict[str, bytes]) -> None:
    for key, data in items.items():
        client.put(key, data)


def assert_serves(client: Client, items: dict[str, bytes]) -> None:
    for _ in range(2):
        assert {key: client.get(key) for key in items} == items


def uses_disk(client: Client) -> bool:
    data = random.randbytes(200_000)
    client.put("sessions/probe", data)
    before = client.stats()["disk"]["hits"]
    assert client.get("sessions/probe") == data
    return bool(client.stats()["disk"]["hits"] > before)


def changed() -> dict[str, bytes]:
    return {key: data[::-1] for key, data in OLD.items() if key not in GONE}


def delete_all(client: Client, keys: list[str]) -> None:
    for key in keys:
        assert client.delete(key)


def test_the_cache_is_read_only_at_the_start(daemon_factory: Start, home: Path, mounts: Mounts) -> None:
    cache = mounts.tmpfs(home / "data/cache", size="64m")
    daemon = daemon_factory(CONFIG, directory=home)
    put_all(daemon.client(), OLD)
    assert daemon.stop() == 0
    mounts.remount(cache, "ro")
    daemon = daemon_factory(CONFIG, directory=home)
    client = daemon.client()
    assert_serves(client, OLD)
    assert "the disk tier cannot be used" in daemon.events()
    new = changed()
    put_all(client, new)
    delete_all(client, GONE)
    assert_serves(client, new)
    mounts.remount(cache, "rw")
    until(lambda: uses_disk(client), "the disk tier is taken into use", limit_s=60)
    # What the directory held from before is older than what was written meanwhile.
    assert_serves(client, new)
    assert not any(client.exists_many(GONE).values())
    assert daemon.stop() == 0


def test_the_cache_becomes_read_only(daemon_factory: Start, home: Path, mounts: Mounts) -> None:
    cache = mounts.tmpfs(home / "data/cache", size="64m")
    daemon = daemon_factory(CONFIG, directory=home)
    client = daemon.client()
    put_all(client, OLD)
    assert uses_disk(client)
    mounts.cover_read_only(cache)
    new = changed()
    put_all(client, new)
    delete_all(client, GONE)
    assert_serves(client, new)
    until(lambda: "the disk tier is set aside" in daemon.events(), "the fault was noticed")
    mounts.remove(cache)
    until(lambda: "the disk tier is back" in daemon.events(), "the disk tier is back", limit_s=60)
    assert uses_disk(client)
    assert_serves(client, new)
    assert not any(client.exists_many(GONE).values())
    assert daemon.stop() == 0
    client = daemon_factory(CONFIG, directory=home).client()
    assert_serves(client, new)
    assert not any(client.exists_many(GONE).values())
