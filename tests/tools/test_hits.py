"""What one build has made, the next one gets from the daemon, byte by byte, and runs none of its steps."""

from __future__ import annotations

import pytest

from tests.support.tools import Project
from tests.tools.cache import Cache
from tests.tools.conftest import ProjectFactory
from tests.tools.kinds import WAYS, each

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def is_spared(project: Project, made: dict[str, bytes]) -> None:
    """Build anew what was built, with nothing kept but by the cache: all of it is a hit."""
    ran = project.steps.ran
    project.forget()
    assert not project.outputs()
    build = project.build()
    assert build.is_green, build
    assert project.hits(build) == project.count, build
    assert project.steps.ran == ran
    assert project.outputs() == made


@each(WAYS)
def test_a_clean_rebuild_is_a_hit(cache: Cache, project_factory: ProjectFactory, kind: type[Project]) -> None:
    project = project_factory(kind, cache.endpoint)
    cold = project.build()
    assert cold.is_green, cold
    assert project.hits(cold) == 0, cold
    assert project.steps.ran == project.count
    assert project.is_sound()
    made = project.outputs()
    is_spared(project, made)
    cache.stop()
    cache.start()
    is_spared(project, made)
    cache.stop()
    cache.forget_tiers()
    cache.start()
    is_spared(project, made)
    project.forget()
    project.change()
    other = project.build()
    assert other.is_green, other
    assert project.hits(other) == 0, other
    assert project.steps.ran == 2 * project.count
