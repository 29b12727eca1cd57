"""One try of a fill, as those see it who read the object while it grows.

A fill may have to start anew. Those who wait for the whole notice nothing of that; whoever was told something of
the first try, or given bytes of it, holds its flow, and learns from it that it is not going on.

Invariant: the bytes that a flow shows never change; it ends once, with the fill or before it.
"""

from __future__ import annotations

import asyncio
import copy

from tiered_store.errors import StoreError
from tiered_store.key import is_artifact
from tiered_store.objects import ObjectInfo
from tiered_store.store.spool import Spool

__all__ = ["Flow", "is_same_object", "own_copy"]


class Flow:
    """A spool that grows, and what is said of the object in it.

    Args:
        info: the object's.
        spool: where its bytes are collected.
        head: the first of them: two hops to threads before they can be read from the spool.

    Attributes:
        info: see above.
        head: see above; empty when the spool has them.
        spool: see above; None from the end on, when an entry has the file, or nobody.
        given_up: why the fill starts anew without it; None while it grows, and where it ended with the fill.
    """

    def __init__(self, info: ObjectInfo, spool: Spool, head: bytes) -> None:
        self.info = info
        self.head = head
        self.spool: Spool | None = spool
        self.given_up: StoreError | None = None
        self._grown = asyncio.Event()
        self._over = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether nothing comes any more."""
        return self._over.is_set()

    @property
    def written(self) -> int:
        """How many bytes can be read."""
        return 0 if self.spool is None else max(self.spool.written, len(self.head))

    async def grown(self, beyond: int) -> int:
        """Wait until more than ``beyond`` bytes can be read, or the flow is over; gives how many."""
        while not self.is_over and self.written <= beyond:
            await self._grown.wait()
        return self.written

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes that can be read.

        Raises:
            OSError, ValueError: the flow is over, and its file is gone.
        """
        if offset + length <= len(self.head):
            return self.head[offset : offset + length]
        if self.spool is None:
            raise ValueError("the flow is over")
        return await self.spool.read(offset, length)

    async def over(self) -> None:
        """Wait for the end."""
        await self._over.wait()

    def tell(self) -> None:
        """Wake whoever waits for more bytes: setting an event wakes all, and the next wait finds it clear."""
        self._grown.set()
        self._grown.clear()

    def end(self, given_up: StoreError | None = None) -> None:
        """Nothing more comes; more than once is fine."""
        if not self.is_over:
            self.given_up = given_up
            self.head = b""
            self.spool = None
            self._over.set()
            self._grown.set()


def is_same_object(one: ObjectInfo, other: ObjectInfo) -> bool:
    """Whether whoever was told the one may be given the bytes of the other.

    An artifact's bytes are known by its name; the cdn may say of it what the origin does not.
    """
    return one == other or (is_artifact(one.key) and (one.key, one.size) == (other.key, other.size))


def own_copy(error: BaseException) -> BaseException:
    """An error for one of many readers: raising one object many times chains up all their tracebacks."""
    try:
        return copy.copy(error).with_traceback(None)
    except Exception:  # an exception of a shape of its own; shared, then
        return error
