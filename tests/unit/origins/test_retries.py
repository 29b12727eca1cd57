"""When a request is tried again, and when not: budget, pauses, deadline, breaker. Time and chance are the test's."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.support.faults import ManualClock
from tiered_store.aio.breaker import Pass
from tiered_store.errors import (
    DeadlineExceeded,
    IntegrityError,
    NotFound,
    OriginUnavailable,
    PermissionDenied,
    QuotaExceeded,
)
from tiered_store.origins.base import ObjectChanged
from tiered_store.origins.retries import Allowance, Attempts
from tiered_store.stats import OriginStats


class Rig:
    """Attempts whose pauses end at once and are written down; ``ask`` takes its answers from ``script``."""

    def __init__(self, *, retry_for_s: float = 30.0) -> None:
        self.clock = ManualClock()
        self.stats = OriginStats()
        self.luck = 1.0
        self.pauses: list[float] = []
        self.script: list[BaseException | None] = []
        self.asked = 0
        self.attempts = Attempts(
            self.stats, retry_for_s=retry_for_s, clock=self.clock, chance=lambda: self.luck, sleep=self.sleep
        )

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.advance(seconds)

    async def attempt(self, entered: Pass) -> str:
        self.asked += 1
        outcome = self.script.pop(0) if self.script else None
        if outcome is not None:
            raise outcome
        self.attempts.answered(entered)
        return "done"

    async def ask(self, *outcomes: BaseException | None) -> str:
        self.script = list(outcomes)
        return await self.attempts.run(self.attempt)

    async def fail(self, *outcomes: BaseException) -> BaseException:
        with pytest.raises(BaseException) as caught:
            await self.ask(*outcomes)
        return caught.value

    async def open_breaker(self) -> None:
        while self.attempts.is_closed:
            await self.fail(*(down() for _ in range(5)))


def down(text: str = "no connection") -> OriginUnavailable:
    return OriginUnavailable(text)


@pytest.fixture
def rig() -> Rig:
    return Rig()


class TestAllowance:
    def test_one_in_ten_and_the_reserve(self) -> None:
        allowance = Allowance(10, reserve=3, clock=ManualClock())
        for _ in range(59):
            allowance.count()
        assert [allowance.take() for _ in range(10)] == [True] * 8 + [False] * 2
        allowance.count()
        assert [allowance.take() for _ in range(2)] == [True, False]

    def test_none_without_requests_and_reserve(self) -> None:
        allowance = Allowance(50, clock=ManualClock())
        for _ in range(49):
            allowance.count()
        assert not allowance.take()
        allowance.count()
        assert allowance.take()
        assert not allowance.take()

    def test_what_is_ten_seconds_old_does_not_count(self) -> None:
        clock = ManualClock(1000.0)
        allowance = Allowance(10, reserve=1, clock=clock)
        for _ in range(20):
            allowance.count()
        assert [allowance.take() for _ in range(4)] == [True, True, True, False]
        clock.advance(9.0)
        assert not allowance.take()
        clock.advance(1.0)
        assert [allowance.take() for _ in range(2)] == [True, False]

    def test_each_second_goes_by_itself(self) -> None:
        clock = ManualClock(1000.0)
        allowance = Allowance(1, clock=clock)
        for _ in range(7):
            allowance.count()
        clock.advance(5.0)
        for _ in range(3):
            allowance.count()
        clock.advance(5.0)
        assert [allowance.take() for _ in range(4)] == [True, True, True, False]
        clock.advance(5.0)
        allowance.count()  # the three requests are over, what was taken for them is not
        assert not allowance.take()

    def test_a_long_silence_forgets_everything(self) -> None:
        clock = ManualClock()
        allowance = Allowance(1, reserve=1, clock=clock)
        for _ in range(5):
            allowance.count()
            assert allowance.take()
        clock.advance(12345.0)
        assert [allowance.take() for _ in range(2)] == [True, False]


class TestRetries:
    async def test_a_failure_is_tried_again(self, rig: Rig) -> None:
        assert await rig.ask(down(), down(), None) == "done"
        assert (rig.asked, rig.stats.retries, rig.stats.retries_refused) == (3, 2, 0)

    @pytest.mark.parametrize(
        "answer",
        [
            NotFound("no"),
            PermissionDenied("no"),
            QuotaExceeded("full"),
            IntegrityError("wrong"),
            OriginUnavailable("no such bucket", retryable=False),
            ObjectChanged("another version"),
            ValueError("a bug"),
        ],
    )
    async def test_an_answer_is_not(self, rig: Rig, answer: Exception) -> None:
        assert await rig.fail(answer) is answer
        assert (rig.asked, rig.pauses) == (1, [])

    async def test_a_deadline_is(self, rig: Rig) -> None:
        assert await rig.ask(DeadlineExceeded("late"), None) == "done"

    @pytest.mark.parametrize(("luck", "share"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
    async def test_the_pauses_double_up_to_a_cap_and_are_drawn_from_zero_up(
        self, rig: Rig, luck: float, share: float
    ) -> None:
        rig.luck = luck
        tries, entered = rig.attempts.begin(), rig.attempts.enter()
        for _ in range(9):  # round the breaker: each success keeps it closed
            rig.attempts.answered(entered)
            found = await rig.attempts.again(tries, down())
            assert found is not None
            entered = found
        most = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
        assert rig.pauses == pytest.approx([share * pause for pause in most])

    async def test_no_retry_begins_when_the_time_is_over(self) -> None:
        rig = Rig(retry_for_s=0.16)
        failures = [down(str(number)) for number in range(4)]
        assert await rig.fail(*failures) is failures[2]  # begun after 0, 0.05 and 0.15 s; the next would be after 0.35
        assert rig.pauses == pytest.approx([0.05, 0.1])
        assert rig.stats.retries == 2

    @pytest.mark.parametrize("luck", [0.0, 1.0])
    async def test_no_time_means_no_retries(self, luck: float) -> None:
        rig = Rig(retry_for_s=0.0)
        rig.luck = luck
        assert str(await rig.fail(down("first"), None)) == "first"
        assert rig.asked == 1

    async def test_the_budget_belongs_to_all_requests(self, rig: Rig) -> None:
        """A tenth of the requests, and ten more; a request that gets none fails as it did."""
        rig.luck = 0.0  # time stands still
        for _ in range(35):
            await rig.ask()
        for _ in range(15):
            assert await rig.ask(down(), None) == "done"
        assert str(await rig.fail(down("the 16th"), None)) == "the 16th"  # of 51 requests
        assert (rig.stats.retries, rig.stats.retries_refused) == (10 + 5, 1)
        rig.clock.advance(10.0)
        assert await rig.ask(down(), None) == "done"

    async def test_cancelling_ends_a_pause(self, rig: Rig) -> None:
        reached = asyncio.Event()

        async def for_ever(seconds: float) -> None:
            reached.set()
            await asyncio.Event().wait()

        rig.attempts._sleep = for_ever
        task = asyncio.create_task(rig.ask(down(), None))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (rig.asked, rig.stats.retries) == (1, 0)
        assert rig.attempts.is_closed


class TestBreaker:
    async def test_it_opens_after_failures_and_refuses_at_once(self, rig: Rig) -> None:
        error = await rig.fail(*(down(f"down {number}") for number in range(9)))
        assert str(error) == "down 4"  # a retry stops when the breaker is open
        assert (rig.asked, rig.stats.retries) == (5, 4)
        assert (rig.stats.breaker_opened, rig.stats.breaker_open, rig.stats.breaker_refused) == (1, True, 0)
        pauses = list(rig.pauses)
        refusal = await rig.fail(down("not asked"))
        assert isinstance(refusal, OriginUnavailable)
        assert refusal.retryable
        assert str(refusal) == (
            "the origin is left alone for another 0.5 s, "
            "because it has failed again and again, the last time so: down 4"
        )
        assert (rig.asked, rig.stats.breaker_refused, rig.pauses) == (5, 1, pauses)

    async def test_answers_keep_it_closed(self, rig: Rig) -> None:
        for answer in (NotFound("no"), PermissionDenied("no"), ObjectChanged("other"), None) * 3:
            for _ in range(4):
                with pytest.raises(OriginUnavailable):
                    await rig.attempts.once(rig.attempts.enter(), failing)
            if answer is None:
                await rig.ask()
            else:
                await rig.fail(answer)
        assert rig.attempts.is_closed
        assert rig.stats.breaker_opened == 0

    async def test_what_was_cancelled_says_nothing(self, rig: Rig) -> None:
        for _ in range(4):
            with pytest.raises(OriginUnavailable):
                await rig.attempts.once(rig.attempts.enter(), failing)
        await rig.fail(asyncio.CancelledError())
        await rig.fail(ValueError("a bug"))
        assert rig.attempts.is_closed  # neither a failure
        with pytest.raises(OriginUnavailable):
            await rig.attempts.once(rig.attempts.enter(), failing)
        assert not rig.attempts.is_closed  # nor an answer

    async def test_one_request_is_the_probe_and_closes_it(self, rig: Rig) -> None:
        await rig.open_breaker()
        rig.clock.advance(0.5)
        probe = rig.attempts.enter()
        refusal = await rig.fail()
        assert "until one request that tries it has been answered" in str(refusal)
        rig.attempts.answered(probe)
        assert not rig.stats.breaker_open
        assert await rig.ask() == "done"

    async def test_a_probe_that_is_cancelled_makes_room_for_another(self, rig: Rig) -> None:
        await rig.open_breaker()
        rig.clock.advance(0.5)
        await rig.fail(asyncio.CancelledError())
        assert not rig.attempts.is_closed
        assert await rig.ask() == "done"
        assert rig.attempts.is_closed

    async def test_a_probe_that_fails_is_not_tried_again(self, rig: Rig) -> None:
        await rig.open_breaker()
        rig.clock.advance(0.5)
        asked = rig.asked
        assert str(await rig.fail(down("still"), None)) == "still"
        assert rig.asked == asked + 1
        assert "for another 1.0 s" in str(await rig.fail())

    async def test_another_request_may_open_it_while_one_pauses(self, rig: Rig) -> None:
        async def pause(seconds: float) -> None:
            for _ in range(4):
                with pytest.raises(OriginUnavailable):
                    await rig.attempts.once(rig.attempts.enter(), failing)

        rig.attempts._sleep = pause
        assert str(await rig.fail(down("mine"), None)) == "mine"
        assert (rig.asked, rig.stats.retries) == (1, 0)

    async def test_the_log_has_a_line_for_each_turn_but_not_for_every_one(
        self, rig: Rig, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        for _ in range(5):
            await rig.open_breaker()
            rig.clock.advance(0.5)
            await rig.ask()
        said = [record.getMessage() for record in caplog.records]
        assert said == ["the origin is left alone for a while", "the origin is asked as usual again"]
        assert getattr(caplog.records[0], "error", "") == "no connection"
        assert rig.stats.breaker_opened == 5
        rig.clock.advance(60.0)
        await rig.open_breaker()
        assert len(caplog.records) == 3


async def failing(entered: Pass) -> None:
    raise down()
