"""Runs a plan with threads, for the synchronous client."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from tiered_store.client.trees.steps import AT_ONCE, Job, Plan, Step, Stop

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
    jobs = plan.jobs()
    running: deque[Future[R]] = deque()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="tiered-store-tree") as pool:
        try:
            for job in jobs:
                running.append(pool.submit(_run, job, perform))
                if len(running) > AT_ONCE:
                    plan.take(running.popleft().result())
            while running:
                plan.take(running.popleft().result())
        except BaseException:
            stop.set()
            for future in running:
                future.cancel()
            raise
        finally:
            jobs.close()  # type: ignore[attr-defined]


def _run(job: Job[R], perform: Callable[[Step], Any]) -> R:
    try:
        step = next(job)
        while True:
            try:
                result = perform(step)
            except Exception as error:
                step = job.throw(error)
            else:
                step = job.send(result)
    except StopIteration as stop:
        value: R = stop.value
        return value
    finally:
        job.close()
