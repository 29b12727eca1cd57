"""Who is in the air: at most one flight per key, and the rule that a write overtakes it.

A flight is anything that takes time and ends by installing what it read: a fill from the origin, a look
into the disk tier, a promotion. This module knows nothing of what they do.

The law that keeps old bytes out of the tiers, in two halves:

1. A write takes its key's flights out of the table at the moment it completes at the origin, before it
   installs anything and before it is acknowledged. Later readers therefore start a new flight.
2. A flight installs only while it is the one in the table, and asks that in the same turn of the event
   loop in which it installs.

So being in the table *is* the generation of a flight, and nothing has to be counted or cleaned up: a
flight that was overtaken still answers those who wait for it (their request began before the write was
acknowledged), and then is gone.
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["Flights"]

F = TypeVar("F")


class Flights(Generic[F]):
    """One flight per key."""

    def __init__(self) -> None:
        self._table: dict[str, F] = {}

    def get(self, key: str) -> F | None:
        """The flight that a reader of the key may join."""
        return self._table.get(key)

    def take_off(self, key: str, flight: F) -> None:
        """Enter a flight; there must be none for the key."""
        if self._table.setdefault(key, flight) is not flight:
            raise ValueError("there is a flight for this key already")

    def is_current(self, key: str, flight: F) -> bool:
        """Whether nothing overtook the flight: it may install what it read, now."""
        return self._table.get(key) is flight

    def land(self, key: str, flight: F) -> None:
        """The flight is over, whatever came of it; nobody joins it any more."""
        if self._table.get(key) is flight:
            del self._table[key]

    def overtake(self, key: str) -> F | None:
        """A write of the key has completed: the flight, if any, may no longer install or be joined."""
        return self._table.pop(key, None)
