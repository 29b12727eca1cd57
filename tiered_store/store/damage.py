"""Remembered damage: artifacts whose bytes at the origin were found not to have their digest.

Knows keys only. Bounded: beyond ``max_keys`` the one found longest ago is forgotten, and found again by the
next reader.
"""

from __future__ import annotations

from tiered_store.key import Key

__all__ = ["KnownDamage"]


class KnownDamage:
    """Which artifacts the origin is known to hold with wrong bytes."""

    def __init__(self, *, max_keys: int = 4096) -> None:
        self._max_keys = max_keys
        self._keys: dict[Key, None] = {}

    def remember(self, key: Key) -> None:
        """The origin gave wrong bytes for this artifact."""
        self._keys.pop(key, None)
        if len(self._keys) >= self._max_keys:
            del self._keys[next(iter(self._keys))]
        self._keys[key] = None

    def holds(self, key: Key) -> bool:
        """Whether the artifact is known to be damaged."""
        return key in self._keys

    def forget(self, key: Key) -> None:
        """The artifact was written, deleted, or read whole."""
        self._keys.pop(key, None)
