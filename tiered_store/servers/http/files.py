"""The bytes of files, piece by piece, for replies: without a copy where that is safe, and never at the loop's cost.

A memory file is sealed: it is mapped, and what is written to the socket are views of the map. A file on disk is not
mapped, since one that is cut short or cannot be read would end the process (SIGBUS); of it the loop reads what is in
the page cache, and threads read what is not. docs/decisions/0021 says what else was tried.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import AsyncIterator
from typing import Final, TypeAlias
from weakref import WeakKeyDictionary

from tiered_store.aio.offload import Offload
from tiered_store.errors import OriginUnavailable
from tiered_store.objects import Descriptor, FileBody, read_body
from tiered_store.store.reading import PIECE_BYTES

__all__ = ["Files", "Piece"]

#: Threads that read what is not in the page cache.
_THREADS: Final = 4
#: A view of a map takes no memory, so only the time between two looks at the connection bounds it.
_VIEW_BYTES: Final = 4 * 1024 * 1024
#: The file system cannot say whether it would have to wait.
_NOT_SUPPORTED: Final = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

Piece: TypeAlias = bytes | bytearray | memoryview


class Files:
    """Reads files for all replies of a door."""

    def __init__(self) -> None:
        self._offload = Offload(_THREADS, "http")
        # Mapping a file costs about as much as copying it, most of it page by page when it is first read. So a map
        # lives as long as its file, which the memory tier bounds.
        self._maps: WeakKeyDictionary[Descriptor, memoryview] = WeakKeyDictionary()

    def pieces(self, body: FileBody, offset: int, end: int) -> AsyncIterator[Piece]:
        """The bytes ``[offset, end)`` of a body; at most ``PIECE_BYTES`` of memory are taken at a time.

        Raises:
            OriginUnavailable: the file cannot be read, in place of a piece.
        """
        return _Pieces(self, body, offset, end)

    async def read(self, body: FileBody, offset: int, size: int) -> Piece:
        """Some bytes of a body. Raises OriginUnavailable."""
        try:
            if body.is_memory:
                start = body.offset + offset
                return self._mapped(body)[start : start + size]
            at_once = _read_at_once(body, offset, size)
            return at_once if at_once is not None else await self._offload.run(read_body, body, offset, size)
        except (OSError, EOFError) as error:
            raise OriginUnavailable(f"the cached copy could not be read to its end ({error})") from error

    def _mapped(self, body: FileBody) -> memoryview:
        descriptor = body.descriptor
        found = self._maps.get(descriptor)
        if found is None:
            found = memoryview(mmap.mmap(descriptor.fd, body.offset + body.size, prot=mmap.PROT_READ))
            self._maps[descriptor] = found
        return found

    async def close(self) -> None:
        """Wait for the threads."""
        self._maps.clear()
        await self._offload.close()


class _Pieces:
    """Not a generator, so that one that is left half-way needs no finalizer."""

    def __init__(self, files: Files, body: FileBody, offset: int, end: int) -> None:
        self._files = files
        self._body = body
        self._offset = offset
        self._end = end

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        size = min(_VIEW_BYTES if self._body.is_memory else PIECE_BYTES, self._end - self._offset)
        if size <= 0:
            raise StopAsyncIteration
        piece = await self._files.read(self._body, self._offset, size)
        self._offset += size
        return piece


def _read_at_once(body: FileBody, offset: int, size: int) -> bytearray | None:
    """What is in the page cache, if all of it is."""
    buffer = bytearray(size)
    try:
        got = os.preadv(body.descriptor.fd, [buffer], body.offset + offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            return None
        raise
    return buffer if got == size else None
