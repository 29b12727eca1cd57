"""Two daemons on one origin: what a ttl promises holds, and no more. Two on one cache directory: one goes without."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.crash import State, observe, state_of
from tests.support.daemon import RunningDaemon
from tests.support.processes import until
from tests.support.tiers import object_files
from tiered_store import Client, DaemonUnavailable, NotFound

Start = Callable[..., RunningDaemon]
CONFIG: dict[str, Any] = {
    "memory": {"max_bytes": 1 << 20},
    "disk": {"min_free_bytes": 0, "min_free_inodes": 0},
    "policies": [
        {"prefix": "cache/", "immutable": True},
        {"prefix": "now/", "ttl_s": 0, "negative_ttl_s": 0},
        {"prefix": "later/", "ttl_s": 3600, "negative_ttl_s": 3600},
    ],
}
SIZES = [700, 300_000]


@pytest.fixture
def pair(daemon_factory: Start, home: Path) -> tuple[RunningDaemon, RunningDaemon]:
    """Two daemons whose origin is one directory."""
    origin = home / "data/origin"
    origin.mkdir(parents=True)
    started = []
    for name in ("one", "two"):
        directory = home / name
        (directory / "data").mkdir(parents=True)
        (directory / "data/origin").symlink_to(origin)
        started.append(daemon_factory(CONFIG, directory=directory))
    return started[0], started[1]


@pytest.mark.parametrize("size", SIZES)
def test_without_a_ttl_the_other_daemon_sees_every_change_at_once(
    pair: tuple[RunningDaemon, RunningDaemon], size: int
) -> None:
    one, two = (daemon.client() for daemon in pair)
    with pytest.raises(NotFound):
        two.get("now/x")
    for number in range(5):
        data = random.randbytes(size)
        one.put("now/x", data, content_type=f"text/{number}", metadata={"n": str(number)})
        assert observe(two, "now/x") == state_of(data, one.stat("now/x"))
        one, two = two, one
    assert one.delete("now/x")
    with pytest.raises(NotFound):
        two.get("now/x")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("prefix", ["later/", "cache/"])
def test_within_its_ttl_the_other_daemon_gives_what_it_has_whole(
    pair: tuple[RunningDaemon, RunningDaemon], prefix: str, size: int
) -> None:
    one, two = (daemon.client() for daemon in pair)
    old, new = random.randbytes(size), random.randbytes(size + 1)
    one.put(f"{prefix}x", old, metadata={"v": "old"})
    assert two.get(f"{prefix}x") == old
    one.put(f"{prefix}x", new, metadata={"v": "new"})
    assert one.get(f"{prefix}x") == new
    assert observe(two, f"{prefix}x") == state_of(old, two.stat(f"{prefix}x"))
    assert two.stat(f"{prefix}x").metadata == {"v": "old"}
    # Its own write ends that.
    two.put(f"{prefix}x", old, metadata={"v": "older"})
    assert (two.get(f"{prefix}x"), two.stat(f"{prefix}x").metadata) == (old, {"v": "older"})


def test_an_artifact_that_one_daemon_has_deleted_can_be_put_through_the_other(
    pair: tuple[RunningDaemon, RunningDaemon],
) -> None:
    """A put that is acknowledged is at the origin, whatever the tiers remember of an earlier one."""
    one, two = (daemon.client() for daemon in pair)
    for size in SIZES:
        data = random.randbytes(size)
        key = one.put_artifact(data)
        assert two.get(key) == data
        assert one.delete(key)
        assert two.put_artifact(data) == key
        assert one.get(key) == data
        name = key.removeprefix("sha256:")
        assert (pair[0].data_dir / "origin/artifacts/sha256" / name[:2] / name).read_bytes() == data


def test_both_write_the_same_keys(pair: tuple[RunningDaemon, RunningDaemon]) -> None:
    """Bytes, content type and metadata of every answer belong to one and the same put."""
    written: set[State] = set()
    faults: list[str] = []

    def write(client: Client, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(40):
            data, note = rng.randbytes(rng.choice(SIZES)), str(rng.random())
            key = f"now/{rng.randrange(2)}"
            written.add(State(state_of(data).digest, len(data), f"text/{note}", (("n", note),)))
            client.put(key, data, content_type=f"text/{note}", metadata={"n": note})
            seen = observe(client, key)
            if seen not in written:
                faults.append(f"{key}: {seen}")

    threads = [
        threading.Thread(target=write, args=(daemon.client(), seed)) for seed, daemon in enumerate([*pair, *pair])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not faults
    for key in ("now/0", "now/1"):
        last = {observe(daemon.client(), key) for daemon in pair}
        assert len(last) == 1
        assert last <= written


def test_one_of_two_daemons_is_killed_while_both_write(pair: tuple[RunningDaemon, RunningDaemon]) -> None:
    """Nothing that the dead one leaves in the origin disturbs the living, nor does anything of the living go."""
    client, dying = pair[0].client(), pair[1].client(reconnect_s=0)
    is_dead = threading.Event()

    def write_until_killed() -> None:
        try:
            for number in range(100_000):
                dying.put(f"now/dying/{number % 5}", random.randbytes(200_000), metadata={"n": str(number)})
        except DaemonUnavailable:
            is_dead.set()

    writer = threading.Thread(target=write_until_killed)
    writer.start()
    for number in range(30):
        data = random.randbytes(200_000)
        client.put("now/x", data, metadata={"n": str(number)})
        assert client.get("now/x") == data
        if number == 15:
            pair[1].kill9()
    assert is_dead.wait(30)
    writer.join()
    for info in client.list("now/dying/"):
        assert len(client.get(info.key)) == 200_000
        assert set(info.metadata) == {"n"}


def test_two_daemons_on_one_cache_directory(daemon_factory: Start, home: Path) -> None:
    first = daemon_factory(CONFIG, directory=home)
    (home / "two").mkdir()
    (home / "two/data").symlink_to(home / "data")
    data = random.randbytes(300_000)
    first.client().put("cache/x", data)
    until(lambda: first.client().stats()["disk"]["entries"] == 1, "the first daemon has written its object")
    before = object_files(first.data_dir / "cache")
    second = daemon_factory(CONFIG, directory=home / "two")
    (line,) = [line for line in second.log() if line["event"] == "the disk tier cannot be used"]
    assert f"in use by another daemon (pid {first.process.pid})" in line["reason"]
    client = second.client()
    for number in range(10):
        client.put(f"cache/{number}", data + bytes([number]))
        assert client.get(f"cache/{number}") == data + bytes([number])
    assert client.stats()["disk"]["entries"] == 0
    assert object_files(first.data_dir / "cache") == before
    assert first.client().get("cache/x") == data
    assert second.stop() == 0
    assert first.client().get("cache/x") == data
