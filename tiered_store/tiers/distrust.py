"""Names that the cdn is not asked for, for a while: it lied about them, or may hold what a write has replaced.

Knows names only. Bounded: beyond ``max_names`` the one entered longest ago is forgotten, and trusted again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Distrusted"]

#: How long a name stays, in seconds: longer than most of what is repaired by hand or by a purge takes.
_FOR_S = 600.0
#: Some 2 MiB of names at worst beside the table, at their usual length.
_MAX_NAMES = 8192


class Distrusted:
    """Names with the time until which they are distrusted; in the order of that time.

    Args:
        clock: monotonic seconds.
        for_s: how long, in seconds.
        max_names: how many at most.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, for_s: float = _FOR_S, max_names: int = _MAX_NAMES
    ) -> None:
        self._clock = clock
        self._for_s = for_s
        self._max_names = max_names
        self._until: dict[str, float] = {}

    def add(self, name: str) -> None:
        """Distrust a name from now on, whether or not it was before."""
        self._until.pop(name, None)
        if len(self._until) >= self._max_names:
            del self._until[next(iter(self._until))]
        self._until[name] = self._clock() + self._for_s

    def holds(self, name: str) -> bool:
        """Whether a name is distrusted now."""
        until = self._until.get(name)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self._until[name]
        return False
