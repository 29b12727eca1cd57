"""Runs a plan with tasks, for the asyncio client; what blocks runs in threads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from tiered_store.client.trees.runs import Restore, Save
from tiered_store.client.trees.steps import AT_ONCE, Job, Plan, Step, Stop, Work

__all__ = ["drive", "entered"]

R = TypeVar("R")
T = TypeVar("T")
RunT = TypeVar("RunT", Save, Restore)


@asynccontextmanager
async def entered(run: RunT) -> AsyncIterator[RunT]:
    """A save or restore, entered and left in a thread."""
    await _in_thread(run.__enter__, run.stop)
    try:
        yield run
    except BaseException as error:
        raised = error
        await _in_thread(lambda: run.__exit__(type(raised), raised, raised.__traceback__), run.stop)
        raise
    else:
        await _in_thread(lambda: run.__exit__(None, None, None), run.stop)


async def _in_thread(work: Callable[[], T], stop: Stop) -> T:
    """Run blocking work; a caller that is cancelled stops it and waits for its end: it never goes on unwatched."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen: the cancellation is what counts
        raise


async def drive(plan: Plan[R], perform: Callable[[Step], Awaitable[Any]], stop: Stop) -> None:
    """Do everything that a plan asks for; see ``syncdriver.drive``.

    Args:
        plan: its ``jobs`` and ``take`` are called in threads, one at a time.
        perform: does one step that is no :class:`Work`.
        stop: set when it ends early.
    """
    jobs = plan.jobs()
    running: deque[asyncio.Task[R]] = deque()

    async def take() -> None:
        result = await running.popleft()
        await _in_thread(lambda: plan.take(result), stop)

    try:
        while (job := await _in_thread(lambda: next(jobs, None), stop)) is not None:
            running.append(asyncio.create_task(_run(job, perform, stop)))
            if len(running) > AT_ONCE:
                await take()
        while running:
            await take()
    except BaseException:
        stop.set()
        raise
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await _in_thread(jobs.close, stop)  # type: ignore[attr-defined]


async def _run(job: Job[R], perform: Callable[[Step], Awaitable[Any]], stop: Stop) -> R:
    """As in ``syncdriver``; what a job does between its steps is small, but may be on files, and so in a thread."""
    advance: Callable[[], Step] = lambda: next(job)  # noqa: E731
    try:
        while True:
            step = await _in_thread(lambda: _advanced(advance), stop)  # noqa: B023 - awaited before it changes
            if isinstance(step, _Done):
                value: R = step.value
                return value
            try:
                result = await (_in_thread(step.run, stop) if isinstance(step, Work) else perform(step))
            except Exception as error:
                advance = _thrower(job, error)
            else:
                advance = _sender(job, result)
    finally:
        await _in_thread(job.close, stop)


class _Done:
    """A job's result: ``StopIteration`` cannot travel through a future."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _advanced(advance: Callable[[], Step]) -> Step | _Done:
    try:
        return advance()
    except StopIteration as stop:
        return _Done(stop.value)


def _sender(job: Job[Any], result: Any) -> Callable[[], Step]:
    return lambda: job.send(result)


def _thrower(job: Job[Any], error: Exception) -> Callable[[], Step]:
    return lambda: job.throw(error)
