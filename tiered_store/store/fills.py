"""The fills under way: who starts one, who joins, when one stops, and what it may install.

Owns every fill's task. Invariants: one current fill per key however many readers wait; a fill's readers
cannot hurt each other; whatever happens, its key leaves the table and its readers get an answer.
"""

from __future__ import annotations

import asyncio
import logging

from tiered_store.aio.limits import ByteBudget
from tiered_store.aio.tasks import TaskSet
from tiered_store.errors import DaemonUnavailable, IntegrityError, NotFound, StoreError
from tiered_store.key import Key
from tiered_store.objects import Entry
from tiered_store.stats import StoreStats
from tiered_store.store.cache import Cache
from tiered_store.store.damage import KnownDamage
from tiered_store.store.fill import Fill
from tiered_store.store.flights import Flights
from tiered_store.store.freshness import Freshness
from tiered_store.store.negative import NegativeCache
from tiered_store.store.sources import Sources
from tiered_store.store.staging import Staging

__all__ = ["Fills"]

_log = logging.getLogger(__name__)


class Fills:
    """All fills of one store.

    Args:
        sources: where objects come from.
        staging: where they are collected.
        cache: where they are installed.
        freshness: dates and judges them.
        negative: where a miss is remembered.
        damage: where wrong bytes at the origin are remembered.
        stats: fills, coalesced, corrupt, fills_cancelled and fills_superseded move here.
        budget: memory that all fills share.
        max_running: fills that are with a source at once; further ones wait. A fill may hold a connection while it
            waits for memory, and waits for its place before either: so none that holds memory waits for a connection
            that others keep until they get memory.
        max_revalidations: how many may run in the background.
    """

    def __init__(
        self,
        sources: Sources,
        staging: Staging,
        cache: Cache,
        freshness: Freshness,
        negative: NegativeCache,
        damage: KnownDamage,
        stats: StoreStats,
        *,
        budget: ByteBudget,
        max_running: int,
        max_revalidations: int,
    ) -> None:
        self._sources = sources
        self._staging = staging
        self._budget = budget
        self._places = asyncio.Semaphore(max_running)
        self._cache = cache
        self._freshness = freshness
        self._negative = negative
        self._damage = damage
        self._stats = stats
        self._max_revalidations = max_revalidations
        self._revalidations = 0
        self._tasks = TaskSet("a fill", log_faults=True)
        self.flights: Flights[Fill] = Flights()

    def join(self, key: Key, *, stale: Entry | None = None, in_memory: bool = True) -> Fill:
        """Become a reader of the key's fill, which starts unless it is under way; leave with :meth:`leave`."""
        fill = self.flights.get(key)
        if fill is None:
            fill = self._start(key, stale)
        else:
            self._stats.coalesced += 1
        fill.readers += 1
        fill.in_memory = fill.in_memory or in_memory
        return fill

    def leave(self, fill: Fill) -> None:
        """One reader less. The last one stops the fill, unless more than half of it is done."""
        fill.readers -= 1
        if fill.readers or fill.is_over or fill.is_past_half or fill.task is None:
            return
        self._stats.fills_cancelled += 1
        self.flights.land(fill.key, fill)  # at once: nobody may join what is about to stop
        fill.task.cancel()

    def revalidate(self, key: Key, stale: Entry) -> None:
        """Ask the origin in the background, unless that is under way or too much else is."""
        if self.flights.get(key) is not None or self._revalidations >= self._max_revalidations:
            return
        fill = self._start(key, stale)
        fill.in_memory = stale.tier == "memory"
        fill.readers = 1  # the store itself, which does not leave
        self._revalidations += 1
        assert fill.task is not None
        fill.task.add_done_callback(self._revalidated)

    async def close(self) -> None:
        """Stop every fill; those who wait are told."""
        await self._tasks.cancel()

    def _start(self, key: Key, stale: Entry | None) -> Fill:
        fill = Fill(key, stale)
        self.flights.take_off(key, fill)
        self._stats.fills += 1
        fill.task = self._tasks.start(self._run(fill))
        # A task that is cancelled before its first step never enters _run.
        fill.task.add_done_callback(lambda _: self._ended(fill))
        return fill

    async def _run(self, fill: Fill) -> None:
        """The task of one fill. What it ends with is in the fill; faults nobody planned for are logged, too."""
        try:
            async with self._places:
                staged = await fill.bring(self._sources, self._staging, self._budget)
            if staged is None:
                fill.succeed(self._refreshed(fill))
            else:
                assert fill.info is not None
                entry = Entry(fill.info, staged.body, validated_at=0.0, tier=fill.tier, crc=staged.crc)
                fill.succeed(self._installed(fill, entry))
        except NotFound as error:
            if self.flights.is_current(fill.key, fill):
                self._cache.forget(fill.key)
                self._negative.remember(fill.key, self._freshness.policies.of(fill.key).negative_ttl_s)
            fill.fail(error)
        except IntegrityError as error:
            self._stats.corrupt += 1
            if self.flights.is_current(fill.key, fill):  # else a put has repaired it, or a delete removed it
                self._damage.remember(fill.key)
            fill.fail(error)
        except StoreError as error:
            fill.fail(error)
        except Exception as error:
            fill.fail(error)
            raise
        finally:
            # Before any reader wakes: nobody shall meet a flight that is over.
            self.flights.land(fill.key, fill)

    def _refreshed(self, fill: Fill) -> Entry:
        """The origin still has what the stale entry says."""
        assert fill.stale is not None
        if self.flights.is_current(fill.key, fill):
            self._freshness.revalidated(fill.stale)
            self._cache.refresh(fill.key, fill.stale)
        return fill.stale

    def _installed(self, fill: Fill, entry: Entry) -> Entry:
        """Keep the object, unless a write overtook the fill; its own readers get it either way."""
        self._freshness.stamp(entry)
        if self.flights.is_current(fill.key, fill):
            self._damage.forget(fill.key)
            self._cache.install(fill.key, entry, in_memory=fill.in_memory)
        else:
            self._stats.fills_superseded += 1
        return entry

    def _ended(self, fill: Fill) -> None:
        self.flights.land(fill.key, fill)
        fill.fail(DaemonUnavailable("the daemon is stopping", key=fill.key))

    def _revalidated(self, task: asyncio.Task[None]) -> None:
        self._revalidations -= 1
