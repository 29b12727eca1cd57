"""Which of many keys exist: asked of what is at hand first, then several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from tiered_store.errors import NotFound
from tiered_store.key import Key
from tiered_store.objects import Entry, ObjectInfo

__all__ = ["which_exist"]

#: Questions that one call has under way at once.
_AT_ONCE = 32


async def which_exist(
    keys: Sequence[Key], peek: Callable[[str], Entry | None], stat: Callable[[Key], Awaitable[ObjectInfo]]
) -> list[bool]:
    """For each key whether there is an object. Raises what ``stat`` raises, besides NotFound."""
    answers = [peek(key) is not None for key in keys]
    open_questions = iter([index for index, known in enumerate(answers) if not known])

    async def ask(questions: Iterator[int]) -> None:
        for index in questions:
            try:
                await stat(keys[index])
            except NotFound:
                continue
            answers[index] = True

    workers = min(_AT_ONCE, answers.count(False))
    results = await asyncio.gather(*(ask(open_questions) for _ in range(workers)), return_exceptions=True)
    for result in results:
        if result is not None:
            raise result
    return answers
