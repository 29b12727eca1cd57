"""A large object read over the network in ranges, some of them ahead of the reader.

One stream of a server gives a fraction of what the link can carry. So an object is asked for in ranges, and some of
them are on their way while an earlier one is handed out. What is ahead is in memory; how much that is, over all reads,
is bounded by tokens, and a read that gets none goes on from one stream. What broke can be gone on with. Knows no
protocol: who fetches a range, and sees to it that all of them are of one version, is told. Invariant: the bytes come in
order, all of them, or an exception; after ``close`` nothing is on its way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

__all__ = ["CHUNK_BYTES", "FIRST_CHUNK_BYTES", "Fetch", "Ranges", "Stream", "Tokens"]

#: The most that a read hands out at once; also what one fill holds in memory.
CHUNK_BYTES: Final = 1024 * 1024
#: The first chunk is smaller, so that whoever waits for a first byte does not wait for a whole one; as much as a
#: spool writes at once.
FIRST_CHUNK_BYTES: Final = 256 * 1024
#: Ranges on their way at once for one read, besides the one that is being handed out.
_AHEAD: Final = 4


class Stream(Protocol):
    """The body of one answer."""

    async def read(self, size: int, /) -> bytes:
        """Some of the next bytes, at most ``size``; none at the end."""
        ...

    def close(self) -> None:
        """Give the connection back, or end it where bytes are still to come; more than once is fine."""
        ...


#: Asks for a range of the version that is being read, by offset and length.
Fetch = Callable[[int, int], Awaitable[Stream]]


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


class Ranges:
    """The bytes of one object; serves one reader, once.

    Args:
        first: the stream of the first bytes, or None where there are none to come.
        first_bytes: how many it has.
        size: bytes in all; more than ``first_bytes`` only where ``fetch`` is.
        offset: of the first byte, as ``fetch`` counts.
        part_bytes: size of a range.
        fetch: for what comes behind the first stream, and to go on where one broke; without it neither can be.
        tokens: one for each range that may be read ahead, over all reads.
    """

    def __init__(
        self,
        first: Stream | None,
        first_bytes: int,
        size: int,
        *,
        offset: int = 0,
        part_bytes: int,
        fetch: Fetch | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._stream = first
        self._left = first_bytes  # of the stream
        self._position = offset  # behind what was handed out
        self._planned = offset + first_bytes  # up to here everything is here, on its way or noted in ``_ahead``
        self._begun = False
        self._end = offset + size
        self._part_bytes = part_bytes
        self._fetch = fetch
        self._tokens = tokens
        self._ahead: deque[tuple[int, asyncio.Task[deque[bytes]] | None]] = deque()
        self._ready: deque[bytes] = deque()
        self.is_closed = False

    async def next(self) -> bytes:
        """The next bytes, at most ``CHUNK_BYTES``; none at the end, and once it is closed.

        Raises:
            EOFError: an answer ends early. What the streams and ``fetch`` raise.
        """
        chunk_bytes = CHUNK_BYTES
        if self._begun:
            self._plan()
        else:  # the first chunk shall not have to arrive among all the others
            self._begun, chunk_bytes = True, FIRST_CHUNK_BYTES
        while not self._ready:
            if self._left and self._stream is not None:
                wanted = min(chunk_bytes, self._left)
                chunk = await _read_exactly(self._stream, wanted)
                self._left -= wanted
                self._position += wanted
                return chunk
            if not self._ahead:
                return b""
            await self._take_next(*self._ahead.popleft())
        chunk = self._ready.popleft()
        self._position += len(chunk)
        return chunk

    async def resume(self) -> None:
        """After ``next`` has raised: ask again for what it was about to give, so that it can go on.

        Ranges ahead that are in order are kept. May be called again if it raises what ``fetch`` raises.
        """
        assert self._fetch is not None
        if self._stream is not None:
            self._stream.close()
        self._left = 0
        for index, (offset, task) in enumerate(self._ahead):
            if task is not None and task.done() and (task.cancelled() or task.exception() is not None):
                self._give()
                self._ahead[index] = offset, None  # asked for when its turn comes
        end = self._ahead[0][0] if self._ahead else self._planned
        if self._position < end:
            self._stream = await self._fetch(self._position, end - self._position)
            self._left = end - self._position

    async def _take_next(self, offset: int, task: asyncio.Task[deque[bytes]] | None) -> None:
        """Turn to the next range, which is on its way already or is asked for now."""
        self._plan()
        if task is not None:
            try:
                self._ready = await task
            finally:
                self._give()
            return
        assert self._fetch is not None
        length = min(self._part_bytes, self._end - offset)
        self._stream = await self._fetch(offset, length)
        self._left = length

    def _plan(self) -> None:
        """Send one more range on its way, unless enough are or no token is left; one is always planned.

        One for each chunk that is handed out: asking takes the event loop some milliseconds, in which nothing flows.
        """
        offset = self._planned
        if offset >= self._end or len(self._ahead) >= _AHEAD:
            return
        task = None
        if self._tokens is not None and self._tokens.take():
            task = asyncio.create_task(self._range(offset, min(self._part_bytes, self._end - offset)))
        elif self._ahead:
            return
        self._ahead.append((offset, task))
        self._planned = min(offset + self._part_bytes, self._end)

    async def _range(self, offset: int, length: int) -> deque[bytes]:
        assert self._fetch is not None
        stream = await self._fetch(offset, length)
        chunks: deque[bytes] = deque()
        try:
            while length:
                chunks.append(await _read_exactly(stream, min(CHUNK_BYTES, length)))
                length -= len(chunks[-1])
        finally:
            stream.close()
        return chunks

    def _give(self) -> None:
        if self._tokens is not None:
            self._tokens.give()

    async def close(self) -> None:
        """Give the connections back, or end them where bytes are still to come."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._stream is not None:
            self._stream.close()
        tasks = [task for _, task in self._ahead if task is not None]
        self._ahead.clear()
        self._ready.clear()
        self._left = 0
        self._planned = self._end
        for task in tasks:
            task.cancel()
            self._give()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read_exactly(stream: Stream, size: int) -> bytes:
    """Raises EOFError: it ends early."""
    piece = await stream.read(size)
    if len(piece) == size:
        return piece
    pieces = [piece]
    missing = size - len(piece)
    while piece and missing:
        piece = await stream.read(missing)
        pieces.append(piece)
        missing -= len(piece)
    if missing:
        raise EOFError(f"the answer ends at least {missing} bytes early")
    return b"".join(pieces)
