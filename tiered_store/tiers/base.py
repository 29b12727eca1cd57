"""What every cache tier promises. Tiers know this module and never each other."""

from __future__ import annotations

from typing import Protocol

from tiered_store.key import Key
from tiered_store.objects import Entry
from tiered_store.stats import TierStats

__all__ = ["ReadFault", "Tier"]


class ReadFault(Exception):
    """A read of a tier that had begun cannot go on; whoever reads goes on with the place below."""


class Tier(Protocol):
    """A place that may forget.

    The law: what a tier answers for a key is the entry of the last :meth:`put`, whole and unchanged, or
    nothing. A fault (full, unreadable, corrupt) is "nothing", counted in ``stats``, and never an
    exception. :meth:`put` and :meth:`discard` take effect at once, before they return, whatever the
    tier still has to write in the background. All methods are called on the event loop's thread and
    do not block it.
    """

    @property
    def stats(self) -> TierStats:
        """Live counters. ``hits`` and ``misses`` are moved by whoever reads through the tier (the store)."""
        ...

    def peek(self, key: Key) -> Entry | None:
        """The entry, if the tier can give it without any I/O; None means "do not know", not "absent"."""
        ...

    async def get(self, key: Key) -> Entry | None:
        """The entry, or None."""
        ...

    def put(self, key: Key, entry: Entry) -> None:
        """Keep this entry in place of any other under the key; the tier may decline or forget it later."""
        ...

    def discard(self, key: Key) -> None:
        """Forget the key; unknown keys are fine."""
        ...

    async def drain(self) -> None:
        """Return when everything accepted so far has been written or given up."""
        ...

    async def close(self) -> None:
        """Drain, then let go of files and threads. The tier answers nothing afterwards."""
        ...
