"""What stands between the store and an origin that can fail: retries, a breaker, reads gone on with, second tries.

Implements ``Origin`` round another one and knows nothing of what that is. All requests to it share one breaker and one
budget (``retries.py``). Every operation may be repeated: reads change nothing, and writes say what shall be there. What
of an origin is not promised beyond a single attempt is in docs/decisions/0016.

Invariants: an error that is an answer ("no such object", "forbidden") is never tried again; a request that is
cancelled leaves no attempt behind; a breaker that is half open has one request under way.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from tiered_store.aio.breaker import Pass
from tiered_store.aio.tasks import TaskSet
from tiered_store.errors import NotFound, StoreError
from tiered_store.objects import Body, ObjectInfo
from tiered_store.origins.base import Listing, Origin, OriginRead, PutHeaders
from tiered_store.origins.hedging import Hedges, Latencies
from tiered_store.origins.resume import GuardedRead
from tiered_store.origins.retries import Attempts
from tiered_store.stats import OriginStats

__all__ = ["GuardedOrigin"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: Asked for at the start, to learn whether anybody answers. No key begins like this, so there is no such object.
_PROBE_NAME: Final = ".tiered_store/probe"


class GuardedOrigin:
    """An origin that is asked again, or left alone, when it fails.

    Args:
        origin: closed with this.
        stats: of what it owns there, see ``OriginStats``.
        retry_for_s: how long after its start a request may be tried again, in seconds; 0 for never.
        hedged_reads: whether late reads are asked for a second time.
        clock: monotonic seconds.
        chance: a number from 0 up to 1.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        origin: Origin,
        stats: OriginStats,
        *,
        retry_for_s: float,
        hedged_reads: bool = False,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._origin = origin
        self._attempts = Attempts(stats, retry_for_s=retry_for_s, clock=clock, chance=chance, sleep=sleep)
        self._hedges: Hedges | None = None
        if hedged_reads:
            self._hedges = Hedges(self._attempts, stats, leave=_leave, clock=clock, sleep=sleep)
        self._opens = Latencies()
        self._heads = Latencies()
        self._tasks = TaskSet("asking whether the origin answers", log_faults=True)

    def start(self) -> None:
        """Find out in the background whether the origin answers, so that the log says so if it does not."""
        self._tasks.start(self._probe())

    async def _probe(self) -> None:
        try:
            entered = self._attempts.enter()
            await self._attempts.once(entered, self._telling(self._ask))
        except NotFound:
            return
        except StoreError as error:
            event = "the origin does not answer" if error.retryable else "the origin refuses"
            _log.warning("%s; what is cached is served", event, extra={"error": error.message})

    async def _ask(self) -> None:
        """Read: a bucket's refusal of a ``stat`` has no text, and a missing bucket looks like a missing object."""
        read = await self._origin.open(_PROBE_NAME)
        if read is not None:
            await read.close()

    async def stat(self, name: str) -> ObjectInfo:
        """See ``Origin.stat``."""
        return await self._read(self._heads, self._telling(lambda: self._origin.stat(name)))

    async def open(
        self, name: str, *, offset: int = 0, length: int | None = None, if_none_match: str | None = None
    ) -> OriginRead | None:
        """See ``Origin.open``."""

        async def attempt(entered: Pass) -> GuardedRead | None:
            read = await self._origin.open(name, offset=offset, length=length, if_none_match=if_none_match)
            if read is None:
                self._attempts.answered(entered)
                return None
            return GuardedRead(read, self._attempts, entered)

        return await self._read(self._opens, attempt)

    async def put(self, name: str, body: Body, headers: PutHeaders) -> ObjectInfo:
        """See ``Origin.put``. An attempt whose answer was lost may have written a version that another replaces."""
        return await self._attempts.run(self._telling(lambda: self._origin.put(name, body, headers)))

    async def delete(self, names: Sequence[str]) -> int:
        """See ``Origin.delete``. What an attempt removed whose answer was lost is not counted."""
        return await self._attempts.run(self._telling(lambda: self._origin.delete(names)))

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Listing:
        """See ``Origin.list``."""
        return await self._attempts.run(self._telling(lambda: self._origin.list(prefix, after=after, limit=limit)))

    async def copy(self, source: str, target: str) -> ObjectInfo:
        """See ``Origin.copy``."""
        return await self._attempts.run(self._telling(lambda: self._origin.copy(source, target)))

    async def close(self) -> None:
        """Close the origin, once nothing of ours asks it any more."""
        await self._tasks.cancel()
        if self._hedges is not None:
            await self._hedges.close()
        await self._origin.close()

    async def _read(self, latencies: Latencies, attempt: Callable[[Pass], Coroutine[Any, Any, T]]) -> T:
        """A read, which may be asked for twice at once."""
        hedges = self._hedges
        if hedges is None:
            return await self._attempts.run(attempt)
        hedges.count()
        return await self._attempts.run(lambda entered: hedges.run(latencies, entered, attempt))

    def _telling(self, request: Callable[[], Awaitable[T]]) -> Callable[[Pass], Coroutine[Any, Any, T]]:
        """A request that tells its pass when it is answered."""

        async def attempt(entered: Pass) -> T:
            answer = await request()
            self._attempts.answered(entered)
            return answer

        return attempt


async def _leave(opened: object) -> None:
    """Close what a try has opened whose answer nobody waits for."""
    if isinstance(opened, GuardedRead):
        await opened.close()
