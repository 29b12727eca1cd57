"""Runs a plan for the synchronous client: in the caller's thread, with some more for what has to be waited for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tiered_store.client.trees.driver import Driver, Outcome, Report
from tiered_store.client.trees.steps import AT_ONCE, Plan, Step, Stop

__all__ = ["drive"]

R = TypeVar("R")


def drive(plan: Plan[R], perform: Callable[[Step], Any], stop: Stop) -> None:
    """Do everything that a plan asks for.

    The first error ends it: what is under way is told to stop and waited for, so nothing goes on behind the caller.

    Args:
        plan: its ``jobs`` and ``take`` are called here.
        perform: does one step; from several threads.
        stop: set when it ends early.
    """
    Driver(plan, _Threads(perform), stop).run()


class _Threads:
    """Helpers that are threads; made when they are needed first."""

    def __init__(self, perform: Callable[[Step], Any]) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tiered-store-tree")
        self._perform = perform

    def begin(self, step: Step, report: Report) -> None:
        self._pool.submit(self._run, step, report)

    def end(self) -> None:
        while True:
            try:
                self._pool.shutdown(cancel_futures=True)
                return
            except KeyboardInterrupt:  # a second one: files that others write into must not be closed all the same
                continue

    def _run(self, step: Step, report: Report) -> None:
        try:
            report(Outcome(self._perform(step)))
        except BaseException as error:
            report(Outcome(error=error))  # not kept here: it refers to this frame, and a cycle would keep files open
