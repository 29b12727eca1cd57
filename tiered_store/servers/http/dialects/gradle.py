"""Gradle's HTTP build cache, ``/gradle/<name>/cache/{key}``.

Gradle leaves the cache alone for the rest of a build after one answer that is neither a success nor a 404.

https://docs.gradle.org/current/userguide/build_cache.html#sec:build_cache_configure_remote
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from tiered_store.build.cache import BuildCache
from tiered_store.servers.access import Right
from tiered_store.servers.http.dialects.common import give, keep, mounted, writable
from tiered_store.servers.http.exchange import Exchange, Mount
from tiered_store.servers.http.problems import Refusal

__all__ = ["gradle_mount"]

_DIALECT: Final = "gradle"
_PATH: Final = re.compile(r"(?:cache/)?([0-9a-f]{8,128})\Z")
_CONTENT_TYPE: Final = "application/vnd.gradle.build-cache-artifact.v1"


def gradle_mount(cache: BuildCache) -> Mount:
    """The dialect, over a build cache."""

    async def answer(exchange: Exchange, instance: str, path: str) -> web.StreamResponse:
        found = _PATH.match(path)
        if found is None:
            raise Refusal(404, "NoSuchPath", "nothing is served at this path; entries are below cache/")
        name = found.group(1)
        if exchange.method in {"GET", "HEAD"}:
            place = exchange.place(_DIALECT, instance, Right.READ)
            return await give(exchange, cache, place, name, content_type=_CONTENT_TYPE)
        if exchange.method != "PUT":
            raise exchange.refuse_method("GET", "HEAD", "PUT")
        await keep(exchange, cache, writable(exchange, cache, _DIALECT, instance), name)
        return await exchange.reply(200)

    return mounted("gradle", answer)
