"""Bazel's HTTP cache, ``/bazel/<name>/ac/`` and ``/cas/``; moon's, which is the same.

Contents have their sha256 as their name, and nothing else is taken under one. An action result is given out only while
all that it names is there (``build/completeness.py``); what other tools keep below ``ac/`` is given out as it came.

https://bazel.build/remote/caching#http-caching
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from tiered_store.build.actionresult import EMPTY_DIGEST
from tiered_store.build.cache import BuildCache, Found
from tiered_store.build.completeness import is_usable
from tiered_store.build.entry import Place
from tiered_store.errors import IntegrityError
from tiered_store.servers.access import Right
from tiered_store.servers.http.dialects.common import give, keep, mounted, take, writable
from tiered_store.servers.http.exchange import Exchange, Mount
from tiered_store.servers.http.problems import Refusal

__all__ = ["bazel_mount"]

_ACTIONS: Final = "bazel-ac"
_CONTENTS: Final = "bazel-cas"
_PATH: Final = re.compile(r"(ac|cas)/([0-9a-f]{64})\Z")
#: To a 5xx Bazel sends the same body five times more, with pauses that grow; to this once.
_NOT_STORED: Final = 403


def bazel_mount(cache: BuildCache) -> Mount:
    """The dialect, over a build cache."""

    async def answer(exchange: Exchange, instance: str, path: str) -> web.StreamResponse:
        found = _PATH.match(path)
        if found is None:
            raise Refusal(400, "InvalidKey", "a path here is ac/ or cas/, and 64 hex digits")
        kind, name = found.groups()
        if exchange.method in {"GET", "HEAD"}:
            if kind == "ac":
                return await _give_result(exchange, cache, instance, name)
            return await _give_content(exchange, cache, instance, name)
        if exchange.method != "PUT":
            raise exchange.refuse_method("GET", "HEAD", "PUT")
        if kind == "ac":
            await keep(exchange, cache, writable(exchange, cache, _ACTIONS, instance), name)
        else:
            await _keep_content(exchange, cache, writable(exchange, cache, _CONTENTS, instance), name)
        return await exchange.reply(200)

    return mounted("bazel", answer, faults=_refuse)


async def _give_result(exchange: Exchange, cache: BuildCache, instance: str, name: str) -> web.StreamResponse:
    place = exchange.place(_ACTIONS, instance, Right.READ)
    contents = exchange.place(_CONTENTS, instance, Right.READ)

    async def is_whole(found: Found) -> bool:
        return await is_usable(cache, contents, found.body)

    return await give(exchange, cache, place, name, is_usable=is_whole)


async def _give_content(exchange: Exchange, cache: BuildCache, instance: str, name: str) -> web.StreamResponse:
    place = exchange.place(_CONTENTS, instance, Right.READ)
    if name == EMPTY_DIGEST:
        return await exchange.reply(200, b"", {"Content-Type": "application/octet-stream"})
    return await give(exchange, cache, place, name)


async def _keep_content(exchange: Exchange, cache: BuildCache, place: Place, name: str) -> None:
    staged = await take(exchange, cache, place)
    if staged.digest != name:
        cache.stats_of(place.dialect).refused += 1
        raise IntegrityError(
            "the bytes do not have the sha256 of their name (other digest functions are not taken)",
            expected=name,
            actual=staged.digest,
            source="client",
        )
    if name != EMPTY_DIGEST:
        await cache.put(place, name, staged)


async def _refuse(exchange: Exchange, refusal: Refusal) -> web.StreamResponse:
    if refusal.status >= 500 and exchange.method == "PUT":
        refusal = Refusal(_NOT_STORED, refusal.code, refusal.detail, closes=refusal.closes, fields=refusal.fields)
    return await exchange.reply_problem(refusal)
