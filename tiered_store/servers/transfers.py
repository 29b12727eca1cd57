"""Streams inside a connection: frames of the peer that a running request waits for, with flow control.

An ``Upload`` collects what the peer sends, never more than it was granted; a ``Download`` knows how much
the peer is ready to take. Both give up when the peer stalls.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from tiered_store.errors import DeadlineExceeded, ProtocolError
from tiered_store.objects import Descriptor
from tiered_store.protocol.frames import STREAM_WINDOW_BYTES, Frame, Opcode

__all__ = ["Download", "Transfer", "Upload"]

_MAX_CREDIT: Final = 2**40


class Transfer(Protocol):
    """A request that takes further frames."""

    def feed(self, frame: Frame, descriptor: Descriptor | None) -> None:
        """Take a frame with the request's id.

        Raises:
            ProtocolError: if the peer may not send it now.
        """
        ...


class Upload:
    """What the peer sends for one PUT: pieces, or a descriptor.

    Args:
        stall_timeout_s: how long to wait for the next frame.
        by_descriptor: whether a descriptor was announced, and not pieces.
    """

    def __init__(self, stall_timeout_s: float, *, by_descriptor: bool) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._by_descriptor = by_descriptor
        self._pieces: deque[bytes] = deque()
        self._descriptor: Descriptor | None = None
        self._granted = 0
        self._is_complete = False
        self._arrived = asyncio.Event()

    def grant(self, size: int) -> None:
        """Allow this many bytes more; the caller tells the peer so."""
        self._granted += size

    def feed(self, frame: Frame, descriptor: Descriptor | None) -> None:
        """Take DATA and END, or DESCRIPTOR."""
        if self._is_complete:
            raise ProtocolError(f"{frame} after the end of its upload")
        if frame.opcode == Opcode.DESCRIPTOR and self._by_descriptor:
            self._descriptor = descriptor
            self._is_complete = True
        elif frame.opcode == Opcode.DATA and not self._by_descriptor:
            self._take(frame)
        elif frame.opcode == Opcode.END and not self._by_descriptor:
            self._is_complete = True
        else:
            raise ProtocolError(f"{frame} is not part of this upload")
        self._arrived.set()

    def _take(self, frame: Frame) -> None:
        size = len(frame.payload)
        if not size:  # costs nothing of what was granted, so any number of them could be made to wait here
            raise ProtocolError("a DATA frame without data")
        self._granted -= size
        if self._granted < 0:
            raise ProtocolError(f"{frame} exceeds what was granted by {-self._granted} bytes")
        self._pieces.append(frame.payload)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._stall_timeout_s):
                await self._arrived.wait()
        except TimeoutError:
            raise DeadlineExceeded(f"the upload stalled for {self._stall_timeout_s} s") from None
        self._arrived.clear()

    async def piece(self) -> bytes | None:
        """The next bytes, or None at the end."""
        while not self._pieces:
            if self._is_complete:
                return None
            await self._wait()
        return self._pieces.popleft()

    async def descriptor(self) -> Descriptor:
        """The descriptor that was asked for."""
        while not self._is_complete:
            await self._wait()
        if self._descriptor is None:
            raise ProtocolError("the upload ended without the descriptor it announced")
        return self._descriptor


class Download:
    """How much of a stream the peer takes.

    Args:
        stall_timeout_s: how long to wait for the peer to grant more.
    """

    def __init__(self, stall_timeout_s: float) -> None:
        self._stall_timeout_s = stall_timeout_s
        self._credit = STREAM_WINDOW_BYTES
        self._granted = asyncio.Event()

    def feed(self, frame: Frame, descriptor: Descriptor | None) -> None:
        """Take WINDOW."""
        if frame.opcode != Opcode.WINDOW:
            raise ProtocolError(f"{frame} while a reply is being streamed")
        self._credit = min(_MAX_CREDIT, self._credit + frame.extra)
        self._granted.set()

    async def take(self, size: int) -> int:
        """Wait until bytes may be sent; how many, at most ``size``. They count as sent."""
        while self._credit <= 0:
            self._granted.clear()
            try:
                async with asyncio.timeout(self._stall_timeout_s):
                    await self._granted.wait()
            except TimeoutError:
                raise DeadlineExceeded(f"the reader took nothing for {self._stall_timeout_s} s") from None
        size = min(size, self._credit)
        self._credit -= size
        return size
