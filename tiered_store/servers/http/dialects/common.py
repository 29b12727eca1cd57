"""What all dialects do alike: find the place, give out what is there, take what comes.

The rules, each of which some tool needs (docs/build-caches.md says which): a read is answered with 200 and all of the
content, or with 404, whatever went wrong; content is verified before the head of its answer goes out; a write that was
stored is 200 unless the dialect says otherwise. Bodies travel as they are, without any coding.

Knows no tool. Invariant: no fault of a read gets past :func:`mounted`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from aiohttp import web

from tiered_store.build.cache import BuildCache, Found
from tiered_store.build.entry import Place
from tiered_store.errors import StoreError
from tiered_store.servers.access import Right
from tiered_store.servers.http.bodies import receive, send, send_parts
from tiered_store.servers.http.exchange import Exchange, Mount
from tiered_store.servers.http.heads import head_of
from tiered_store.servers.http.problems import Refusal, refusal_of
from tiered_store.store.spool import Staged

__all__ = ["Answer", "Faults", "forget", "give", "keep", "mounted", "split", "take", "writable"]

_log = logging.getLogger("tiered_store.http")

#: Of content that came without one; the tools look at none of them.
_CONTENT_TYPE: Final = "application/octet-stream"
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
_READS: Final = frozenset({"GET", "HEAD"})

#: Answers a request of a dialect: the exchange, the instance, and the rest of the path.
Answer: TypeAlias = Callable[[Exchange, str, str], Awaitable[web.StreamResponse]]
#: Answers a write that failed, for tools that a problem document would not do for.
Faults: TypeAlias = Callable[[Exchange, Refusal], Awaitable[web.StreamResponse]]


def mounted(prefix: str, answer: Answer, *, faults: Faults | None = None) -> Mount:
    """A dialect's place among the paths, ``/<prefix>/<instance>/...``.

    Args:
        prefix: one segment.
        answer: to its requests.
        faults: how requests that are no reads are refused; None: as in the object API.
    """

    async def handle(exchange: Exchange) -> web.StreamResponse:
        try:
            return await answer(exchange, *split(exchange.path))
        except (Refusal, StoreError) as error:
            if exchange.has_begun:
                raise
            refusal = error if isinstance(error, Refusal) else refusal_of(error)
        except Exception as error:
            if isinstance(error, ConnectionError) or exchange.has_begun:
                raise
            _log.exception("request failed", extra={"method": exchange.method, "prefix": prefix})
            refusal = Refusal(500, "StoreError", f"internal error: {type(error).__name__}")
        if exchange.method in _READS:
            return await exchange.reply(404)
        if faults is not None:
            return await faults(exchange, refusal)
        return await exchange.reply_problem(refusal)

    return Mount(prefix, handle, joins_slashes=True)


def split(path: str) -> tuple[str, str]:
    """The instance and what follows it."""
    instance, _, rest = path.partition("/")
    return instance, rest


async def give(
    exchange: Exchange,
    cache: BuildCache,
    place: Place,
    name: str,
    *,
    headers: Callable[[Mapping[str, str]], Mapping[str, str]] = lambda _: _NO_HEADERS,
    content_type: str = _CONTENT_TYPE,
    is_usable: Callable[[Found], Awaitable[bool]] | None = None,
) -> web.StreamResponse:
    """Answer a GET or HEAD.

    Args:
        exchange: the request.
        cache: where to look.
        place: whose keys.
        name: the tool's key.
        headers: further ones of the answer, out of those that were kept with the content.
        content_type: of the answer.
        is_usable: whether what was found may be given out.
    """
    if exchange.method == "HEAD" and is_usable is None:
        entry = await cache.head(place, name)
        if entry is None:
            return await exchange.reply(404)
        said = {"Content-Type": content_type, **headers(entry.headers)}
        return await send_parts(exchange, 200, said, entry.size, ())
    found = cache.peek(place, name) or await cache.get(place, name)
    if found is None or (is_usable is not None and not await is_usable(found)):
        return await exchange.reply(404)
    kept = headers(found.entry.headers)
    if isinstance(found.body, bytes) and not kept:
        return await exchange.reply_at_once(_head_of_small(content_type, len(found.body)), found.body)
    damaged = functools.partial(cache.unreadable, place.dialect, found.entry)
    return await send(exchange, 200, {"Content-Type": content_type, **kept}, found.body, damaged=damaged)


@functools.lru_cache(maxsize=1024)
def _head_of_small(content_type: str, size: int) -> bytes:
    """The head of an answer with a small body; many have the same."""
    return head_of(200, {"Content-Type": content_type}, size)


def writable(exchange: Exchange, cache: BuildCache, dialect: str, instance: str) -> Place:
    """Where the sender may write. Raises Refusal, and counts it."""
    try:
        return exchange.place(dialect, instance, Right.WRITE)
    except Refusal:
        cache.stats_of(dialect).refused += 1
        raise


async def take(exchange: Exchange, cache: BuildCache, place: Place) -> Staged:
    """Take the request's body. Raises StoreError or Refusal, and counts it."""
    try:
        return await receive(exchange, hashed=True, max_bytes=cache.max_bytes)
    except (StoreError, Refusal):
        cache.stats_of(place.dialect).refused += 1
        raise


async def keep(
    exchange: Exchange,
    cache: BuildCache,
    place: Place,
    name: str,
    headers: Mapping[str, str] = _NO_HEADERS,
    *,
    overwrite: bool = True,
) -> bool:
    """Store the request's body under a tool's key.

    Returns:
        False if something was there and may not be replaced.

    Raises:
        StoreError, Refusal: as ``BuildCache.put``, and for a body that cannot be taken.
    """
    return await cache.put(place, name, await take(exchange, cache, place), headers, overwrite=overwrite)


async def forget(exchange: Exchange, cache: BuildCache, place: Place, name: str) -> web.StreamResponse:
    """Answer a DELETE."""
    return await exchange.reply(200 if await cache.remove(place, name) else 404)
