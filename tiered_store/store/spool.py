"""Where the bytes of one upload or fill are collected until they are complete.

Small ones stay bytes. From ``GATHER_BYTES`` on they go to a spool file of the disk tier (which later
adopts it by renaming it) and, where that has no room or fails, to a memory file. Nothing here knows
keys or origins.

Invariant: bytes below ``written`` are in the file and never change; a spool that was not finished leaves
nothing behind.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from tiered_store.aio.offload import Offload
from tiered_store.errors import ProtocolError, QuotaExceeded, TooLarge
from tiered_store.objects import INLINE_MAX_BYTES, Body, Descriptor, FileBody
from tiered_store.store.memfd import MemoryFile
from tiered_store.store.uploads import UploadRoom

__all__ = ["GATHER_BYTES", "Spool", "SpoolFile", "SpoolRoom", "Staged", "no_room"]

#: Writes are gathered up to here, so that a sender of small pieces does not pay a hop to a thread (some
#: 40 us) for each; a larger piece goes through in one hop without being copied first.
GATHER_BYTES = 256 * 1024
_COPY_BYTES = 1024 * 1024


class SpoolFile(Protocol):
    """A file being written, by the disk tier or in memory. Methods block.

    It is gone with the last reference to it and to its body, unless the disk tier has adopted it.
    """

    @property
    def descriptor(self) -> Descriptor:
        """Open for reading and writing."""
        ...

    @property
    def body_offset(self) -> int:
        """Where in the file the body begins."""
        ...

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Append. Raises OSError, after which nothing but ``discard`` makes sense."""
        ...

    def body(self) -> FileBody:
        """What was written, complete and from now on unchangeable."""
        ...

    def discard(self) -> None:
        """Remove the file now; more than once is fine."""
        ...


class SpoolRoom(Protocol):
    """Whoever has room for spool files: the disk tier."""

    async def open_spool(self, size: int | None) -> SpoolFile | None:
        """A file for ``size`` bytes (None: not known yet), or None where there is no room for it."""
        ...


@dataclass(slots=True)
class Staged:
    """A complete upload that is not stored yet; dropping it frees everything, by way of its descriptor.

    Attributes:
        body: the bytes.
        size: how many.
        crc: zlib.crc32 of the body, or None: whoever needs it (the disk tier, where it has no digest to
            go by) computes it then. Beside sha256 it would cost an upload by descriptor a third of its speed.
        digest: sha256 in hex, or None if it was not asked for.
    """

    body: Body
    size: int
    crc: int | None = None
    digest: str | None = None

    @classmethod
    def of_bytes(cls, data: bytes, *, hashed: bool) -> Staged:
        """A small upload that is already here, at most ``INLINE_MAX_BYTES``."""
        if len(data) > INLINE_MAX_BYTES:
            raise ValueError(f"{len(data)} bytes are too many to stay in memory; write them to a spool")
        return cls(data, len(data), digest=hashlib.sha256(data).hexdigest() if hashed else None)


class Spool:
    """Staging room for one object.

    One writer; any number of readers of what is already there. Every method that touches the file does so
    in a thread, under a lock: a caller that is cancelled leaves its write running, and ``abort`` must not
    take the file away under it.

    Args:
        open_file: opens the file once it is needed.
        open_memory: opens the refuge for when that file fails.
        offload: where blocking work runs.
        size: the announced size, or None.
        hashed: whether the sha256 is wanted.
        max_bytes: 0, or the largest object taken.
        uploads: what the spool counts against until it is finished or aborted, or None: it is no upload.

    Raises:
        TooLarge: the announced size is over ``max_bytes``. DaemonUnavailable: too many uploads are under way.
    """

    def __init__(
        self,
        *,
        open_file: Callable[[int | None], Awaitable[SpoolFile]],
        open_memory: Callable[[int | None], MemoryFile],
        offload: Offload,
        size: int | None,
        hashed: bool,
        max_bytes: int,
        uploads: UploadRoom | None = None,
    ) -> None:
        if max_bytes and size is not None and size > max_bytes:
            raise TooLarge(f"an object must have at most {max_bytes} bytes, this one has {size}")
        if uploads is not None:
            uploads.enter()
        self._uploads = uploads
        self._open_file = open_file
        self._open_memory = open_memory
        self._offload = offload
        self._announced = size
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256() if hashed else None
        self._gathered = bytearray()
        self._taken = 0  # of the uploads' room; a cancelled write keeps what its thread still uses
        self._accepted = 0
        self._file: SpoolFile | None = None
        self._lock = threading.Lock()
        self._ended = False  # finished (the file is the upload's now) or aborted
        self.written = 0  # readable so far; grows in a thread, and only grows

    async def open(self) -> None:
        """Open the file at once, where it is known to be needed: a lack of room shows before the first byte.

        Raises:
            QuotaExceeded: there is no room.
        """
        if self._file is None:
            self._file = await self._open_file(self._announced)

    async def write(self, data: bytes | memoryview) -> None:
        """Take the next bytes; returns when ``data`` may be reused. Waiting is the back-pressure.

        Raises:
            TooLarge: over the announced size or the bound, before the bytes are taken.
            QuotaExceeded: there is no room left. ProtocolError: the spool was aborted.
        """
        self._check_growing()
        total = self._accepted + len(data)
        if self._announced is not None and total > self._announced:
            raise TooLarge(f"more bytes were sent than the {self._announced} announced")
        if self._max_bytes and total > self._max_bytes:
            raise TooLarge(f"an object must have at most {self._max_bytes} bytes")
        self._accepted = total
        if len(self._gathered) + len(data) < GATHER_BYTES and self._take(len(data)):
            self._gathered += data
            return
        gathered, self._gathered = self._gathered, bytearray()
        await self._append([gathered, data] if gathered else [data])
        self._give()

    async def finish(self) -> Staged:
        """Close the object; the spool is used up.

        Raises:
            ProtocolError: fewer bytes came than announced, or the spool was aborted.
            QuotaExceeded: there is no room for the last ones, or no descriptor is left.
        """
        self._check_growing()
        if self._announced is not None and self._accepted < self._announced:
            raise ProtocolError(f"the upload ended after {self._accepted} of {self._announced} bytes announced")
        if self._file is None and self._accepted <= INLINE_MAX_BYTES:
            staged = Staged.of_bytes(bytes(self._gathered), hashed=self._hash is not None)
        else:
            if self._gathered:
                gathered, self._gathered = self._gathered, bytearray()
                await self._append([gathered])
            staged = await self._offload.run(self._seal)
        self._leave()
        return staged

    async def abort(self) -> None:
        """Give everything back; more than once is fine, and so is after ``finish``."""
        self._gathered = bytearray()
        try:
            if self._file is not None and not self._ended:
                await self._offload.run(self._discard)
        finally:
            self._ended = True
            self._leave()

    async def read(self, offset: int, length: int) -> bytes:
        """Bytes that are already there, also after ``finish``: ``offset + length`` is at most ``written``."""
        file = self._file
        if file is None:
            raise ValueError("nothing was written")
        return await self._offload.run(_read_file, file, offset, length)

    def _take(self, size: int) -> bool:
        if self._uploads is not None:
            if not self._uploads.take(size):
                return False
            self._taken += size
        return True

    def _give(self) -> None:
        taken, self._taken = self._taken, 0
        if self._uploads is not None:
            self._uploads.give(taken)

    def _leave(self) -> None:
        """Finished or aborted: count against nothing any more."""
        self._give()
        uploads, self._uploads = self._uploads, None
        if uploads is not None:
            uploads.leave()

    async def _append(self, parts: list[bytearray | bytes | memoryview]) -> None:
        await self.open()
        hashing: asyncio.Future[None] | None = None
        if self._hash is not None:
            hashing = asyncio.ensure_future(self._offload.run(self._hash_parts, list(parts)))
        try:
            try:
                await self._offload.run(self._write_parts, parts)
            except OSError:
                # A disk that fills up or fails is the disk tier's trouble, not the writer's.
                await self._offload.run(self._take_refuge, parts)
            if hashing is not None:
                await hashing
        except BaseException:
            if hashing is not None:
                hashing.cancel()
            raise

    def _hash_parts(self, parts: list[bytearray | bytes | memoryview]) -> None:
        """In another thread, beside the writing: together they take as long as the slower of the two."""
        assert self._hash is not None
        for part in parts:
            self._hash.update(part)

    def _write_parts(self, parts: list[bytearray | bytes | memoryview]) -> None:
        """In a thread: write and count; a part is taken off the list when that is done."""
        with self._lock:
            self._write_locked(parts)

    def _write_locked(self, parts: list[bytearray | bytes | memoryview]) -> None:
        file = self._growing()
        while parts:
            file.write(parts[0])
            self.written += len(parts[0])
            del parts[0]

    def _take_refuge(self, parts: list[bytearray | bytes | memoryview]) -> None:
        """In a thread: copy what is there into memory, and go on from there."""
        with self._lock:
            failed = self._growing()
            try:
                refuge = self._open_memory(self._announced)
                for offset in range(0, self.written, _COPY_BYTES):
                    refuge.write(_read_file(failed, offset, min(_COPY_BYTES, self.written - offset)))
                self._file = refuge
                failed.discard()
                self._write_locked(parts)
            except OSError as error:
                raise QuotaExceeded(f"the room for collecting objects failed: {error.strerror}") from error

    def _seal(self) -> Staged:
        """In a thread: the complete object; a small one, which only went to a file for want of memory, as bytes."""
        with self._lock:
            file = self._growing()
            try:
                small = self._accepted <= INLINE_MAX_BYTES
                body = _read_file(file, 0, self._accepted) if small else file.body()
            except OSError as error:
                raise no_room(error) from error
            staged = Staged(body, self._accepted)
            self._ended = True
            if small:
                file.discard()
        if self._hash is not None:
            staged.digest = self._hash.hexdigest()
        return staged

    def _growing(self) -> SpoolFile:
        self._check_growing()
        if self._file is None:
            raise ProtocolError("the upload was given up")
        return self._file

    def _check_growing(self) -> None:
        if self._ended:
            raise ProtocolError("the upload was given up")

    def _discard(self) -> None:
        with self._lock:
            self._ended = True
            file, self._file = self._file, None
        if file is not None:
            file.discard()


def no_room(error: OSError) -> QuotaExceeded:
    """What the sender is told where no file can be had: mostly the daemon is short of descriptors, for a while."""
    reason = error.strerror or str(error)
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        reason += "; the limit of open files (LimitNOFILE, ulimit -n) is too low for what goes on"
    return QuotaExceeded(f"no room to collect the object: {reason}", retryable=True)


def _read_file(file: SpoolFile, offset: int, length: int) -> bytes:
    data = os.pread(file.descriptor.fd, length, file.body_offset + offset)
    if len(data) < length:
        raise OSError(f"the spool file ends {length - len(data)} bytes early")
    return data
