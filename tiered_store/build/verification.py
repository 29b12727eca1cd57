"""Whether an artifact's bytes are those of its digest, asked before the first of them is given out.

The tools behind the build cache restore what they get, most of them without a look at it. So nothing goes out that
was not hashed in this run; but what was, and cannot have changed since, is not hashed again. Bytes in memory (``bytes``
and sealed memory files) cannot change: their entry remembers it. A file of the disk tier can, by a fault or by
somebody's hand: it is known by device, inode, size and both times, of which the second (ctime) nobody can set back.

Knows no keys but artifacts', and no tier. Invariant: a file is remembered only if it was the same before and after the
hashing.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Final, TypeAlias

from tiered_store.aio.digests import HASH_HERE_BYTES, digest_body
from tiered_store.aio.limits import KeyedLocks
from tiered_store.aio.offload import Offload
from tiered_store.key import Key, digest_of
from tiered_store.objects import Entry, FileBody

__all__ = ["Verification"]

#: Some 20 MiB with all of it; forgetting one costs a hashing.
_MAX_FILES: Final = 65_536

#: Device, inode, size, and when the bytes and the inode were last changed.
_Identity: TypeAlias = tuple[int, int, int, int, int]


class Verification:
    """What was verified in this run.

    Args:
        offload: where bodies are hashed.
        max_files: how many files are remembered; the one used longest ago goes first.
    """

    def __init__(self, offload: Offload, *, max_files: int = _MAX_FILES) -> None:
        self._offload = offload
        self._max_files = max_files
        self._files: OrderedDict[_Identity, str] = OrderedDict()
        self._hashing = KeyedLocks()

    async def holds(self, entry: Entry) -> bool:
        """Whether an artifact's body has its digest; a body that cannot be read has not.

        Readers who ask at the same time share one hashing.
        """
        digest = digest_of(Key(entry.info.key))
        try:
            return self._is_known(entry, digest) or await self._seen_to_hold(entry, digest)
        except (OSError, EOFError):
            return False

    async def _seen_to_hold(self, entry: Entry, digest: str) -> bool:
        body = entry.body
        if isinstance(body, bytes) and len(body) < HASH_HERE_BYTES:
            entry.is_verified = digest_body(body) == digest
            return entry.is_verified
        await self._hashing.acquire(digest)
        try:
            return self._is_known(entry, digest) or await self._hashed(entry, digest)
        finally:
            self._hashing.release(digest)

    def _is_known(self, entry: Entry, digest: str) -> bool:
        body = entry.body
        if isinstance(body, bytes) or body.is_memory:
            return entry.is_verified
        identity = _identity(body)
        if self._files.get(identity) != digest:
            return False
        self._files.move_to_end(identity)
        return True

    async def _hashed(self, entry: Entry, digest: str) -> bool:
        body = entry.body
        if isinstance(body, bytes) or body.is_memory:
            entry.is_verified = await self._offload.run(digest_body, body) == digest
            return entry.is_verified
        identity = _identity(body)
        if await self._offload.run(digest_body, body) != digest:
            return False
        if _identity(body) == identity:
            self._files[identity] = digest
            self._files.move_to_end(identity)
            if len(self._files) > self._max_files:
                self._files.popitem(last=False)
        return True


def _identity(body: FileBody) -> _Identity:
    status = os.fstat(body.descriptor.fd)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
