"""Which of many keys exist: what is at hand first, then the disk tier, then the origin; each asked for many at a time.

The steps and the answers are those of ``Store.stat``, which also answers what cannot be answered for many at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from tiered_store.aio.together import gathered
from tiered_store.errors import NotFound
from tiered_store.key import Key
from tiered_store.objects import Entry, ObjectInfo
from tiered_store.stats import StoreStats
from tiered_store.store.cache import Cache
from tiered_store.store.freshness import Freshness
from tiered_store.store.negative import NegativeCache
from tiered_store.store.pending import PendingReads
from tiered_store.store.upstream import Upstream

__all__ = ["Existence", "Reads"]

#: Keys asked about together.
_WINDOW = 256
#: Questions about single objects that one call has under way at once.
_AT_ONCE = 32


class Reads(Protocol):
    """The store's reads that are needed here; see there."""

    def peek(self, key: str) -> Entry | None:
        """A fresh entry that needs no I/O."""
        ...

    async def known(self, keys: Sequence[Key], *, in_memory: bool = True) -> dict[Key, Entry | None]:
        """What the disk tier has of as many of the keys as one look answers."""
        ...

    async def stat(self, key: Key) -> ObjectInfo:
        """What is known of one object."""
        ...


class Existence:
    """Answers for many keys.

    Args:
        reads: of single objects, and of what the disk tier has.
        completed: how many writes have come to their end.
    """

    def __init__(
        self,
        reads: Reads,
        *,
        upstream: Upstream,
        cache: Cache,
        freshness: Freshness,
        negative: NegativeCache,
        pending: PendingReads,
        counters: StoreStats,
        completed: Callable[[], int],
    ) -> None:
        self._reads = reads
        self._upstream = upstream
        self._cache = cache
        self._freshness = freshness
        self._negative = negative
        self._pending = pending
        self._counters = counters
        self._completed = completed

    async def of(self, keys: Sequence[Key]) -> list[bool]:
        """For each key whether there is an object. Raises what ``Store.stat`` raises, besides NotFound."""
        peek = self._reads.peek
        there = {key for key in keys if peek(key) is not None}
        rest = [key for key in dict.fromkeys(keys) if key not in there]
        for start in range(0, len(rest), _WINDOW):
            there |= await self._there(rest[start : start + _WINDOW])
        return [key in there for key in keys]

    async def _there(self, keys: Sequence[Key]) -> set[Key]:
        there: set[Key] = set()
        absent: list[Key] = []
        while keys and (known := await self._reads.known(keys, in_memory=False)):
            there.update(key for key, entry in known.items() if entry is not None)
            absent += [key for key, entry in known.items() if entry is None]
            keys = [key for key in keys if key not in known]
        there |= await self._asked(self._reads.stat, keys)
        return there | await self._at_origin(absent)

    async def _asked(self, stat: Callable[[Key], Awaitable[ObjectInfo]], keys: Sequence[Key]) -> set[Key]:
        answers = await gathered(stat, keys, at_once=_AT_ONCE)
        return {key for key, answer in zip(keys, answers, strict=True) if _is_there(answer)}

    async def _at_origin(self, keys: Sequence[Key]) -> set[Key]:
        """Those of the keys, which no tier has, that are pending or at the origin."""
        there = {key for key in keys if self._pending.info(key) is not None}
        open_ = [key for key in keys if key not in there]
        asked = [key for key in open_ if not self._negative.holds(key)]
        self._counters.negative_hits += len(open_) - len(asked)
        if not asked:
            return there
        before = self._completed()
        answers = await self._upstream.stat_many(asked)
        # A write that completed meanwhile, of whatever key, makes these answers too old to be remembered.
        is_current = before == self._completed()
        for key, answer in zip(asked, answers, strict=True):
            if _is_there(answer):
                there.add(key)
            elif is_current:
                if self._cache.peek(key) is not None:  # a fill has brought it up, and somebody has removed it since
                    self._cache.forget(key)
                self._negative.remember(key, self._freshness.policies.of(key).negative_ttl_s)
        return there


def _is_there(answer: ObjectInfo | Exception) -> bool:
    """Raises what keeps the question open."""
    if isinstance(answer, Exception) and not isinstance(answer, NotFound):
        raise answer
    return not isinstance(answer, Exception)
