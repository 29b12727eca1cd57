"""One fill: an object on its way from the origin to everybody who waits for it.

A fill runs in a task that belongs to no reader. It knows how to read, verify and collect; who may
install the result, and what a policy says, is decided by its owner (``fills.py``).

Invariants: bytes that a reader can see never change; a fill ends with an entry or with an error, never
with a part of an object; memory in use does not depend on the object's size.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tiered_store.aio.limits import ByteBudget
from tiered_store.errors import IntegrityError
from tiered_store.key import Key, digest_of, is_artifact
from tiered_store.objects import INLINE_MAX_BYTES, Entry, ObjectInfo
from tiered_store.origins.base import CHUNK_BYTES
from tiered_store.store.spool import Spool, Staged
from tiered_store.store.staging import Staging
from tiered_store.store.upstream import Upstream, UpstreamRead

__all__ = ["Fill", "verify_artifact"]

#: What a streaming fill holds at most: one chunk read, and one gathered or being written.
_STREAM_BYTES = 2 * CHUNK_BYTES


class Fill:
    """What the readers of one key share while it is fetched.

    Args:
        key: the object.
        stale: the expired entry that is to be revalidated, or None.

    Attributes:
        info: what the origin says of the object, as soon as it has answered.
        spool: where the bytes grow, for objects that are streamed.
        readers: how many want it.
        in_memory: whether any of them wants it kept in the memory tier.
        task: the task it runs in; set by the owner.
    """

    def __init__(self, key: Key, stale: Entry | None) -> None:
        self.key = key
        self.stale = stale
        self.info: ObjectInfo | None = None
        self.spool: Spool | None = None
        self.readers = 0
        self.in_memory = False
        self.task: asyncio.Task[None] | None = None
        self._entry: Entry | None = None
        self._error: BaseException | None = None
        self._opened = asyncio.Event()
        self._grown = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, one way or the other."""
        return self._ended.is_set()

    @property
    def is_past_half(self) -> bool:
        """Whether finishing it costs less than starting again."""
        return self.spool is not None and self.info is not None and 2 * self.spool.written > self.info.size

    async def opened(self) -> ObjectInfo:
        """Wait until the origin has answered. Raises what the fill ended with, if that was before."""
        if self.info is None:
            await self._opened.wait()
        if self.info is None:
            raise self._failure()
        return self.info

    async def entry(self) -> Entry:
        """Wait for the whole, verified object; raises what the fill ended with."""
        if not self._ended.is_set():
            await self._ended.wait()
        if self._entry is None:
            raise self._failure()
        return self._entry

    async def grown(self, beyond: int) -> int:
        """Wait until more than ``beyond`` bytes can be read from the spool, or the fill is over; gives how many."""
        while not self._ended.is_set():
            if self.spool is not None and self.spool.written > beyond:
                return self.spool.written
            await self._grown.wait()
        return 0 if self.spool is None else self.spool.written

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

    async def bring(self, upstream: Upstream, staging: Staging, budget: ByteBudget) -> Staged | None:
        """Read the object and collect it.

        Returns:
            the bytes (``info`` is set then), or None if the stale entry is still what the origin has.

        Raises:
            NotFound, OriginUnavailable, PermissionDenied: from the origin.
            IntegrityError: the bytes of an artifact do not have its digest.
            QuotaExceeded: there is no room to collect so much.
        """
        # Two steps, so that thousands of small fills can run while large ones wait: room for a small object
        # before the origin is asked, the buffers of a stream once it turns out to be one. Those who wait for
        # the second step hold an open read but none of the budget, and stand in front of all newcomers: there
        # are never more of them than fit into the budget with the first step.
        async with _taken(budget, INLINE_MAX_BYTES):
            read = await upstream.open(self.key, if_none_match=self.stale.info.etag if self.stale else None)
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
        return staged

    async def _read_small(self, read: UpstreamRead) -> Staged:
        """The cheapest path: one read, bytes, no spool. Readers are told of it when all of it is there."""
        data = await read.next()
        while chunk := await read.next() if data else b"":
            data += chunk
        if is_artifact(self.key):
            verify_artifact(self.key, hashlib.sha256(data).hexdigest())
        self.info = read.info
        return Staged(data, len(data))

    async def _read_stream(self, read: UpstreamRead, staging: Staging) -> Staged:
        artifact = is_artifact(self.key)
        self.spool = staging.spool(read.info.size, hashed=artifact, bounded=False)
        try:
            await self.spool.open()
            self.info = read.info
            self._opened.set()
            while chunk := await read.next():
                await self.spool.write(chunk)
                self._tell()
            staged = await self.spool.finish()
        except BaseException:
            await self.spool.abort()
            raise
        if artifact:
            verify_artifact(self.key, staged.digest)
        return staged

    def _failure(self) -> BaseException:
        """The error, a new one for each reader: raising one object many times chains up all their tracebacks."""
        error = self._error
        assert error is not None
        try:
            return copy.copy(error).with_traceback(None)
        except Exception:  # an exception of a shape of its own; shared, then
            return error

    def _tell(self) -> None:
        """Wake whoever waits for more bytes: setting an event wakes all, and the next wait finds it clear."""
        self._grown.set()
        self._grown.clear()

    def _end(self) -> None:
        self.spool = None  # the entry has the file now, or nobody
        self._ended.set()
        self._opened.set()
        self._grown.set()


def verify_artifact(key: Key, digest: str | None) -> None:
    """Raises IntegrityError unless the bytes that the origin gave for an artifact have its digest."""
    expected = digest_of(key)
    if digest != expected:
        raise IntegrityError(
            "the origin holds other bytes than the digest says",
            key=key,
            expected=expected,
            actual=digest,
            source="origin",
        )


@asynccontextmanager
async def _taken(budget: ByteBudget, size: int) -> AsyncIterator[None]:
    taken = await budget.take(size)
    try:
        yield
    finally:
        budget.give(taken)
