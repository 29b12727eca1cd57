"""A value that is too large for memory, on its way from a tool into the build cache.

A fault does not end it: the peer has announced how much it sends, and goes on sending whatever we think of it. What
follows a fault is dropped, so that the answer comes where the peer looks for it.
"""

from __future__ import annotations

from collections.abc import Callable

from tiered_store.errors import StoreError
from tiered_store.store.spool import Spool, Staged

__all__ = ["Intake"]


class Intake:
    """One value.

    Args:
        open_spool: opens the room for it; raises StoreError if there is none.
        size: what was announced.
        refusal: why it is not wanted; it is dropped then.
    """

    def __init__(self, open_spool: Callable[[int], Spool], size: int, refusal: StoreError | None = None) -> None:
        self._fault = refusal
        self._spool: Spool | None = None
        if refusal is None:
            try:
                self._spool = open_spool(size)
            except StoreError as error:
                self._fail(error)

    def _fail(self, error: StoreError) -> None:
        # Without the traceback, which holds what it was raised about.
        self._fault = error.with_traceback(None)

    async def write(self, piece: bytes) -> None:
        """Take the next bytes."""
        if self._spool is None:
            return
        try:
            await self._spool.write(piece)
        except StoreError as error:
            self._fail(error)
            await self.abort()

    async def finish(self) -> Staged:
        """The whole value. Raises what went wrong with it."""
        if self._fault is not None:
            raise self._fault
        assert self._spool is not None
        return await self._spool.finish()

    async def abort(self) -> None:
        """Give everything back; more than once is fine, and so is after ``finish``."""
        spool, self._spool = self._spool, None
        if spool is not None:
            await spool.abort()
