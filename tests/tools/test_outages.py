"""Builds go on when the daemon's origin does not answer, and when the daemon itself is gone.

Two tools cannot do without something that listens: sccache looks once, when its server starts, and Nx fails a build
that cannot connect.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.test_s3 import config_of
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.s3 import shared_server
from tests.support.tools import Project
from tests.tools.cache import Cache
from tests.tools.conftest import CacheFactory, ProjectFactory
from tests.tools.kinds import TOOLS, each

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@contextmanager
def bucket_behind_proxy() -> Iterator[tuple[FaultProxy, dict[str, dict[str, object]]]]:
    """A bucket of its own, what stands before it, and the settings of a daemon that uses it."""
    server = shared_server()
    proxy = FaultProxy(server.port)
    try:
        yield proxy, config_of(proxy.url, server.settings().bucket)
    finally:
        proxy.close()


def is_built(project: Project) -> None:
    """All steps run, and the build is right."""
    ran = project.steps.ran
    project.forget()
    build = project.build()
    assert build.is_green, build
    assert project.hits(build) == 0, build
    assert project.steps.ran == ran + project.count
    assert project.is_sound()


def is_spared(project: Project) -> None:
    """All steps are hits."""
    ran, made = project.steps.ran, project.outputs()
    project.forget()
    build = project.build()
    assert build.is_green, build
    assert project.hits(build) == project.count, build
    assert project.steps.ran == ran
    assert project.outputs() == made


@each(TOOLS)
def test_the_origin_is_down(cache_factory: CacheFactory, project_factory: ProjectFactory, kind: type[Project]) -> None:
    with bucket_behind_proxy() as (proxy, config):
        cache = cache_factory(config)
        project = project_factory(kind, cache.endpoint)
        is_built(project)
        proxy.set(Fault("connection"))
        is_spared(project)  # the tiers have it
        project.change()
        is_built(project)
        is_spared(project)  # the journal has it


@each(TOOLS)
def test_the_origin_does_not_answer(
    cache_factory: CacheFactory, project_factory: ProjectFactory, kind: type[Project]
) -> None:
    with bucket_behind_proxy() as (proxy, config):
        cache = cache_factory({**config, "build": {"read_timeout_s": 1}})
        project = project_factory(kind, cache.endpoint)
        is_built(project)
        cache.daemon.client().flush()
        cache.stop()
        cache.forget_tiers()
        proxy.set(Fault("connection", "silence"))
        cache.start()
        is_built(project)


@each(TOOLS)
def test_the_daemon_is_killed_while_a_step_runs(
    cache: Cache, project_factory: ProjectFactory, kind: type[Project]
) -> None:
    project = project_factory(kind, cache.endpoint)
    with project.steps.held() as gate, project.building() as run:
        gate.wait(run)
        cache.kill()
        gate.open()
        build = run.finish()
    if project.needs_a_daemon == "always":
        assert not build.is_green, "this tool has learnt to go on without its cache: say so"
    else:
        assert build.is_green, build
        assert project.is_sound()
    cache.start()
    is_built(project)
    is_spared(project)


@each(TOOLS)
def test_there_is_no_daemon(cache: Cache, project_factory: ProjectFactory, kind: type[Project]) -> None:
    cache.kill()
    project = project_factory(kind, cache.endpoint)
    build = project.build()
    if project.needs_a_daemon:
        assert not build.is_green, "this tool has learnt to go on without its cache: say so"
    else:
        assert build.is_green, build
        assert project.is_sound()
