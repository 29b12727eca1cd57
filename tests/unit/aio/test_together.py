from __future__ import annotations

import asyncio

import pytest

from tiered_store.aio.together import all_true, gathered
from tiered_store.errors import NotFound


@pytest.mark.parametrize("count", [0, 1, 3, 20])
async def test_all_are_asked_until_one_is_not_true(count):
    asked = []

    async def ask(item: int) -> bool:
        asked.append(item)
        await asyncio.sleep(0)
        return item != 5

    assert await all_true(ask, range(count), at_once=3) == (count <= 5)
    assert asked == list(range(min(count, 8)))


async def test_so_many_are_asked_at_once():
    running = most = 0

    async def ask(_: int) -> bool:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return True

    assert await all_true(ask, range(10), at_once=4)
    assert most == 4


async def test_what_a_question_raises_is_raised():
    async def ask(item: int) -> bool:
        raise KeyError(item)

    with pytest.raises(KeyError, match="0"):
        await all_true(ask, range(10), at_once=2)


async def test_every_answer_is_in_its_place_and_errors_of_the_store_are_answers():
    running = most = 0

    async def ask(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        if item == 2:
            raise NotFound("no such object")
        return -item

    answers = await gathered(ask, range(7), at_once=3)
    assert isinstance(answers[2], NotFound)
    assert answers[:2] + answers[3:] == [0, -1, -3, -4, -5, -6]
    assert most == 3
    assert await gathered(ask, [], at_once=3) == []


async def test_any_other_error_is_raised():
    async def ask(item: int) -> int:
        if item == 1:
            raise KeyError(item)
        return item

    with pytest.raises(KeyError):
        await gathered(ask, range(3), at_once=2)
