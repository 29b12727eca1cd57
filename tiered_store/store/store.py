"""The store: reads through memory, disk, cdn and origin, and writes to the origin.

This module is the read path, and the one place where the rooms around it meet (``parts.py`` builds them). What a
fill, a promotion or a write does in detail is theirs. It knows no socket and no configuration file.

A read, in order: 1. memory, 2. disk, the journal for what the origin does not have yet, 3. the cdn where one is
configured, 4. the origin; what came from below populates the tiers above.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import cast

from tiered_store.errors import DaemonUnavailable, DeadlineExceeded, NotFound, OriginUnavailable, QuotaExceeded
from tiered_store.key import ARTIFACT_DIRECTORY, Key, key_of_name
from tiered_store.objects import Descriptor, Entry, ObjectInfo
from tiered_store.origins.base import Listing, Origin, PutHeaders
from tiered_store.stats import OriginStats, StoreStats
from tiered_store.store.backlog import Backlog
from tiered_store.store.cache import DiskPlace, MemoryPlace
from tiered_store.store.conditions import Condition
from tiered_store.store.existence import Existence
from tiered_store.store.fill import Fill
from tiered_store.store.limits import StoreLimits
from tiered_store.store.listing import list_keys
from tiered_store.store.parts import assemble
from tiered_store.store.policy import Policies, Policy
from tiered_store.store.reading import Reading, SharedReading
from tiered_store.store.sources import CdnPlace
from tiered_store.store.spool import Spool, Staged

__all__ = ["Store"]

_log = logging.getLogger("tiered_store.store")

_BYTES_ALONE = frozenset({bytes})
#: A stale copy may stand in for an origin that fails like this.
_NO_ANSWER = (OriginUnavailable, DeadlineExceeded)


class Store:
    """Objects through their tiers. All methods belong to one event loop.

    Args:
        memory: the first tier.
        disk: the second tier, which also lends room for incomplete objects; or None.
        origin: the place that must not forget.
        policies: freshness by key prefix.
        limits: see there.
        origin_stats: where the origin's own counters are, if it has any; what is asked of it is counted there, too.
        cdn: what is asked before the origin for the keys whose policy allows it, or None; started.
        backlog: puts that were acknowledged and wait for their upload; started, and closed here. None: there are none.
        clock: monotonic seconds.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        memory: MemoryPlace,
        disk: DiskPlace | None,
        origin: Origin,
        policies: Policies,
        limits: StoreLimits,
        origin_stats: OriginStats | None = None,
        cdn: CdnPlace | None = None,
        backlog: Backlog | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._counters = StoreStats(origin=origin_stats or OriginStats())
        self._backlog = Backlog() if backlog is None else backlog
        parts = assemble(
            memory=memory,
            disk=disk,
            origin=origin,
            cdn=cdn,
            policies=policies,
            limits=limits,
            counters=self._counters,
            backlog=self._backlog,
            clock=clock,
            wall=wall,
        )
        shared = parts.shared
        self._upstream, self._sources, self._staging = shared.upstream, shared.sources, shared.staging
        self._cache, self._freshness, self._negative = shared.cache, shared.freshness, shared.negative
        self._offload = shared.offload
        self._pending, self._promotions, self._lookups = parts.pending, parts.promotions, parts.lookups
        self._fills, self._through = parts.fills, parts.through
        self._writes, self._uploader = parts.writes, parts.uploader
        self._existence = Existence(
            self,
            upstream=self._upstream,
            cache=self._cache,
            freshness=self._freshness,
            negative=self._negative,
            pending=self._pending,
            counters=self._counters,
            completed=lambda: self._writes.completed,
        )
        self._limits = limits
        self._clock = clock
        self._closing = False
        # The hot path's own references. A text that is no key is in no tier, so that `peek` need not check.
        self._memory_peek = cast("Callable[[str], Entry | None]", memory.peek)
        self._memory_peek_many = memory.peek_many
        self._memory_stats = memory.stats

    async def start(self) -> None:
        """Ready to answer; tiers, origin and backlog were started by whoever made them."""
        self._pending.forget_copies()
        self._uploader.start()

    async def close(self) -> None:
        """Refuse new work, let running writes end, stop everything else, close tiers and origin."""
        self._closing = True
        deadline = time.monotonic() + self._limits.drain_s
        await self._writes.close(self._limits.drain_s)
        await self._uploader.close(deadline - time.monotonic())
        await self._fills.close()
        await self._lookups.close()
        await self._promotions.close()
        await self._through.close(self._limits.drain_s)
        try:
            await self._cache.close()
        finally:
            await self._backlog.close()
            await self._sources.close()
            await self._offload.close()

    # ------------------------------------------------------------------ reads

    def peek(self, key: str, no_promote: bool = False) -> Entry | None:
        """A fresh entry that needs no I/O, or None, which means "ask `get`". Never raises.

        Args:
            key: may be unchecked text; what is no key is in no tier.
            no_promote: do not copy it up into memory.
        """
        entry = self._memory_peek(key)
        if entry is not None:
            if entry.fresh_until > self._clock():
                self._memory_stats.hits += 1
                return entry
            return None
        entry = self._cache.peek_disk(Key(key))
        if entry is None or not self._freshness.judge(entry):
            return None
        if not no_promote and not self._promotions.consider(Key(key), entry):
            return None
        self._cache.count_hit(entry)
        return entry

    def peek_bodies(self, keys: Sequence[str], max_bytes: int) -> list[bytes] | None:
        """The bodies of all these objects, if memory has each of them fresh, small and in all at most ``max_bytes``.

        Else None, and nothing is counted. What :meth:`peek` does, at a third of its cost per key.
        """
        now = self._clock()
        bodies = [
            entry.body if entry is not None and entry.fresh_until > now else None
            for entry in self._memory_peek_many(keys)
        ]
        if not {*map(type, bodies)} <= _BYTES_ALONE:
            return None
        small = cast("list[bytes]", bodies)
        if sum(map(len, small)) > max_bytes:
            return None
        self._memory_stats.hits += len(small)
        return small

    async def known(self, keys: Sequence[Key], *, in_memory: bool = True) -> dict[Key, Entry | None]:
        """What the disk tier has of as many of the keys as one look into it answers; for what `peek` does not give.

        A fresh entry, and it counts as read; or None where no tier has the key: :meth:`get` need not look again. What
        is not in the answer may be anywhere: :meth:`get` has the answer. What one call reads is bounded, so that it
        is worth while to call again with the rest, for as long as there are answers.

        Args:
            keys: which; a few hundred.
            in_memory: whether to copy them up into memory.

        Raises:
            DaemonUnavailable: the store is being closed.
        """
        self._check_open()
        is_filling, judge = self._fills.flights.get, self._freshness.judge
        wanted = [key for key in keys if is_filling(key) is None and not key.startswith(ARTIFACT_DIRECTORY)]
        found = await self._lookups.look_many(wanted, in_memory=in_memory)
        known = {key: entry for key, entry in found.items() if entry is None or judge(entry)}
        self._cache.count_disk_hits(sum(entry is not None for entry in known.values()))
        return known

    async def get(
        self, key: Key, *, only_if_cached: bool = False, no_promote: bool = False, has_looked: bool = False
    ) -> Entry:
        """The whole object.

        Args:
            key: which.
            only_if_cached: do not ask the origin. An expired entry counts only as long as its policy lets
                readers have it without waiting for the origin (``stale_while_revalidate_s``).
            no_promote: do not copy it up into memory.
            has_looked: :meth:`known` has just said that no tier has it.

        Raises:
            NotFound: there is none (or none cached). OriginUnavailable, DeadlineExceeded: nobody knows.
            IntegrityError: the origin's bytes are not the artifact. QuotaExceeded: no room to collect it.
        """
        found = await self._find(key, only_if_cached=only_if_cached, no_promote=no_promote, has_looked=has_looked)
        if isinstance(found, Entry):
            return found
        try:
            return await found.entry()
        except _NO_ANSWER:
            stale = self._stale(found)
            if stale is None:
                raise
            return stale
        finally:
            self._fills.leave(found)

    async def read(self, key: Key, *, only_if_cached: bool = False, no_promote: bool = False) -> Reading:
        """As :meth:`get`, but returns as soon as the object's information is there; to be closed."""
        found = await self._find(key, only_if_cached=only_if_cached, no_promote=no_promote)
        if isinstance(found, Entry):
            return self._reading(found, found.info)
        reading: Reading | None = None
        try:
            info = await found.opened()
            reading = self._reading(found, info)
        except _NO_ANSWER:
            stale = self._stale(found)
            if stale is None:
                raise
            return self._reading(stale, stale.info)
        except QuotaExceeded:
            return await self._through.open(found.key)
        finally:
            if reading is None:
                self._fills.leave(found)
        return reading

    async def reading(self, entry: Entry) -> Reading:
        """An entry that was found, to be read piece by piece; to be closed."""
        return self._reading(entry, entry.info)

    async def stat(self, key: Key) -> ObjectInfo:
        """What is known of an object: as :meth:`get`, but what no tier may answer the origin tells without the bytes.

        An expired entry inside its ``stale_while_revalidate_s`` answers at once while the object is read again
        in the background, so that ``stat`` and ``get`` agree. Raises as :meth:`get`.
        """
        key = _canonical(key)
        entry = await self._look(key, in_memory=False)
        if entry is not None and self._freshness.judge(entry):
            return entry.info
        pending = self._pending.info(key)
        if pending is not None:
            return pending
        if entry is not None and self._freshness.serves_while_revalidating(entry):
            self._counters.stale_served += 1
            self._fills.revalidate(key, entry)
            return entry.info
        self._raise_remembered_miss(key, entry)
        before = self._writes.completed
        try:
            info = await self._upstream.stat(key)
        except NotFound:
            # A write that completed meanwhile, of whatever key, makes this answer too old to be remembered.
            if before == self._writes.completed:
                self._cache.forget(key)
                self._negative.remember(key, self._freshness.policies.of(key).negative_ttl_s)
            raise
        except _NO_ANSWER:
            if entry is None or not self._freshness.serves_on_error(entry):
                raise
            self._counters.stale_served += 1
            return entry.info
        if entry is not None and entry.info.etag == info.etag:
            self._freshness.revalidated(entry)
        return info

    def policy(self, key: Key) -> Policy:
        """What holds for a key."""
        return self._freshness.policies.of(key)

    async def exists(self, keys: Sequence[Key]) -> list[bool]:
        """Which of the keys exist, in their order. Raises OriginUnavailable, PermissionDenied."""
        return await self._existence.of(keys)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Listing:
        """A page of the origin's objects in byte order of the key, artifacts as ``sha256:`` keys.

        Raises:
            OriginUnavailable, PermissionDenied.
        """
        self._check_open()
        return await list_keys(self._upstream, self._backlog, prefix, after=after, limit=limit)

    # ----------------------------------------------------------------- writes

    def spool(self, size: int | None, *, hashed: bool) -> Spool:
        """Room for one upload of ``size`` bytes (None: not known), to be finished or aborted.

        Raises:
            TooLarge: over the bound. DaemonUnavailable: too many uploads are under way.
        """
        self._check_open()
        return self._staging.spool(size, hashed=hashed)

    def check_size(self, size: int) -> None:
        """Refuse an upload over the bound before its bytes are taken. Raises TooLarge."""
        self._staging.check_size(size)

    async def adopt(self, descriptor: Descriptor, size: int, *, hashed: bool) -> Staged:
        """A fully sealed memfd as an upload, without a copy. Raises TooLarge, ProtocolError."""
        self._check_open()
        return await self._staging.adopt(descriptor, size, hashed=hashed)

    async def stage_file(self, descriptor: Descriptor, size: int, *, hashed: bool) -> Staged:
        """Any other file as an upload, copied. Raises as ``Staging.stage_file``."""
        self._check_open()
        return await self._staging.stage_file(descriptor, size, hashed=hashed)

    async def put(
        self,
        key: Key | None,
        staged: Staged,
        headers: PutHeaders,
        *,
        write_back: bool = False,
        condition: Condition | None = None,
    ) -> ObjectInfo:
        """Store an upload; returns when the origin has it durably, or the journal. See ``Writes.put``."""
        self._check_open()
        return await self._writes.put(key, staged, headers, write_back=write_back, condition=condition)

    async def delete(self, key: Key, *, condition: Condition | None = None) -> bool:
        """Remove an object; tells whether it existed. See ``Writes.delete``."""
        self._check_open()
        return await self._writes.delete(key, condition=condition)

    async def delete_prefix(self, prefix: str) -> int:
        """Remove every object below a prefix; gives how many. See ``Writes.delete_prefix``."""
        self._check_open()
        return await self._writes.delete_prefix(prefix)

    async def copy(self, source: Key, target: Key) -> ObjectInfo:
        """Copy inside the origin. See ``Writes.copy``."""
        self._check_open()
        return await self._writes.copy(_canonical(source), target)

    async def flush(self, timeout_s: float | None = None) -> int:
        """Return when every put that is pending now has been uploaded, replaced or deleted; gives how many there were.

        Raises:
            DeadlineExceeded: that took longer than ``timeout_s``; it says what is left.
        """
        self._check_open()
        return await self._uploader.flush(timeout_s)

    def found_corrupt(self, key: Key) -> None:
        """The disk tier found an object with wrong bytes and dropped it; its reader goes on to the origin."""
        self._counters.corrupt += 1
        _log.warning("a damaged object was dropped", extra={"key": key})

    def condemn(self, key: Key) -> None:
        """A reader found that what the tiers hold of an object is damaged: count and drop it."""
        self._cache.condemn(key)

    def stats(self) -> dict[str, object]:
        """Counters: a section each for memory, disk, cdn and origin, then the store's own."""
        memory, disk = self._cache.stats()
        return {
            "memory": asdict(memory),
            "disk": asdict(disk),
            "cdn": asdict(self._sources.cdn_stats),
            "write_back": asdict(self._uploader.counters()),
            **self._counters.counters(),
        }

    # ---------------------------------------------------------- the read path

    async def _find(
        self, key: Key, *, only_if_cached: bool, no_promote: bool, has_looked: bool = False
    ) -> Entry | Fill:
        """The read path: an entry to be given out, or a fill that this reader has joined."""
        key = _canonical(key)
        entry = await self._look(key, in_memory=not no_promote, has_looked=has_looked)  # 1. memory, 2. disk
        if entry is not None and self._freshness.judge(entry):
            self._cache.count_hit(entry)
            return entry
        pending = await self._pending.find(key, entry, in_memory=not no_promote)
        if pending is not None:
            return pending
        if entry is not None and self._freshness.serves_while_revalidating(entry):
            self._cache.count_hit(entry)
            self._counters.stale_served += 1
            if not only_if_cached:
                self._fills.revalidate(key, entry)
            return entry
        if only_if_cached:
            raise NotFound("no tier has this object, and the origin was not to be asked", key=key)
        self._raise_remembered_miss(key, entry)
        self._cache.count_miss()
        return self._fills.join(key, stale=entry, in_memory=not no_promote)  # 3. cdn, 4. origin; populates 1 and 2

    async def _look(self, key: Key, *, in_memory: bool, has_looked: bool = False) -> Entry | None:
        """What memory or disk hold, fresh or not."""
        self._check_open()
        has_looked = has_looked or self._fills.flights.get(key) is not None
        return await self._lookups.look(key, in_memory=in_memory, has_looked=has_looked)

    def _stale(self, fill: Fill) -> Entry | None:
        """The stale copy in place of an answer of the origin, where there is one and the policy allows it."""
        if fill.stale is None or not self._freshness.serves_on_error(fill.stale):
            return None
        self._counters.stale_served += 1
        return fill.stale

    def _reading(self, source: Entry | Fill, info: ObjectInfo) -> Reading:
        return SharedReading(source, info, offload=self._offload, leave=self._fills.leave, forget=self._cache.forget)

    def _raise_remembered_miss(self, key: Key, entry: Entry | None) -> None:
        if entry is None and self._negative.holds(key):
            self._counters.negative_hits += 1
            raise NotFound("no such object", key=key)

    def _check_open(self) -> None:
        if self._closing:
            raise DaemonUnavailable("the daemon is stopping")


def _canonical(key: Key) -> Key:
    """The one key of an object: an artifact asked for by its path at the origin is still that artifact."""
    return (key_of_name(key) or key) if key.startswith(ARTIFACT_DIRECTORY) else key
