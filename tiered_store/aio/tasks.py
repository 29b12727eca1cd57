"""Tasks with an owner: nothing is started without somebody who stops it, and no exception gets lost.

Knows no cache. Invariant: a task is in its set from its start to its end, and the event loop's weak
reference is never the only one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tiered_store.aio.eager import Finished, begin

__all__ = ["TaskSet", "WorkCancelled"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


class WorkCancelled(Exception):
    """The task that a caller waits for was cancelled, not the caller."""


class TaskSet:
    """The running tasks of one owner.

    Args:
        what: what such a task does, for the log.
        log_faults: whether an exception that a task ends with is logged here. For tasks that nobody awaits;
            the others' exceptions are seen by whoever awaits them.
    """

    def __init__(self, what: str, *, log_faults: bool = False) -> None:
        self._what = what
        self._log_faults = log_faults
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` in a task of this set."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def to_the_end(self, work: Coroutine[Any, Any, T], *, then: Callable[[], None] | None = None) -> T:
        """Run ``work`` to its end, which the caller waits for; it goes on if the caller stops waiting.

        It begins at once (see ``aio.eager`` for what it may do there) and becomes a task of this set if it has to wait.

        As ``asyncio.shield`` round :meth:`start`, at half the price. When the *work* is cancelled, because the
        set is, the caller gets ``WorkCancelled``: it was not cancelled itself.

        Args:
            work: what to run.
            then: called when the work has ended in whatever way, before the caller goes on.
        """
        try:
            begun = begin(work)
        except BaseException:
            if then is not None:
                then()
            raise
        if isinstance(begun, Finished):
            if then is not None:
                then()
            return begun.result
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task: asyncio.Task[T] = loop.create_task(begun)
        self._tasks.add(task)

        def ended(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            if then is not None:
                then()
            error = WorkCancelled() if task.cancelled() else task.exception()
            if answer.done():  # the caller was cancelled; a fault is seen here or nowhere
                if error is not None:
                    reason = str(error) or type(error).__name__
                    _log.warning("%s failed after its caller had gone: %s", self._what, reason)
                return
            if error is None:
                answer.set_result(task.result())
            else:
                answer.set_exception(error)

        task.add_done_callback(ended)
        try:
            return await answer
        except Exception:
            # The error's traceback holds this frame, so the frame must not hold the error: what the frames below
            # hold, the file of a refused upload for one, would stay until the garbage collector comes by.
            del answer, task
            raise

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the tasks that run now; tells whether all of them ended in time. Cancels none."""
        if not self._tasks:
            return True
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return not late

    async def cancel(self) -> None:
        """Cancel every task and wait until all have ended."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if self._log_faults and not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s failed", self._what, exc_info=error)
