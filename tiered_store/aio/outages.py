"""A place that fails, in the log: a line when it begins, one a minute while it lasts, and one when it is over.

Knows neither keys nor what is asked. Reads and writes are told apart, because a full or read-only file system
refuses writes alone, and reads that go on do not mean that it is over. The invariants: no outage goes without its
first line, and no number of failures, or of turns between failing and answering, makes more than a few lines a minute.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["Outage", "Outages"]

_log = logging.getLogger(__name__)

#: Between two lines about one outage; and how soon after its end the next failure is taken for more of the same.
_REPEAT_S = 60.0


class Outage:
    """Requests of one kind, and whether the origin fails them now.

    The first failure begins an outage and the next success ends it. Where another one began within a minute of
    that, successes and failures take turns (one file that cannot be read among many that can): such an outage ends
    with the first success after a minute without a failure.

    Args:
        requests: what they are, for the log.
        clock: monotonic seconds.
        place: who is asked, for the log.

    Attributes:
        is_on: whether there is an outage. Successes need to be told only then.
    """

    __slots__ = (
        "_began",
        "_clock",
        "_ended",
        "_failed",
        "_failures",
        "_place",
        "_quiet_s",
        "_requests",
        "_said",
        "is_on",
    )

    def __init__(self, requests: str, clock: Callable[[], float], *, place: str = "the origin") -> None:
        self._requests = requests
        self._place = place
        self._clock = clock
        self.is_on = False
        self._failures = 0
        self._quiet_s = 0.0
        # Moments: when it began and ended, of the last failure, and of the last line about one.
        self._began = self._failed = 0.0
        self._ended = self._said = float("-inf")

    def failed(self, operation: str, error: Exception) -> None:
        """A request failed, and not through its caller's fault."""
        now = self._clock()
        if not self.is_on:
            self.is_on = True
            self._quiet_s = _REPEAT_S if now - self._ended < _REPEAT_S else 0.0
            self._began, self._failures, self._said = now, 0, float("-inf")
        self._failures += 1
        self._failed = now
        if now - self._said >= _REPEAT_S:
            self._said = now
            said = str(error) or type(error).__name__
            _log.warning("%s fails", self._place, extra={"operation": operation, "error": said, **self._fields(now)})

    def answered(self) -> None:
        """A request was answered, be it with "no such object"."""
        now = self._clock()
        if not self.is_on or now - self._failed < self._quiet_s:
            return
        self.is_on = False
        self._ended = now
        _log.info("%s answers again", self._place, extra=self._fields(now))

    def _fields(self, now: float) -> dict[str, object]:
        return {"requests": self._requests, "failures": self._failures, "for_s": round(now - self._began, 3)}


class Outages:
    """The outages of one origin."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.reads = Outage("reads", clock)
        self.writes = Outage("writes", clock)
