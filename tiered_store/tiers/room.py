"""How much may still be written: the ledger of one directory's bytes.

Every byte is reserved here before it is written, from whatever thread. Knows sums, not objects. The
invariant: ``used`` (index, files and reservations) plus what was not counted yet stays within
``max_bytes``, and a reservation is granted only while the file system keeps its own minimum free.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Condition

__all__ = ["HIGH_WATER", "LOW_WATER", "Room"]

#: Above this share of the bound the tier is culled, down to the lower one: a few percent apart, so that
#: culling comes in bouts and writers rarely meet a full tier.
HIGH_WATER = 0.95
LOW_WATER = 0.90
#: The file system is asked again after this time or this many bytes granted.
_CHECK_S = 1.0
_CHECK_BYTES = 64 * 1024 * 1024


class Room:
    """The ledger. All methods may be called from any thread and block only where they say so.

    Args:
        directory: on the file system that is watched.
        max_bytes: the bound.
        min_free_bytes: what the file system must keep free, for others.
        min_free_inodes: likewise in files.
        clock: monotonic seconds.
        on_starved: called, from any thread, when a reservation was refused that culling could allow.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        min_free_bytes: int,
        min_free_inodes: int,
        clock: Callable[[], float],
        on_starved: Callable[[], None],
    ) -> None:
        self.max_bytes = max_bytes
        self._directory = directory
        self._min_free_bytes = min_free_bytes
        self._min_free_inodes = min_free_inodes
        self._clock = clock
        self._on_starved = on_starved
        self._changed = Condition()
        self._index = 0
        self._reserved = 0
        # Finalizers give room back, and run anywhere, even inside a method of this class in the same
        # thread: appending to a deque needs no lock. Folded in whenever a sum is taken.
        self._given_back: deque[int] = deque()
        self._uncounted = 0
        self._wanted = 0
        self._culling = False
        self._is_bare = False
        self._spare = 0
        self._inodes_short = False
        self._checked_at = float("-inf")
        self._granted = 0

    @property
    def used(self) -> int:
        """Bytes charged now: index, files, reservations. Never waits for another thread."""
        if self._changed.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._changed.release()
        return self._index + self._reserved

    def could_fit(self, size: int) -> bool:
        """Whether ``size`` bytes fit when everything else is culled; leaves room for the index."""
        return size <= int(self.max_bytes * LOW_WATER)

    def has_allowance(self, size: int) -> bool:
        """Whether the bound leaves ``size`` bytes, whatever the file system says."""
        with self._changed:
            self._fold()
            return self._index + self._reserved + self._uncounted + size <= self.max_bytes

    def is_hopeless(self, size: int) -> bool:
        """Whether culling cannot help: others fill the file system, and nothing of ours is left to remove."""
        return self._is_bare and self.has_allowance(size)

    def reserve(self, size: int) -> bool:
        """Take ``size`` bytes, or tell that they are not there now; asks the file system now and then."""
        return self.reserve_or_wait(size, 0.0)

    def reserve_or_wait(self, size: int, timeout_s: float) -> bool:
        """As :meth:`reserve`, but blocks until culling has made room or the time is over."""
        deadline = self._clock() + timeout_s
        if self._granted + size > _CHECK_BYTES or self._clock() - self._checked_at > _CHECK_S:
            self.refresh()
        with self._changed:
            while not self._try(size):
                self._on_starved()
                remaining = deadline - self._clock()
                if remaining <= 0 or not self._changed.wait(remaining):
                    return False
            return True

    def release(self, size: int) -> None:
        """Give a reservation back; never blocks, also right for finalizers."""
        self._given_back.append(size)

    def settle(self, index_bytes: int, released: int = 0) -> None:
        """Note what the index and its files take now, and give back what was reserved for them."""
        with self._changed:
            if index_bytes > self._index:
                self._is_bare = False
            self._index = index_bytes
            self._reserved -= released
            self._changed.notify_all()

    def expect(self, uncounted: int) -> None:
        """Note how many bytes may lie in the directory that no sum knows yet (0: all are counted)."""
        with self._changed:
            self._uncounted = max(0, uncounted)

    def found(self, size: int) -> None:
        """Some of the bytes that were expected are counted or gone."""
        with self._changed:
            self._uncounted = max(0, self._uncounted - size)

    def excess(self) -> int:
        """How many bytes should be culled now; 0 for none."""
        with self._changed:
            self._fold()
            used = self._index + self._reserved
            if used > self.max_bytes * HIGH_WATER:
                self._culling = True
            elif used <= self.max_bytes * LOW_WATER:
                self._culling = False
            target = int(self.max_bytes * LOW_WATER) if self._culling else used
            if self._wanted and not self._uncounted:  # what is not counted yet cannot be culled for anybody
                target = min(target, self.max_bytes - self._wanted)
            if self._spare < self._wanted:
                target = min(target, used + self._spare - self._wanted)
            if self._inodes_short:
                target = min(target, used - 1)
            excess = 0 if self._is_bare else max(0, used - max(0, target))
            if not excess:
                self._wanted = 0  # there is room; who wanted it was told by settle()
            return excess

    def want(self, size: int) -> None:
        """Somebody needs ``size`` bytes that the file system did not give, whatever the sums say."""
        with self._changed:
            self._wanted = max(self._wanted, size)
            self._spare = min(self._spare, 0)

    def give_up(self) -> None:
        """There is nothing left to cull: stop asking for it until there is."""
        with self._changed:
            self._wanted = 0
            self._is_bare = True
            self._changed.notify_all()

    def refresh(self) -> None:
        """Ask the file system what is free; blocking."""
        try:
            system = os.statvfs(self._directory)
        except OSError:
            return  # whoever writes next meets the fault, with a better message
        with self._changed:
            self._spare = system.f_bavail * system.f_frsize - self._min_free_bytes
            # Some file systems have no fixed number of inodes and report none at all.
            self._inodes_short = system.f_files > 0 and system.f_favail < self._min_free_inodes
            self._checked_at = self._clock()
            self._granted = 0

    def _fold(self) -> None:
        given_back = self._given_back
        while given_back:
            self._reserved -= given_back.popleft()

    def _try(self, size: int) -> bool:
        self._fold()
        total = self._index + self._reserved + self._uncounted + size
        if total > self.max_bytes or size > self._spare or self._inodes_short:
            self._wanted = max(self._wanted, size)
            return False
        self._reserved += size
        self._spare -= size
        self._granted += size
        return True
