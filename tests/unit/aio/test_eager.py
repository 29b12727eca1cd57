"""Starting a coroutine at once: what ends ends now, and what waits goes on as a task like any other."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Generator
from contextlib import suppress

import pytest

from tiered_store.aio.eager import Finished, Waiting, begin


class Trace(list[str]):
    """What happened, in order."""


async def waits(gate: asyncio.Future[str], trace: Trace) -> str:
    trace.append("begun")
    try:
        got = await gate
    except asyncio.CancelledError:
        trace.append("cancelled")
        raise
    finally:
        trace.append("left")
    await asyncio.sleep(0)
    return got


async def test_what_does_not_wait_ends_at_once() -> None:
    async def work() -> int:
        return 7

    assert begin(work()) == Finished(7)


async def test_an_error_before_the_first_wait_is_the_callers() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        begin(work())


async def test_it_goes_on_as_a_task() -> None:
    gate, trace = asyncio.get_running_loop().create_future(), Trace()
    begun = begin(waits(gate, trace))
    assert isinstance(begun, Waiting)
    assert trace == ["begun"]
    task = asyncio.get_running_loop().create_task(begun)
    gate.set_result("x")
    assert await task == "x"
    assert trace == ["begun", "left"]


async def test_it_can_be_awaited() -> None:
    gate, trace = asyncio.get_running_loop().create_future(), Trace()
    begun = begin(waits(gate, trace))
    assert isinstance(begun, Waiting)
    asyncio.get_running_loop().call_soon(gate.set_result, "y")
    assert await begun == "y"


async def test_a_wait_that_ended_in_the_same_turn() -> None:
    gate, trace = asyncio.get_running_loop().create_future(), Trace()
    begun = begin(waits(gate, trace))
    assert isinstance(begun, Waiting)
    gate.set_exception(KeyError("gone"))
    with pytest.raises(KeyError):
        await asyncio.get_running_loop().create_task(begun)


async def test_a_turn_of_the_loop_is_a_wait_too() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 1

    begun = begin(work())
    assert isinstance(begun, Waiting)
    assert await asyncio.get_running_loop().create_task(begun) == 1


async def test_behind_its_first_wait_it_may_ask_for_its_task() -> None:
    async def work() -> bool:
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            return asyncio.current_task() is not None

    begun = begin(work())
    assert isinstance(begun, Waiting)
    assert await asyncio.get_running_loop().create_task(begun)


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_cancelled_it_takes_its_wait_with_it(turns: int) -> None:
    """Before its first step as a task, too: whoever granted something would else believe it was taken."""
    gate, trace = asyncio.get_running_loop().create_future(), Trace()
    begun = begin(waits(gate, trace))
    assert isinstance(begun, Waiting)
    task = asyncio.get_running_loop().create_task(begun)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gate.cancelled()
    assert trace == ["begun", "cancelled", "left"]


async def test_cancelled_when_its_wait_had_ended() -> None:
    """As for any task: the coroutine is told, and sees that what it waited for did come."""
    gate, trace = asyncio.get_running_loop().create_future(), Trace()
    begun = begin(waits(gate, trace))
    assert isinstance(begun, Waiting)
    task = asyncio.get_running_loop().create_task(begun)
    gate.set_result("x")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not gate.cancelled()
    assert trace == ["begun", "cancelled", "left"]


async def test_closed_it_leaves_at_once() -> None:
    gate, trace = asyncio.get_running_loop().create_future(), Trace()
    begun = begin(waits(gate, trace))
    assert isinstance(begun, Waiting)
    begun.close()
    assert trace == ["begun", "left"]


async def test_nothing_is_left_for_the_garbage_collector() -> None:
    class Kept:
        pass

    async def work(kept: Kept, gate: asyncio.Future[None]) -> None:
        await gate
        assert kept

    gate, kept = asyncio.get_running_loop().create_future(), Kept()
    watched = weakref.ref(kept)
    gc.disable()
    try:
        task = asyncio.get_running_loop().create_task(begin(work(kept, gate)))  # type: ignore[arg-type]
        del kept
        gate.set_result(None)
        await task
        del task
        assert watched() is None
    finally:
        gc.enable()


def test_an_error_leaves_nothing_for_the_garbage_collector() -> None:
    """What a failed upload held has to go with it, not some time later."""
    error = _Fault()
    watched = weakref.ref(error)
    begun = begin(_TurnOfTheLoop().wait())
    gc.disable()
    try:
        with suppress(_Fault):
            begun.throw(error)  # type: ignore[union-attr]
        del error, begun
        assert watched() is None
    finally:
        gc.enable()


class _Fault(Exception):
    pass


class _TurnOfTheLoop:
    def __await__(self) -> Generator[None, None, None]:
        yield

    async def wait(self) -> None:
        await self
