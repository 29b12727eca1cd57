"""ccache's HTTP storage, ``/ccache/<name>/``, in all three of its layouts.

The same key has one name here whatever the layout, the one that the small doors for ccache use, too: a worker whose
ccache speaks HTTP finds what one has stored whose ccache has a socket.

https://ccache.dev/manual/4.7.5.html#_http_storage_backend
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from tiered_store.build.cache import BuildCache
from tiered_store.servers.access import Right
from tiered_store.servers.http.dialects.common import forget, give, keep, mounted, writable
from tiered_store.servers.http.exchange import Exchange, Mount
from tiered_store.servers.http.problems import Refusal

__all__ = ["ccache_mount", "name_of"]

_DIALECT: Final = "ccache"
#: Keys are hashes: 40 hex digits, or 33 of base 32 in older versions, whose first ones had a letter for the kind behind
#: them. In the layout "subdirs" a slash follows the first two, in "flat" none, and "bazel" makes 64 digits of the 40 by
#: repeating the first 24.
_KEY: Final = re.compile(r"([0-9a-v]{2})/?([0-9a-v]{2,126}[A-Z]?)\Z")
_BAZEL: Final = re.compile(r"(?:ac|cas)/(([0-9a-f]{24})[0-9a-f]{16})\2\Z")


def ccache_mount(cache: BuildCache) -> Mount:
    """The dialect, over a build cache."""

    async def answer(exchange: Exchange, instance: str, path: str) -> web.StreamResponse:
        method = exchange.method
        if method in {"GET", "HEAD"}:
            return await give(exchange, cache, exchange.place(_DIALECT, instance, Right.READ), name_of(path))
        if method == "PUT":
            await keep(exchange, cache, writable(exchange, cache, _DIALECT, instance), name_of(path))
            return await exchange.reply(200)
        if method == "DELETE":
            return await forget(exchange, cache, writable(exchange, cache, _DIALECT, instance), name_of(path))
        raise exchange.refuse_method("GET", "HEAD", "PUT", "DELETE")

    return mounted("ccache", answer)


def name_of(path: str) -> str:
    """The name of the key that a path stands for. Raises Refusal for what can be none."""
    bazel = _BAZEL.match(path)
    key = _KEY.match(bazel.group(1) if bazel is not None else path)
    if key is None:
        raise Refusal(400, "InvalidKey", "this is no key of ccache, in any of its layouts")
    return f"{key.group(1)}/{key.group(2)}"
