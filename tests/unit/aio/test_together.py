from __future__ import annotations

import asyncio

import pytest

from tiered_store.aio.together import all_true


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
