"""The sha256 of a body, wherever its bytes are, or of a stream. Blocks; in a thread for all but few bytes."""

from __future__ import annotations

import hashlib
import mmap
import os
from typing import Any

from tiered_store.aio.offload import Offload
from tiered_store.objects import Body, FileBody

__all__ = ["HASH_HERE_BYTES", "digest_body", "update_digest"]

#: Fewer bytes are hashed in less time than a hop to a thread and back takes.
HASH_HERE_BYTES = 128 * 1024

#: Buffer for hashing a file of the disk: stays within a core's cache.
_HASH_BYTES = 256 * 1024


async def update_digest(digest: Any, piece: bytes, offload: Offload) -> None:
    """Hash the next piece of a stream: in a thread where that takes longer than getting there."""
    if len(piece) < HASH_HERE_BYTES:
        digest.update(piece)
    else:
        await offload.run(digest.update, piece)


def digest_body(body: Body) -> str:
    """The sha256 of a body in hex; blocking, and without the interpreter's lock for all but tiny ones.

    A sealed memfd is mapped, which is a little faster than reading it. A file on disk is read: a page that
    the disk cannot give back would kill a process that has it mapped.

    Raises:
        OSError: the file cannot be read. EOFError: it is too short.
    """
    if isinstance(body, bytes):
        return hashlib.sha256(body).hexdigest()
    return _digest_map(body) if body.is_memory and body.size else _digest_file(body)


def _digest_map(body: FileBody) -> str:
    end = body.offset + body.size
    if os.fstat(body.descriptor.fd).st_size < end:
        raise EOFError("the memory file is shorter than its object")
    with (
        mmap.mmap(body.descriptor.fd, end, prot=mmap.PROT_READ) as mapped,
        memoryview(mapped) as whole,
        whole[body.offset :] as view,
    ):
        return hashlib.sha256(view).hexdigest()


def _digest_file(body: FileBody) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_HASH_BYTES))
    done = 0
    while done < body.size:
        want = buffer[: min(_HASH_BYTES, body.size - done)]
        got = os.preadv(body.descriptor.fd, [want], body.offset + done)
        if not got:
            raise EOFError(f"the file ends {body.size - done} bytes early")
        digest.update(want[:got])
        done += got
    return digest.hexdigest()
