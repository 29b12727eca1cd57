"""Reading one object from S3: one version, in chunks, verified where its writer left a digest.

One stream of an S3 server gives a fraction of what the link can carry, so a large object is asked for in ranges, some
of them ahead of the reader. What is ahead is in memory; how much that is, over all reads, is bounded by tokens, and a
read that gets none goes on from one stream. Every range is of one version: a server that looks at no conditions still
tells its ETag.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from tiered_store.errors import IntegrityError, OriginUnavailable
from tiered_store.objects import ObjectInfo
from tiered_store.origins.base import CHUNK_BYTES
from tiered_store.origins.s3errors import translated
from tiered_store.origins.s3settings import S3Settings

__all__ = ["S3Read", "Tokens"]

#: Asks for a range of the version that is being read, by offset and length; gives the SDK's stream.
_Fetch = Callable[[int, int], Awaitable[Any]]
#: Ranges on their way at once for one read, besides the one that is being handed out.
_AHEAD: Final = 4


class Tokens:
    """So many ranges may be in memory, over all reads; nobody waits for one."""

    def __init__(self, count: int) -> None:
        self._left = count

    def take(self) -> bool:
        """Take one, if there is one."""
        if self._left <= 0:
            return False
        self._left -= 1
        return True

    def give(self) -> None:
        """Give one back."""
        self._left += 1


class S3Read:
    """An object being read; implements ``OriginRead``.

    Args:
        info: the whole object's.
        body: the SDK's stream of the first bytes, or None where there are none to come.
        size: bytes that this stream has.
        digest: what all the bytes have to hash to, or None.
        settings: the bucket's.
        fetch: for what comes behind the first stream, up to the object's end; None where nothing does.
        tokens: one for each range that may be read ahead, over all reads.
    """

    def __init__(
        self,
        info: ObjectInfo,
        body: Any,
        size: int,
        digest: str | None,
        settings: S3Settings,
        *,
        fetch: _Fetch | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._info = info
        self._body = body
        self._size = size
        self._expected = digest
        self._settings = settings
        self._fetch = fetch
        self._tokens = tokens
        self._ahead: deque[tuple[int, asyncio.Task[list[bytes]] | None]] = deque()
        self._is_closed = False

    @property
    def info(self) -> ObjectInfo:
        """The whole object's."""
        return self._info

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, in order, at most ``CHUNK_BYTES`` each.

        Raises:
            OriginUnavailable: the connection broke, the object changed, or the read was closed.
            IntegrityError: these are not the bytes that were written.
        """
        digest = None if self._expected is None else hashlib.sha256()
        missing = self._size if self._fetch is None else self._info.size
        held: bytes | None = None  # the last chunk is handed out only when all of them have been verified
        with translated(self._settings, self._info.key):
            async for chunk in self._all():
                if self._is_closed:
                    break
                missing -= len(chunk)
                if digest is not None:
                    digest.update(chunk)
                if held is not None:
                    yield held
                held = chunk
            if missing or self._is_closed:
                raise OriginUnavailable("the read was closed before its end")
            if digest is not None and digest.hexdigest() != self._expected:
                raise IntegrityError(
                    "the origin gives other bytes than were written",
                    expected=self._expected,
                    actual=digest.hexdigest(),
                    source="origin",
                )
        if held is not None:
            yield held

    async def _all(self) -> AsyncIterator[bytes]:
        if self._fetch is not None:
            self._plan(self._size)
        async for chunk in _read_chunks(self._body, self._size):
            yield chunk
        while self._ahead:
            offset, task = self._ahead.popleft()
            self._plan(offset + self._settings.part_bytes)
            length = min(self._settings.part_bytes, self._info.size - offset)
            if task is None:
                assert self._fetch is not None
                self._body = await self._fetch(offset, length)
                async for chunk in _read_chunks(self._body, length):
                    yield chunk
            else:
                try:
                    chunks = await task
                finally:
                    self._give()
                for chunk in chunks:
                    yield chunk

    def _plan(self, end: int) -> None:
        """See to it that the ranges behind ``end`` are on their way, as far as tokens allow; one is always planned."""
        if self._ahead:
            end = self._ahead[-1][0] + self._settings.part_bytes
        while end < self._info.size and len(self._ahead) < _AHEAD:
            task = None
            if self._tokens is not None and self._tokens.take():
                task = asyncio.create_task(self._range(end, min(self._settings.part_bytes, self._info.size - end)))
            elif self._ahead:
                return
            self._ahead.append((end, task))
            end += self._settings.part_bytes

    async def _range(self, offset: int, length: int) -> list[bytes]:
        assert self._fetch is not None
        body = await self._fetch(offset, length)
        try:
            return [chunk async for chunk in _read_chunks(body, length)]
        finally:
            body.close()

    def _give(self) -> None:
        if self._tokens is not None:
            self._tokens.give()

    async def close(self) -> None:
        """Give the connections back, or end them where bytes are still to come."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._body is not None:
            self._body.close()
        tasks = [task for _, task in self._ahead if task is not None]
        self._ahead.clear()
        for task in tasks:
            task.cancel()
            self._give()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read_chunks(body: Any, size: int) -> AsyncIterator[bytes]:
    """Exactly ``size`` bytes of the SDK's stream, in chunks of ``CHUNK_BYTES``.

    Raises:
        EOFError: it ends early.
    """
    while size:
        wanted = min(CHUNK_BYTES, size)
        pieces: list[bytes] = []
        missing = wanted
        while missing:
            piece: bytes = await body.read(missing)
            if not piece:
                raise EOFError(f"the answer ends {size - wanted + missing} bytes early")
            pieces.append(piece)
            missing -= len(piece)
        size -= wanted
        yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
