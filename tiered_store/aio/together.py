"""Asking many questions, some at a time: for all answers, or until one of them is no."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar, cast

from tiered_store.errors import StoreError

__all__ = ["all_true", "gathered"]

T = TypeVar("T")
R = TypeVar("R")


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


async def gathered(ask: Callable[[T], Awaitable[R]], items: Sequence[T], *, at_once: int) -> list[R | StoreError]:
    """What ``ask`` gives for every item, in their order; an error of the store is an answer like any other.

    Args:
        ask: the question. The first other thing that it raises is raised here.
        items: asked about in their order.
        at_once: how many questions are under way at a time.
    """
    answers: list[R | StoreError | None] = [None] * len(items)
    rest = iter(enumerate(items))

    async def work() -> None:
        for index, item in rest:
            try:
                answers[index] = await ask(item)
            except StoreError as error:
                answers[index] = error.with_traceback(None)

    results = await asyncio.gather(*(work() for _ in range(min(at_once, len(items)))), return_exceptions=True)
    for result in results:
        if result is not None:
            raise result
    return cast("list[R | StoreError]", answers)
