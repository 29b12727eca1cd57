"""Where short work on files is done: by the thread that has it to do, or by others.

On a local file system a system call computes, and one thread that makes all of them is quickest: with several, each
call ends with a wait for the interpreter's lock. On a network's, or on a disk that must be read first, it waits, and
several should wait side by side. Which of the two it is, nobody can say beforehand; the processor's time beside the
time that passes tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

__all__ = ["Pace"]

T = TypeVar("T")

#: Less says nothing: one wait for a journal, or for a processor that others use.
_LOOK_S: Final = 0.05
#: Of the time that passes, what is computed at least where threads would not help. A machine on which each processor
#: is wanted by three is still above it.
_COMPUTED_AT_LEAST: Final = 0.25
#: Pieces of work that are given away before one is looked at again.
_AWAY: Final = 16


class Pace:
    """Decides by measuring what is done here.

    Args:
        clock: seconds, of the time that passes.
        computed: seconds that this thread has had a processor.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, computed: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock = clock
        self._computed = computed
        self._passed_s = self._computed_s = 0.0
        self._away = 0

    def is_here(self) -> bool:
        """Whether the next piece of work should be done here; asked once for each."""
        if self._away:
            self._away -= 1
            return False
        return True

    def measured(self, work: Callable[[], T]) -> T:
        """Do a piece of work here, and learn from it."""
        start, computed = self._clock(), self._computed()
        result = work()
        self._passed_s += self._clock() - start
        self._computed_s += self._computed() - computed
        if self._passed_s >= _LOOK_S:
            if self._computed_s < _COMPUTED_AT_LEAST * self._passed_s:
                self._away = _AWAY
            self._passed_s = self._computed_s = 0.0
        return result
