"""All dialects of build tools that speak HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from tiered_store.build.cache import BuildCache
from tiered_store.servers.http.dialects.bazel import bazel_mount
from tiered_store.servers.http.dialects.ccache import ccache_mount
from tiered_store.servers.http.dialects.gradle import gradle_mount
from tiered_store.servers.http.dialects.nx import nx_mount
from tiered_store.servers.http.dialects.sccache import sccache_mount, sccache_s3_mount
from tiered_store.servers.http.dialects.turbo import turbo_mount
from tiered_store.servers.http.exchange import Mount

__all__ = ["dialect_mounts"]

_DIALECTS = (ccache_mount, sccache_mount, sccache_s3_mount, bazel_mount, turbo_mount, nx_mount, gradle_mount)


def dialect_mounts(cache: BuildCache) -> Sequence[Mount]:
    """Their mounts, over one build cache."""
    return [mount(cache) for mount in _DIALECTS]
