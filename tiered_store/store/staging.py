"""Where uploads arrive: as a stream, as a sealed memfd, or as somebody's file.

Chooses the room (the disk tier's spool first, then bounded memory) and computes digests beside the
copying. Knows no keys and no origin. Invariant: what is hashed is what is kept; nothing of a file that
somebody else can still change is used twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import os

from tiered_store.aio.digests import digest_body
from tiered_store.aio.limits import ByteBudget
from tiered_store.aio.offload import Offload
from tiered_store.errors import ProtocolError, TooLarge
from tiered_store.objects import INLINE_MAX_BYTES, Body, Descriptor, FileBody, read_body
from tiered_store.store.memfd import MemoryFile, MemoryRoom
from tiered_store.store.spool import Spool, SpoolFile, SpoolRoom, Staged, no_room
from tiered_store.store.uploads import UploadRoom

__all__ = ["Staging"]

#: Pieces of an upload by descriptor: large enough that the hops to threads (some 40 us each) do not matter
#: beside hashing one (1,400 us at 1.45 GB/s), small enough that the first read, which nothing overlaps,
#: does not either.
_PIECE_BYTES = 2 * 1024 * 1024


class Staging:
    """The rooms for incomplete objects.

    Args:
        room: the disk tier, or None.
        memory: the bound of the refuge.
        uploads: what unfinished uploads may hold together. Not the budget below: its takers wait for it,
            and an upload that waited for what others hold until their peers go on could wait for ever.
        budget: memory for buffers, shared with the fills.
        offload: where blocking work runs.
        max_object_bytes: the largest upload, 0 for no bound.
    """

    def __init__(
        self,
        room: SpoolRoom | None,
        memory: MemoryRoom,
        uploads: UploadRoom,
        *,
        budget: ByteBudget,
        offload: Offload,
        max_object_bytes: int,
    ) -> None:
        self._room = room
        self._budget = budget
        self._memory = memory
        self._uploads = uploads
        self._offload = offload
        self._max_object_bytes = max_object_bytes

    def spool(self, size: int | None, *, hashed: bool, bounded: bool = True) -> Spool:
        """Room for one object, to be finished or aborted; unbounded for what the origin already holds.

        Raises:
            TooLarge: the announced size is over the bound. DaemonUnavailable: too many uploads are under way.
        """
        return Spool(
            open_file=self._open_file,
            open_memory=self._open_memory,
            offload=self._offload,
            size=size,
            hashed=hashed,
            max_bytes=self._max_object_bytes if bounded else 0,
            uploads=self._uploads if bounded else None,
        )

    async def adopt(self, descriptor: Descriptor, size: int, *, hashed: bool) -> Staged:
        """Take a memfd whose seals the caller has checked: nobody can change it, so it is not copied.

        Raises:
            TooLarge: over the bound. ProtocolError: shorter than ``size``.
        """
        self.check_size(size)
        if os.fstat(descriptor.fd).st_size < size:
            raise ProtocolError(f"the descriptor holds fewer than the {size} bytes announced")
        body = FileBody(descriptor, 0, size, is_memory=True)
        if size <= INLINE_MAX_BYTES:
            return Staged.of_bytes(read_body(body), hashed=hashed)
        digest = await self.digest(body) if hashed else None
        return Staged(body, size, digest=digest)

    async def stage_file(self, descriptor: Descriptor, size: int, *, hashed: bool) -> Staged:
        """Copy somebody's file, and hash the copy's bytes beside it.

        The file is only ever read, once and into our own memory: mapping it would let its owner kill
        this process by truncating it, and reading it twice would let them change what was hashed.

        Raises:
            TooLarge: over the bound. ProtocolError: the file ends before ``size`` bytes, or cannot be read.
            QuotaExceeded: no room for the copy. DaemonUnavailable: too many uploads are under way.
        """
        self.check_size(size)
        if size <= INLINE_MAX_BYTES:
            small = bytearray(size)
            await self._offload.run(_read_exactly, descriptor, 0, memoryview(small))
            return Staged.of_bytes(bytes(small), hashed=hashed)
        spool = self.spool(size, hashed=False)
        try:
            digest = await self._copy(descriptor, size, spool, hashed=hashed)
            staged = await spool.finish()
        except BaseException:
            await spool.abort()
            raise
        staged.digest = digest
        return staged

    async def _copy(self, descriptor: Descriptor, size: int, spool: Spool, *, hashed: bool) -> str | None:
        """Read a file into two buffers in turn: while one is hashed, the other is read and written."""
        digest = hashlib.sha256()
        hashing: asyncio.Future[None] | None = None
        taken = await self._budget.take(2 * _PIECE_BYTES)
        try:
            buffers = [memoryview(bytearray(min(size, _PIECE_BYTES))) for _ in range(2)]
            for offset in range(0, size, _PIECE_BYTES):
                piece = buffers[0][: size - offset]
                buffers.reverse()
                await self._offload.run(_read_exactly, descriptor, offset, piece)
                await spool.write(piece)
                if hashing is not None:
                    await hashing
                if hashed:
                    hashing = asyncio.ensure_future(self._offload.run(digest.update, piece))
            if hashing is not None:
                await hashing
        except BaseException:
            if hashing is not None:
                hashing.cancel()
            raise
        finally:
            self._budget.give(taken)
        return digest.hexdigest() if hashed else None

    async def in_memory(self, body: FileBody) -> FileBody:
        """A sealed memory copy of a file on disk.

        Raises:
            QuotaExceeded: no room for that now. OSError, EOFError: the file cannot be read.
        """
        return await self._offload.run(self._copy_to_memory, body)

    async def digest(self, body: Body) -> str:
        """:func:`digest_body` in a thread."""
        return await self._offload.run(digest_body, body)

    def _copy_to_memory(self, body: FileBody) -> FileBody:
        copy = self._open_memory(body.size)
        for offset in range(0, body.size, _PIECE_BYTES):
            copy.write(read_body(body, offset, _PIECE_BYTES))
        return copy.body()

    def check_size(self, size: int) -> None:
        """Raises TooLarge for an upload that is over the bound."""
        if self._max_object_bytes and size > self._max_object_bytes:
            raise TooLarge(f"an object must have at most {self._max_object_bytes} bytes, this one has {size}")

    async def _open_file(self, size: int | None) -> SpoolFile:
        if self._room is not None:
            file = await self._room.open_spool(size)
            if file is not None:
                return file
        return self._open_memory(size)

    def _open_memory(self, size: int | None) -> MemoryFile:
        try:
            return MemoryFile(self._memory, size)
        except OSError as error:
            raise no_room(error) from error


def _read_exactly(descriptor: Descriptor, offset: int, piece: memoryview) -> None:
    """In a thread: fill ``piece`` from somebody else's file, which may be shorter than they said."""
    done = 0
    try:
        while done < len(piece):
            got = os.preadv(descriptor.fd, [piece[done:]], offset + done)
            if not got:
                raise ProtocolError(f"the descriptor ends after {offset + done} bytes, before those announced")
            done += got
    except OSError as error:
        raise ProtocolError(f"the descriptor cannot be read: {error.strerror}") from error
