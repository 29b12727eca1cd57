"""Looking into the disk tier: one look per key at a time, however many want it, and one look for many keys.

A look is answered to everyone who asked for its key meanwhile, whoever has started it. Knows no origin and no policy.

Invariants: nothing moves up into memory that a write has overtaken; a look that is over is in no table, whatever has
become of it; cancelling one who waits for a look cancels no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final, TypeVar

from tiered_store.aio.tasks import TaskSet
from tiered_store.errors import DaemonUnavailable
from tiered_store.key import Key
from tiered_store.objects import Entry
from tiered_store.store.cache import Cache
from tiered_store.store.flights import Flights
from tiered_store.store.promotion import Promotions

__all__ = ["Lookups"]

T = TypeVar("T")


class _Left(Enum):
    """What a look for many keys answers for one that it did not get to."""

    LEFT = "left"


_LEFT: Final = _Left.LEFT


class _Lookup:
    """One look into the disk tier for one key, shared by everyone who wants the key meanwhile."""

    __slots__ = ("answer", "in_memory")

    def __init__(self, answer: asyncio.Future[Entry | _Left | None], *, in_memory: bool) -> None:
        self.answer = answer
        self.in_memory = in_memory


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
        self.flights: Flights[_Lookup] = Flights()

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
        return self._newest(key, await self._find(key, in_memory=in_memory))

    async def look_many(self, keys: Iterable[Key], *, in_memory: bool) -> dict[Key, Entry | None]:
        """What the disk tier holds, fresh or not, of those keys that one look can answer and memory does not have.

        What is not in the answer is at hand, large, somebody else's look, or was not got to: :meth:`look` for it.

        Args:
            keys: which; a few hundred.
            in_memory: whether to bring them up into memory.

        Raises:
            DaemonUnavailable: the store is being closed.
        """
        if not self._cache.has_disk:
            return {}
        peek, wanted = self._cache.peek, {}
        for key in keys:
            if key not in wanted and self.flights.get(key) is None and peek(key) is None:
                wanted[key] = self._take_off(key, in_memory=in_memory)
        if not wanted:
            return {}
        task = self._tasks.start(self._look_many(wanted))
        task.add_done_callback(lambda _: self._ended(wanted, task))
        found = await self._shared(task)
        return {key: self._newest(key, entry) for key, entry in found.items()}

    async def close(self) -> None:
        """Stop what is under way; those who wait are told."""
        await self._tasks.cancel()

    async def _find(self, key: Key, *, in_memory: bool) -> Entry | None:
        """What the disk tier has for a key, by a look that is under way or by one of its own."""
        while True:
            lookup = self.flights.get(key)
            if lookup is None:
                lookup = self._start(key, in_memory=in_memory)
            lookup.in_memory = lookup.in_memory or in_memory
            answer = await self._shared(lookup.answer)
            if answer is not _LEFT:
                return answer

    async def _shared(self, future: asyncio.Future[T]) -> T:
        """Wait for what others wait for, too."""
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if future.cancelled():  # by `close`; it was not the reader who was cancelled
                raise DaemonUnavailable("the daemon is stopping") from None
            raise

    def _newest(self, key: Key, entry: Entry | None) -> Entry | None:
        """While a reader waited, a fill or a put may have come and gone; what it left is at least as new."""
        newer = self._cache.peek(key)
        return newer if newer is not None and (entry is None or newer.info.etag != entry.info.etag) else entry

    def _take_off(self, key: Key, *, in_memory: bool) -> _Lookup:
        lookup = _Lookup(asyncio.get_running_loop().create_future(), in_memory=in_memory)
        self.flights.take_off(key, lookup)
        return lookup

    def _start(self, key: Key, *, in_memory: bool) -> _Lookup:
        lookup = self._take_off(key, in_memory=in_memory)
        task = self._tasks.start(self._look(key, lookup))
        task.add_done_callback(lambda _: self._ended({key: lookup}, task))
        return lookup

    async def _look(self, key: Key, lookup: _Lookup) -> None:
        self._answer(key, lookup, await self._cache.read_disk(key))

    async def _look_many(self, wanted: Mapping[Key, _Lookup]) -> dict[Key, Entry | None]:
        hashed = any(lookup.in_memory for lookup in wanted.values())
        found = await self._cache.read_disk_many(list(wanted), hashed=hashed)
        answers = {key: self._answer(key, wanted[key], entry) for key, entry in found.items()}
        for key in wanted.keys() - found.keys():
            self._tell(key, wanted[key], _LEFT)
        return answers

    def _answer(self, key: Key, lookup: _Lookup, entry: Entry | None) -> Entry | None:
        if entry is not None:
            if not self.flights.is_current(key, lookup):
                # Overtaken by a write: right for those who asked before it, and not to be kept. Nor to be the stale
                # copy of a fill that they start now, because others join that, who know of the write.
                entry = entry if self._promotions.is_fresh(entry) else None
            elif lookup.in_memory and not self._promotions.consider(key, entry):
                entry = None
        self._tell(key, lookup, entry)
        return entry

    def _tell(self, key: Key, lookup: _Lookup, answer: Entry | _Left | None) -> None:
        self.flights.land(key, lookup)  # first: whoever has to ask again must not meet this look
        lookup.answer.set_result(answer)

    def _ended(self, wanted: Mapping[Key, _Lookup], task: asyncio.Task[object]) -> None:
        """A look is over; those who were not answered learn why."""
        error = None if task.cancelled() else task.exception()
        for key, lookup in wanted.items():
            self.flights.land(key, lookup)
            if lookup.answer.done():
                continue
            if error is None:
                lookup.answer.cancel()
            else:
                lookup.answer.set_exception(error)
                lookup.answer.exception()  # the log has it already, also where nobody waits
