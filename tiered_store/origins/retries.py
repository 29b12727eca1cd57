"""What every request to an origin that may fail passes: a breaker, and a budget of retries.

Knows neither what is asked nor of whom. An attempt needs a pass of the breaker, and gives it back with what came of
it: an answer, be it "no such object", or a failure, which is an error that may go away by itself. Only such errors are
tried again: after a pause, within the time given, and as far as the budget of all requests together goes. So a failing
origin gets little more than it would be asked anyway, then next to nothing.

The pauses grow exponentially and are drawn from zero up ("full jitter": "Exponential Backoff And Jitter", AWS
Architecture Blog). The budget is Finagle's ``RetryBudget``: a share of what was asked lately, and a little reserve.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tiered_store.aio.breaker import Breaker, Pass
from tiered_store.errors import OriginUnavailable, StoreError
from tiered_store.origins.base import ObjectChanged
from tiered_store.stats import OriginStats

__all__ = ["Allowance", "Attempts", "Tries", "is_failure"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

#: The pause before the n-th retry is drawn from 0 to 50 ms doubled n times, at most 2 s.
_BASE_S: Final = 0.05
_CAP_S: Final = 2.0
_DOUBLINGS: Final = 6  # more of them would be over the cap
#: At most one retry to ten requests, and ten more: about two lost requests' tries until the breaker opens.
_ONE_RETRY_IN: Final = 10
_RESERVE: Final = 10
#: What "lately" is, for every allowance: ten seconds, told apart by one.
_SLOTS: Final = 10
_SLOT_S: Final = 1.0
#: Between two lines about the breaker's opening: one that opens and closes in turn must not fill the log.
_REPEAT_S: Final = 60.0


def is_failure(error: BaseException) -> bool:
    """Whether an error tells that the origin fails; the others are its answers, or none of its doing."""
    return isinstance(error, StoreError) and error.retryable and not isinstance(error, ObjectChanged)


class Allowance:
    """How many requests may be made in addition to those that were asked for in the last ten seconds.

    Takes the same memory however many there are. A second that is over counts until it is nine to ten seconds old.

    Args:
        one_in: one for so many requests.
        reserve: so many more in any ten seconds, however few requests there are.
        clock: monotonic seconds.
    """

    def __init__(self, one_in: int, *, reserve: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._one_in = one_in
        self._reserve = reserve
        self._clock = clock
        self._requests = [0] * _SLOTS
        self._extra = [0] * _SLOTS
        self._now = 0

    def count(self) -> None:
        """A request was made that somebody asked for."""
        self._requests[self._slot()] += 1

    def take(self) -> bool:
        """Take one more request; False if there is none left."""
        slot = self._slot()
        if sum(self._extra) >= self._reserve + sum(self._requests) // self._one_in:
            return False
        self._extra[slot] += 1
        return True

    def _slot(self) -> int:
        """The slot of this second, with those emptied that were in use ten seconds ago."""
        now = int(self._clock() / _SLOT_S)
        for past in range(max(self._now + 1, now - _SLOTS + 1), now + 1):
            self._requests[past % _SLOTS] = self._extra[past % _SLOTS] = 0
        self._now = max(now, self._now)
        return self._now % _SLOTS


class Tries:
    """The tries of one request.

    Attributes:
        began: the moment from which on retries have time.
        retries: how many there were.
    """

    __slots__ = ("began", "retries")

    def __init__(self, began: float) -> None:
        self.began = began
        self.retries = 0


class Attempts:
    """The attempts at one origin.

    Args:
        stats: retries, retries_refused and what begins with breaker move here.
        retry_for_s: how long after its start a request may be tried again, in seconds; 0 for never.
        clock: monotonic seconds.
        chance: a number from 0 up to 1.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        stats: OriginStats,
        *,
        retry_for_s: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._stats = stats
        self._retry_for_s = retry_for_s
        self._clock = clock
        self._chance = chance
        self._sleep = sleep
        self._breaker = Breaker(clock=clock, chance=chance)
        self._budget = Allowance(_ONE_RETRY_IN, reserve=_RESERVE, clock=clock)
        self._reason = ""  # what failed last
        self._said = float("-inf")
        self._is_told = False  # whether the log has a line about the breaker's being open

    @property
    def is_closed(self) -> bool:
        """Whether requests pass freely."""
        return self._breaker.is_closed

    def begin(self) -> Tries:
        """A new request, from now on."""
        return Tries(self._clock())

    def enter(self) -> Pass:
        """A pass for an attempt.

        Raises:
            OriginUnavailable: the breaker is open; says for how long, and why.
        """
        entered = self._breaker.enter()
        if entered is None:
            self._stats.breaker_refused += 1
            left_s = self._breaker.opens_in_s
            until = f"for another {left_s:.1f} s" if left_s else "until one request that tries it has been answered"
            why = f"because it has failed again and again, the last time so: {self._reason}"
            raise OriginUnavailable(f"the origin is left alone {until}, {why}")
        return entered

    async def run(self, attempt: Callable[[Pass], Awaitable[T]]) -> T:
        """Make a request, and again where it fails.

        Args:
            attempt: asks, and tells its pass of a success (:meth:`answered`); of failures it is told here.

        Raises:
            OriginUnavailable: as :meth:`enter`. What the last attempt raised.
        """
        self._budget.count()
        tries, entered = self.begin(), self.enter()
        while True:
            try:
                return await self.once(entered, attempt)
            except StoreError as error:
                retry = await self.again(tries, error)
                if retry is None:
                    raise
                entered = retry

    async def once(self, entered: Pass, attempt: Callable[[Pass], Awaitable[T]]) -> T:
        """Make one attempt; its pass is told if it fails."""
        try:
            return await attempt(entered)
        except BaseException as error:
            self.failed(entered, error)
            raise

    async def again(self, tries: Tries, error: StoreError) -> Pass | None:
        """Wait for the moment to try again, and give a pass for it; None if that must not be."""
        if not is_failure(error) or not self._breaker.is_closed:
            return None
        pause_s = self._chance() * min(_CAP_S, _BASE_S * 2 ** min(tries.retries, _DOUBLINGS))
        if self._clock() + pause_s - tries.began >= self._retry_for_s:
            return None
        if not self._budget.take():
            self._stats.retries_refused += 1
            return None
        await self._sleep(pause_s)
        entered = self._breaker.enter()
        if entered is not None:
            tries.retries += 1
            self._stats.retries += 1
        return entered

    # ------------------------------------------------- what came of an attempt

    def answered(self, entered: Pass) -> None:
        """There was an answer."""
        entered.succeeded()
        self._look()

    def failed(self, entered: Pass, error: BaseException) -> None:
        """An attempt ended with an error, which may be an answer, or say nothing (it was cancelled, or is a bug)."""
        if is_failure(error):
            self._reason = getattr(error, "message", "")
            entered.failed()
        elif isinstance(error, StoreError):
            entered.succeeded()
        else:
            entered.abandoned()
        self._look()

    def _look(self) -> None:
        """Tell what the breaker did, if it did anything."""
        is_open = not self._breaker.is_closed
        if is_open == self._stats.breaker_open:
            return
        self._stats.breaker_open = is_open
        self._stats.breaker_opened = self._breaker.opened
        now = self._clock()
        if is_open and now - self._said >= _REPEAT_S:
            self._said, self._is_told = now, True
            fields = {"for_s": round(self._breaker.opens_in_s, 3), "error": self._reason}
            _log.warning("the origin is left alone for a while", extra={**fields, "times": self._breaker.opened})
        elif not is_open and self._is_told:
            self._is_told = False
            _log.info("the origin is asked as usual again", extra={"times": self._breaker.opened})
