"""Runs a plan for the asyncio client: in a thread of its own, which has the loop ask the store."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

from tiered_store.client.trees.driver import Driver, Outcome, Report
from tiered_store.client.trees.runs import Restore, Save
from tiered_store.client.trees.steps import Plan, Step, Stop, Work

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
    return await _watched(asyncio.get_running_loop().run_in_executor(None, work), stop.set)


async def _watched(future: asyncio.Future[T], stop: Callable[[], None]) -> T:
    """What others are doing in a thread; a caller that is cancelled, however often, stops it and waits for its end."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop()
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue
        if not future.cancelled():
            future.exception()  # seen: the cancellation is what counts
        raise
    finally:
        del future  # its error refers to this frame: a cycle would keep files open


async def drive(plan: Plan[R], perform: Callable[[Step], Awaitable[Any]], stop: Stop) -> None:
    """Do everything that a plan asks for; see ``syncdriver.drive``.

    Args:
        plan: its ``jobs`` and ``take`` are called in one thread.
        perform: does one step that is no :class:`Work`.
        stop: set when it ends early.
    """
    driver = Driver(plan, _Tasks(perform, stop), stop)

    def end() -> None:
        stop.set()
        driver.wake()

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    # Not one of the loop's threads: large files need those, and would wait for ever where restores have all of them.
    # Nor one that an interpreter waits for which ends without having ended its loop.
    threading.Thread(target=_run, args=(driver, loop, ended), name="tiered-store-tree", daemon=True).start()
    try:
        await _watched(ended, end)
    finally:
        del ended  # as above


def _run(driver: Driver[Any], loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
    error = None
    try:
        driver.run()
    except BaseException as raised:
        error = raised
    with contextlib.suppress(RuntimeError):  # the loop has been closed, and nobody waits
        loop.call_soon_threadsafe(_tell, ended, error)
    del driver, ended, error  # as above


def _tell(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)


class _Tasks:
    """Helpers that are tasks of the loop; ``begin`` and ``end`` are called in the driver's thread."""

    def __init__(self, perform: Callable[[Step], Awaitable[Any]], stop: Stop) -> None:
        self._loop = asyncio.get_running_loop()
        self._perform = perform
        self._stop = stop
        self._context = contextvars.copy_context()  # the driver's thread has none of the caller's
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_ending = False
        self._has_ended = threading.Event()

    def begin(self, step: Step, report: Report) -> None:
        self._loop.call_soon_threadsafe(self._start, step, report)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._cancel)  # comes behind every start that was asked for
        self._has_ended.wait()

    def _start(self, step: Step, report: Report) -> None:
        task = self._loop.create_task(self._run(step), context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, report))

    def _cancel(self) -> None:
        self._is_ending = True
        for task in self._tasks:
            task.cancel()
        self._look_for_end()

    def _look_for_end(self) -> None:
        if self._is_ending and not self._tasks:
            self._has_ended.set()

    async def _run(self, step: Step) -> Any:
        return await (_in_thread(step.run, self._stop) if isinstance(step, Work) else self._perform(step))

    def _done(self, report: Report, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            report(Outcome(error=asyncio.CancelledError()))
        elif (error := task.exception()) is not None:
            report(Outcome(error=error))
        else:
            report(Outcome(task.result()))
        self._look_for_end()
