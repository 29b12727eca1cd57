"""Where short work is done, by clocks that the test turns."""

from __future__ import annotations

import pytest

from tiered_store.client.trees.pace import Pace


class Clocks:
    """What passes, and what is computed meanwhile."""

    def __init__(self) -> None:
        self.passed_s = self.computed_s = 0.0
        self.pace = Pace(lambda: self.passed_s, lambda: self.computed_s)

    def work(self, passed_s: float, computed_s: float) -> str:
        def run() -> str:
            self.passed_s += passed_s
            self.computed_s += computed_s
            return "done"

        return self.pace.measured(run)


def away(pace: Pace) -> int:
    """How many pieces of work are given away before one is done here."""
    count = 0
    while not pace.is_here():
        count += 1
    return count


def test_what_computes_stays_here() -> None:
    clocks = Clocks()
    for _ in range(100):
        assert clocks.pace.is_here()
        assert clocks.work(0.004, 0.0035) == "done"


@pytest.mark.parametrize("pieces", [1, 10])
def test_what_waits_is_given_away_and_looked_at_again(pieces: int) -> None:
    clocks = Clocks()
    for _ in range(3):
        for _ in range(pieces):
            assert clocks.pace.is_here()
            clocks.work(0.051 / pieces, 0.005 / pieces)
        assert away(clocks.pace) == 16
    clocks.work(1, 0.9)  # it has got quick
    assert away(clocks.pace) == 0


def test_one_short_wait_says_nothing() -> None:
    clocks = Clocks()
    clocks.work(0.04, 0.001)
    assert clocks.pace.is_here()
    clocks.work(0.04, 0.039)
    assert clocks.pace.is_here()


def test_work_that_fails_is_not_counted() -> None:
    clocks = Clocks()

    def fail() -> None:
        clocks.passed_s += 10
        raise OSError

    with pytest.raises(OSError):
        clocks.pace.measured(fail)
    assert clocks.pace.is_here()
