import asyncio
import logging

import pytest

from tests.support.store import settle
from tiered_store.aio.tasks import TaskSet, WorkCancelled


async def test_tasks_leave_their_set_when_they_end() -> None:
    tasks = TaskSet("a test")
    task = tasks.start(asyncio.sleep(0, "done"))
    assert len(tasks) == 1
    assert await task == "done"
    await settle(1)
    assert len(tasks) == 0


async def test_a_fault_that_nobody_awaits_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("nobody looks")

    tasks = TaskSet("a background thing", log_faults=True)
    with caplog.at_level(logging.ERROR):
        tasks.start(fail())
        await settle()
    assert "a background thing failed" in caplog.text
    assert "nobody looks" in caplog.text


async def test_cancel_waits_until_all_have_ended() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(1)

    tasks = TaskSet("a test")
    for _ in range(3):
        tasks.start(work())
    await settle(1)
    await tasks.cancel()
    assert ended == [1, 1, 1]
    await tasks.cancel()  # nothing left: at once


async def test_wait_tells_whether_all_ended_in_time() -> None:
    tasks = TaskSet("a test")
    assert await tasks.wait(0)
    hurdle = asyncio.Event()
    tasks.start(hurdle.wait())
    assert not await tasks.wait(0)
    hurdle.set()
    assert await tasks.wait(5)


async def test_work_goes_to_its_end_when_its_caller_is_cancelled() -> None:
    tasks, hurdle, done = TaskSet("a test"), asyncio.Event(), []

    async def work() -> None:
        await hurdle.wait()
        done.append("work")

    caller = asyncio.create_task(tasks.to_the_end(work(), then=lambda: done.append("then")))
    await settle()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert done == []
    hurdle.set()
    await settle()
    assert done == ["work", "then"]


async def test_work_gives_its_result_or_its_exception_to_the_caller() -> None:
    tasks = TaskSet("a test")

    async def fail() -> None:
        raise KeyError("k")

    assert await tasks.to_the_end(asyncio.sleep(0, 7)) == 7
    with pytest.raises(KeyError):
        await tasks.to_the_end(fail())


async def test_a_fault_of_work_whose_caller_has_gone_is_seen(caplog: pytest.LogCaptureFixture) -> None:
    tasks, hurdle = TaskSet("a write"), asyncio.Event()

    async def fail() -> None:
        await hurdle.wait()
        raise ValueError("too late for anyone")

    caller = asyncio.create_task(tasks.to_the_end(fail()))
    await settle()
    caller.cancel()
    hurdle.set()
    with caplog.at_level(logging.WARNING):
        await settle()
    assert "too late for anyone" in caplog.text


async def test_so_is_that_such_work_was_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    tasks = TaskSet("a write")
    caller = asyncio.create_task(tasks.to_the_end(asyncio.Event().wait()))
    await settle()
    caller.cancel()
    await settle()
    with caplog.at_level(logging.WARNING):
        await tasks.cancel()
    assert [record.getMessage() for record in caplog.records] == [
        "a write failed after its caller had gone: WorkCancelled"
    ]


async def test_cancelled_work_is_told_apart_from_a_cancelled_caller() -> None:
    tasks = TaskSet("a test")
    caller = asyncio.create_task(tasks.to_the_end(asyncio.Event().wait()))
    await settle()
    await tasks.cancel()
    with pytest.raises(WorkCancelled):
        await caller
