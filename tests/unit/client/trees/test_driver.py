"""The driver of plans, with helpers that the test plays; and the two kinds of real ones."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tiered_store.client.trees import asyncdriver, syncdriver
from tiered_store.client.trees.driver import Driver, Outcome, Report
from tiered_store.client.trees.pace import Pace
from tiered_store.client.trees.steps import AT_ONCE, Exists, GetMany, Job, Step, Stop, Stopped, Work


class Plan:
    """Jobs that the test has written, and what was taken."""

    def __init__(self, *jobs: Job[Any]) -> None:
        self._jobs = jobs
        self.begun = 0
        self.taken: list[Any] = []
        self.is_closed = False

    def jobs(self) -> Iterator[Job[Any]]:
        try:
            for job in self._jobs:
                self.begun += 1
                yield job
        finally:
            self.is_closed = True

    def take(self, result: Any) -> None:
        self.taken.append(result)


class Hands:
    """Helpers that do nothing by themselves.

    Attributes:
        begun: the steps, and how to report what became of them.
        on_begin: called for each.
    """

    def __init__(self, on_begin: Callable[[Hands], None] = lambda _: None) -> None:
        self.begun: list[tuple[Step, Report]] = []
        self.on_begin = on_begin
        self.has_ended = False

    def begin(self, step: Step, report: Report) -> None:
        self.begun.append((step, report))
        self.on_begin(self)

    def end(self) -> None:
        self.has_ended = True


def asking(name: str) -> Job[str]:
    found = yield GetMany([name])
    return f"{name}: {found}"


def test_results_are_taken_in_order_however_the_answers_come() -> None:
    def answer_last_first(hands: Hands) -> None:
        if len(hands.begun) == 3:
            for step, report in reversed(hands.begun):
                report(Outcome(step.keys))  # type: ignore[union-attr]

    plan = Plan(*map(asking, "abc"))
    Driver(plan, Hands(answer_last_first), Stop()).run()
    assert plan.taken == ["a: ['a']", "b: ['b']", "c: ['c']"]
    assert plan.is_closed


def test_no_more_jobs_are_under_way_than_memory_and_descriptors_are_counted_for() -> None:
    most = [0]
    plan = Plan(*map(asking, map(str, range(20))))

    def answer_when_all_are_begun(hands: Hands) -> None:
        most[0] = max(most[0], plan.begun - len(plan.taken))
        if plan.begun - len(plan.taken) == AT_ONCE + 1 or plan.begun == 20:
            for _, report in hands.begun:
                report(Outcome())
            hands.begun.clear()

    Driver(plan, Hands(answer_when_all_are_begun), Stop()).run()
    assert most == [AT_ONCE + 1]
    assert len(plan.taken) == 20


def test_short_work_is_done_by_the_thread_that_drives() -> None:
    def job() -> Job[list[str]]:
        here = yield Work(lambda: threading.current_thread().name, is_short=True)
        there = yield Work(lambda: threading.current_thread().name)
        return [here, there]

    plan = Plan(job())
    syncdriver.drive(plan, lambda step: step.run(), Stop())  # type: ignore[union-attr]
    [[here, there]] = plan.taken
    assert here == threading.current_thread().name
    assert there.startswith("tiered-store-tree")


def test_short_work_that_waits_is_given_away() -> None:
    passed_s = [0.0]

    def wait() -> None:
        passed_s[0] += 1

    def job() -> Job[None]:
        yield Work(wait, is_short=True)

    hands = Hands(lambda hands: hands.begun[-1][1](Outcome()))
    plan = Plan(*(job() for _ in range(3)))
    Driver(plan, hands, Stop(), Pace(lambda: passed_s[0], lambda: 0.0)).run()
    assert len(plan.taken) == 3
    assert len(hands.begun) == 2  # all but the first, which has told


@pytest.mark.parametrize("is_short", [False, True])
def test_an_error_of_a_step_is_the_jobs_to_handle(is_short: bool) -> None:
    def fail() -> None:
        raise OSError("full")

    def job() -> Job[str]:
        try:
            yield Work(fail, is_short)
        except OSError as error:
            return f"handled: {error}"
        return "not raised"

    plan = Plan(job())
    syncdriver.drive(plan, lambda step: step.run(), Stop())  # type: ignore[union-attr]
    assert plan.taken == ["handled: full"]


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt()])
def test_an_error_that_no_job_handles_ends_it(error: BaseException) -> None:
    """And in this order: helpers end, and then what they may be working on is closed."""
    hands = Hands()
    closed: list[bool] = []

    def patient() -> Job[None]:
        try:
            yield GetMany([])
        finally:
            closed.append(hands.has_ended)

    def fails() -> Job[None]:
        yield Exists([])

    def answer_the_last(hands: Hands) -> None:
        step, report = hands.begun[-1]
        if isinstance(step, Exists):
            report(Outcome(error=error))

    hands.on_begin = answer_the_last
    plan, stop = Plan(patient(), patient(), fails()), Stop()
    with pytest.raises(type(error)):
        Driver(plan, hands, stop).run()
    assert closed == [True, True]
    assert (plan.taken, plan.is_closed) == ([], True)
    with pytest.raises(Stopped):
        stop.check()


def test_one_who_waits_is_woken_to_see_that_it_is_stopped() -> None:
    stop = Stop()

    def end(_: Hands) -> None:
        stop.set()
        driver.wake()

    hands = Hands(end)
    driver = Driver(Plan(asking("a")), hands, stop)
    with pytest.raises(Stopped):
        driver.run()
    assert hands.has_ended


def test_a_stop_is_seen_by_work_that_never_waits() -> None:
    stop = Stop()

    def job() -> Job[None]:
        yield Work(stop.set, is_short=True)

    plan = Plan(job(), job())
    with pytest.raises(Stopped):
        Driver(plan, Hands(), stop).run()
    assert plan.taken == [None]


def test_nothing_goes_on_behind_who_interrupts_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    shutdown, interrupts = ThreadPoolExecutor.shutdown, [KeyboardInterrupt()]
    go_on, is_done = threading.Event(), []

    def interrupted(pool: ThreadPoolExecutor, **options: Any) -> None:
        if interrupts:
            raise interrupts.pop()
        go_on.set()
        shutdown(pool, **options)

    def work() -> None:
        go_on.wait()
        is_done.append(True)

    def job() -> Job[None]:
        yield Work(work)

    def interrupt() -> Job[None]:
        yield Work(lambda: (_ for _ in ()).throw(KeyboardInterrupt), is_short=True)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        syncdriver.drive(Plan(job(), interrupt()), lambda step: step.run(), Stop())  # type: ignore[union-attr]
    assert is_done == [True]


class Held:
    """What a job has open."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def fails_holding(found: list[weakref.ref[Held]]) -> Job[None]:
    held = Held()
    found.append(weakref.ref(held))
    yield GetMany([])


def gone(_: Step) -> None:
    raise OSError("gone")


@pytest.mark.usefixtures("no_collector")
def test_what_a_failed_job_held_goes_with_its_error() -> None:
    found: list[weakref.ref[Held]] = []
    with contextlib.suppress(OSError):
        syncdriver.drive(Plan(fails_holding(found)), gone, Stop())
    assert found[0]() is None


@pytest.mark.usefixtures("no_collector")
async def test_what_a_failed_job_held_goes_with_its_error_under_asyncio() -> None:
    found: list[weakref.ref[Held]] = []

    async def perform(step: Step) -> None:
        gone(step)

    with contextlib.suppress(OSError):
        await asyncdriver.drive(Plan(fails_holding(found)), perform, Stop())
    for thread in threading.enumerate():
        if thread.name == "tiered-store-tree":  # it has told, and is about to end
            thread.join()
    await asyncio.sleep(0)  # the loop still has in its hand what woke this task
    assert found[0]() is None


async def test_the_store_is_asked_in_the_callers_context() -> None:
    variable = contextvars.ContextVar("variable", default="another's")
    variable.set("the caller's")

    async def perform(_: Step) -> str:
        return variable.get()

    plan = Plan(asking("a"))
    await asyncdriver.drive(plan, perform, Stop())
    assert plan.taken == ["a: the caller's"]


async def nothing(step: Step) -> str:
    assert not isinstance(step, Work)
    return threading.current_thread().name


async def test_the_loop_does_what_the_store_is_asked_for_and_nothing_else() -> None:
    def job() -> Job[list[str]]:
        asked = yield GetMany([])
        short = yield Work(lambda: threading.current_thread().name, is_short=True)
        long = yield Work(lambda: threading.current_thread().name)
        return [asked, short, long]

    plan = Plan(job())
    await asyncdriver.drive(plan, nothing, Stop())
    here = threading.current_thread().name
    [[asked, short, long]] = plan.taken
    assert (asked, short) == (here, "tiered-store-tree")
    assert long not in {asked, short}


async def test_trees_side_by_side_leave_threads_to_their_large_files() -> None:
    """All of them are under way, and the loop's own pool has one thread."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    all_begun = asyncio.Barrier(3)

    async def perform(_: Step) -> None:
        await all_begun.wait()

    def job() -> Job[str]:
        yield GetMany([])
        done: str = yield Work(lambda: "done")
        return done

    plans = [Plan(job()) for _ in range(3)]
    await asyncio.gather(*(asyncdriver.drive(plan, perform, Stop()) for plan in plans))
    assert [plan.taken for plan in plans] == [["done"]] * 3


async def test_who_cancels_twice_waits_for_the_work_under_way() -> None:
    begun, go_on, is_done = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait()
        is_done.append(True)

    def job() -> Job[None]:
        try:
            yield Work(work)
        finally:
            is_done.append(False)

    driving = asyncio.create_task(asyncdriver.drive(Plan(job()), nothing, Stop()))
    try:
        await begun.wait()
        for _ in range(2):
            driving.cancel()
            await asyncio.sleep(0)
        assert not driving.done()
    finally:
        go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await driving
    assert is_done == [True, False]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_error_of_the_store_reaches_who_waits_for_the_tree() -> None:
    async def perform(_: Step) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await asyncdriver.drive(Plan(asking("a"), asking("b")), perform, Stop())
    assert asyncio.all_tasks() == {asyncio.current_task()}
