"""The origin as the store sees it: asked by key, counted, and with errors that name keys.

Everything the store says to the origin goes through here. Knows no tier and no policy. Invariant: every
request moves exactly one of hits, misses, errors or not_modified (reads), puts or errors (writes).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from types import MappingProxyType

from tiered_store.errors import NotFound, OriginUnavailable, StoreError
from tiered_store.key import Key, key_of_name, name_of_key
from tiered_store.objects import Body, ObjectInfo
from tiered_store.origins.base import Listing, Origin, OriginRead, PutHeaders
from tiered_store.stats import OriginStats

__all__ = ["Upstream", "UpstreamRead"]


class UpstreamRead:
    """One object being read from the origin, whole and of one version; to be closed."""

    def __init__(self, key: Key, read: OriginRead, stats: OriginStats) -> None:
        self.info = read.info.renamed(key)
        self._read = read
        self._chunks = read.chunks()
        self._left = self.info.size
        self._stats = stats

    async def next(self) -> bytes:
        """The next bytes, at most ``CHUNK_BYTES``; empty at the end.

        Raises:
            OriginUnavailable: the read breaks, or does not give exactly ``info.size`` bytes in all.
        """
        chunk = b""
        with _Named(self._stats, Key(self.info.key)):
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
    """An origin, by keys."""

    def __init__(self, origin: Origin, stats: OriginStats) -> None:
        self._origin = origin
        self._stats = stats

    async def stat(self, key: Key) -> ObjectInfo:
        """What the origin knows of an object. Raises as ``Origin.stat``."""
        name = name_of_key(key)
        with _Named(self._stats, key):
            info = await self._origin.stat(name)
        self._stats.hits += 1
        return info.renamed(key)

    async def open(self, key: Key, *, if_none_match: str | None = None) -> UpstreamRead | None:
        """Start to read; None if the object still has that etag. Raises as ``Origin.open``."""
        name = name_of_key(key)
        with _Named(self._stats, key):
            read = await self._origin.open(name, if_none_match=if_none_match)
        if read is None:
            self._stats.not_modified += 1
            return None
        self._stats.hits += 1
        return UpstreamRead(key, read, self._stats)

    async def put(self, key: Key, body: Body, headers: PutHeaders) -> ObjectInfo:
        """Store durably. Raises as ``Origin.put``."""
        name = name_of_key(key)
        with _Named(self._stats, key):
            info = await self._origin.put(name, body, headers)
        self._stats.puts += 1
        self._stats.bytes_written += info.size
        return info.renamed(key)

    async def delete(self, keys: Sequence[Key]) -> int:
        """Remove; returns how many there were. Raises as ``Origin.delete``."""
        names = {name_of_key(key): key for key in keys}
        with _Named(self._stats, keys[0] if len(keys) == 1 else None, names):
            return await self._origin.delete(list(names))

    async def list(self, prefix: str, *, after: str, limit: int) -> Listing:
        """A page of *names*, as the origin sorts them; ``listing.py`` makes keys of them."""
        with _Named(self._stats, None):
            return await self._origin.list(prefix, after=after, limit=limit)

    async def copy(self, source: Key, target: Key) -> ObjectInfo:
        """Copy inside the origin. Raises as ``Origin.copy``."""
        names = {name_of_key(source): source, name_of_key(target): target}
        with _Named(self._stats, target, names):
            info = await self._origin.copy(name_of_key(source), name_of_key(target))
        self._stats.puts += 1
        return info.renamed(target)

    async def close(self) -> None:
        """Close the origin."""
        await self._origin.close()


class _Named:
    """Round a request: counts its failure, and puts the key into the error in place of the origin's name.

    A class and not a generator: it is entered once per chunk.
    """

    __slots__ = ("_key", "_names", "_stats")

    def __init__(self, stats: OriginStats, key: Key | None, names: Mapping[str, Key] = MappingProxyType({})) -> None:
        self._stats = stats
        self._key = key
        self._names = names

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception):
            return
        if isinstance(error, NotFound):
            self._stats.misses += 1
        else:
            self._stats.errors += 1
        if isinstance(error, StoreError):
            name = error.key or ""
            error.key = self._names.get(name) or self._key or key_of_name(name)
