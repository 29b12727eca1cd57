"""A local origin that fails under a running daemon: what is cached is served, the rest is told plainly."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.mounts import Mounts
from tiered_store import Client, NotFound, OriginUnavailable, PermissionDenied, StoreError

Start = Callable[..., RunningDaemon]
CONFIG: dict[str, Any] = {
    "memory": {"max_bytes": 1 << 20},
    "disk": {"min_free_bytes": 0, "min_free_inodes": 0},
    "policies": [
        {"prefix": "cache/", "immutable": True},
        {"prefix": "stale/", "ttl_s": 0, "stale_if_error_s": 3600},
        {"prefix": "strict/", "ttl_s": 0, "stale_if_error_s": 0},
        {"prefix": "soft/", "ttl_s": 0, "stale_while_revalidate_s": 3600},
    ],
}
SIZES = {"small": 900, "large": 300_000}
FRESH = {
    f"{prefix}/{name}": random.Random(name).randbytes(size)
    for prefix in ("cache", "sessions", "soft")
    for name, size in SIZES.items()
}
STALE = {f"stale/{name}": random.Random(name).randbytes(size) for name, size in SIZES.items()}
STRICT = {f"strict/{name}": random.Random(name).randbytes(size) for name, size in SIZES.items()}
CACHED = {**FRESH, **STALE, **STRICT}


def filled(daemon: RunningDaemon) -> Client:
    """Objects in the tiers, and some that only the origin has."""
    client = daemon.client()
    for key, data in CACHED.items():
        client.put(key, data, metadata={"key": key})
    for name, size in SIZES.items():
        path = daemon.data_dir / "origin" / "cold" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
    assert {key: client.get(key) for key in CACHED} == CACHED
    return client


def outcome(action: Callable[[], object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        action()
    assert type(caught.value) is not NotFound, "a failing origin is not an empty one"
    return caught.value


def assert_fails(client: Client, kind: type[StoreError], match: str, *, retryable: bool) -> None:
    actions: dict[str, Callable[[], object]] = {
        "get small": lambda: client.get("cold/small"),
        "get large": lambda: client.get("cold/large"),
        "stat": lambda: client.stat("cold/small"),
        "exists": lambda: client.exists("cold/small"),
        "get strict": lambda: client.get("strict/large"),
        "put": lambda: client.put("sessions/new", b"x"),
        "put large": lambda: client.put("sessions/new", bytes(300_000), metadata={"a": "b"}),
        "put artifact": lambda: client.put_artifact(b"an artifact"),
        "copy": lambda: client.copy("cold/small", "sessions/new"),
    }
    for name, action in actions.items():
        error = outcome(action)
        assert type(error) is kind, f"{name}: {error!r}"
        assert error.retryable is retryable, f"{name}: {error!r}"
        assert match in str(error), f"{name}: {error}"


def assert_served(client: Client, items: dict[str, bytes]) -> None:
    for _ in range(2):
        for key, data in items.items():
            assert client.get(key) == data
            assert key.startswith("soft/") or client.stat(key).metadata == {"key": key}


def assert_works(client: Client) -> None:
    assert client.get("cold/large") == bytes(SIZES["large"])
    assert client.get("strict/small") == STRICT["strict/small"]
    client.put("sessions/new", b"new")
    assert client.get("sessions/new") == b"new"


#: Runs a command as root without root's right to pass over permissions.
WITHOUT_OVERRIDE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


@pytest.fixture
def ordinary(daemon_factory: Start, home: Path) -> RunningDaemon:
    """A daemon that permissions apply to."""
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root passes over permissions, and setpriv is not there")
    return daemon_factory(CONFIG, directory=home, wrapper=WITHOUT_OVERRIDE if os.geteuid() == 0 else ())


def test_the_permission_to_enter_the_origin_is_taken_away(ordinary: RunningDaemon) -> None:
    client = filled(ordinary)
    origin = ordinary.data_dir / "origin"
    origin.chmod(0o000)
    try:
        assert_served(client, FRESH)
        assert_fails(client, PermissionDenied, f"uid {os.geteuid()} may not", retryable=False)
    finally:
        origin.chmod(0o700)
    assert_works(client)
    assert_served(client, {**FRESH, **STALE})


def test_the_permission_to_read_one_file_is_missing(ordinary: RunningDaemon) -> None:
    client = filled(ordinary)
    path = ordinary.data_dir / "origin/cold/large"
    path.chmod(0o000)
    error = outcome(lambda: client.get("cold/large"))
    assert isinstance(error, PermissionDenied)
    assert error.key == "cold/large"
    assert client.get("cold/small") == bytes(SIZES["small"])
    path.chmod(0o600)
    assert client.get("cold/large") == bytes(SIZES["large"])


def test_the_origin_cannot_be_written(ordinary: RunningDaemon) -> None:
    client = filled(ordinary)
    for path in (ordinary.data_dir / "origin").rglob("*"):
        if path.is_dir():
            path.chmod(0o500)
    with pytest.raises(PermissionDenied):
        client.put("cold/new", b"x")
    with pytest.raises(PermissionDenied):
        client.delete("cold/small")
    assert client.get("cold/small") == bytes(SIZES["small"])
    assert_served(client, {**FRESH, **STALE, **STRICT})
    for path in (ordinary.data_dir / "origin").rglob("*"):
        if path.is_dir():
            path.chmod(0o700)
    assert_works(client)


def test_the_origin_is_removed(daemon_factory: Start, home: Path) -> None:
    daemon = daemon_factory(CONFIG, directory=home)
    client = filled(daemon)
    origin, saved = daemon.data_dir / "origin", home / "saved"
    shutil.copytree(origin, saved)
    shutil.rmtree(origin)
    assert_served(client, {**FRESH, **STALE})
    assert_fails(client, OriginUnavailable, str(origin), retryable=True)
    assert client.stats()["stale_served"] > 0
    with pytest.raises(OriginUnavailable):
        list(client.list())
    with pytest.raises(OriginUnavailable):
        client.delete("cache/small")
    # Another directory in its place may be an empty mount point: only a start makes it the origin.
    shutil.copytree(saved, origin)
    assert_fails(client, OriginUnavailable, "restart the daemon", retryable=True)
    assert daemon.stop() == 0
    client = daemon_factory(CONFIG, directory=home).client()
    assert_works(client)
    assert {key: client.get(key) for key in FRESH} == FRESH


def test_the_origin_is_replaced_by_another_directory(daemon_factory: Start, home: Path) -> None:
    """What is acknowledged must be where the next start looks for it."""
    daemon = daemon_factory(CONFIG, directory=home)
    client = filled(daemon)
    origin, away, other = daemon.data_dir / "origin", home / "away", home / "other"
    shutil.copytree(origin, other)
    origin.rename(away)
    other.rename(origin)
    assert_fails(client, OriginUnavailable, "was removed or replaced", retryable=True)
    assert_served(client, {**FRESH, **STALE})
    assert not any((place / "sessions/new").exists() for place in (origin, away))
    origin.rename(other)
    away.rename(origin)
    assert_works(client)
    assert_served(client, CACHED)
    said = [(line["event"], line["requests"]) for line in daemon.log() if str(line["event"]).startswith("the origin")]
    assert said == [
        ("the origin fails", "reads"),
        ("the origin fails", "writes"),
        ("the origin answers again", "reads"),
        ("the origin answers again", "writes"),
    ]


def test_the_origins_file_system_is_unmounted(daemon_factory: Start, home: Path, mounts: Mounts) -> None:
    origin = mounts.tmpfs(home / "data/origin", size="32m")
    daemon = daemon_factory(CONFIG, directory=home)
    client = filled(daemon)
    mounts.remove(origin)
    assert_served(client, {**FRESH, **STALE})
    # The daemon must not write where nobody will ever look: to the file system that is gone, or below its mount point.
    assert_fails(client, OriginUnavailable, "put it back", retryable=True)
    assert list(origin.iterdir()) == []


def test_the_origin_becomes_read_only(daemon_factory: Start, home: Path, mounts: Mounts) -> None:
    origin = mounts.tmpfs(home / "data/origin", size="32m")
    daemon = daemon_factory(CONFIG, directory=home)
    client = filled(daemon)
    mounts.remount(origin, "ro")
    with pytest.raises(PermissionDenied, match="Read-only"):
        client.put("sessions/new", b"x")
    with pytest.raises(PermissionDenied, match="Read-only"):
        client.delete("cache/small")
    assert client.get("cold/large") == bytes(SIZES["large"])
    assert_served(client, CACHED)
    mounts.remount(origin, "rw")
    assert_works(client)
