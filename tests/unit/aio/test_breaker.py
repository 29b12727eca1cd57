"""The breaker: opens after failures in a row, lets one probe through, and never gets stuck."""

from __future__ import annotations

import pytest

from tiered_store.aio.breaker import Breaker, Pass


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures=3, open_s=1.0, max_open_s=4.0, clock=clock, chance=lambda: 1.0)


def entered(breaker: Breaker) -> Pass:
    found = breaker.enter()
    assert found is not None
    return found


def break_it(breaker: Breaker) -> None:
    for _ in range(3):
        entered(breaker).failed()
    assert not breaker.is_closed


def test_failures_in_a_row_open_it(breaker: Breaker) -> None:
    for _ in range(2):
        entered(breaker).failed()
    entered(breaker).succeeded()
    for _ in range(2):
        entered(breaker).failed()
    assert breaker.is_closed
    entered(breaker).failed()
    assert not breaker.is_closed
    assert breaker.enter() is None
    assert breaker.opens_in_s == pytest.approx(1.0)
    assert breaker.opened == 1


def test_one_probe_at_a_time_passes_when_the_pause_is_over(breaker: Breaker, clock: Clock) -> None:
    break_it(breaker)
    clock.now += 1.0
    probe = entered(breaker)
    assert breaker.enter() is None
    probe.succeeded()
    assert breaker.is_closed
    assert breaker.opens_in_s == 0.0
    entered(breaker).succeeded()


def test_a_failed_probe_doubles_the_pause_up_to_the_bound(breaker: Breaker, clock: Clock) -> None:
    break_it(breaker)
    for pause in (2.0, 4.0, 4.0):
        clock.now = clock.now + breaker.opens_in_s
        entered(breaker).failed()
        assert breaker.opens_in_s == pytest.approx(pause)
    assert breaker.opened == 1
    clock.now += 4.0
    entered(breaker).succeeded()
    break_it(breaker)
    assert breaker.opens_in_s == pytest.approx(1.0)
    assert breaker.opened == 2


def test_an_abandoned_probe_makes_room_for_the_next(breaker: Breaker, clock: Clock) -> None:
    break_it(breaker)
    clock.now += 1.0
    entered(breaker).abandoned()
    entered(breaker).succeeded()
    assert breaker.is_closed


def test_requests_from_before_the_opening_close_it_but_do_not_lengthen_it(breaker: Breaker, clock: Clock) -> None:
    late_failure, late_success = entered(breaker), entered(breaker)
    break_it(breaker)
    late_failure.failed()
    assert breaker.opens_in_s == pytest.approx(1.0)
    late_success.succeeded()
    assert breaker.is_closed


def test_a_late_success_while_a_probe_is_under_way(breaker: Breaker, clock: Clock) -> None:
    late = entered(breaker)
    break_it(breaker)
    clock.now += 1.0
    probe = entered(breaker)
    late.succeeded()
    assert breaker.is_closed
    probe.failed()  # one failure of a closed breaker
    assert breaker.is_closed
    entered(breaker).succeeded()


def test_an_abandoned_request_tells_nothing(breaker: Breaker) -> None:
    for _ in range(2):
        entered(breaker).failed()
    entered(breaker).abandoned()
    assert breaker.is_closed
    entered(breaker).failed()
    assert not breaker.is_closed


def test_only_the_first_word_counts(breaker: Breaker) -> None:
    for _ in range(2):
        one = entered(breaker)
        one.failed()
        one.failed()
    assert breaker.is_closed


def test_pauses_differ_between_daemons(clock: Clock) -> None:
    breaker = Breaker(failures=1, open_s=1.0, clock=clock, chance=lambda: 0.0)
    entered(breaker).failed()
    assert breaker.opens_in_s == pytest.approx(0.5)
