"""Reads of keys whose newest put waits in the journal: answered from there, whatever the tiers have evicted.

The origin has an older version of such a key, or none, so it must not be asked, neither for the object nor whether a
tier's copy still holds. Knows neither fills nor negative answers: it is asked before them.
"""

from __future__ import annotations

from tiered_store.key import Key
from tiered_store.objects import Entry, ObjectInfo
from tiered_store.store.backlog import Backlog
from tiered_store.store.cache import Cache
from tiered_store.store.freshness import Freshness

__all__ = ["PendingReads"]


class PendingReads:
    """Looks into the backlog.

    Args:
        backlog: what is pending.
        cache: the tiers, into which what was read here goes.
        freshness: dates it.
    """

    def __init__(self, backlog: Backlog, cache: Cache, freshness: Freshness) -> None:
        self._backlog = backlog
        self._cache = cache
        self._freshness = freshness

    def info(self, key: Key) -> ObjectInfo | None:
        """What is known of the key's pending put, if it has one."""
        pending = self._backlog.get(key)
        return None if pending is None else pending.info

    async def find(self, key: Key, held: Entry | None, *, in_memory: bool) -> Entry | None:
        """The key's pending put, if it has one.

        Args:
            key: which.
            held: what a tier has, and could not vouch for.
            in_memory: whether to bring a small object up into memory.

        Raises:
            OriginUnavailable: the journal cannot be read.
        """
        while (pending := self._backlog.get(key)) is not None:
            if held is not None and held.info.etag == pending.info.etag:
                self._freshness.revalidated(held)
                self._cache.refresh(key, held)
                self._cache.count_hit(held)
                return held
            body = await self._backlog.body(pending)
            if body is None:
                continue  # it was replaced, or has arrived
            self._backlog.stats.hits += 1
            entry = Entry(pending.info, body, validated_at=0.0, tier="disk", crc=pending.record.crc)
            self._freshness.stamp(entry)
            if in_memory and self._backlog.get(key) is pending:
                self._cache.promote(key, entry)
            return entry
        return None

    def forget_copies(self) -> None:
        """At the start: what the disk tier holds of pending keys may be older than what waits here."""
        for key in self._backlog.keys():  # noqa: SIM118 - not a dict
            self._cache.forget(key)
