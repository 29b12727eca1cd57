"""Nx's self-hosted cache, ``/nx/<name>/v1/cache/{hash}``.

Nx fails a run for any answer to a read but 200 and 404, and calls a task failed whose write was answered with anything
but 200, 409 ("it is there") and 403 after six tries. So a write that could not be stored is a 409, too; the counters
and the log say what is wrong. What is there is not replaced, as Nx asks of such servers: who can write cannot change
what others have stored.

https://nx.dev/recipes/running-tasks/self-hosted-caching
"""

from __future__ import annotations

import logging
import re
from typing import Final

from aiohttp import web

from tiered_store.build.cache import BuildCache
from tiered_store.servers.access import Right
from tiered_store.servers.http.dialects.common import give, keep, mounted, writable
from tiered_store.servers.http.exchange import Exchange, Mount
from tiered_store.servers.http.problems import Refusal

__all__ = ["nx_mount"]

_log = logging.getLogger("tiered_store.http")

_DIALECT: Final = "nx"
_PATH: Final = re.compile(r"v1/cache/([0-9A-Za-z_\-]{1,128})\Z")
#: Exactly this, without a charset: else Nx shows nothing of the text.
_TEXT: Final = {"Content-Type": "text/plain"}
_QUIET: Final = frozenset({403, 409})


def nx_mount(cache: BuildCache) -> Mount:
    """The dialect, over a build cache."""

    async def answer(exchange: Exchange, instance: str, path: str) -> web.StreamResponse:
        found = _PATH.match(path)
        if found is None:
            raise Refusal(404, "NoSuchPath", "nothing is served at this path; artifacts are below v1/cache/")
        name = found.group(1)
        if exchange.method in {"GET", "HEAD"}:
            return await give(exchange, cache, exchange.place(_DIALECT, instance, Right.READ), name)
        if exchange.method != "PUT":
            raise exchange.refuse_method("GET", "HEAD", "PUT")
        place = writable(exchange, cache, _DIALECT, instance)
        if await keep(exchange, cache, place, name, overwrite=False):
            return await exchange.reply(200)
        return await exchange.reply(409, b"it is there", _TEXT)

    return mounted("nx", answer, faults=_refuse)


async def _refuse(exchange: Exchange, refusal: Refusal) -> web.StreamResponse:
    status = refusal.status
    if exchange.method == "PUT" and status not in _QUIET:
        _log.warning("what Nx sent was not stored", extra={"reason": refusal.detail})
        status = 409
    headers = {**refusal.headers, **_TEXT}
    return await exchange.reply(status, refusal.detail.encode(), headers, closes=refusal.closes)
