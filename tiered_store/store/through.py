"""Reads of the origin for one reader alone, where nothing on this machine has room to collect the object.

Such a read holds a connection to the origin for as long as its reader takes. Invariant: no more of them are open than
there are places, and what one holds is given back when its reader has gone, however that went.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tiered_store.aio.limits import ByteBudget
from tiered_store.aio.offload import Offload
from tiered_store.aio.tasks import TaskSet
from tiered_store.key import Key
from tiered_store.origins.base import CHUNK_BYTES
from tiered_store.store.reading import ThroughReading
from tiered_store.store.upstream import Upstream, UpstreamRead

__all__ = ["ThroughReads"]

#: What such a reader holds: one chunk read, one being sent.
_BYTES = 2 * CHUNK_BYTES


class ThroughReads:
    """The reads of one store that pass it by.

    Args:
        upstream: the origin.
        budget: what a reader holds counts here.
        offload: where artifacts are hashed.
        condemn: called with the key of an artifact whose bytes are wrong.
        max_open: at once; further ones wait.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        budget: ByteBudget,
        offload: Offload,
        condemn: Callable[[Key], None],
        max_open: int,
    ) -> None:
        self._upstream = upstream
        self._budget = budget
        self._offload = offload
        self._condemn = condemn
        self._places = asyncio.Semaphore(max_open)
        self._closers = TaskSet("closing a read", log_faults=True)

    async def open(self, key: Key) -> ThroughReading:
        """Start such a read. Raises as ``Origin.open``."""
        await self._places.acquire()
        try:
            taken = await self._budget.take(_BYTES)
            try:
                read = await self._upstream.open(key)
                assert read is not None  # only a conditional read answers None
            except BaseException:
                self._budget.give(taken)
                raise
        except BaseException:
            self._places.release()
            raise

        def leave() -> None:
            self._budget.give(taken)
            self._closers.start(self._close(read))

        return ThroughReading(read, offload=self._offload, leave=leave, condemn=self._condemn)

    async def close(self, timeout_s: float) -> None:
        """Wait for the reads that are being closed."""
        await self._closers.wait(timeout_s)

    async def _close(self, read: UpstreamRead) -> None:
        try:
            await read.close()
        finally:
            self._places.release()
