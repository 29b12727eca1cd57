"""How long a client tries, and when it leaves a dead daemon alone."""

from __future__ import annotations

import pytest

from tests.support.faults import ManualClock
from tiered_store import errors
from tiered_store.client.availability import Availability, deadline_ms, is_callers_fault, retry_delays
from tiered_store.errors import StoreError


def test_a_daemon_that_was_never_there_is_not_waited_for() -> None:
    assert list(Availability(5.0, ManualClock()).delays()) == []


def test_pauses_grow_and_end_with_the_budget() -> None:
    clock = ManualClock()
    pauses = []
    for pause in retry_delays(2.0, clock):
        pauses.append(pause)
        clock.advance(pause)
    bounds = [0.01, 0.02, 0.04, 0.08, 0.16] + [0.25] * 100
    assert all(bound / 2 <= pause <= bound for pause, bound in zip(pauses, bounds, strict=False))
    assert 2.0 <= sum(pauses) < 2.25
    assert len(pauses) < 30


def test_clients_do_not_come_back_in_step() -> None:
    assert len({next(retry_delays(1.0)) for _ in range(200)}) > 10


def test_one_that_was_there_a_moment_ago_is() -> None:
    clock = ManualClock()
    availability = Availability(0.5, clock)
    availability.succeeded()
    waited = 0.0
    for pause in availability.delays():
        waited += pause
        clock.advance(pause)
    assert waited >= 0.5
    availability.failed()
    assert list(availability.delays()) == []


def rest_of(availability: Availability, clock: ManualClock) -> float:
    """How long it rests from now on, in seconds."""
    rest = 0.0
    while availability.is_resting:
        clock.advance(0.25)
        rest += 0.25
    return rest


def test_rests_grow_and_end_with_an_answer() -> None:
    clock = ManualClock()
    availability = Availability(0.0, clock)
    assert not availability.is_resting
    rests = []
    for _ in range(8):
        availability.failed()
        rests.append(rest_of(availability, clock))
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    availability.failed()
    availability.answered()
    assert not availability.is_resting
    availability.failed()
    assert rest_of(availability, clock) == 0.5


def test_a_new_connection_ends_a_rest_and_proves_nothing() -> None:
    clock = ManualClock()
    availability = Availability(0.0, clock)
    availability.failed()
    availability.succeeded()
    assert not availability.is_resting
    availability.failed()
    assert rest_of(availability, clock) == 1.0


def test_rests_are_in_proportion_to_what_was_lost() -> None:
    """A daemon that takes connections and never answers costs a ninth of the time in the long run."""
    clock = ManualClock()
    availability = Availability(0.0, clock)
    rests = []
    for _ in range(6):
        availability.succeeded()
        availability.unanswered(availability.answers, 30.0)
        rests.append(rest_of(availability, clock))
    assert rests == [30.0, 60.0, 120.0, 240.0, 240.0, 240.0]


def test_a_deadline_too_short_to_matter_is_followed_by_a_rest_that_does() -> None:
    clock = ManualClock()
    availability = Availability(0.0, clock)
    availability.unanswered(0, 0.01)
    assert rest_of(availability, clock) == 0.5


def test_one_that_greets_nobody_is_waited_for_no_longer() -> None:
    clock = ManualClock()
    availability = Availability(5.0, clock)
    availability.succeeded()
    availability.failed(30.0)
    assert list(availability.delays()) == []
    assert rest_of(availability, clock) == 30.0


def test_what_fails_together_is_one_failure() -> None:
    clock = ManualClock()
    availability = Availability(0.0, clock)
    for _ in range(100):
        availability.unanswered(0, 1.0)
    assert rest_of(availability, clock) == 1.0
    availability.unanswered(0, 1.0)
    assert rest_of(availability, clock) == 2.0


def test_one_slow_thing_beside_others_that_are_answered_is_no_failure() -> None:
    availability = Availability(0.0, ManualClock())
    answers_before = availability.answers
    availability.answered()
    availability.unanswered(answers_before, 30.0)
    assert not availability.is_resting
    availability.unanswered(availability.answers, 30.0)
    assert availability.is_resting


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "StoreError"])
def test_whose_fault_it_is(name: str) -> None:
    callers = {"InvalidKey", "NotFound", "KeyConflict", "TooLarge", "IntegrityError", "PermissionDenied"}
    assert is_callers_fault(getattr(errors, name)("x")) == (name in callers)
    assert not is_callers_fault(StoreError("x"))


@pytest.mark.parametrize(
    ("timeout_s", "expected"),
    [(None, 0), (30.0, 30_000), (0.0001, 1), (0.0, 1), (1e9, 0xFFFFFFFF), (float("inf"), 0xFFFFFFFF)],
)
def test_deadline(timeout_s: float | None, expected: int) -> None:
    assert deadline_ms(timeout_s) == expected
