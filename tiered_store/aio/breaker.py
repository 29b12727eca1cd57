"""A circuit breaker: whoever fails again and again is left alone for a while, then tried with one request.

After the pattern of that name (Nygard, "Release It!", 2007). It neither waits nor asks anybody: its user asks for a
pass before each request and gives it back with what came of it. Belongs to one event loop. Invariant: while the breaker
is half open, exactly one request is under way, and however that one ends, another may follow.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

__all__ = ["Breaker", "Pass"]

#: Failures in a row that open it: one lost request tells nothing, five at once tell enough.
_FAILURES = 5
#: How long it stays open, in seconds: at first, and at most; twice as long after each failed try.
_OPEN_S = 0.5
_OPEN_MAX_S = 30.0


class Breaker:
    """Closed, open or half open.

    Args:
        failures: so many in a row open it.
        open_s: how long it stays open the first time, in seconds.
        max_open_s: how long at most; each time is drawn from the upper half of what it could be, so that many
            daemons do not come back in one moment.
        clock: monotonic seconds.
        chance: a number from 0 up to 1.

    Attributes:
        opened: how often it has gone from closed to open.
    """

    def __init__(
        self,
        *,
        failures: int = _FAILURES,
        open_s: float = _OPEN_S,
        max_open_s: float = _OPEN_MAX_S,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._limit = failures
        self._first_s = open_s
        self._max_s = max_open_s
        self._clock = clock
        self._chance = chance
        self._failures = 0
        self._pause_s = 0.0  # of this opening; 0 while closed
        self._until = 0.0
        self._probe: Pass | None = None
        self.opened = 0

    @property
    def is_closed(self) -> bool:
        """Whether requests pass freely."""
        return self._pause_s == 0.0

    @property
    def opens_in_s(self) -> float:
        """How long requests are refused from now on, in seconds; 0 if one would pass or a probe is under way."""
        return max(0.0, self._until - self._clock()) if self._pause_s else 0.0

    def enter(self) -> Pass | None:
        """A pass for one request, to be given back by one of its methods; None if it must not be made now."""
        if not self._pause_s:
            return Pass(self)
        if self._probe is not None or self._clock() < self._until:
            return None
        self._probe = Pass(self)
        return self._probe

    def ended(self, ended: Pass, *, success: bool | None) -> None:
        """A request has ended; None: it tells nothing. Called by the pass."""
        if self._probe is ended:
            self._probe = None
        elif self._pause_s and not success:
            return  # it was under way when the breaker opened, and says what is known
        if success:
            self._failures, self._pause_s = 0, 0.0
        elif success is False:
            self._failures += 1
            if self._pause_s or self._failures >= self._limit:
                self._open()

    def _open(self) -> None:
        if self._pause_s:
            self._pause_s = min(2 * self._pause_s, self._max_s)
        else:
            self._pause_s = self._first_s
            self.opened += 1
        self._until = self._clock() + self._pause_s * (0.5 + self._chance() / 2)


class Pass:
    """One request that a breaker let through. Only the first word about it counts."""

    __slots__ = ("_breaker",)

    def __init__(self, breaker: Breaker) -> None:
        self._breaker: Breaker | None = breaker

    def succeeded(self) -> None:
        """There was an answer, be it a refusal."""
        self._end(success=True)

    def failed(self) -> None:
        """There was none, or one that tells of a fault of the other side."""
        self._end(success=False)

    def abandoned(self) -> None:
        """It was cancelled or never made: it tells nothing."""
        self._end(success=None)

    def _end(self, *, success: bool | None) -> None:
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker.ended(self, success=success)
