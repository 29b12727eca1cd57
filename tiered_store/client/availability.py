"""When the daemon does not answer: how long to try, when to try again, and what may be ignored.

Pure decisions; the clients do the waiting.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Final, Literal, TypeAlias

from tiered_store.errors import (
    IntegrityError,
    InvalidKey,
    KeyConflict,
    NotFound,
    PermissionDenied,
    StoreError,
    TooLarge,
)

__all__ = ["Availability", "OnUnavailable", "deadline_ms", "is_callers_fault", "retry_delays"]

OnUnavailable: TypeAlias = Literal["error", "miss"]

#: Pauses between attempts to reconnect to a daemon that was there a moment ago: a restart takes
#: about half a second. Doubling with jitter, so that many clients do not come back in step.
_FIRST_DELAY_S: Final = 0.01
_LONGEST_DELAY_S: Final = 0.25
#: How long a client that ignores failures leaves the daemon alone after one, doubling up to a bound. A refused
#: connection costs nothing; a failure that was waited for is followed by a rest in proportion, so that a daemon
#: which never answers takes a ninth of a build's time in the long run, whatever the deadline.
_SHORTEST_REST_S: Final = 0.5
_LONGEST_REST_S: Final = 15.0
_LONGEST_REST_PER_LOSS: Final = 8
_HIGHEST_FACTOR: Final = 32

_CALLERS_FAULTS: Final = (InvalidKey, NotFound, KeyConflict, TooLarge, IntegrityError, PermissionDenied)


def is_callers_fault(error: StoreError) -> bool:
    """Whether an error says something about the request, and nothing about the daemon's health."""
    return isinstance(error, _CALLERS_FAULTS)


def retry_delays(budget_s: float, clock: Callable[[], float] = time.monotonic) -> Iterator[float]:
    """Pauses in seconds, growing, until ``budget_s`` is used up."""
    deadline = clock() + budget_s
    delay = _FIRST_DELAY_S
    while clock() < deadline:
        yield delay * (1 + os.urandom(1)[0] / 255) / 2  # `random` takes 2 ms to import
        delay = min(delay * 2, _LONGEST_DELAY_S)


def deadline_ms(timeout_s: float | None) -> int:
    """A client's timeout as the daemon's deadline: in milliseconds, in 32 bits, 0 for none."""
    return 0 if timeout_s is None else max(1, int(min(timeout_s * 1000, 0xFFFFFFFF)))


class Availability:
    """Remembers whether the daemon answered lately.

    Args:
        reconnect_s: how long to go on trying to reach a daemon that has answered before.
        clock: seconds, monotonic.

    Attributes:
        answers: how many operations have been answered; whoever begins one keeps it for :meth:`unanswered`.
    """

    def __init__(self, reconnect_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._reconnect_s = reconnect_s
        self._clock = clock
        self._was_there = False
        self._rest_until = 0.0
        self._factor = 1
        self.answers = 0

    @property
    def is_resting(self) -> bool:
        """Whether an attempt would come too soon after the last that failed."""
        return self._clock() < self._rest_until

    def delays(self) -> Iterator[float]:
        """Pauses between attempts: none for a daemon that was never there."""
        return retry_delays(self._reconnect_s if self._was_there else 0.0, self._clock)

    def succeeded(self) -> None:
        """The daemon has taken a connection and greeted. Whether it answers requests is not known yet."""
        self._was_there = True
        self._rest_until = 0.0

    def answered(self) -> None:
        """The daemon has answered an operation, be it with an error: the next rest is a short one again."""
        self.answers += 1
        self._rest_until = 0.0
        self._factor = 1

    def failed(self, lost_s: float = 0.0) -> None:
        """All attempts to connect were in vain.

        Args:
            lost_s: how long the daemon was waited for.
        """
        self._was_there = False
        self._rest(lost_s)

    def unanswered(self, answers_before: int, lost_s: float) -> None:
        """An operation ended by its deadline.

        Args:
            answers_before: ``answers`` when it began. Where it has grown since, the daemon is in order, and only
                this one thing takes long.
            lost_s: how long it was waited for.
        """
        if self.answers == answers_before:
            self._rest(lost_s)

    def _rest(self, lost_s: float) -> None:
        if self.is_resting:
            return  # what was under way together fails together: that is one failure
        in_proportion = lost_s * min(self._factor, _LONGEST_REST_PER_LOSS)
        self._rest_until = self._clock() + max(in_proportion, min(_SHORTEST_REST_S * self._factor, _LONGEST_REST_S))
        self._factor = min(self._factor * 2, _HIGHEST_FACTOR)
