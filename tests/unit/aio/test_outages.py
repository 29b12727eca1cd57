from __future__ import annotations

import logging

import pytest

from tests.support.faults import ManualClock
from tiered_store.aio.outages import Outage
from tiered_store.errors import OriginUnavailable

FAILS, ANSWERS = "the origin fails", "the origin answers again"


class Watched:
    """An outage, its clock and its lines."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self.caplog = caplog
        self.clock = ManualClock()
        self.outage = Outage("reads", self.clock)

    def fail(self, after_s: float = 0.0) -> None:
        self.clock.advance(after_s)
        self.outage.failed("open", OriginUnavailable("down", key="k"))

    def answer(self, after_s: float = 0.0) -> None:
        self.clock.advance(after_s)
        self.outage.answered()

    def lines(self) -> list[tuple[str, int, float]]:
        """Event, failures and seconds of the lines since the last call."""
        found = [(r.getMessage(), vars(r)["failures"], vars(r)["for_s"]) for r in self.caplog.records]
        self.caplog.clear()
        return found


@pytest.fixture
def watched(caplog: pytest.LogCaptureFixture) -> Watched:
    return Watched(caplog)


def test_a_line_when_it_begins_and_one_when_it_is_over(watched: Watched) -> None:
    watched.fail()
    (line,) = watched.caplog.records
    assert (line.levelno, line.getMessage()) == (logging.WARNING, FAILS)
    said = {name: vars(line)[name] for name in ("requests", "operation", "error", "failures", "for_s")}
    assert said == {
        "requests": "reads",
        "operation": "open",
        "error": "down (key 'k')",
        "failures": 1,
        "for_s": 0,
    }
    watched.fail(1)
    watched.fail(1)
    watched.caplog.clear()
    assert watched.outage.is_on
    watched.answer(1.5)
    assert watched.caplog.records[0].levelno == logging.INFO
    assert watched.lines() == [(ANSWERS, 3, 3.5)]
    assert not watched.outage.is_on
    watched.answer()
    assert watched.lines() == []


def test_one_line_a_minute_while_it_lasts(watched: Watched) -> None:
    for _ in range(1201):
        watched.fail(0.125)
    assert watched.lines() == [(FAILS, 1, 0), (FAILS, 481, 60), (FAILS, 961, 120)]


def test_failures_and_answers_that_take_turns_are_one_outage(watched: Watched) -> None:
    for _ in range(500):
        watched.fail(0.125)
        watched.answer(0.125)
    assert watched.lines() == [(FAILS, 1, 0), (ANSWERS, 1, 0.125), (FAILS, 1, 0), (FAILS, 241, 60), (FAILS, 481, 120)]
    watched.answer(59)
    assert watched.lines() == []
    watched.answer(1)
    assert [event for event, _, _ in watched.lines()] == [ANSWERS]


def test_another_outage_later_is_told_like_the_first(watched: Watched) -> None:
    for _ in range(2):
        watched.fail(61)
        watched.answer(1)
        assert watched.lines() == [(FAILS, 1, 0), (ANSWERS, 1, 1)]


def test_an_error_without_words_has_its_name(watched: Watched) -> None:
    watched.outage.failed("put", RuntimeError())
    assert vars(watched.caplog.records[0])["error"] == "RuntimeError"
