import asyncio
import threading

import pytest

from tests.support.store import settle
from tiered_store.aio.offload import Offload


async def test_functions_run_in_named_threads_and_hand_back_results_and_exceptions() -> None:
    offload = Offload(2, "pool")
    name = await offload.run(lambda: threading.current_thread().name)
    assert name.startswith("pool")
    with pytest.raises(ZeroDivisionError):
        await offload.run(lambda: 1 // 0)
    assert await offload.run(int, "ff", base=16) == 255
    await offload.close()


async def test_no_more_run_at_once_than_there_are_threads() -> None:
    offload, running, most, lock, hurdle = Offload(2, "pool"), [0], [0], threading.Lock(), threading.Event()

    def work() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        hurdle.wait(5)
        with lock:
            running[0] -= 1

    tasks = [asyncio.create_task(offload.run(work)) for _ in range(6)]
    await settle()
    hurdle.set()
    await asyncio.gather(*tasks)
    assert most[0] <= 2
    await offload.close()


async def test_a_full_queue_makes_callers_wait_and_lets_them_be_cancelled() -> None:
    offload, hurdle = Offload(1, "pool", max_queued=0), threading.Event()
    first = asyncio.create_task(offload.run(hurdle.wait, 5))
    await settle()
    second = asyncio.create_task(offload.run(int))
    await settle()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    hurdle.set()
    assert await first
    await offload.close()


async def test_a_cancelled_caller_leaves_its_function_running() -> None:
    offload, started, hurdle, done = Offload(1, "pool"), threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        hurdle.wait(5)
        done.set()

    caller = asyncio.create_task(offload.run(work))
    await asyncio.to_thread(started.wait, 5)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    hurdle.set()
    await offload.close()
    assert done.is_set()
