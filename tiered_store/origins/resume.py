"""One read of an origin that may fail: where it breaks, it is asked to go on.

The first word about a read's pass is its first chunk, not the answer's head: a server that cuts off every body fails.
A probe of a breaker that is half open is an exception, because others wait for its end: its answer counts at once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from tiered_store.aio.breaker import Pass
from tiered_store.errors import OriginUnavailable, StoreError
from tiered_store.objects import ObjectInfo
from tiered_store.origins.base import OriginRead, Resumable
from tiered_store.origins.retries import Attempts, Tries

__all__ = ["GuardedRead"]


class GuardedRead:
    """An object being read; implements ``OriginRead``.

    Args:
        read: the origin's.
        attempts: those at this origin.
        entered: the pass that it was opened with.
    """

    def __init__(self, read: OriginRead, attempts: Attempts, entered: Pass) -> None:
        self._read = read
        self._attempts = attempts
        self._entered = entered
        if not attempts.is_closed:
            attempts.answered(entered)
        self._chunks: AsyncIterator[bytes] | None = None
        self._tries: Tries | None = None  # since the last chunk
        self._is_broken = False
        self._is_waiting = False
        self._is_closed = False

    @property
    def info(self) -> ObjectInfo:
        """The whole object's."""
        return self._read.info

    def chunks(self) -> AsyncIterator[bytes]:
        """See ``OriginRead``. What breaks is resumed, as often as retries are allowed; time counts from the break."""
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if self._is_closed:
                raise OriginUnavailable("the read was closed before its end", key=self._read.info.key)
            try:
                chunk = await self._next()
            except StopAsyncIteration:
                self._attempts.answered(self._entered)
                raise
            except StoreError as error:
                self._attempts.failed(self._entered, error)
                if not await self._again(error):
                    raise
            except BaseException as error:
                self._attempts.failed(self._entered, error)
                raise
            else:
                self._attempts.answered(self._entered)
                self._tries = None
                return chunk

    async def _next(self) -> bytes:
        if self._is_broken:
            assert isinstance(self._read, Resumable)
            await self._read.resume()
            self._chunks, self._is_broken = None, False
        if self._chunks is None:
            self._chunks = self._read.chunks()
        self._is_waiting = True
        try:
            return await anext(self._chunks)
        finally:
            self._is_waiting = False

    async def _again(self, error: StoreError) -> bool:
        """Whether to go on, once it is time to."""
        if self._is_closed or not isinstance(self._read, Resumable):
            return False
        if self._tries is None:
            self._tries = self._attempts.begin()
        entered = await self._attempts.again(self._tries, error)
        if entered is None:
            return False
        if self._is_closed:
            entered.abandoned()
            return False
        self._entered, self._is_broken = entered, True
        return True

    async def close(self) -> None:
        """See ``OriginRead``."""
        self._is_closed = True
        self._entered.abandoned()
        if isinstance(self._chunks, AsyncGenerator) and not self._is_waiting:
            await self._chunks.aclose()  # else the garbage collector would do it, in a task of its own
        await self._read.close()
