"""Which tier answers, as the daemon's numbers tell it: from a cold start to a restart."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.support.clients import some_bytes
from tests.support.daemon import RunningDaemon
from tests.support.processes import MIB
from tiered_store import AsyncClient, Client, NotFound
from tiered_store.objects import INLINE_MAX_BYTES

SMALL, LARGE = 1000, 3 * MIB
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE])


class Numbers:
    """How much the daemon's counters have moved since the last look."""

    def __init__(self, store: Client) -> None:
        self._store = store
        self._last = store.stats()

    def moved(self) -> dict[str, int]:
        """Hits by tier, fills and what else a read moves; only what is not zero."""
        last, self._last = self._last, self._store.stats()
        names = [(tier, "hits") for tier in ("memory", "disk", "cdn", "origin")]
        moved = {tier: self._last[tier][name] - last[tier][name] for tier, name in names}
        for name in ("fills", "coalesced", "negative_hits", "stale_served", "corrupt"):
            moved[name] = self._last[name] - last[name]
        moved["not_modified"] = self._last["origin"]["not_modified"] - last["origin"]["not_modified"]
        return {name: count for name, count in moved.items() if count}


def place(daemon: RunningDaemon, key: str, data: bytes) -> Path:
    """Put a file into the origin's directory by hand."""
    path = daemon.data_dir / "origin" / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@SIZES
def test_cold_then_warm_then_restarted(daemon_factory: Callable[..., RunningDaemon], size: int) -> None:
    """Origin, then a tier; after an orderly stop the disk tier answers, and no origin is asked."""
    daemon = daemon_factory()
    data = some_bytes(size)
    place(daemon, "cache/x", data)
    with daemon.client() as store:
        numbers = Numbers(store)
        assert store.get("cache/x") == data
        assert numbers.moved() == {"origin": 1, "fills": 1}
        assert store.get("cache/x") == data
        assert numbers.moved() == ({"memory": 1} if size == SMALL else {"disk": 1})
        assert store.exists("cache/x")
        assert store.stat("cache/x").size == size
        assert "origin" not in numbers.moved()
    assert daemon.stop() == 0
    daemon = daemon_factory(directory=daemon.data_dir.parent)
    with daemon.client() as store:
        numbers = Numbers(store)
        assert store.get("cache/x") == data
        assert numbers.moved() == {"disk": 1}
        assert store.get("cache/x") == data
        assert numbers.moved() == ({"memory": 1} if size == SMALL else {"disk": 1})


@SIZES
def test_what_was_put_is_in_memory_and_on_disk(daemon_factory: Callable[..., RunningDaemon], size: int) -> None:
    daemon = daemon_factory()
    data = some_bytes(size)
    with daemon.client() as store:
        store.put("cache/x", data)
        key = store.put_artifact(data)
        numbers = Numbers(store)
        assert store.get("cache/x") == store.get(key) == data
        assert numbers.moved() == {"memory": 2}
    daemon.stop()
    daemon = daemon_factory(directory=daemon.data_dir.parent)
    with daemon.client() as store:
        numbers = Numbers(store)
        assert store.get("cache/x") == store.get(key) == data
        assert numbers.moved() == {"disk": 2}


def test_after_a_kill_the_disk_tier_is_asked_again_for_what_cannot_change(
    daemon_factory: Callable[..., RunningDaemon],
) -> None:
    """The origin is asked once for each, artifacts included: they cannot be wrong, but may have been deleted."""
    daemon = daemon_factory()
    data = some_bytes(LARGE)
    with daemon.client() as store:
        store.put("path", data)
        key = store.put_artifact(data)
        assert daemon.stop() == 0  # both are on disk
    daemon = daemon_factory(directory=daemon.data_dir.parent)
    daemon.kill9()
    daemon = daemon_factory(directory=daemon.data_dir.parent)
    with daemon.client() as store:
        numbers = Numbers(store)
        for name in (key, "path"):
            assert store.get(name) == data
            moved = numbers.moved()
            assert moved.get("not_modified", 0) == 1
            assert "origin" not in moved
        assert store.get("path") == data
        assert numbers.moved().keys() <= {"memory", "disk"}


def test_a_miss_is_remembered_and_forgotten(daemon_factory: Callable[..., RunningDaemon]) -> None:
    daemon = daemon_factory({"policies": [{"prefix": "", "negative_ttl_s": 3600}]})
    with daemon.client() as store:
        numbers = Numbers(store)
        for expected in ({"fills": 1}, {"negative_hits": 1}, {"negative_hits": 1}):
            with pytest.raises(NotFound):
                store.get("x")
            assert numbers.moved() == expected
        place(daemon, "x", b"put there by hand")
        with pytest.raises(NotFound):  # for as long as the policy says
            store.get("x")
        store.put("x", b"1")
        assert store.get("x") == b"1"


class TestFilesOfOthers:
    """The origin is a plain directory: what others do there is seen, as soon as the policy lets it."""

    CONFIG: ClassVar = {"policies": [{"prefix": "", "ttl_s": 0, "negative_ttl_s": 0}]}

    @SIZES
    def test_added_changed_and_removed(self, daemon_factory: Callable[..., RunningDaemon], size: int) -> None:
        daemon = daemon_factory(self.CONFIG)
        with daemon.client() as store:
            with pytest.raises(NotFound):
                store.get("a/b/x")
            path = place(daemon, "a/b/x", some_bytes(size))
            assert store.get("a/b/x") == some_bytes(size)
            info = store.stat("a/b/x")
            assert (info.size, info.content_type, info.metadata) == (size, None, {})
            assert [item.key for item in store.list()] == ["a/b/x"]
            path.write_bytes(some_bytes(size, 1))
            assert store.get("a/b/x") == some_bytes(size, 1)
            other = path.with_name("other")
            other.write_bytes(some_bytes(size, 2))
            other.replace(path)
            assert store.get("a/b/x") == some_bytes(size, 2)
            assert store.stat("a/b/x").etag != info.etag
            path.unlink()
            with pytest.raises(NotFound):
                store.get("a/b/x")
            assert store.exists("a/b/x") is False

    @SIZES
    def test_unchanged_ones_cost_one_look_and_no_bytes(
        self, daemon_factory: Callable[..., RunningDaemon], size: int
    ) -> None:
        daemon = daemon_factory(self.CONFIG)
        with daemon.client() as store:
            store.put("x", some_bytes(size), content_type="a/b")
            before = store.stats()["origin"]
            for _ in range(5):
                assert store.get("x") == some_bytes(size)
            after = store.stats()["origin"]
            assert after["bytes_read"] == before["bytes_read"]
            assert after["not_modified"] == before["not_modified"] + 5
            assert store.stat("x").content_type == "a/b"

    def test_metadata_does_not_outlive_the_file_it_describes(
        self, daemon_factory: Callable[..., RunningDaemon]
    ) -> None:
        daemon = daemon_factory(self.CONFIG)
        with daemon.client() as store:
            store.put("x", b"one", content_type="a/b", metadata={"c": "d"})
            (daemon.data_dir / "origin" / "x").write_bytes(b"another")
            info = store.stat("x")
            assert (info.size, info.content_type, info.metadata) == (7, None, {})
            assert store.get("x") == b"another"

    def test_what_the_daemon_writes_others_can_read(self, daemon: RunningDaemon) -> None:
        with daemon.client() as store:
            store.put("a/b", b"1")
            store.put("a/large", some_bytes(LARGE))
            assert (daemon.data_dir / "origin" / "a" / "b").read_bytes() == b"1"
            assert (daemon.data_dir / "origin" / "a" / "large").read_bytes() == some_bytes(LARGE)
            store.delete_prefix("a/")
            assert not (daemon.data_dir / "origin" / "a").exists()

    def test_what_has_no_key_is_not_there(self, daemon: RunningDaemon, tmp_path: Path) -> None:
        """Links, pipes, names no key may have: neither listed nor read."""
        (tmp_path / "secret").write_bytes(b"outside")
        origin = daemon.data_dir / "origin"
        (origin / "link").symlink_to(tmp_path / "secret")
        (origin / "folder").symlink_to(tmp_path)
        (origin / "back\\slash").write_bytes(b"1")
        (origin / os.fsdecode(b"latin-\xe9")).write_bytes(b"1")
        os.mkfifo(origin / "pipe")
        place(daemon, "fine", b"1")
        with daemon.client() as store:
            assert [info.key for info in store.list()] == ["fine"]
            for key in ("link", "folder/secret", "pipe", "folder"):
                with pytest.raises(NotFound):
                    store.get(key)
                assert store.exists(key) is False


async def test_many_readers_of_a_cold_key_are_one_read(daemon: RunningDaemon) -> None:
    """However they come in: by bytes, by view, as a stream, over one connection or several."""
    data = some_bytes(8 * MIB)
    place(daemon, "cache/x", data)
    pieces: list[int] = []

    async def read(client: AsyncClient, way: int) -> int:
        if way == 0:
            return len(await client.get("cache/x"))
        if way == 1:
            with await client.get_view("cache/x") as view:
                return view.nbytes
        taken: list[int] = []
        await client.get_into("cache/x", lambda piece: taken.append(len(piece)))
        pieces.append(len(taken))
        return sum(taken)

    clients = [AsyncClient(daemon.socket_path) for _ in range(6)]
    sizes = await asyncio.gather(*(read(client, number % 3) for client in clients for number in range(15)))
    assert set(sizes) == {len(data)}
    assert len(pieces) == 30
    stats: dict[str, Any] = await clients[0].stats()
    assert stats["origin"]["hits"] == 1
    assert stats["fills"] == 1
    for client in clients:
        await client.close()


async def test_the_first_of_many_readers_may_leave(daemon: RunningDaemon) -> None:
    """Whoever is cancelled, the starter of the fill included, the others get their object."""
    data = some_bytes(16 * MIB)
    place(daemon, "cache/x", data)
    async with AsyncClient(daemon.socket_path) as first, AsyncClient(daemon.socket_path) as others:
        started = asyncio.Event()
        leaving = asyncio.create_task(first.get_into("cache/x", lambda _: started.set()))
        await started.wait()
        staying = [asyncio.create_task(others.get("cache/x")) for _ in range(5)]
        leaving.cancel()
        assert {len(found) for found in await asyncio.gather(*staying)} == {len(data)}
        assert staying[0].result() == data
        stats = await others.stats()
        assert stats["origin"]["hits"] <= 2


def test_memory_forgets_what_does_not_fit(daemon_factory: Callable[..., RunningDaemon]) -> None:
    """Never over its bound; what it pushed out is still on disk."""
    daemon = daemon_factory({"memory": {"max_bytes": 2 * MIB, "max_object_share": 0.5}})
    with daemon.client() as store:
        for number in range(100):
            store.put(f"cache/{number}", some_bytes(INLINE_MAX_BYTES, number))
        stats = store.stats()
        assert stats["memory"]["bytes"] <= 2 * MIB
        assert stats["memory"]["evictions"] >= 60
        numbers = Numbers(store)
        assert store.get("cache/0") == some_bytes(INLINE_MAX_BYTES, 0)
        assert numbers.moved() == {"disk": 1}


@SIZES
def test_no_promote_leaves_it_where_it_is(daemon_factory: Callable[..., RunningDaemon], size: int) -> None:
    """However often it is read; the first read without the hint brings it up, or makes it known as wanted."""
    daemon = daemon_factory()
    data = some_bytes(size)
    place(daemon, "cache/x", data)
    with daemon.client() as store:
        store.get("cache/x")
    assert daemon.stop() == 0
    again = daemon_factory(directory=daemon.data_dir.parent)
    with again.client() as store:
        for _ in range(5):
            assert store.get("cache/x", no_promote=True) == data
        assert store.stats()["memory"]["entries"] == 0
        assert store.stats()["disk"]["hits"] == 5


def test_many_small_objects_come_from_disk_together(daemon_factory: Callable[..., RunningDaemon]) -> None:
    """After a restart: small ones, a large one, one that only the origin has, one that nobody has; and existence."""
    daemon = daemon_factory()
    small = {f"cache/{number}": some_bytes(SMALL + number) for number in range(600)}
    with daemon.client() as store:
        store.put_many(small)
        store.put("cache/large", some_bytes(LARGE))
    assert daemon.stop() == 0
    daemon = daemon_factory(directory=daemon.data_dir.parent)
    place(daemon, "cache/below", b"below")
    with daemon.client() as store:
        numbers = Numbers(store)
        keys = [*small, "cache/large", "cache/below", "cache/none", "cache/7"]
        assert store.exists_many(keys) == {key: key != "cache/none" for key in keys}
        assert numbers.moved()["origin"] == 1
        numbers.moved()
        wanted = {**small, "cache/large": some_bytes(LARGE), "cache/below": b"below"}
        assert store.get_many(keys) == wanted
        moved = numbers.moved()
        assert moved["origin"] == moved["fills"] == 1
        assert moved["disk"] >= len(small)
        assert store.get_many(small) == small
        assert numbers.moved() == {"memory": len(small)}
