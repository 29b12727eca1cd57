"""Fixtures for real build tools that use a real daemon."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import daemon_factory
from tests.fault.conftest import home, mounts
from tests.support.daemon import RunningDaemon
from tests.support.tools import Endpoint, Project
from tests.tools.cache import Cache

__all__ = ["daemon_factory", "home", "mounts"]

#: Makes a daemon with an HTTP door, given settings: the fixture ``cache_factory``.
CacheFactory = Callable[..., Cache]
#: Makes a project of a kind of tool that uses a cache: the fixture ``project_factory``.
ProjectFactory = Callable[[type[Project], Endpoint], Project]


@pytest.fixture
def cache_factory(daemon_factory: Callable[..., RunningDaemon], home: Path) -> CacheFactory:
    """Starts a daemon with an HTTP door: ``cache_factory(config=None)``."""

    def make(config: Mapping[str, Any] | None = None) -> Cache:
        return Cache(daemon_factory, home, config)

    return make


@pytest.fixture
def cache(cache_factory: CacheFactory) -> Cache:
    """A daemon with an HTTP door, on a local origin."""
    return cache_factory()


@pytest.fixture(scope="session")
def shared_directory() -> Iterator[Callable[[type[Project]], Path]]:
    """A directory for each tool, for what its projects share; what it left running for them ends with the session."""
    above = Path(tempfile.mkdtemp(prefix="ts-tools-"))
    used: dict[Path, type[Project]] = {}

    def of(kind: type[Project]) -> Path:
        directory = above / kind.tool
        directory.mkdir(exist_ok=True)
        used[directory] = kind
        return directory

    try:
        yield of
    finally:
        for directory, kind in used.items():
            kind.end(directory)
        shutil.rmtree(above, ignore_errors=True)


@pytest.fixture
def project_factory(home: Path, shared_directory: Callable[[type[Project]], Path]) -> Iterator[ProjectFactory]:
    """Makes what a tool builds: ``project_factory(kind, endpoint)``; the tool's processes end with the test."""
    made: list[Project] = []

    def make(kind: type[Project], endpoint: Endpoint) -> Project:
        shared = shared_directory(kind)
        made.append(kind(shared if kind.stays else home / f"project-{len(made)}", endpoint, shared))
        return made[-1]

    try:
        yield make
    finally:
        for project in made:
            project.close()
