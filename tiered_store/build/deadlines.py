"""How long a tool waits: a read that fails or is late is a miss, a write that is late is an error.

Knows neither store nor keys. Invariant: nobody waits longer than said, and what is left running is bounded, and ends
with :meth:`Deadlines.close` at the latest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from tiered_store.aio.eager import Finished, begin
from tiered_store.aio.tasks import TaskSet
from tiered_store.errors import DaemonUnavailable, DeadlineExceeded, NotFound, StoreError
from tiered_store.key import Key
from tiered_store.stats import DialectStats

__all__ = ["Deadlines"]

_log = logging.getLogger("tiered_store.build")

T = TypeVar("T")

#: Reads that go on beyond their time.
_LATE_AT_ONCE: Final = 64
#: Between two lines in the log about reads that failed, in seconds.
_REPEAT_S: Final = 60.0


class Deadlines:
    """Runs reads and writes of tools within their time.

    Args:
        read_timeout_s: how long a read may take before it is a miss.
        write_timeout_s: how long a write may take.
        clock: monotonic seconds, for the log.
    """

    def __init__(self, read_timeout_s: float, write_timeout_s: float, clock: Callable[[], float]) -> None:
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._clock = clock
        self._reads = TaskSet("a read of the build cache")
        self._writes = TaskSet("a write to the build cache")
        self._late = 0
        self._said_at = float("-inf")

    async def read(self, work: Coroutine[Any, Any, T | None], stats: DialectStats, *, goes_on: bool = True) -> T | None:
        """What a read finds within its time; None for every fault.

        A read that is late goes on for a while without its reader: who asks next finds what it brought. Where
        ``goes_on`` is false it is ended: it is made of many reads, each of which has a time of its own.
        """
        begun = begin(self._without_faults(work, stats))
        if isinstance(begun, Finished):
            return begun.result
        task = self._reads.start(begun)
        try:
            done, _ = await asyncio.wait({task}, timeout=self._read_timeout_s)
        except BaseException:
            task.cancel()
            raise
        if done:
            return None if task.cancelled() else task.result()
        self._failed(stats, f"no answer within {self._read_timeout_s:g} s (build.read_timeout_s)")
        if self._late >= _LATE_AT_ONCE or not goes_on:
            task.cancel()
        else:
            self._late += 1
            task.add_done_callback(self._ended_late)
        return None

    async def write(self, work: Coroutine[Any, Any, None], key: Key) -> None:
        """Do it, within its time: some tools wait for ever. What is under way then comes to its end, or not.

        Raises:
            DeadlineExceeded: it took too long. DaemonUnavailable: the daemon is stopping. What the work raises.
        """
        task = self._writes.start(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=self._write_timeout_s)
        except BaseException:
            _give_up(task)
            raise
        if done:
            if task.cancelled():
                raise DaemonUnavailable("the daemon is stopping", key=key)
            return task.result()
        _give_up(task)
        limit_s = self._write_timeout_s
        raise DeadlineExceeded(f"the write was not through within {limit_s:g} s (build.write_timeout_s)", key=key)

    async def close(self) -> None:
        """End what still runs."""
        await self._reads.cancel()
        await self._writes.cancel()

    def _ended_late(self, _: object) -> None:
        self._late -= 1

    async def _without_faults(self, work: Coroutine[Any, Any, T | None], stats: DialectStats) -> T | None:
        try:
            return await work
        except StoreError as error:
            if not isinstance(error, NotFound):
                self._failed(stats, str(error))
        except Exception:  # whatever it is, the build goes on without
            stats.failed += 1
            _log.exception("a read of the build cache failed")
        return None

    def _failed(self, stats: DialectStats, reason: str) -> None:
        stats.failed += 1
        now = self._clock()
        if now - self._said_at >= _REPEAT_S:
            self._said_at = now
            _log.warning("a read of the build cache failed, and was answered as a miss", extra={"reason": reason})


def _give_up(task: asyncio.Task[None]) -> None:
    task.cancel()
    task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # which nobody else will look at
