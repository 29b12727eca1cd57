"""The real go command while the origin behind the daemon is down, silent or slow: its builds do not notice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.faultproxy import Fault, FaultProxy
from tests.tools.golang import Workspace, compiled, counted
from tests.tools.test_outages import bucket_behind_proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: As docs/build-caches.md advises where the origin is a bucket.
_POLICIES = [
    {"prefix": "build/go/", "write_back": True, "stale_while_revalidate_s": 86_400},
    {"prefix": "sha256:", "immutable": True, "write_back": True},
]


@dataclass
class Site:
    """A daemon before a bucket, and a module that is built through it."""

    factory: Callable[..., RunningDaemon]
    home: Path
    proxy: FaultProxy
    config: dict[str, object]

    def __post_init__(self) -> None:
        self.start()
        self.workspace = Workspace(self.home / "go", self.daemon.socket_path)

    def start(self) -> None:
        """Start the daemon, on what it left."""
        self.daemon = self.factory(self.config, directory=self.home, measured=False)

    def restart(self, fault: Fault, *, is_cold: bool) -> None:
        """Start the daemon anew while the origin has this fault; with nothing in its tiers, if it is to be cold."""
        assert self.daemon.stop() == 0
        if is_cold:
            shutil.rmtree(self.daemon.data_dir / "cache")
        self.proxy.set(fault)
        self.start()

    def flush(self) -> None:
        """Wait until the bucket has what was put."""
        with self.daemon.client() as client:
            client.flush()


@pytest.fixture
def site(daemon_factory: Callable[..., RunningDaemon], home: Path) -> Iterator[Site]:
    with bucket_behind_proxy() as (proxy, config):
        yield Site(daemon_factory, home, proxy, {**config, "policies": _POLICIES})


OUTAGES = pytest.mark.parametrize(
    "fault", [Fault("connection"), Fault("connection", "silence")], ids=["refused", "silent"]
)


@OUTAGES
def test_the_disk_tier_has_it(site: Site, fault: Fault) -> None:
    first, _ = site.workspace.build()
    site.restart(fault, is_cold=False)
    again, said = site.workspace.build()
    assert (again, compiled(said)) == (first, 0)
    site.workspace.clean()
    hit, said = site.workspace.build()
    assert (hit, compiled(said)) == (first, 0)
    assert counted(said, "in the daemon") > 0


@OUTAGES
def test_only_the_origin_has_it(site: Site, fault: Fault) -> None:
    """What go's own directory has is a hit; the rest is compiled, and is in the journal for the next one.

    Where a fetch found silence, the daemon is left alone for the rest of that build; the next one uploads.
    """
    patience_s = site.workspace.environment["TIERED_STORE_GO_DEADLINE"]
    first, _ = site.workspace.build()
    site.flush()
    site.restart(fault, is_cold=True)
    again, said = site.workspace.build()
    assert (again, compiled(said)) == (first, 0)
    site.workspace.clean()
    if fault.how == "silence":
        site.workspace.environment["TIERED_STORE_GO_DEADLINE"] = "1"
    built, said = site.workspace.build()
    site.workspace.environment["TIERED_STORE_GO_DEADLINE"] = patience_s
    assert built == first
    assert counted(said, "uploaded") == (0 if fault.how == "silence" else compiled(said))
    again, said = site.workspace.build()
    assert (again, compiled(said)) == (first, 0)
    site.workspace.clean()
    hit, said = site.workspace.build()
    assert (hit, compiled(said)) == (first, 0)


def test_a_slow_origin(site: Site) -> None:
    """Go waits for it, up to its deadline; what is later is compiled."""
    first, _ = site.workspace.build()
    site.flush()
    for latency_s, deadline_s, is_late in [(0.2, 20, False), (3.0, 0.5, True)]:
        site.restart(Fault(latency_s=latency_s), is_cold=True)
        site.workspace.clean()
        site.workspace.environment["TIERED_STORE_GO_DEADLINE"] = str(deadline_s)
        built, said = site.workspace.build()
        assert (built, compiled(said) > 0) == (first, is_late), said
        again, said = site.workspace.build()
        assert (again, compiled(said)) == (first, 0)


def test_it_is_stored_once_the_origin_is_back(site: Site) -> None:
    site.proxy.set(Fault("connection"))
    first, said = site.workspace.build()
    assert compiled(said) == counted(said, "uploaded") > 0
    site.proxy.set()
    site.flush()
    site.restart(Fault(), is_cold=True)
    site.workspace.clean()
    hit, said = site.workspace.build()
    assert (hit, compiled(said)) == (first, 0)
