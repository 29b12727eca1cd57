"""Looking into the disk tier: one look per key at a time, however many want it, and one look for many keys.

A look is answered to everyone who asked for its key meanwhile, whoever has started it. Knows no origin and no policy.

Invariants: nothing moves up into memory that a write has overtaken; a look that is over is in no table, whatever has
become of it; cancelling one who waits for a look cancels no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from tiered_store.aio.tasks import TaskSet
from tiered_store.errors import DaemonUnavailable
from tiered_store.key import Key
from tiered_store.objects import Entry
from tiered_store.store.cache import Cache
from tiered_store.store.flights import Flights
from tiered_store.store.promotion import Promotions

__all__ = ["Lookups"]


class _Look:
    """One look into the disk tier, shared by everyone who wants one of its keys meanwhile.

    Attributes:
        keys: what it is for.
        moving_up: those of them that somebody wants in memory.
        task: gives what it found; a key that is not in there was not got to.
    """

    __slots__ = ("keys", "moving_up", "task")

    def __init__(self, keys: Sequence[Key], moving_up: set[Key]) -> None:
        self.keys = keys
        self.moving_up = moving_up
        self.task: asyncio.Task[dict[Key, Entry | None]] | None = None


class Lookups:
    """Reads of the disk tier.

    Args:
        cache: both tiers.
        promotions: decides what moves up.
    """

    def __init__(self, cache: Cache, promotions: Promotions) -> None:
        self._cache = cache
        self._promotions = promotions
        self._tasks = TaskSet("a look into the disk tier", log_faults=True)
        self.flights: Flights[_Look] = Flights()

    async def look(self, key: Key, *, in_memory: bool, has_looked: bool) -> Entry | None:
        """What memory or disk hold, fresh or not.

        Args:
            key: which.
            in_memory: whether to bring it up into memory.
            has_looked: whether somebody has just looked into the disk tier for this reader, in vain: whoever started
                the fill that is under way, or :meth:`look_many`.

        Raises:
            DaemonUnavailable: the store is being closed.
        """
        entry = self._cache.peek(key)
        if entry is not None:
            if entry.tier != "memory" and in_memory and not self._promotions.consider(key, entry):
                return None
            return entry
        if has_looked or not self._cache.has_disk:
            return None
        entry = await self._find(key, in_memory=in_memory)
        # While we waited, a fill or a put may have come and gone; what it left is at least as new.
        newer = self._cache.peek(key)
        if newer is not None and (entry is None or newer.info.etag != entry.info.etag):
            return newer
        return entry

    async def look_many(self, keys: Iterable[Key], *, in_memory: bool) -> dict[Key, Entry | None]:
        """What the disk tier holds, fresh or not, of those keys that one look can answer and memory does not have.

        What is not in the answer is at hand, large, somebody else's look, or was not got to: :meth:`look` for it.

        Args:
            keys: which; a few hundred.
            in_memory: whether to bring them up into memory, where that is worth it.

        Raises:
            DaemonUnavailable: the store is being closed.
        """
        if not self._cache.has_disk:
            return {}
        is_looked_for, peek = self.flights.get, self._cache.memory.peek
        wanted = [key for key in dict.fromkeys(keys) if is_looked_for(key) is None and peek(key) is None]
        if not wanted:
            return {}
        return await self._shared(self._start(wanted, self._promotions.choose(wanted) if in_memory else set()))

    async def close(self) -> None:
        """Stop what is under way; those who wait are told."""
        await self._tasks.cancel()

    async def _find(self, key: Key, *, in_memory: bool) -> Entry | None:
        """What the disk tier has for a key, by a look that is under way or by one of its own."""
        while True:
            look = self.flights.get(key)
            if look is None:
                look = self._start([key], {key} if in_memory else set())
            elif in_memory:
                look.moving_up.add(key)
            found = await self._shared(look)
            if key in found:
                return found[key]

    async def _shared(self, look: _Look) -> dict[Key, Entry | None]:
        """Wait for what others may wait for, too."""
        assert look.task is not None
        try:
            return await asyncio.shield(look.task)
        except asyncio.CancelledError:
            if look.task.cancelled():  # by `close`; it was not the reader who was cancelled
                raise DaemonUnavailable("the daemon is stopping") from None
            raise

    def _start(self, keys: Sequence[Key], moving_up: set[Key]) -> _Look:
        look = _Look(keys, moving_up)
        for key in keys:
            self.flights.take_off(key, look)
        look.task = self._tasks.start(self._run(look))
        look.task.add_done_callback(lambda _: self._over(look))  # a task cancelled before its first step runs nothing
        return look

    async def _run(self, look: _Look) -> dict[Key, Entry | None]:
        try:
            if len(look.keys) == 1:
                key = look.keys[0]
                found = {key: await self._cache.read_disk(key)}
            else:
                found = await self._cache.read_disk_many(look.keys, frozenset(look.moving_up))
            for key, entry in found.items():
                if entry is not None:
                    found[key] = self._judged(key, entry, look)
            return found
        finally:
            self._over(look)

    def _judged(self, key: Key, entry: Entry, look: _Look) -> Entry | None:
        """What a look answers that has found this entry; it moves up where somebody wants that."""
        if not self.flights.is_current(key, look):
            # Overtaken by a write: right for those who asked before it, and not to be kept. Nor to be the stale copy
            # of a fill that they start now, because others join that, who know of the write.
            return entry if self._promotions.is_fresh(entry) else None
        return entry if key not in look.moving_up or self._promotions.consider(key, entry) else None

    def _over(self, look: _Look) -> None:
        """Nobody joins it any more; whoever was not answered by it must not meet it again."""
        land = self.flights.land
        for key in look.keys:
            land(key, look)
