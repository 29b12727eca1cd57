"""ccache through the sockets of [resp] and [crsh]: every build is green and right, and a hit where it can be one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.ccache import CcacheBuild, ccache_with
from tests.support.daemon import RunningDaemon
from tiered_store import __version__

pytestmark = pytest.mark.slow


@dataclass
class Site:
    """A daemon, and a tree that is built through it."""

    start: Callable[..., RunningDaemon]
    home: Path
    tool: str

    def __post_init__(self) -> None:
        feature, scheme = {"resp": ("redis+unix", "redis+unix"), "crsh": ("crsh", "crsh")}[self.tool]
        self.program = ccache_with(feature)
        self.url = f"{scheme}:{self.home / 'tool.sock'}"
        self.config: dict[str, Any] = {self.tool: {"socket": str(self.home / "tool.sock")}}
        self.daemon = self.start(self.config, directory=self.home)
        self.tree = CcacheBuild(self.home / "tree", self.program, self.url)

    def again(self, **sections: Any) -> None:
        """Start the daemon again on what it left."""
        self.daemon = self.start({**self.config, **sections}, directory=self.home)

    def hits(self) -> int:
        """Build anew; how many files came from the daemon. What was built is right."""
        self.tree.clean()
        self.tree.build()
        assert self.tree.objects() == self.tree.compiled()
        return self.tree.counted("remote_storage_hit")


@pytest.fixture(params=["resp", "crsh"])
def site(request: pytest.FixtureRequest, daemon_factory: Callable[..., RunningDaemon], home: Path) -> Site:
    return Site(daemon_factory, home, request.param)


ALL = 4


def test_a_clean_build_hits(site: Site) -> None:
    assert site.hits() == 0
    assert site.hits() == ALL


def test_after_a_restart_and_after_a_kill(site: Site) -> None:
    site.hits()
    assert site.daemon.stop() == 0
    site.again()
    assert site.hits() == ALL
    site.daemon.kill9()
    site.again()
    assert site.hits() == ALL


def test_the_daemon_is_killed_in_the_middle(site: Site) -> None:
    site.tree.build()
    site.tree.clean()
    half = ALL // 2
    for name in site.tree.names[:half]:
        site.tree.compile(name)
    site.daemon.kill9()
    for name in site.tree.names[half:]:
        site.tree.compile(name)
    assert site.tree.objects() == site.tree.compiled()
    assert site.tree.counted("remote_storage_hit") == half
    site.again()
    assert site.hits() == ALL


def test_no_daemon_at_all(site: Site) -> None:
    assert site.daemon.stop() == 0
    assert site.hits() == 0


def test_the_origin_is_gone(site: Site) -> None:
    """What the tiers have is still given out; what they do not have is compiled."""
    site.hits()
    shutil.rmtree(site.daemon.data_dir / "origin" / "build")
    os.mkfifo(site.daemon.data_dir / "origin" / "build")  # nothing can be stored or found below it
    assert site.hits() == ALL
    assert site.daemon.stop() == 0
    shutil.rmtree(site.daemon.data_dir / "cache")
    site.again()
    assert site.hits() == 0


def test_damage_is_compiled_anew_and_heals(site: Site) -> None:
    site.hits()
    assert site.daemon.stop() == 0
    shutil.rmtree(site.daemon.data_dir / "cache")
    for path in (site.daemon.data_dir / "origin" / "artifacts").rglob("*"):
        if path.is_file():
            damaged = bytearray(path.read_bytes())
            damaged[len(damaged) // 2] ^= 1
            path.write_bytes(damaged)
    site.again()
    assert site.hits() == 0
    assert site.hits() == ALL


def test_a_door_for_readers_gives_and_does_not_take(site: Site) -> None:
    site.hits()
    assert site.daemon.stop() == 0
    site.config[site.tool]["read_only"] = True
    site.again()
    assert site.hits() == ALL
    (site.tree.directory / "f1.c").write_text("int changed(void) { return 1; }\n")
    assert site.hits() == ALL - 1
    assert site.hits() == ALL - 1


def test_ccache_says_who_it_speaks_to(daemon_factory: Callable[..., RunningDaemon], home: Path) -> None:
    """Asking with its log on makes ccache ask who is there (CRSH only)."""
    site = Site(daemon_factory, home, "crsh")
    log = home / "log.txt"
    site.tree._environment["CCACHE_LOGFILE"] = str(log)
    site.tree.build()
    assert f"tiered_store {__version__}" in log.read_text()
