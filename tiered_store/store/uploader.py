"""The way from the journal to the origin: every pending put, for as long as it takes.

Keys take turns in the order in which they first became pending; an attempt takes whatever is the key's newest put then.
A key whose attempt failed comes again after a while that doubles, up to a minute. An origin that answers nobody is left
alone as a whole: a breaker lets one attempt through at a time until one succeeds, however many keys wait.

Knows neither tiers nor files: it is told what comes and goes, and says when a put has arrived. Invariants: at most one
upload of a key at a time, and none beside another write of that key at the origin (both hold its lock); a pending put
is ready, paused or under way, so that none is forgotten.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from tiered_store.aio.breaker import Breaker, Pass
from tiered_store.aio.limits import KeyedLocks
from tiered_store.aio.tasks import TaskSet
from tiered_store.errors import DeadlineExceeded, IntegrityError, InvalidKey, KeyConflict, StoreError, TooLarge
from tiered_store.key import Key
from tiered_store.objects import Body, ObjectInfo
from tiered_store.origins.base import PutHeaders
from tiered_store.stats import WriteBackStats
from tiered_store.store.backlog import Backlog
from tiered_store.store.pendingputs import Pending

__all__ = ["Uploader"]

_log = logging.getLogger("tiered_store.journal")

#: How long a key that failed waits, in seconds: at first, and at most. The breaker waits as long.
_FIRST_S = 1.0
_LONGEST_S = 60.0
#: While somebody waits for all of it, what is paused is tried so often, in seconds.
_HURRY_S = 5.0
#: Between two lines in the log about uploads that fail, in seconds.
_REPEAT_S = 60.0
#: The origin said no to this put: that tells nothing of the others.
_REFUSALS = (InvalidKey, KeyConflict, TooLarge, IntegrityError)


class _Handle(Protocol):
    def cancel(self) -> None: ...


#: Has a function called after so many seconds, as ``loop.call_later``.
Later = Callable[[float, Callable[[], None]], _Handle]
Send = Callable[[Key, Body, PutHeaders], Awaitable[ObjectInfo]]


@dataclass(slots=True)
class _Failure:
    """A key whose last attempt failed: how long it waits, until when, with what, and whether that will stay so."""

    pause_s: float
    until: float
    error: str
    is_final: bool


class Uploader:
    """Uploads what is pending; the backlog's watcher.

    Args:
        backlog: what is pending.
        locks: by key; whoever writes to the origin holds one.
        send: sees that the origin has an object; raises as ``Origin.put``.
        arrived: called when the origin has a pending put, with what the origin says of it, before the key's lock is
            given back; it brings tiers and backlog in line.
        at_once: how many uploads at once.
        clock: monotonic seconds.
        chance: a number from 0 up to 1; no two pauses end in one moment.
        later: timers; the event loop's where none are given.
    """

    def __init__(
        self,
        backlog: Backlog,
        locks: KeyedLocks,
        *,
        send: Send,
        arrived: Callable[[Pending, ObjectInfo], Awaitable[None]],
        at_once: int,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        later: Later | None = None,
    ) -> None:
        self._backlog = backlog
        self._locks = locks
        self._send = send
        self._arrived = arrived
        self._at_once = at_once
        self._clock = clock
        self._chance = chance
        self._later = later
        self._breaker = self._new_breaker()
        self._tasks = TaskSet("an upload from the journal", log_faults=True)
        self._ready: dict[Key, None] = {}  # in order
        self._under_way: set[Key] = set()
        self._again: set[Key] = (
            set()
        )  # of those, what began before somebody was in a hurry: a failure is not the last word
        self._failures: dict[Key, _Failure] = {}
        self._paused: list[tuple[float, int, Key]] = []  # a heap of when keys come again; some have gone meanwhile
        self._turns = itertools.count()
        self._timer: _Handle | None = None
        self._said_at = float("-inf")
        self._is_stopping = self._is_closed = False

    def start(self) -> None:
        """Begin with what is pending already, and take what comes."""
        self._backlog.watcher = self
        self._ready.update(dict.fromkeys(self._backlog.keys()))
        self._go_on()

    async def close(self, timeout_s: float) -> None:
        """Upload what can be uploaded now, within a limit in seconds, then stop; the rest stays pending."""
        self._is_stopping = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self._under_way and loop.time() < deadline:
            await self._tasks.wait(deadline - loop.time())
        self._is_closed = True
        self._backlog.watcher = None
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.cancel()

    async def flush(self, timeout_s: float | None) -> int:
        """Return when every put that is pending now has been uploaded, replaced or deleted; gives how many there were.

        Somebody waits: what is paused is tried at once, and what the origin has not refused every few seconds.

        Raises:
            DeadlineExceeded: that took longer than ``timeout_s``; it says what is left.
        """
        count = len(self._backlog)
        flushed = asyncio.ensure_future(self._backlog.flushed())
        try:
            async with asyncio.timeout(timeout_s):
                self._again = set(self._under_way)
                self._hurry(lambda _: True)
                while not (await asyncio.wait([flushed], timeout=_HURRY_S))[0]:
                    self._hurry(lambda failure: not failure.is_final)
        except TimeoutError:
            stats = self.counters()
            error = f"; the last error: {stats.last_error}" if stats.last_error else ""
            raise DeadlineExceeded(
                f"after {timeout_s:g} s {stats.entries} puts ({stats.bytes} bytes) are not uploaded yet{error}"
            ) from None
        finally:
            flushed.cancel()
        return count

    def _hurry(self, which: Callable[[_Failure], bool]) -> None:
        """Let the paused ones among these have their turn now, whatever the breaker has seen."""
        self._breaker = self._new_breaker()
        for key, failure in self._failures.items():
            if which(failure) and key not in self._under_way:
                self._ready[key] = None
        self._go_on()

    def counters(self) -> WriteBackStats:
        """The backlog's counters, and of those what only this knows, brought up to date."""
        stats = self._backlog.counters()
        stats.failing = len(self._failures)
        stats.last_error = next((failure.error for failure in reversed(self._failures.values())), "")
        return stats

    def came(self, key: Key) -> None:
        """See ``backlog.Watcher``."""
        if key not in self._under_way and key not in self._failures:
            self._ready[key] = None
            self._go_on()

    def went(self, key: Key) -> None:
        """See ``backlog.Watcher``."""
        self._ready.pop(key, None)
        self._failures.pop(key, None)

    def _go_on(self) -> None:
        """Start what may start, and see that this is looked at again when more may."""
        if self._is_closed:
            return
        while self._ready and len(self._under_way) < self._at_once:
            admission = self._breaker.enter()
            if admission is None:
                break
            key = next(iter(self._ready))
            del self._ready[key]
            self._under_way.add(key)
            self._tasks.start(self._attempt(key, admission)).add_done_callback(partial(self._ended, key))
        self._set_timer()

    async def _attempt(self, key: Key, admission: Pass) -> None:
        """One try; however it ends, the key is where it belongs afterwards (see :meth:`_ended`)."""
        try:
            await self._locks.acquire(key)
            try:
                was_asked = await self._upload(key)
            finally:
                self._locks.release(key)
        except StoreError as error:
            if isinstance(error, _REFUSALS):
                admission.succeeded()  # there was an answer
            else:
                admission.failed()
            self._failed(key, error, is_final=not error.retryable)
        except Exception as error:
            admission.failed()
            self._failed(key, error, is_final=True)
            raise
        else:
            if was_asked:
                admission.succeeded()
                self._failures.pop(key, None)
        finally:
            admission.abandoned()  # only the first word counts

    async def _upload(self, key: Key) -> bool:
        """Bring the key's pending put to the origin; False if there is none any more."""
        pending = self._backlog.get(key)
        body = None if pending is None else await self._backlog.verified_body(pending)
        if pending is None or body is None:
            return False  # deleted, or replaced: then the key has another turn
        headers = PutHeaders(pending.info.content_type, pending.info.metadata)
        await self._arrived(pending, await self._send(key, body, headers))
        return True

    def _failed(self, key: Key, error: Exception, *, is_final: bool) -> None:
        """Note a failure; what will not change by itself is tried again after the longest pause."""
        self._backlog.stats.failures += 1
        before = self._failures.pop(key, None)
        if key not in self._backlog:
            return
        pause_s = _FIRST_S if before is None else min(2 * before.pause_s, _LONGEST_S)
        if is_final:
            pause_s = _LONGEST_S
        now = self._clock()
        said = str(error) or type(error).__name__
        self._failures[key] = _Failure(pause_s, now + pause_s * (0.5 + self._chance() / 2), said, is_final)
        if now - self._said_at >= _REPEAT_S:
            self._said_at = now
            fields = {"key": key, "error": said, "failing": len(self._failures), "entries": len(self._backlog)}
            _log.warning("an upload from the journal failed, and is tried again", extra=fields)

    def _ended(self, key: Key, _: object) -> None:
        """An attempt is over, or was cancelled before its first step."""
        self._under_way.discard(key)
        is_hurried = key in self._again
        self._again.discard(key)
        failure = self._failures.get(key)
        if failure is not None and not is_hurried:
            heapq.heappush(self._paused, (failure.until, next(self._turns), key))
        elif key in self._backlog:
            self._ready[key] = None
        self._go_on()

    def _set_timer(self) -> None:
        """Have :meth:`_wake` called when the breaker lets one through, or a paused key comes again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_stopping:
            return  # what would have to wait stays in the journal
        waits_s = []
        if self._paused:
            waits_s.append(self._paused[0][0] - self._clock())
        if self._ready and len(self._under_way) < self._at_once and not self._breaker.is_closed:
            waits_s.append(self._breaker.opens_in_s or _LONGEST_S)
        if waits_s:
            later = self._later or asyncio.get_running_loop().call_later
            self._timer = later(max(0.0, min(waits_s)), self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = self._clock()
        while self._paused and self._paused[0][0] <= now:
            _, _, key = heapq.heappop(self._paused)
            failure = self._failures.get(key)
            if failure is not None and failure.until <= now and key not in self._under_way:
                self._ready[key] = None
        self._go_on()

    def _new_breaker(self) -> Breaker:
        return Breaker(open_s=_FIRST_S, max_open_s=_LONGEST_S, clock=self._clock, chance=self._chance)
