"""The two tiers of this machine, memory and disk, as one: look, install, forget.

Nothing here waits and nothing asks the origin. Invariant: both tiers learn of every install and every
forgetting in the same turn of the event loop, so that they never disagree about a key's version; and
the counters of hits and misses move here alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from tiered_store.key import Key, digest_of, is_artifact
from tiered_store.objects import Body, Entry, ObjectInfo
from tiered_store.stats import StoreStats, TierStats
from tiered_store.store.memfd import claim
from tiered_store.store.spool import SpoolRoom
from tiered_store.tiers.base import Tier

__all__ = ["Cache", "DiskPlace", "MemoryPlace"]


class MemoryPlace(Tier, Protocol):
    """The memory tier, as the store needs it."""

    def accepts(self, size: int) -> bool:
        """Whether a body of this size could be kept at all."""
        ...

    def peek_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """As ``peek``, for each of the keys; they may be unchecked text."""
        ...


class DiskPlace(Tier, SpoolRoom, Protocol):
    """The disk tier, as the store needs it."""

    @property
    def suspect_before(self) -> float:
        """Entries dated before this (wall clock) may have missed a write; minus infinity after a clean stop."""
        ...

    async def get_many(self, keys: Sequence[Key], hashed: Collection[Key]) -> dict[Key, Entry | None]:
        """As ``get``, for as many of a few hundred keys as can be answered together; the others are not in the answer.

        Args:
            keys: which.
            hashed: of which artifacts the bytes are to be hashed, and marked as verified if they have their digest.
        """
        ...


class Cache:
    """Memory above disk.

    Args:
        memory: the first tier.
        disk: the second, or None.
        stats: where corrupt objects are counted.
    """

    def __init__(self, memory: MemoryPlace, disk: DiskPlace | None, stats: StoreStats) -> None:
        self.memory = memory
        self.disk = disk
        self._stats = stats

    @property
    def has_disk(self) -> bool:
        """Whether there is a second tier."""
        return self.disk is not None

    def peek_disk(self, key: Key) -> Entry | None:
        """What the disk tier can give without any I/O: a file that is open, an entry not yet written."""
        return None if self.disk is None else self.disk.peek(key)

    def peek(self, key: Key) -> Entry | None:
        """What can be given without any I/O, fresh or not; the memory tier's before the disk tier's."""
        entry = self.memory.peek(key)
        return self.peek_disk(key) if entry is None else entry

    def count_hit(self, entry: Entry) -> None:
        """An entry from :meth:`peek` or :meth:`read_disk` answers a reader."""
        if entry.tier == "disk" and self.disk is not None:
            self.memory.stats.misses += 1
            self.disk.stats.hits += 1
        else:
            self.memory.stats.hits += 1

    def count_disk_hits(self, count: int) -> None:
        """As :meth:`count_hit`, for so many entries of the disk tier."""
        if count and self.disk is not None:
            self.memory.stats.misses += count
            self.disk.stats.hits += count

    def count_miss(self) -> None:
        """A reader goes on to the origin."""
        self.memory.stats.misses += 1
        if self.disk is not None:
            self.disk.stats.misses += 1

    async def read_disk(self, key: Key) -> Entry | None:
        """What the disk tier has."""
        return None if self.disk is None else await self.disk.get(key)

    async def read_disk_many(self, keys: Sequence[Key], hashed: Collection[Key]) -> dict[Key, Entry | None]:
        """What the disk tier has of those of the keys that it answers together; see ``DiskPlace.get_many``."""
        return {} if self.disk is None else await self.disk.get_many(keys, hashed)

    def promote(self, key: Key, entry: Entry) -> bool:
        """Copy a small entry of the disk tier up into memory; artifacts are verified on the way.

        Where that has not been done, at most ``INLINE_MAX_BYTES`` are hashed here on the loop: a hop to a thread costs
        as much.

        Returns:
            False for an artifact with wrong bytes; it has been forgotten then.
        """
        if isinstance(entry.body, bytes) and self.memory.accepts(len(entry.body)):
            if is_artifact(key) and not entry.is_verified:
                entry.is_verified = hashlib.sha256(entry.body).hexdigest() == digest_of(key)
                if not entry.is_verified:
                    self.condemn(key)
                    return False
            self.memory.put(key, _in_memory(entry, entry.body))
        return True

    def promote_copy(self, key: Key, entry: Entry, body: Body) -> None:
        """As :meth:`promote` for a large entry, whose copy in memory has been made and verified."""
        self._put_memory(key, _in_memory(entry, body))

    def install(self, key: Key, entry: Entry, *, in_memory: bool = True) -> None:
        """Keep what the origin has just given or taken, in place of whatever was there."""
        if in_memory:
            self._put_memory(key, _in_memory(entry, entry.body))
        else:
            self.memory.discard(key)
        if self.disk is not None:
            self.disk.put(key, entry)

    def refresh(self, key: Key, entry: Entry) -> None:
        """Pass the new date of a version that was vouched for again on to its copy in memory."""
        kept = self.memory.peek(key)
        if kept is not None and kept is not entry and kept.info.etag == entry.info.etag:
            kept.validated_at, kept.fresh_until = entry.validated_at, entry.fresh_until

    async def renew(self, key: Key, etag: str, info: ObjectInfo, is_current: Callable[[], bool]) -> bool:
        """The version known by ``etag`` is the one that the origin describes by ``info``: have both tiers say so.

        In memory the entry is changed in place. On disk the row is written anew, and a large object's file stays.

        Args:
            key: whose version.
            etag: what the tiers know it by.
            info: the origin's.
            is_current: asked when the disk tier has been looked into: whether nothing newer was installed meanwhile.

        Returns:
            what ``is_current`` said; nothing has changed if that is False.
        """
        below = await self.read_disk(key)
        if not is_current():
            return False
        kept = self.memory.peek(key)
        if kept is not None and kept.info.etag == etag:
            kept.info, kept.wire = info, b""
        if below is not None and below.info.etag == etag and self.disk is not None:
            self.disk.put(key, Entry(info, below.body, validated_at=below.validated_at, crc=below.crc))
        return True

    def forget(self, key: Key) -> None:
        """Drop the key from both tiers."""
        self.memory.discard(key)
        if self.disk is not None:
            self.disk.discard(key)

    def condemn(self, key: Key) -> None:
        """The disk tier's bytes for this key are wrong: count and drop them."""
        self._stats.corrupt += 1
        self.forget(key)

    def stats(self) -> tuple[TierStats, TierStats]:
        """The counters of memory and disk."""
        return self.memory.stats, TierStats() if self.disk is None else self.disk.stats

    async def close(self) -> None:
        """Let the tiers write what they accepted, then close them; one that fails does not keep the other open."""
        try:
            await self.memory.close()
        finally:
            if self.disk is not None:
                await self.disk.close()

    def _put_memory(self, key: Key, entry: Entry) -> None:
        self.memory.put(key, entry)
        if not isinstance(entry.body, bytes) and self.memory.peek(key) is entry:
            claim(entry.body)


def _in_memory(entry: Entry, body: Body) -> Entry:
    """The memory tier's own entry: it is marked in place when it is revalidated."""
    kept = Entry(
        entry.info,
        body,
        validated_at=entry.validated_at,
        fresh_until=entry.fresh_until,
        tier="memory",
        crc=entry.crc,
    )
    kept.is_verified = entry.is_verified and body is entry.body
    return kept
