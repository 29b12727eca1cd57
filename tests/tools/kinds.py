"""Every tool that is run, and the ways in which it speaks to its cache."""

from __future__ import annotations

import pytest

from tests.support.tools import Project
from tests.tools.compilers import Ccache, CcacheBazel, CcacheCrsh, CcacheFlat, CcacheRedis, Sccache, SccacheS3
from tests.tools.javascript import Nx, SignedTurbo, Turbo
from tests.tools.jvm import Bazel, BazelSocket, Gradle
from tests.tools.moon import Moon

#: One way of each tool's: for what does not depend on the way.
TOOLS: list[type[Project]] = [Ccache, Sccache, Bazel, Moon, Turbo, Nx, Gradle]
#: All of them.
WAYS = [*TOOLS, CcacheFlat, CcacheBazel, CcacheRedis, CcacheCrsh, SccacheS3, BazelSocket, SignedTurbo]


def each(kinds: list[type[Project]]) -> pytest.MarkDecorator:
    """The test is run with each of these."""
    return pytest.mark.parametrize("kind", kinds, ids=[kind.__name__ for kind in kinds])
