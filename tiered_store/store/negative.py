"""Remembered misses: keys that the origin has just said it does not have.

Knows keys and a clock. Bounded: beyond ``max_keys`` the oldest is forgotten, which costs one question
to the origin and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MAX_KEYS", "NegativeCache"]

MAX_KEYS = 65_536


class NegativeCache:
    """Which keys do not exist, for a short while."""

    def __init__(self, clock: Callable[[], float], *, max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._until: dict[str, float] = {}

    def remember(self, key: str, ttl_s: float) -> None:
        """The origin does not have ``key``; take its word for ``ttl_s`` seconds."""
        if ttl_s <= 0:
            return
        self._until.pop(key, None)
        if len(self._until) >= self._max_keys:
            del self._until[next(iter(self._until))]
        self._until[key] = self._clock() + ttl_s

    def holds(self, key: str) -> bool:
        """Whether the key is known not to exist."""
        until = self._until.get(key)
        if until is None:
            return False
        if self._clock() < until:
            return True
        del self._until[key]
        return False

    def forget(self, key: str) -> None:
        """The key may exist now."""
        self._until.pop(key, None)
