"""A second try for an answer that is late; whichever comes first is taken.

After "The Tail at Scale" (Dean and Barroso, 2013): few requests are very late, and most of those would not be if they
were made again. Late is what 99 in 100 are not, by the answers of the last minutes. Knows neither what is asked nor of
whom. Invariants: second tries are at most one in fifty reads; the try that loses is cancelled, and what it may have
opened is closed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from tiered_store.aio.breaker import Pass
from tiered_store.aio.tasks import TaskSet
from tiered_store.origins.retries import Allowance, Attempts, is_failure
from tiered_store.stats import OriginStats

__all__ = ["Hedges", "Latencies"]

T = TypeVar("T")

#: One second try to fifty reads.
_ONE_IN: Final = 50
#: Nothing is said about what is late before this many answers, and the older half is forgotten at so many.
_SAMPLES_MIN: Final = 100
_SAMPLES_MAX: Final = 2000
#: Steps of the histogram: a tenth each, from 0.1 ms to about 100 s.
_LEAST_S: Final = 1e-4
_STEP: Final = math.log(1.1)
_STEPS: Final = 146


class Latencies:
    """How long answers take: a histogram with steps of a tenth, in which what is old loses weight."""

    def __init__(self) -> None:
        self._counts = [0] * _STEPS
        self._samples = 0

    def add(self, seconds: float) -> None:
        """An answer took so long."""
        step = math.ceil(math.log(max(seconds, _LEAST_S) / _LEAST_S) / _STEP)
        self._counts[min(step, _STEPS - 1)] += 1
        self._samples += 1
        if self._samples >= _SAMPLES_MAX:
            self._counts = [count // 2 for count in self._counts]
            self._samples = sum(self._counts)

    @property
    def late_s(self) -> float | None:
        """What 99 of 100 answers take at most, in seconds; None while too few are known."""
        if self._samples < _SAMPLES_MIN:
            return None
        later = self._samples // 100
        for step in range(_STEPS - 1, -1, -1):
            later -= self._counts[step]
            if later < 0:
                return float(_LEAST_S * math.exp(step * _STEP))
        raise AssertionError("there are samples")


class Hedges:
    """The second tries of one origin.

    Args:
        attempts: gives the second try its pass.
        stats: hedges and hedges_won move here.
        leave: closes what a try has opened that lost.
        clock: monotonic seconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        attempts: Attempts,
        stats: OriginStats,
        *,
        leave: Callable[[Any], Coroutine[Any, Any, None]],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._attempts = attempts
        self._stats = stats
        self._leave = leave
        self._clock = clock
        self._sleep = sleep
        self._allowance = Allowance(_ONE_IN, clock=clock)
        self._tasks = TaskSet("a read that was made twice")
        self._closers = TaskSet("closing a read that was late", log_faults=True)

    def count(self) -> None:
        """A read begins that somebody asked for."""
        self._allowance.count()

    async def run(self, latencies: Latencies, entered: Pass, attempt: Callable[[Pass], Coroutine[Any, Any, T]]) -> T:
        """Make an attempt, and a second one when it is late. Raises what the first raises if both fail.

        Args:
            latencies: of attempts of this kind.
            entered: the pass of the first.
            attempt: as for ``Attempts.run``.
        """
        began, late_s = self._clock(), latencies.late_s
        try:
            if late_s is None:
                result = await attempt(entered)
            else:
                result = await self._race(late_s, entered, attempt)
        except Exception as error:
            if not is_failure(error):
                latencies.add(self._clock() - began)
            raise
        latencies.add(self._clock() - began)
        return result

    async def close(self) -> None:
        """End the tries that lost, and what closes their reads."""
        await self._tasks.cancel()
        await self._closers.cancel()

    async def _race(self, late_s: float, entered: Pass, attempt: Callable[[Pass], Coroutine[Any, Any, T]]) -> T:
        winner = first = self._tasks.start(self._attempts.once(entered, attempt))
        tries = [first]
        timer = self._tasks.start(_slept(self._sleep, late_s))
        try:
            await asyncio.wait((first, timer), return_when=asyncio.FIRST_COMPLETED)
            if not first.done() and (second := self._second(attempt)) is not None:
                tries.append(second)
            winner = await _first_answer(tries)
            if winner is not first:
                self._stats.hedges_won += 1
            tries.remove(winner)
            return winner.result()
        finally:
            timer.cancel()
            for loser in tries:
                loser.cancel()
                loser.add_done_callback(self._lost)
            del winner, first, tries  # an error's traceback keeps this frame, and the tasks keep their errors: a cycle

    def _second(self, attempt: Callable[[Pass], Coroutine[Any, Any, T]]) -> asyncio.Task[T] | None:
        """The second try, unless there were too many, or the origin fails anyway."""
        if not self._attempts.is_closed or not self._allowance.take():
            return None
        self._stats.hedges += 1
        return self._tasks.start(self._attempts.once(self._attempts.enter(), attempt))

    def _lost(self, task: asyncio.Task[Any]) -> None:
        """A try that nobody waits for has ended; it may have been too late to be cancelled."""
        if not task.cancelled() and task.exception() is None and task.result() is not None:
            self._closers.start(self._leave(task.result()))


async def _first_answer(tries: list[asyncio.Task[T]]) -> asyncio.Task[T]:
    """The try that is the first to end with an answer; the first of all if none does."""
    running = set(tries)
    while running:
        _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in tries:
            if task.done() and ((error := task.exception()) is None or not is_failure(error)):
                return task
    return tries[0]


async def _slept(sleep: Callable[[float], Awaitable[None]], seconds: float) -> None:
    await sleep(seconds)
