import asyncio

import pytest

from tests.support.store import settle
from tiered_store.aio.limits import ByteBudget, KeyedLocks


async def test_a_budget_hands_out_what_fits_at_once_and_queues_the_rest_in_order() -> None:
    budget = ByteBudget(10)
    assert await budget.take(6) == 6
    order: list[str] = []

    async def take(name: str, size: int) -> None:
        await budget.take(size)
        order.append(name)

    large = asyncio.create_task(take("large", 8))
    small = asyncio.create_task(take("small", 1))
    await settle()
    assert order == []  # the small one would fit, but does not overtake

    budget.give(6)
    await settle()
    assert order == ["large", "small"]
    assert budget.used_bytes == 9
    await asyncio.gather(large, small)


async def test_a_request_over_the_whole_budget_gets_the_whole_budget() -> None:
    budget = ByteBudget(10)
    assert await budget.take(1_000_000) == 10
    budget.give(10)
    assert budget.used_bytes == 0


async def test_cancelling_the_first_in_line_lets_the_next_go() -> None:
    budget = ByteBudget(10)
    await budget.take(5)
    first = asyncio.create_task(budget.take(6))
    second = asyncio.create_task(budget.take(5))
    await settle()
    first.cancel()
    assert await second == 5
    with pytest.raises(asyncio.CancelledError):
        await first
    assert budget.used_bytes == 10


async def test_bytes_granted_to_a_task_that_is_being_cancelled_come_back() -> None:
    budget = ByteBudget(10)
    await budget.take(10)
    waiter = asyncio.create_task(budget.take(4))
    await settle()
    budget.give(10)  # grants to the waiter...
    waiter.cancel()  # ... which never learns of it
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert budget.used_bytes == 0


async def test_giving_and_cancelling_in_one_turn_passes_over_the_cancelled() -> None:
    budget = ByteBudget(10)
    await budget.take(10)
    first = asyncio.create_task(budget.take(4))
    second = asyncio.create_task(budget.take(10))
    await settle()
    first.cancel()
    budget.give(10)
    assert await second == 10
    with pytest.raises(asyncio.CancelledError):
        await first
    assert budget.used_bytes == 10


async def test_one_key_is_held_by_one_at_a_time_in_the_order_of_arrival() -> None:
    locks = KeyedLocks()
    order: list[int] = []

    async def hold(number: int) -> None:
        await locks.acquire("k")
        order.append(number)
        await settle(2)
        assert order[-1] == number  # nobody else came in meanwhile
        locks.release("k")

    await asyncio.gather(*(hold(number) for number in range(5)))
    assert order == [0, 1, 2, 3, 4]
    assert len(locks._queues) == 0


async def test_other_keys_are_not_held_up() -> None:
    locks = KeyedLocks()
    await locks.acquire("a")
    await asyncio.wait_for(locks.acquire("b"), 1)
    assert len(locks._queues) == 2
    locks.release_all(["a", "b"])
    assert len(locks._queues) == 0


async def test_cancelling_who_waits_for_a_lock() -> None:
    locks = KeyedLocks()
    await locks.acquire("k")
    first = asyncio.create_task(locks.acquire("k"))
    second = asyncio.create_task(locks.acquire("k"))
    await settle()
    first.cancel()
    await settle()
    locks.release("k")
    await second
    locks.release("k")
    assert len(locks._queues) == 0


async def test_a_lock_handed_to_a_task_that_is_being_cancelled_goes_on() -> None:
    locks = KeyedLocks()
    await locks.acquire("k")
    first = asyncio.create_task(locks.acquire("k"))
    second = asyncio.create_task(locks.acquire("k"))
    await settle()
    locks.release("k")
    first.cancel()
    await second
    locks.release("k")
    assert len(locks._queues) == 0


async def test_cancelled_waiters_and_a_release_in_one_turn_leave_nothing() -> None:
    locks = KeyedLocks()
    await locks.acquire("k")
    waiter = asyncio.create_task(locks.acquire("k"))
    await settle()
    waiter.cancel()
    locks.release("k")
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert len(locks._queues) == 0


async def test_many_at_once_are_taken_in_one_order_so_that_nobody_blocks_for_ever() -> None:
    locks = KeyedLocks()

    async def hold(keys: list[str]) -> None:
        held = await locks.acquire_all(keys)
        await settle(1)
        locks.release_all(held)

    await asyncio.wait_for(asyncio.gather(*(hold(["a", "b", "a"][:: 1 if i % 2 else -1]) for i in range(10))), 5)
    assert len(locks._queues) == 0


async def test_cancelling_who_takes_many_gives_back_those_it_had() -> None:
    locks = KeyedLocks()
    await locks.acquire("b")
    many = asyncio.create_task(locks.acquire_all(["a", "b"]))
    await settle()
    assert len(locks._queues) == 2
    many.cancel()
    with pytest.raises(asyncio.CancelledError):
        await many
    assert len(locks._queues) == 1
    locks.release("b")
