"""The origin as the store sees it: asked by key, counted, and with errors that name keys.

Everything the store says to the origin goes through here. Knows no tier and no policy. Invariant: a request moves
at most one of hits, misses, not_modified, puts and errors; what the caller did wrong, listings and deletions that
succeed move none. A fault that is counted in errors is also told to ``outages.py``, and so gets its line in the log.
Since all answers pass here, this is also where artifacts that exist are noted (``sightings.py``).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import MappingProxyType

from tiered_store.aio.outages import Outage, Outages
from tiered_store.aio.together import gathered
from tiered_store.errors import InvalidKey, KeyConflict, NotFound, OriginUnavailable, StoreError, TooLarge
from tiered_store.key import Key, key_of_name, name_of_key
from tiered_store.objects import Body, ObjectInfo
from tiered_store.origins.base import Listing, Origin, OriginRead, PutHeaders, StatsMany
from tiered_store.stats import OriginStats
from tiered_store.store.sightings import ExistingArtifacts, Sight

__all__ = ["Upstream", "UpstreamRead"]

#: Questions about single objects that one about many has under way.
_STATS_AT_ONCE = 32
#: The caller's to mend: they tell nothing about the origin's health.
_MISTAKES = (InvalidKey, KeyConflict, TooLarge)


class UpstreamRead:
    """One object being read from the origin, from ``offset`` to its end and of one version; to be closed."""

    def __init__(self, key: Key, read: OriginRead, stats: OriginStats, outage: Outage, *, offset: int = 0) -> None:
        self.info = read.info.renamed(key)
        self._read = read
        self._chunks = read.chunks()
        self._left = max(0, self.info.size - offset)
        self._stats = stats
        self._outage = outage

    async def next(self) -> bytes:
        """The next bytes, at most ``CHUNK_BYTES``; empty at the end.

        Raises:
            OriginUnavailable: the read breaks, or does not give exactly the bytes up to ``info.size``.
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
        clock: monotonic seconds, for the log and for what is known to exist.
        exists_ttl_s: how long it is known that an artifact exists.
    """

    def __init__(
        self,
        origin: Origin,
        stats: OriginStats,
        *,
        clock: Callable[[], float] = time.monotonic,
        exists_ttl_s: float = 0.0,
    ) -> None:
        self._origin = origin
        self._stats = stats
        self._outages = Outages(clock)
        self._existing = ExistingArtifacts(clock, exists_ttl_s)

    def known(self, key: Key) -> ObjectInfo | None:
        """What the origin said of an artifact a short while ago; None where it has to be asked."""
        return self._existing.get(key)

    async def stat(self, key: Key) -> ObjectInfo:
        """What the origin knows of an object. Raises as ``Origin.stat``."""
        name, sight = name_of_key(key), self._existing.look()
        with _Named(self._stats, self._outages.reads, "stat", key, existing=self._existing):
            info = await self._origin.stat(name)
        self._stats.hits += 1
        return self._seen(key, info, sight)

    async def stat_many(self, keys: Sequence[Key]) -> list[ObjectInfo | StoreError]:
        """As :meth:`stat` for each of the keys, in their order; errors come as values.

        Raises:
            OriginUnavailable, PermissionDenied: nothing can be said of any of them.
        """
        if not isinstance(self._origin, StatsMany):
            return await gathered(self.stat, keys, at_once=_STATS_AT_ONCE)
        sight = self._existing.look()
        with _Named(self._stats, self._outages.reads, "stat", None):
            found = await self._origin.stat_many([name_of_key(key) for key in keys])
        answers: list[ObjectInfo | StoreError] = []
        for key, answer in zip(keys, found, strict=True):
            try:
                with _Named(self._stats, self._outages.reads, "stat", key, existing=self._existing):
                    info = _raised(answer)
            except StoreError as error:
                answers.append(error.with_traceback(None))
            else:
                self._stats.hits += 1
                answers.append(self._seen(key, info, sight))
        return answers

    async def open(self, key: Key, *, offset: int = 0, if_none_match: str | None = None) -> UpstreamRead | None:
        """Start to read, from ``offset`` on; None if the object still has that etag. Raises as ``Origin.open``."""
        name, sight = name_of_key(key), self._existing.look()
        with _Named(self._stats, self._outages.reads, "open", key, existing=self._existing):
            read = await self._origin.open(name, offset=offset, if_none_match=if_none_match)
        if read is None:
            self._stats.not_modified += 1
            return None
        self._stats.hits += 1
        self._seen(key, read.info, sight)
        return UpstreamRead(key, read, self._stats, self._outages.reads, offset=offset)

    async def put(self, key: Key, body: Body, headers: PutHeaders) -> ObjectInfo:
        """Store durably. Raises as ``Origin.put``."""
        name, sight = name_of_key(key), self._existing.look()
        with _Named(self._stats, self._outages.writes, "put", key):
            info = await self._origin.put(name, body, headers)
        self._stats.puts += 1
        self._stats.bytes_written += info.size
        return self._seen(key, info, sight)

    async def delete(self, keys: Sequence[Key]) -> int:
        """Remove; returns how many there were. Raises as ``Origin.delete``."""
        names = {name_of_key(key): key for key in keys}
        key = keys[0] if len(keys) == 1 else None
        try:
            with _Named(self._stats, self._outages.writes, "delete", key, names):
                return await self._origin.delete(list(names))
        finally:  # whatever came of it; answers that are on their way now come too late
            for gone in keys:
                self._existing.forget(gone)

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

    def _seen(self, key: Key, info: ObjectInfo, sight: Sight) -> ObjectInfo:
        info = info.renamed(key)
        self._existing.remember(key, info, sight)
        return info


def _raised(answer: ObjectInfo | StoreError) -> ObjectInfo:
    if isinstance(answer, StoreError):
        raise answer
    return answer


class _Named:
    """Round a request: counts and reports its failure, and puts the key into the error in place of the origin's name.

    A class and not a generator: it is entered once per chunk.
    """

    __slots__ = ("_existing", "_key", "_names", "_operation", "_outage", "_stats")

    def __init__(
        self,
        stats: OriginStats,
        outage: Outage,
        operation: str,
        key: Key | None,
        names: Mapping[str, Key] = MappingProxyType({}),
        existing: ExistingArtifacts | None = None,
    ) -> None:
        self._existing = existing
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
            if self._existing is not None and self._key is not None:
                self._existing.forget(self._key)
        elif not isinstance(error, _MISTAKES):
            self._stats.errors += 1
            self._outage.failed(self._operation, error)

    def _answered(self) -> None:
        if self._outage.is_on:
            self._outage.answered()
