"""A directory as an origin.

An object is a file under its own name below the root, so a tree that others wrote can be served, and others can
read what the daemon wrote. The origin's own files are in ``.tiered_store/`` below the root. This module is the
asynchronous face; what happens to the files is in ``localfiles.py``, in threads.

The laws: an object is durable when :meth:`LocalOrigin.put` returns. Nothing outside the root is read or written,
whatever the tree holds: symbolic links below the root are never followed and never listed. (A put under the name
of a link takes its place.) The root itself may be reached through links, and must be one file system.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tiered_store.aio.offload import Offload
from tiered_store.errors import OriginUnavailable, StoreError
from tiered_store.objects import Body, Descriptor, ObjectInfo
from tiered_store.origins.base import CHUNK_BYTES, Listing, OriginRead, PutHeaders
from tiered_store.origins.localerrors import translated
from tiered_store.origins.localfiles import LocalFiles, OpenFile, read_chunk

__all__ = ["LocalOrigin"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: Between two slices of the sweep, so that it takes a small share of one thread and of the disk.
_SWEEP_PAUSE_S = 0.05
#: Names deleted in one piece of work; a thread is not kept from other requests for longer.
_DELETE_AT_ONCE = 1000
#: Names asked about in one piece of work, likewise.
_STAT_AT_ONCE = 256


class _LocalRead:
    """A file being read; implements ``OriginRead``. Its bytes can be iterated over once."""

    def __init__(self, opened: OpenFile, offload: Offload, root: Path) -> None:
        self._offload = offload
        self._root = root
        self._info = opened.info
        self._head = opened.head
        self._descriptor = opened.descriptor
        self._position = opened.position
        self._end = opened.end

    @property
    def info(self) -> ObjectInfo:
        return self._info

    async def chunks(self) -> AsyncIterator[bytes]:
        head, self._head = self._head, b""
        if head:
            yield head
            del head  # up to a chunk of memory, for as long as the rest takes
        while self._position < self._end:
            if self._descriptor is None:
                raise OriginUnavailable("the read was closed before its end", key=self._info.key)
            count = min(CHUNK_BYTES, self._end - self._position)
            chunk = await self._offload.run(self._read, self._descriptor, self._position, count)
            self._position += count
            yield chunk

    async def close(self) -> None:
        # Only the reference: a thread may be reading still for a caller that was cancelled, and a descriptor
        # closed under it could be another file's by the time it reads.
        self._descriptor = None
        self._head = b""

    def _read(self, descriptor: Descriptor, position: int, count: int) -> bytes:
        with translated("open", self._info.key, self._root):
            return read_chunk(descriptor, self._info, position, count)


class LocalOrigin:
    """The objects below one directory; implements ``Origin`` and ``StatsMany``.

    The first request opens the root (and makes it, mode 0700, if it is missing); :meth:`start` does that before.
    Names are ``key.name_of_key``'s. An etag is made of the file's inode, size and mtime; files that others put
    there have neither content type nor metadata.

    Args:
        root: the directory.
        offload: runs the blocking calls; its owner closes it, after this origin.
        fsync: whether puts and deletes wait until they are durable. Only where losing the last seconds before a
            power cut does no harm may this be false; a crash of the daemon alone loses nothing either way.
        clock: nanoseconds since the epoch.
    """

    def __init__(
        self, root: Path, *, offload: Offload, fsync: bool = True, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._root = root
        self._offload = offload
        self._fsync = fsync
        self._clock = clock
        self._files: LocalFiles | None = None
        self._starting = asyncio.Lock()
        self._sweeping: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Open the root, and begin to collect in the background what dead processes left. Again: does nothing.

        Raises:
            PermissionDenied, OriginUnavailable: the root cannot be made or opened.
        """
        await self._started()

    async def stat(self, name: str) -> ObjectInfo:
        """See ``Origin.stat``."""
        files = self._files or await self._started()
        return await self._offload.run(files.stat, name)

    async def stat_many(self, names: Sequence[str]) -> list[ObjectInfo | StoreError]:
        """See ``StatsMany.stat_many``."""
        files = self._files or await self._started()
        answers: list[ObjectInfo | StoreError] = []
        for first in range(0, len(names), _STAT_AT_ONCE):
            answers += await self._offload.run(files.stat_many, names[first : first + _STAT_AT_ONCE])
        return answers

    async def open(
        self, name: str, *, offset: int = 0, length: int | None = None, if_none_match: str | None = None
    ) -> OriginRead | None:
        """See ``Origin.open``. The first chunk is read along; an object of one chunk costs one hop to a thread."""
        files = self._files or await self._started()
        opened = await self._offload.run(files.open, name, offset, length, if_none_match)
        return None if opened is None else _LocalRead(opened, self._offload, self._root)

    async def put(self, name: str, body: Body, headers: PutHeaders) -> ObjectInfo:
        """See ``Origin.put``.

        A caller that is cancelled does not stop the put, which then takes place or not. The one error after which
        the new object can be there instead of the old is a failed fsync of its directory.
        """
        files = self._files or await self._started()
        return await self._offload.run(files.put, name, body, headers)

    async def delete(self, names: Sequence[str]) -> int:
        """See ``Origin.delete``. Directories that become empty go too."""
        files = self._files or await self._started()
        removed = 0
        for first in range(0, len(names), _DELETE_AT_ONCE):
            removed += await self._offload.run(files.delete, names[first : first + _DELETE_AT_ONCE])
        return removed

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Listing:
        """See ``Origin.list``, and ``walk.py`` for what a page costs: little, but for the first of a huge directory."""
        files = self._files or await self._started()
        return await self._offload.run(files.list, prefix, after, limit)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        """See ``Origin.copy``. Shares the blocks on file systems that can (btrfs, XFS), else copies in the kernel."""
        files = self._files or await self._started()
        return await self._offload.run(files.copy, source, target)

    async def close(self) -> None:
        """Stop the sweep and leave the root. Operations that still run end as they would have."""
        self._closed = True
        files, self._files = self._files, None
        sweeping, self._sweeping = self._sweeping, None
        if sweeping is not None:
            sweeping.cancel()
            await asyncio.wait([sweeping])
        if files is not None:
            await self._offload.run(files.end)

    async def _started(self) -> LocalFiles:
        async with self._starting:
            if self._closed:
                raise OriginUnavailable("the origin is closed", retryable=False)
            if self._files is None:
                if sys.getfilesystemencoding() != "utf-8":
                    raise OriginUnavailable(
                        "file names are not UTF-8 in this locale; set PYTHONUTF8=1", retryable=False
                    )
                self._files = await self._offload.run(LocalFiles, self._root, fsync=self._fsync, clock=self._clock)
                self._sweeping = asyncio.create_task(self._sweep(self._files), name="local origin: sweep")
            return self._files

    async def _sweep(self, files: LocalFiles) -> None:
        slices = files.sweep()
        removed = 0
        try:
            while (found := await self._offload.run(_next, slices)) is not None:
                removed += found
                await asyncio.sleep(_SWEEP_PAUSE_S)
        except (OSError, OriginUnavailable) as error:
            logger.warning("the sweep of %s stopped: %s", self._root, str(error))
        if removed:
            logger.info("removed %d files that a crash had left in %s", removed, self._root)


def _next(slices: Iterator[int]) -> int | None:
    return next(slices, None)
