"""From disk up to memory: copying upwards what is worth it.

Small objects that are read one by one move up at their first read. Those that are read many at a time, as a restore of
a tree reads them, move up as long as they push nothing out; then at their second read, and only if there were fewer
reads in between than memory holds objects. So a flood does not empty the memory tier for what may not be read again,
and a tree that is larger than the tier finds a part of itself there, of which each restore would throw out the start.

Large ones are served from disk by descriptor, which costs a reader no more than memory does while the page cache is
warm; what a copy in memory buys is only that the page cache cannot lose it. So they move up at the second read within
a run: most objects of a build are read once, and copying each of them would cost its bytes twice for nothing.

Invariant: nothing moves up that a write has overtaken, and no artifact whose bytes were not verified.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable

from tiered_store.aio.tasks import TaskSet
from tiered_store.errors import QuotaExceeded
from tiered_store.key import Key, digest_of, is_artifact
from tiered_store.objects import Entry, FileBody
from tiered_store.store.cache import Cache
from tiered_store.store.flights import Flights
from tiered_store.store.freshness import Freshness
from tiered_store.store.staging import Staging

__all__ = ["Promotions"]

_log = logging.getLogger(__name__)
#: How many keys of large objects are remembered as read once.
_MAX_SEEN = 4096
#: How many keys of small objects are, at most.
_MAX_PASSED = 16_384
#: Memory is full when it has less room than one look into the disk tier may need; a share of it, where it is small.
_FREE_BYTES = 1024 * 1024
_FREE_SHARE = 1 / 16


class Promotions:
    """Copies entries of the disk tier into the memory tier.

    Args:
        cache: both tiers.
        freshness: dates entries.
        staging: makes copies in memory.
        max_running: how many large objects may be under way; more are left for a later read.
    """

    def __init__(self, cache: Cache, freshness: Freshness, staging: Staging, *, max_running: int) -> None:
        self._cache = cache
        self._freshness = freshness
        self._staging = staging
        self._max_running = max_running
        self._seen: OrderedDict[Key, None] = OrderedDict()
        # What was read together and did not move up, with how many reads there had been before.
        self._passed: OrderedDict[Key, int] = OrderedDict()
        self._tasks = TaskSet("a promotion to memory", log_faults=True)
        self.flights: Flights[object] = Flights()

    def consider(self, key: Key, entry: Entry) -> bool:
        """A reader gets this entry of the disk tier, which is current: copy it up if that is worth it.

        Returns:
            False if its bytes turned out to be wrong; the tiers have forgotten it then.
        """
        self._freshness.judge(entry)  # so that the copy is dated, too
        if isinstance(entry.body, FileBody):
            self._consider_large(key, entry, entry.body)
            return True
        return self._cache.promote(key, entry)

    def choose(self, keys: Iterable[Key]) -> set[Key]:
        """Which small ones to copy up of those that are about to be read together."""
        stats, passed = self._cache.memory.stats, self._passed
        if stats.max_bytes - stats.bytes >= min(_FREE_BYTES, stats.max_bytes * _FREE_SHARE):
            return set(keys)
        chosen = set()
        now = stats.hits + stats.misses
        for key in keys:
            before = passed.pop(key, None)
            if before is not None and now - before < stats.entries:
                chosen.add(key)
            else:
                passed[key] = now
        while len(passed) > _MAX_PASSED:
            passed.popitem(last=False)
        return chosen

    def is_fresh(self, entry: Entry) -> bool:
        """Whether the entry may be given out unasked; dates it."""
        return self._freshness.judge(entry)

    async def close(self) -> None:
        """Stop what is under way."""
        await self._tasks.cancel()

    def _consider_large(self, key: Key, entry: Entry, body: FileBody) -> None:
        if not self._cache.memory.accepts(body.size):
            return
        if key not in self._seen:
            self._seen[key] = None
            if len(self._seen) > _MAX_SEEN:
                self._seen.popitem(last=False)
        elif self.flights.get(key) is None and len(self._tasks) < self._max_running:
            flight = object()
            self.flights.take_off(key, flight)
            task = self._tasks.start(self._promote(key, entry, body, flight))
            task.add_done_callback(lambda _: self.flights.land(key, flight))

    async def _promote(self, key: Key, entry: Entry, body: FileBody, flight: object) -> None:
        try:
            copy = body if body.is_memory else await self._staging.in_memory(body)
            # The copy is what gets verified: it is what will be given out.
            sound = not is_artifact(key) or await self._staging.digest(copy) == digest_of(key)
        except QuotaExceeded:
            return  # another time
        except (OSError, EOFError) as error:
            _log.warning("the disk tier's file for %r cannot be read: %s", key, str(error))
            sound = False
        if not self.flights.is_current(key, flight):
            return
        if sound:
            self._cache.promote_copy(key, entry, copy)
            self._seen.pop(key, None)
        else:
            self._cache.condemn(key)
