"""Whatever happens to what a daemon keeps, a build gets it right, or not at all; and is green."""

from __future__ import annotations

import hashlib
import http.client
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import Mounts, fill_up
from tests.support.tools import Project
from tests.tools.cache import Cache, cut, flip
from tests.tools.conftest import CacheFactory, ProjectFactory
from tests.tools.javascript import Nx, Turbo
from tests.tools.jvm import Bazel
from tests.tools.kinds import TOOLS, each
from tests.tools.moon import Moon

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def rebuild(project: Project, *, hits: int, after: str) -> None:
    """Build anew what was built, with that many hits."""
    ran = project.steps.ran
    project.forget()
    build = project.build()
    assert build.is_green, f"after {after}: {build}"
    assert project.hits(build) == hits, f"after {after}: {build}"
    assert project.steps.ran == ran + project.count - hits, after
    assert project.is_sound(), after


def garbage(path: Path) -> None:
    path.write_bytes(b"\x00garbage" * 30)


def empty(path: Path) -> None:
    path.write_bytes(b"")


#: What is done to files of the origin, and which ones are meant.
DAMAGES: list[tuple[Callable[[Cache], list[Path]], list[Callable[[Path], None]]]] = [
    (Cache.contents, [flip, cut]),
    (Cache.contents, [empty, Path.unlink]),
    (Cache.entries, [garbage, empty]),
]


def damage(files: list[Path], damages: list[Callable[[Path], None]]) -> None:
    """Do something to each file: this to one, that to the next."""
    for path, harm in zip(files, itertools.cycle(damages), strict=False):
        harm(path)


@each(TOOLS)
def test_what_the_origin_has_is_damaged(cache: Cache, project_factory: ProjectFactory, kind: type[Project]) -> None:
    project = project_factory(kind, cache.endpoint)
    assert project.build().is_green
    for number, (files, damages) in enumerate(DAMAGES):
        cache.stop()
        cache.forget_tiers()
        assert len(files(cache)) >= project.count
        damage(files(cache), damages)
        cache.start()
        rebuild(project, hits=0, after=f"damages {number}")
        rebuild(project, hits=project.count, after=f"a build after damages {number}")


@each(TOOLS)
def test_what_the_disk_tier_has_is_damaged(cache: Cache, project_factory: ProjectFactory, kind: type[Project]) -> None:
    project = project_factory(kind, cache.endpoint)
    assert project.build().is_green
    made = project.outputs()
    for number, damages in enumerate([[flip, cut], [empty, Path.unlink]]):
        cache.stop()
        assert len(cache.cached_files()) >= project.count
        damage(cache.cached_files(), damages)
        cache.start()
        rebuild(project, hits=project.count, after=f"damages {number}")  # the origin has it
        assert project.outputs() == made


@each([Moon, Turbo, Nx])
def test_a_file_is_damaged_that_was_sound_when_it_was_read_before(
    cache_factory: CacheFactory, project_factory: ProjectFactory, kind: type[Project]
) -> None:
    """These restore whatever they are sent, so that nobody but the daemon would notice."""
    cache = cache_factory({"memory": {"max_bytes": 1 << 20}})  # takes none of the outputs: they come from the disk tier
    project = project_factory(kind, cache.endpoint)
    assert project.build().is_green
    made = project.outputs()
    rebuild(project, hits=project.count, after="nothing")
    assert len(cache.cached_files()) >= project.count
    damage(cache.cached_files(), [flip])
    rebuild(project, hits=project.count, after="a bit that flipped")  # the origin has it
    assert cache.daemon.client().stats()["corrupt"] == project.count
    assert project.outputs() == made


@each(TOOLS)
def test_the_disk_is_full(
    cache_factory: CacheFactory, project_factory: ProjectFactory, mounts: Mounts, home: Path, kind: type[Project]
) -> None:
    mounts.tmpfs(home / "data", size="16m")
    cache = cache_factory({"disk": {"min_free_bytes": 0, "min_free_inodes": 0}})
    project = project_factory(kind, cache.endpoint)
    ballast = fill_up(home / "data")
    build = project.build()
    assert build.is_green, build
    assert project.is_sound()
    ballast.unlink()
    rebuild(project, hits=0, after="a full disk")
    rebuild(project, hits=project.count, after="a build with room")


def ask(cache: Cache, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Send one request of one's own."""
    connection = http.client.HTTPConnection("127.0.0.1", cache.endpoint.port, timeout=20)
    try:
        connection.request(method, target, body, {"Authorization": f"Bearer {cache.endpoint.token}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def action_results(cache: Cache) -> list[str]:
    """The targets of all action results that the daemon has."""
    return [f"/bazel/tests/ac/{path.name}" for path in cache.entries() if "bazel-ac" in path.parts]


@each([Bazel, Moon])
def test_empty_action_results(cache: Cache, project_factory: ProjectFactory, kind: type[Project]) -> None:
    """It is a result without outputs: Bazel 2.1.0 fails on one, and moon takes it for a hit."""
    project = project_factory(kind, cache.endpoint)
    assert project.build().is_green
    targets = action_results(cache)
    assert len(targets) == project.count
    for target in targets:
        ask(cache, "PUT", target, b"")
        status, body = ask(cache, "GET", target)
        assert status == 404 or body
    rebuild(project, hits=0, after="empty action results")


def test_an_output_between_two_steps_is_gone(cache: Cache, project_factory: ProjectFactory) -> None:
    """Bazel must not hear of a result of which something is missing: it would not make that again."""
    project = project_factory(Bazel, cache.endpoint)
    assert project.build().is_green
    gone = hashlib.sha256(project.outputs()["first"]).hexdigest()
    assert cache.daemon.client().delete(f"sha256:{gone}")
    assert sorted(ask(cache, "GET", target)[0] for target in action_results(cache)) == [200, 404]
    assert ask(cache, "GET", f"/bazel/tests/cas/{gone}")[0] == 404
    rebuild(project, hits=0, after="the loss of an output between two steps")
