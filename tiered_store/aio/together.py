"""Asking many questions, some at a time, until one is answered with no."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

__all__ = ["all_true"]

T = TypeVar("T")


async def all_true(ask: Callable[[T], Awaitable[bool]], items: Iterable[T], *, at_once: int) -> bool:
    """Whether ``ask`` is true of every item; nothing further is asked after the first that is not.

    Args:
        ask: the question; what it raises, the first of them, is raised here.
        items: asked about in their order.
        at_once: how many questions are under way at a time.
    """
    await asyncio.sleep(0)  # a group of tasks needs one of its own, see eager.py
    wanted = list(items)
    rest = iter(wanted)
    answers = [True]

    async def work() -> None:
        for item in rest:
            if not answers[0]:
                return
            if not await ask(item):
                answers[0] = False

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(wanted))):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return answers[0]
