"""One fill: an object on its way from the cdn or the origin to everybody who waits for it.

A fill runs in a task that belongs to no reader. It knows how to collect what ``sources.py`` reads and verifies; who
may install the result, and what a policy says, is decided by its owner (``fills.py``).

A fill starts anew, a few times at most, where a source turns out to lie or to have changed: what a reader was given
already cannot be taken back, so a reader who has bytes of the try before gets an error, and all others notice nothing.

Invariants: bytes that a reader can see never change; a fill ends with an entry or with an error, never
with a part of an object; memory in use does not depend on the object's size.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tiered_store.aio.limits import ByteBudget
from tiered_store.errors import QuotaExceeded
from tiered_store.key import Key
from tiered_store.objects import INLINE_MAX_BYTES, Entry, ObjectInfo
from tiered_store.origins.base import CHUNK_BYTES
from tiered_store.store.flow import Flow, own_copy
from tiered_store.store.sources import SourceRead, Sources, StartAnew
from tiered_store.store.spool import Staged
from tiered_store.store.staging import Staging

__all__ = ["Fill"]

#: What a streaming fill holds at most: one chunk read, and one gathered or being written.
_STREAM_BYTES = 2 * CHUNK_BYTES
#: How often the source is asked at most: a cdn that lies takes one try, an object that is overwritten one each time.
_TRIES = 3


class Fill:
    """What the readers of one key share while it is fetched.

    Args:
        key: the object.
        stale: the expired entry that is to be revalidated, or None.

    Attributes:
        info: what the source says of the object, as soon as it has answered.
        flow: where the bytes grow, for objects that are streamed; set and taken back together with ``info``.
        tier: the place that answered.
        readers: how many want it.
        in_memory: whether any of them wants it kept in the memory tier.
        task: the task it runs in; set by the owner.
    """

    def __init__(self, key: Key, stale: Entry | None) -> None:
        self.key = key
        self.stale = stale
        self.info: ObjectInfo | None = None
        self.flow: Flow | None = None
        self.tier = "origin"
        self.readers = 0
        self.in_memory = False
        self.task: asyncio.Task[None] | None = None
        self._entry: Entry | None = None
        self._error: BaseException | None = None
        self._opened = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self._ended.is_set()

    @property
    def is_past_half(self) -> bool:
        """Whether finishing it costs less than starting again."""
        return self.flow is not None and 2 * self.flow.written > self.flow.info.size

    async def opened(self) -> ObjectInfo:
        """Wait until the source has answered. Raises what the fill ended with, if that was before."""
        while self.info is None:
            if self.is_over:
                raise self._failure()
            await self._opened.wait()
        return self.info

    async def entry(self) -> Entry:
        """Wait for the whole, verified object; raises what the fill ended with."""
        if not self._ended.is_set():
            await self._ended.wait()
        if self._entry is None:
            raise self._failure()
        return self._entry

    def succeed(self, entry: Entry) -> None:
        """The end: here it is."""
        self.info = entry.info
        self._entry = entry
        self._end()

    def fail(self, error: BaseException) -> None:
        """The end, unless it was over already: everybody who waits gets this error."""
        if self.is_over:
            return
        # Its traceback would keep alive what the fill's frames hold: buffers, descriptors.
        self._error = error.with_traceback(None)
        self._end()

    async def bring(self, sources: Sources, staging: Staging, budget: ByteBudget) -> Staged | None:
        """Read the object and collect it.

        Returns:
            the bytes (``info`` is set then), or None if the stale entry is still what the origin has.

        Raises:
            NotFound, OriginUnavailable, PermissionDenied: from the origin.
            IntegrityError: the bytes of an artifact do not have its digest, at the origin.
            QuotaExceeded: there is no room to collect so much.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                return await self._try(sources, staging, budget, origin_only=tries_left + 1 < _TRIES)
            except StartAnew as again:
                if not tries_left:
                    raise again.error from None
                self._give_up(again)
        raise AssertionError("the last try ends with a result or an error")

    async def _try(self, sources: Sources, staging: Staging, budget: ByteBudget, *, origin_only: bool) -> Staged | None:
        # Two steps, so that thousands of small fills can run while large ones wait: room for a small object
        # before the source is asked, the buffers of a stream once it turns out to be one. Those who wait for
        # the second step hold an open read but none of the budget, and stand in front of all newcomers: there
        # are never more of them than fit into the budget with the first step.
        async with _taken(budget, INLINE_MAX_BYTES):
            etag = self.stale.info.etag if self.stale else None
            read = await sources.open(self.key, if_none_match=etag, origin_only=origin_only)
            if read is None:
                return None
            try:
                small = read.info.size <= INLINE_MAX_BYTES
                staged = await self._read_small(read) if small else None
            except BaseException:
                await read.close()
                raise
        try:
            if staged is None:
                async with _taken(budget, _STREAM_BYTES):
                    staged = await self._read_stream(read, staging)
        finally:
            await read.close()
        self.tier = read.tier
        return staged

    async def _read_small(self, read: SourceRead) -> Staged:
        """The cheapest path: one read, bytes, no spool. Readers are told of it when all of it is there."""
        data = await read.next()
        while chunk := await read.next() if data else b"":
            data += chunk
        if read.digest is not None:
            read.judge(hashlib.sha256(data).hexdigest())
        self.info = read.info
        return Staged(data, len(data))

    async def _read_stream(self, read: SourceRead, staging: Staging) -> Staged:
        spool = staging.spool(read.info.size, hashed=read.digest is not None, bounded=False)
        try:
            await spool.open()
            head = await read.next()
            flow = Flow(read.info, spool, head)
            self.info, self.flow = read.info, flow
            self._opened.set()
            await spool.write(head)
            flow.head = b""
            flow.tell()
            while chunk := await read.next():
                await spool.write(chunk)
                flow.tell()
            staged = await spool.finish()
            read.judge(staged.digest)
        except QuotaExceeded as error:
            await spool.abort()
            if read.tier == "cdn":  # which may have announced any size
                raise StartAnew(error) from None
            raise
        except BaseException:
            await spool.abort()
            raise
        return staged

    def _give_up(self, again: StartAnew) -> None:
        """What was said and shown so far holds no more."""
        flow, self.flow, self.info = self.flow, None, None
        self._opened.clear()
        if flow is not None:
            flow.end(again.error)

    def _failure(self) -> BaseException:
        assert self._error is not None
        return own_copy(self._error)

    def _end(self) -> None:
        self._ended.set()
        self._opened.set()
        if self.flow is not None:
            self.flow.end()


@asynccontextmanager
async def _taken(budget: ByteBudget, size: int) -> AsyncIterator[None]:
    taken = await budget.take(size)
    try:
        yield
    finally:
        budget.give(taken)
