"""Runs a plan from one thread: what both clients' drivers have in common.

That thread advances the jobs, takes their results, and does the short work itself: a restore consists of system calls
of some microseconds, and threads that make such calls beside each other wait for the interpreter's lock instead. What
it would have to wait for, the store and long work, others do meanwhile (:class:`Helpers`: threads, or tasks of a
loop), for several jobs at a time. Where short work turns out to wait, too, as on a network's file system, it is given
away as well (``pace.py``).

Invariant: no job is closed, and :meth:`Driver.run` does not return, while somebody works on a step of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from tiered_store.client.trees.pace import Pace
from tiered_store.client.trees.steps import AT_ONCE, Job, Plan, Step, Stop, Work

__all__ = ["Driver", "Helpers", "Outcome", "Report"]

R = TypeVar("R")


class Outcome(NamedTuple):
    """What became of a step: its result, or an error."""

    result: Any = None
    error: BaseException | None = None


Report: TypeAlias = Callable[[Outcome], None]

#: Who waits longer for a step should have begun more of them before. To begin with there is one ahead: what comes at
#: once, out of the memory of a daemon, is only unpacked by more threads that want the interpreter's lock.
_PATIENCE_S: Final = 0.01


class Helpers(Protocol):
    """Those who do what the driver would have to wait for."""

    def begin(self, step: Step, report: Report) -> None:
        """Have a step done; its outcome is reported from any thread."""

    def end(self) -> None:
        """End what is under way, whose results nobody wants, and wait until nothing is; called once."""


class _Run(Generic[R]):
    """A job under way."""

    __slots__ = ("is_done", "job", "outcome", "result")

    def __init__(self, job: Job[R]) -> None:
        self.job = job
        self.outcome = Outcome()
        self.is_done = False
        self.result: R


class Driver(Generic[R]):
    """Does everything that a plan asks for.

    Args:
        plan: its ``jobs`` and ``take`` are called in the thread that calls :meth:`run`.
        helpers: do the steps that are no short work.
        stop: set when it ends early; whoever else sets it calls :meth:`wake`.
        pace: tells where short work is done.
    """

    def __init__(self, plan: Plan[R], helpers: Helpers, stop: Stop, pace: Pace | None = None) -> None:
        self._plan = plan
        self._helpers = helpers
        self._stop = stop
        self._pace = Pace() if pace is None else pace
        self._running: deque[_Run[R]] = deque()
        self._reports: SimpleQueue[_Run[R] | None] = SimpleQueue()
        self._ahead = 1

    def run(self) -> None:
        """Do it all. The first error ends it: what is under way is told to stop, and waited for."""
        jobs = self._plan.jobs()
        try:
            for job in jobs:
                self._stop.check()
                run = _Run(job)
                self._running.append(run)
                self._advance(run)
                self._settle()
            self._settle(is_end=True)
        except BaseException:
            self._stop.set()
            raise
        finally:
            self._helpers.end()  # before anything is closed that they may be writing into
            for run in self._running:
                run.job.close()
            jobs.close()  # type: ignore[attr-defined]

    def wake(self) -> None:
        """Have :meth:`run` notice, from any thread, that it has been stopped."""
        self._reports.put(None)

    def _settle(self, *, is_end: bool = False) -> None:
        """Take the results of jobs that are done, until no more are under way than should be; at the end, none."""
        running = self._running
        while running:
            if running[0].is_done:
                self._plan.take(running.popleft().result)
            elif len(running) <= self._ahead and not is_end:
                return
            else:
                self._go_on(may_begin=not is_end and self._ahead < AT_ONCE)

    def _go_on(self, *, may_begin: bool) -> None:
        """Go on with a job whose step is done; where that takes long, have one more begun, if that may be."""
        try:
            run = self._reports.get(timeout=_PATIENCE_S if may_begin else None)
        except Empty:
            self._ahead += 1
            return
        self._stop.check()
        if run is not None:
            self._advance(run)

    def _advance(self, run: _Run[R]) -> None:
        """Go on with a job until it is done or has to wait."""
        job = run.job
        result, error = run.outcome
        run.outcome = Outcome()
        try:
            while True:
                if error is None:
                    step = job.send(result)
                elif isinstance(error, Exception):
                    step = job.throw(error)
                else:
                    raise error
                if not (isinstance(step, Work) and step.is_short and self._pace.is_here()):
                    break
                result, error = self._done_here(step)
        except StopIteration as stop:
            run.result = stop.value
            run.is_done = True
            return
        finally:
            result = error = None  # an error that is raised refers to this frame: a cycle would keep files open
        self._helpers.begin(step, partial(self._report, run))

    def _done_here(self, step: Work) -> Outcome:
        try:
            return Outcome(self._pace.measured(step.run))
        except Exception as error:
            return Outcome(error=error)

    def _report(self, run: _Run[R], outcome: Outcome) -> None:
        run.outcome = outcome
        self._reports.put(run)
