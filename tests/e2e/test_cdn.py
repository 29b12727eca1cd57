"""A daemon behind a real nginx cache: what that has the origin is not asked for, what it does wrong nobody notices."""

from __future__ import annotations

import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import some_bytes
from tests.support.daemon import RunningDaemon
from tests.support.nginx import Nginx, nginx_cache
from tests.support.processes import MIB, descriptors
from tests.support.s3 import s3_server
from tiered_store import Client, NotFound
from tiered_store.key import name_of_key, parse_key

SMALL, LARGE = 1000, 5 * MIB + 7
SIZES = pytest.mark.parametrize("size", [0, SMALL, LARGE])
Start = Callable[..., RunningDaemon]


class Place:
    """A directory for daemons one after another on the same origin, and the cache before it."""

    def __init__(self, directory: Path, nginx: Nginx, start: Start) -> None:
        self.directory = directory
        self.nginx = nginx
        self._start = start

    def daemon(self, **changes: Any) -> RunningDaemon:
        """A daemon with empty caches."""
        shutil.rmtree(self.directory / "data" / "cache", ignore_errors=True)
        return self.again(**changes)

    def again(self, **changes: Any) -> RunningDaemon:
        """A daemon with what the last one left in its disk tier."""
        cdn = {"base_url": self.nginx.url, "part_bytes": "1MiB", "timeout_ms": 5000, **changes.pop("cdn", {})}
        return self._start({"cdn": cdn, **changes}, directory=self.directory)

    def filled(self, objects: dict[str, bytes]) -> None:
        """Put objects into the origin."""
        daemon = self.daemon()
        with daemon.client() as store:
            store.put_many(objects)
        assert daemon.stop() == 0

    def cached(self, key: str) -> tuple[int, bytes]:
        """What the cache answers."""
        try:
            with urllib.request.urlopen(f"{self.nginx.url}/{name_of_key(parse_key(key))}", timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@pytest.fixture
def place(daemon_factory: Start) -> Iterator[Place]:
    directory = Path(tempfile.mkdtemp(prefix="ts-cdn-"))
    try:
        with nginx_cache(directory / "data" / "origin") as nginx:
            yield Place(directory, nginx, daemon_factory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def artifact(place: Place, data: bytes) -> str:
    daemon = place.daemon()
    with daemon.client() as store:
        key = store.put_artifact(data)
    assert daemon.stop() == 0
    return key


def hits(store: Client) -> tuple[int, int, int, int]:
    stats = store.stats()
    return tuple(stats[name]["hits"] for name in ("memory", "disk", "cdn", "origin"))  # type: ignore[return-value]


@SIZES
def test_the_cdn_fills_disk_and_memory(place: Place, size: int) -> None:
    data = some_bytes(size)
    key = artifact(place, data)
    daemon = place.daemon(memory={"max_bytes": "64MiB"})
    with daemon.client() as store:
        assert store.get(key) == data
        assert hits(store) == (0, 0, 1, 0)
        assert store.get(key) == data
        memory, disk, *below = hits(store)
        assert (memory + disk, below) == (1, [1, 0])  # a large object moves up to memory when it is read again
        assert store.stats()["cdn"]["bytes_read"] == size
    assert daemon.stop() == 0
    daemon = place.again()
    with daemon.client() as store:
        assert store.get(key) == data
        assert hits(store) == (0, 1, 0, 0)
    asked = [cached for method, _, _, cached in place.nginx.asked() if method == "GET"]
    assert asked[0] == "MISS"
    assert not [line for line in daemon.log() if line["level"] in {"warning", "error"}]


def test_a_large_object_comes_in_parts(place: Place) -> None:
    data = some_bytes(LARGE)
    key = artifact(place, data)
    with place.daemon().client() as store:
        assert store.get(key, offset=MIB - 5, length=10) == data[MIB - 5 : MIB + 5]
        assert store.get(key) == data
        assert hits(store)[2:] == (1, 0)
    statuses = [status for _, _, status, _ in place.nginx.asked()]
    assert statuses == [206] * 6


def test_odd_names(place: Place) -> None:
    objects = {f"cache/{name}": name.encode() for name in ("a b", "ü/é", "100%", "a+b&c=d;e", "[x]'\"", "%41", "~x")}
    place.filled(objects)
    with place.daemon().client() as store:
        for key, data in objects.items():
            assert store.get(key) == data
        assert hits(store)[2:] == (len(objects), 0)


def test_keys_that_change_are_not_for_the_cdn(place: Place) -> None:
    place.filled({"sessions/a": b"1", "public/a": b"1"})
    with place.daemon(policies=[{"prefix": "public/", "cdn": True}]).client() as store:
        assert store.get("sessions/a") == b"1"
        assert hits(store)[2:] == (0, 1)
        assert store.get("public/a") == b"1"
        assert hits(store)[2:] == (1, 1)


def test_a_cdn_that_goes_away_and_comes_back(place: Place) -> None:
    objects = {f"cache/{number}": some_bytes(SMALL, number) for number in range(40)}
    place.filled(objects)
    keys = iter(objects)
    daemon = place.daemon()
    with daemon.client() as store:
        first = next(keys)
        assert store.get(first) == objects[first]
        place.nginx.stop()
        for _ in range(10):
            key = next(keys)
            assert store.get(key) == objects[key]
        stats = store.stats()
        assert (stats["cdn"]["errors"], stats["cdn"]["skipped"], stats["cdn"]["breaker_open"]) == (5, 5, True)
        assert hits(store)[2:] == (1, 10)
        place.nginx.start()
        while hits(store)[2] == 1:  # it is left alone for half a second at most
            time.sleep(0.1)
            key = next(keys)
            assert store.get(key) == objects[key]
    assert daemon.stop() == 0
    events = daemon.events()
    assert events.count("the cdn fails") == events.count("the cdn answers again") == 1


def test_a_cache_that_lies(place: Place) -> None:
    """A byte that its disk flipped: the origin answers, and the object is not asked for there again."""
    for size in (SMALL, LARGE):
        data = some_bytes(size, 3)
        key = artifact(place, data)
        assert place.cached(key) == (200, data)
        assert flip_in(place.nginx.directory / "cache", data[:MIB][-500:])
        daemon = place.daemon()
        with daemon.client() as store:
            assert store.get(key) == data
            stats = store.stats()
            assert (stats["corrupt"], stats["cdn"]["lies"], stats["origin"]["hits"]) == (1, 1, 1)
            assert store.get(key) == data
        assert daemon.stop() == 0
        assert "the cdn fails" in daemon.events()


def flip_in(directory: Path, end: bytes) -> bool:
    """Flip the last byte of what the files below a directory end with."""
    found = [path for path in directory.rglob("*") if path.is_file() and path.read_bytes().endswith(end)]
    for path in found:
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return bool(found)


def test_what_is_overwritten_or_deleted_is_purged(place: Place) -> None:
    place.filled({"public/a b": b"old", "public/gone": b"x"})
    assert place.cached("public/gone")[0] == 200
    daemon = place.daemon(cdn={"purge": "http"}, policies=[{"prefix": "public/", "cdn": True}])
    with daemon.client() as store:
        assert store.get("public/a b") == b"old"
        assert hits(store)[2] == 1
        store.put("public/a b", b"new")
        assert store.delete("public/gone")
        assert store.stats()["cdn"]["purges"] == 2
        assert store.get("public/a b") == b"new"
    assert daemon.stop() == 0
    with place.daemon(policies=[{"prefix": "public/", "cdn": True}]).client() as store:
        assert store.get("public/a b") == b"new"
        with pytest.raises(NotFound):
            store.get("public/gone")
        assert hits(store)[2:] == (1, 0)


def test_what_is_recommended_takes_no_other_methods(place: Place) -> None:
    """What docs/operations.md shows is a way to read, and to purge for whoever may."""
    place.filled({"cache/a": b"1"})
    for method in ("PUT", "DELETE", "POST"):
        request = urllib.request.Request(f"{place.nginx.url}/cache/a", method=method)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request, timeout=10)
    assert place.cached("cache/a") == (200, b"1")


def test_what_a_bucket_says_comes_through(daemon_factory: Start) -> None:
    """Before a bucket that this program wrote, the cdn tells version, metadata and digest as the origin does."""
    directory = Path(tempfile.mkdtemp(prefix="ts-cdn-"))
    try:
        with s3_server(anonymous=True) as server:
            bucket = server.settings().bucket
            with nginx_cache(directory, f"{server.url}/{bucket}/", sliced=False) as nginx:
                s3 = {"bucket": bucket, "endpoint_url": server.url, "region": "us-east-1"}
                s3 |= {"access_key_id": "x", "secret_access_key": "y"}
                config = {"origin": {"backend": "s3"}, "s3": s3, "cdn": {"base_url": nginx.url, "part_bytes": "1MiB"}}
                daemon = daemon_factory(config)
                with daemon.client() as store:
                    data = some_bytes(LARGE)
                    odd = {"Name": "ü"}
                    infos = [
                        store.put("cache/plain", b"1", content_type="text/x", metadata={"user": "7"}),
                        store.put("cache/odd", data, metadata=odd),
                    ]
                    key = store.put_artifact(data)
                assert daemon.stop() == 0
                shutil.rmtree(daemon.data_dir)
                daemon = daemon_factory(config)
                with daemon.client() as store:
                    assert store.get("cache/plain") == b"1"
                    assert store.get("cache/odd") == store.get(key) == data
                    assert [store.stat(info.key) for info in infos] == infos
                    assert hits(store)[2:] == (3, 0)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def test_many_readers_leave_no_connection(place: Place) -> None:
    objects = {f"cache/{number}": some_bytes(SMALL, number) for number in range(300)}
    place.filled(objects)
    daemon = place.daemon(cdn={"max_connections": 6, "parts_at_once": 2})
    with daemon.client() as store:
        store.ping()
        assert store.get_many(objects) == objects
        assert hits(store)[2:] == (300, 0)
        sockets = [name for name in descriptors(daemon.process.pid) if name.startswith("socket:")]
        assert len(sockets) <= 6 + 5  # and the listening one, the client's, and the event loop's own
    assert daemon.stop() == 0
