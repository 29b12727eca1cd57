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


def test_rests_grow_and_end_with_a_success() -> None:
    clock = ManualClock()
    availability = Availability(0.0, clock)
    assert not availability.is_resting
    rests = []
    for _ in range(8):
        availability.failed()
        rest = 0.0
        while availability.is_resting:
            clock.advance(0.25)
            rest += 0.25
        rests.append(rest)
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    availability.failed()
    availability.succeeded()
    assert not availability.is_resting
    availability.failed()
    clock.advance(0.5)
    assert not availability.is_resting


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
