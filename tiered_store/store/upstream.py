"""The origin as the store sees it: asked by key, counted, and with errors that name keys.

Everything the store says to the origin goes through here. Knows no tier and no policy. Invariant: a request moves
at most one of hits, misses, not_modified, puts and errors; what the caller did wrong, listings and deletions that
succeed move none. A fault that is counted in errors is also told to ``outages.py``, and so gets its line in the log.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import MappingProxyType

from tiered_store.errors import InvalidKey, KeyConflict, NotFound, OriginUnavailable, StoreError, TooLarge
from tiered_store.key import Key, key_of_name, name_of_key
from tiered_store.objects import Body, ObjectInfo
from tiered_store.origins.base import Listing, Origin, OriginRead, PutHeaders
from tiered_store.stats import OriginStats
from tiered_store.store.outages import Outage, Outages

__all__ = ["Upstream", "UpstreamRead"]

#: The caller's to mend: they tell nothing about the origin's health.
_MISTAKES = (InvalidKey, KeyConflict, TooLarge)


class UpstreamRead:
    """One object being read from the origin, whole and of one version; to be closed."""

    def __init__(self, key: Key, read: OriginRead, stats: OriginStats, outage: Outage) -> None:
        self.info = read.info.renamed(key)
        self._read = read
        self._chunks = read.chunks()
        self._left = self.info.size
        self._stats = stats
        self._outage = outage

    async def next(self) -> bytes:
        """The next bytes, at most ``CHUNK_BYTES``; empty at the end.

        Raises:
            OriginUnavailable: the read breaks, or does not give exactly ``info.size`` bytes in all.
        """
        chunk = b""
        with _Named(self._stats, self._outage, "read", Key(self.info.key)):
            try:
                while not chunk:
                    chunk = await anext(self._chunks)
            except StopAsyncIteration:
                chunk = b""
            self._left -= len(chunk)
            if self._left < 0 or (self._left and not chunk):
                raise OriginUnavailable("the origin gave other bytes than it announced; the object may have changed")
        self._stats.bytes_read += len(chunk)
        return chunk

    async def close(self) -> None:
        """Give the file or connection back."""
        if isinstance(self._chunks, AsyncGenerator):
            await self._chunks.aclose()  # else the garbage collector would do it, in a task of its own
        await self._read.close()


class Upstream:
    """An origin, by keys.

    Args:
        origin: the origin.
        stats: moves here.
        clock: monotonic seconds, for the log.
    """

    def __init__(self, origin: Origin, stats: OriginStats, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._origin = origin
        self._stats = stats
        self._outages = Outages(clock)

    async def stat(self, key: Key) -> ObjectInfo:
        """What the origin knows of an object. Raises as ``Origin.stat``."""
        name = name_of_key(key)
        with _Named(self._stats, self._outages.reads, "stat", key):
            info = await self._origin.stat(name)
        self._stats.hits += 1
        return info.renamed(key)

    async def open(self, key: Key, *, if_none_match: str | None = None) -> UpstreamRead | None:
        """Start to read; None if the object still has that etag. Raises as ``Origin.open``."""
        name = name_of_key(key)
        with _Named(self._stats, self._outages.reads, "open", key):
            read = await self._origin.open(name, if_none_match=if_none_match)
        if read is None:
            self._stats.not_modified += 1
            return None
        self._stats.hits += 1
        return UpstreamRead(key, read, self._stats, self._outages.reads)

    async def put(self, key: Key, body: Body, headers: PutHeaders) -> ObjectInfo:
        """Store durably. Raises as ``Origin.put``."""
        name = name_of_key(key)
        with _Named(self._stats, self._outages.writes, "put", key):
            info = await self._origin.put(name, body, headers)
        self._stats.puts += 1
        self._stats.bytes_written += info.size
        return info.renamed(key)

    async def delete(self, keys: Sequence[Key]) -> int:
        """Remove; returns how many there were. Raises as ``Origin.delete``."""
        names = {name_of_key(key): key for key in keys}
        key = keys[0] if len(keys) == 1 else None
        with _Named(self._stats, self._outages.writes, "delete", key, names):
            return await self._origin.delete(list(names))

    async def list(self, prefix: str, *, after: str, limit: int) -> Listing:
        """A page of *names*, as the origin sorts them; ``listing.py`` makes keys of them."""
        with _Named(self._stats, self._outages.reads, "list", None):
            return await self._origin.list(prefix, after=after, limit=limit)

    async def copy(self, source: Key, target: Key) -> ObjectInfo:
        """Copy inside the origin. Raises as ``Origin.copy``."""
        names = {name_of_key(source): source, name_of_key(target): target}
        with _Named(self._stats, self._outages.writes, "copy", target, names):
            info = await self._origin.copy(name_of_key(source), name_of_key(target))
        self._stats.puts += 1
        return info.renamed(target)

    async def close(self) -> None:
        """Close the origin."""
        await self._origin.close()


class _Named:
    """Round a request: counts and reports its failure, and puts the key into the error in place of the origin's name.

    A class and not a generator: it is entered once per chunk.
    """

    __slots__ = ("_key", "_names", "_operation", "_outage", "_stats")

    def __init__(
        self,
        stats: OriginStats,
        outage: Outage,
        operation: str,
        key: Key | None,
        names: Mapping[str, Key] = MappingProxyType({}),
    ) -> None:
        self._stats = stats
        self._outage = outage
        self._operation = operation
        self._key = key
        self._names = names

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._answered()
            return
        if not isinstance(error, Exception):
            return
        if isinstance(error, StoreError):
            name = error.key or ""
            error.key = self._names.get(name) or self._key or key_of_name(name)
        if isinstance(error, NotFound):
            self._stats.misses += 1
            self._answered()
        elif not isinstance(error, _MISTAKES):
            self._stats.errors += 1
            self._outage.failed(self._operation, error)

    def _answered(self) -> None:
        if self._outage.is_on:
            self._outage.answered()
