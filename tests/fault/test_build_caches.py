"""Everything that can happen to what a daemon keeps for build tools, in every way in which they ask for it.

A reader gets the whole content or a clean miss; what is damaged in a tier is repaired from the origin within the same
request; what is damaged at the origin can be stored again.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.faultproxy import Fault
from tests.support.mounts import Mounts, fill_up
from tests.support.processes import until
from tests.support.tiers import object_files
from tests.support.toolways import Way, ways
from tests.tools.test_outages import bucket_behind_proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: A row of the disk tier, and a file of it.
SIZES = (500, 300_000)


class Site:
    """A daemon with all doors, and contents of both sizes for each way through them."""

    def __init__(
        self, start: Callable[..., RunningDaemon], home: Path, *, go_deadline_s: float = 20.0, **sections: Any
    ) -> None:
        self.ways, doors = ways(home, go_deadline_s)
        self._start, self._home, self._config = start, home, {**doors, **sections}
        self.start()
        self.contents = {(name, size): random.randbytes(size) for name in self.ways for size in SIZES}

    def start(self) -> None:
        """Start it on what it left."""
        self.daemon = self._start(self._config, directory=self._home, measured=False)

    def stop(self, *, forget_tiers: bool = False) -> None:
        """End it; with nothing left but the origin, where that is said."""
        assert self.daemon.stop() == 0
        if forget_tiers:
            shutil.rmtree(self.daemon.data_dir / "cache")

    def put(self) -> dict[tuple[str, int], bool]:
        """Which contents the daemon says that it keeps."""
        return {which: self._way(which).put(data) for which, data in self.contents.items()}

    def get(self) -> dict[tuple[str, int], bool]:
        """Which contents come back. What comes back is right."""
        found = {which: self._way(which).get(data) for which, data in self.contents.items()}
        for which, data in found.items():
            assert data in {None, self.contents[which]}, which
        return {which: data is not None for which, data in found.items()}

    def all(self, what: bool) -> dict[tuple[str, int], bool]:
        """The same for each content."""
        return dict.fromkeys(self.contents, what)

    def _way(self, which: tuple[str, int]) -> Way:
        return self.ways[which[0]]

    @property
    def contents_at_origin(self) -> list[Path]:
        return [path for path in (self.daemon.data_dir / "origin" / "artifacts").rglob("*") if path.is_file()]

    @property
    def entries_at_origin(self) -> list[Path]:
        return [path for path in (self.daemon.data_dir / "origin" / "build").rglob("*") if path.is_file()]


@pytest.fixture
def site(daemon_factory: Callable[..., RunningDaemon], home: Path) -> Site:
    site = Site(daemon_factory, home)
    assert site.put() == site.all(True)
    return site


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


#: What a file, or a row, holds instead; None for nothing, not even a file.
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": flipped,
    "cut": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"\0",
    "empty": lambda _: b"",
    "garbage": lambda _: b"\x00garbage" * 30,
    "gone": lambda _: None,
}


def each(*names: str) -> pytest.MarkDecorator:
    """The test is run with each of these damages."""
    return pytest.mark.parametrize("damage", [DAMAGES[name] for name in names], ids=names)


def damage_file(path: Path, damage: Callable[[bytes], bytes | None]) -> None:
    data = damage(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)


def damage_rows(database: Path, damage: Callable[[bytes], bytes | None]) -> int:
    """Change all small objects of a disk tier, the tools' entries among them; how many."""
    with closing(sqlite3.connect(database)) as connection, connection:
        rows = connection.execute("SELECT rowid, value FROM Cache WHERE filename IS NULL").fetchall()
        for number, value in rows:
            connection.execute("UPDATE Cache SET value = ? WHERE rowid = ?", (damage(value), number))
    return len(rows)


@each("flipped", "longer", "gone")
def test_contents_at_the_origin(site: Site, damage: Callable[[bytes], bytes | None]) -> None:
    site.stop(forget_tiers=True)
    assert len(site.contents_at_origin) == len(site.contents)
    for path in site.contents_at_origin:
        damage_file(path, damage)
    site.start()
    assert site.get() == site.all(False)
    assert site.put() == site.all(True)
    assert site.get() == site.all(True)


@each("garbage", "empty")
def test_entries_at_the_origin(site: Site, damage: Callable[[bytes], bytes | None]) -> None:
    site.stop(forget_tiers=True)
    assert site.entries_at_origin
    for path in site.entries_at_origin:
        damage_file(path, damage)
    site.start()
    assert site.get() == site.all(False)
    assert site.put() == site.all(True)
    assert site.get() == site.all(True)


@each("flipped", "cut", "gone")
def test_the_disk_tier(site: Site, damage: Callable[[bytes], bytes | None]) -> None:
    site.stop()
    files = object_files(site.daemon.data_dir / "cache")
    assert len(files) >= len(site.ways)
    for path in files:
        damage_file(path, damage)
    assert damage_rows(site.daemon.data_dir / "cache" / "cache.db", damage) >= len(site.contents)
    site.start()
    assert site.get() == site.all(True)  # the origin has it
    site.stop()
    site.start()
    assert site.get() == site.all(True)


@pytest.fixture
def slow_site(daemon_factory: Callable[..., RunningDaemon], home: Path) -> Iterator[tuple[Site, Callable[..., None]]]:
    """A daemon before a bucket, and what makes its origin slow."""
    with bucket_behind_proxy() as (proxy, config):
        site = Site(daemon_factory, home, go_deadline_s=1.0, **config, build={"read_timeout_s": 0.2})
        assert site.put() == site.all(True)
        with site.daemon.client() as client:
            client.flush()
        yield site, proxy.set


def test_an_origin_that_takes_longer_than_reads_may(slow_site: tuple[Site, Callable[..., None]]) -> None:
    site, set_fault = slow_site
    site.stop(forget_tiers=True)
    set_fault(Fault(latency_s=5))
    site.start()
    assert site.get() == site.all(False)
    set_fault()
    until(lambda: site.get() == site.all(True), "the origin is quick enough", limit_s=60)


def test_a_full_disk(daemon_factory: Callable[..., RunningDaemon], mounts: Mounts, home: Path) -> None:
    """Nothing is stored, and that is said; what was stored before is still given, and room is all it takes."""
    mounts.tmpfs(home / "data", size="32m")
    site = Site(daemon_factory, home, disk={"min_free_bytes": 0, "min_free_inodes": 0})
    assert site.put() == site.all(True)
    before = site.contents
    ballast = fill_up(home / "data")
    site.contents = {which: os.urandom(len(data)) for which, data in before.items()}
    stored = site.put()
    assert not any(stored[which] for which in stored if which[1] == max(SIZES))
    assert site.get() == stored  # what did not fit is not there, and nothing of it is
    new, site.contents = site.contents, before
    assert site.get() == site.all(True)
    ballast.unlink()
    site.contents = new
    assert site.put() == site.all(True)
    assert site.get() == site.all(True)
