"""Files of the journal that count no more, and are removed in the background.

Whoever needs to know that one cannot come back by a crash waits for that (:meth:`Dropped.settle`); nobody else waits,
and so one sync of the directory does for all that were dropped meanwhile. Knows no table of what counts. Invariants: a
file is known here from the moment it counts no more until its removal is durable; of one key the older files go before
the newer ones, so that a crash in the middle leaves no older one that looks as if it were the newest.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from tiered_store.aio.tasks import TaskSet
from tiered_store.errors import DaemonUnavailable, OriginUnavailable
from tiered_store.key import Key

__all__ = ["Dropped"]

_log = logging.getLogger("tiered_store.journal")

#: Files of one hop to a thread.
_BATCH = 1000
#: How soon files that could not be removed are tried again, and between two lines in the log about that, in seconds.
_RETRY_S = 5.0
_REPEAT_S = 60.0


class Dropped:
    """The files to be removed, by key.

    Args:
        remove: removes files by their numbers, in that order, durably; raises OSError.
        clock: monotonic seconds, for the log.
    """

    def __init__(
        self, remove: Callable[[Sequence[int]], Awaitable[None]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._remove = remove
        self._clock = clock
        self._by_key: dict[Key, set[int]] = {}
        self._tasks = TaskSet("removing files of the journal")
        self._sweep: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._said_at = float("-inf")
        self._is_closed = False

    def add(self, key: Key, sequence: int) -> None:
        """An entry of the key counts no more."""
        self._by_key.setdefault(key, set()).add(sequence)
        if self._retry is None and not self._is_closed:
            self._swept()

    async def settle(self, keys: Iterable[Key]) -> None:
        """Wait until none of these keys has an entry that could come back.

        Raises:
            OriginUnavailable: the journal's directory cannot be changed.
        """
        wanted = set(keys)
        while not wanted.isdisjoint(self._by_key):
            if self._is_closed:
                raise DaemonUnavailable("the daemon is stopping")
            try:
                await asyncio.shield(self._swept())
            except OSError as error:
                raise OriginUnavailable(
                    f"the origin has it, but an older put cannot be removed from the journal: {error.strerror}"
                ) from error

    async def close(self) -> None:
        """Remove what is left, once more if that has just failed."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        while self._by_key and not self._is_closed:
            sweep = self._swept()
            await asyncio.wait([sweep])
            self._is_closed = not sweep.cancelled() and sweep.exception() is not None
        self._is_closed = True

    def _swept(self) -> asyncio.Task[None]:
        """The removal that goes on, or a new one."""
        # One may have ended without `_ended` having been called yet. To wait for that is not to wait at all: whoever
        # does so in a loop would keep the event loop from ever calling it.
        if self._sweep is None or self._sweep.done():
            self._sweep = self._tasks.start(self._remove_some())
            self._sweep.add_done_callback(self._ended)
        return self._sweep

    async def _remove_some(self) -> None:
        batch = [(key, sequence) for key, sequences in self._by_key.items() for sequence in sorted(sequences)][:_BATCH]
        await self._remove([sequence for _, sequence in batch])
        for key, sequence in batch:
            left = self._by_key[key]
            left.discard(sequence)
            if not left:
                del self._by_key[key]

    def _ended(self, sweep: asyncio.Task[None]) -> None:
        if self._sweep is sweep:  # else the next one goes on already
            self._sweep = None
        if sweep.cancelled() or self._is_closed:
            return
        error = sweep.exception()
        if error is None:
            if self._by_key:
                self._swept()
            return
        if self._clock() - self._said_at >= _REPEAT_S:
            self._said_at = self._clock()
            _log.error(
                "files of the journal cannot be removed", extra={"reason": str(error), "keys": len(self._by_key)}
            )
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_S, self._again)

    def _again(self) -> None:
        self._retry = None
        if self._by_key and not self._is_closed:
            self._swept()
