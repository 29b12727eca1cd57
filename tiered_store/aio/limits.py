"""Bounds that tasks wait for: a budget of bytes, and one lock per key.

Both hand over in the order of arrival, and both survive the cancellation of anyone who waits: what was
granted to a task that is just being cancelled goes to the next in line. They know no cache and live on
one event loop. Invariant: what is taken never exceeds the bound, and a table holds only keys in use.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

__all__ = ["ByteBudget", "KeyedLocks"]


class ByteBudget:
    """So many bytes for everybody; first come, first served.

    Nobody overtakes: a small request behind a large one waits with it, or the large one would starve.

    Args:
        max_bytes: the bound; at least 1.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._queue: deque[tuple[asyncio.Future[None], int]] = deque()

    async def take(self, size: int) -> int:
        """Wait for ``size`` bytes.

        Returns:
            what was taken and has to be given back: ``size``, or the whole budget if that is less, so that
            no request waits for ever.
        """
        size = min(size, self.max_bytes)
        if not self._queue and self.used_bytes + size <= self.max_bytes:
            self.used_bytes += size
            return size
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((granted, size))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                with suppress(ValueError):  # a hand-over in the same turn of the loop took it out already
                    self._queue.remove((granted, size))
                self._hand_over()  # it may have stood in front of one that fits
            else:
                self.give(size)  # granted in the very turn of the loop in which the task was cancelled
            raise
        return size

    def give(self, size: int) -> None:
        """Give back what :meth:`take` returned."""
        self.used_bytes -= size
        self._hand_over()

    def _hand_over(self) -> None:
        while self._queue:
            granted, size = self._queue[0]
            if not granted.done():  # else cancelled in this turn of the loop
                if self.used_bytes + size > self.max_bytes:
                    return
                self.used_bytes += size
                granted.set_result(None)
            self._queue.popleft()


class KeyedLocks:
    """One lock per key; a key without a holder takes no room."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}

    async def acquire(self, key: str) -> None:
        """Wait until this caller holds the key's lock."""
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque()
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                with suppress(ValueError):  # a release in the same turn of the loop took it out already
                    queue.remove(granted)
            else:
                self.release(key)  # handed over in the very turn of the loop in which the task was cancelled
            raise

    def release(self, key: str) -> None:
        """Let go of the key's lock; the longest waiting gets it."""
        queue = self._queues[key]
        while queue:
            granted = queue.popleft()
            if not granted.done():  # else cancelled in this turn of the loop
                granted.set_result(None)
                return
        del self._queues[key]

    async def acquire_all(self, keys: Iterable[str]) -> list[str]:
        """Hold many at once; always taken in sorted order, so that two such callers cannot block each other.

        Returns:
            the keys that are now held, each once, for :meth:`release_all`.
        """
        held: list[str] = []
        try:
            for key in sorted(set(keys)):
                await self.acquire(key)
                held.append(key)
        except BaseException:
            self.release_all(held)
            raise
        return held

    def release_all(self, keys: Iterable[str]) -> None:
        """Let go of many."""
        for key in keys:
            self.release(key)
