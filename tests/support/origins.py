"""Origins to test, and bodies to put into them."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

from tests.support.s3 import shared_server
from tiered_store.aio.offload import Offload
from tiered_store.objects import Descriptor, FileBody, ObjectInfo
from tiered_store.origins.base import CHUNK_BYTES, Origin, PutHeaders
from tiered_store.origins.guard import GuardedOrigin
from tiered_store.origins.local import LocalOrigin
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.stats import OriginStats

NOTHING_SAID = PutHeaders()
#: S3 does not say of each object in a request for many whether it was there, nor list what is in headers.
BLIND = frozenset({"s3", "s3-versitygw"})
#: A size in bytes from which on an object is read in several requests, by the origin's name.
SEVERAL_REQUESTS = {"s3": CHUNK_BYTES + 1, "s3-versitygw": 5 * CHUNK_BYTES + 1}


@asynccontextmanager
async def memory_origin(_: Path) -> AsyncIterator[Origin]:
    origin = MemoryOrigin()
    yield origin
    await origin.close()


@asynccontextmanager
async def local_origin(directory: Path) -> AsyncIterator[LocalOrigin]:
    """A local origin below ``directory/origin``. Nothing here cuts the power, so nothing waits for the disk."""
    offload = Offload(4, "origin")
    origin = LocalOrigin(directory / "origin", offload=offload, fsync=False)
    yield origin
    await origin.close()
    await offload.close()


@asynccontextmanager
async def s3_origin(_: Path, program: str = "rclone") -> AsyncIterator[Origin]:
    """A bucket of its own on a real server. The smallest parts that it takes, so that a few MiB are several of them."""
    from tiered_store.origins.s3 import S3Origin

    offload = Offload(4, "origin")
    server = shared_server(program)
    origin = S3Origin(server.settings(part_bytes=max(CHUNK_BYTES, server.least_part_bytes)), offload)
    await origin.start()
    yield origin
    await origin.close()
    await offload.close()


@asynccontextmanager
async def guarded_origin(_: Path) -> AsyncIterator[Origin]:
    """A guard, round an origin that never fails and is quick: what the guard adds to a bucket is the same."""
    guarded = GuardedOrigin(MemoryOrigin(), OriginStats(), retry_for_s=30.0, hedged_reads=True)
    guarded.start()
    yield guarded
    await guarded.close()


#: Every origin the contract holds for, by name: what opens one, given an empty directory.
ORIGINS: dict[str, Callable[[Path], AbstractAsyncContextManager[Origin]]] = {
    "memory": memory_origin,
    "local": local_origin,
    "s3": s3_origin,
    "s3-versitygw": partial(s3_origin, program="versitygw"),
    "guarded": guarded_origin,
}


def pattern(size: int, seed: int = 1) -> bytes:
    """Bytes in which a chunk that is missing, doubled or moved shows."""
    period = bytes((i * 7 + seed) % 251 for i in range(251 * 13))
    return (period * (size // len(period) + 1))[:size]


def memfd_body(data: bytes) -> FileBody:
    """A body in a sealed memfd."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return FileBody(Descriptor(fd), 0, len(data), is_memory=True)


def file_body(path: Path, data: bytes, *, offset: int = 0) -> FileBody:
    """A body inside a file on disk, with other bytes before and behind it."""
    path.write_bytes(b"\xee" * offset + data + b"\xee" * (100 if offset else 0))
    return FileBody(Descriptor(os.open(path, os.O_RDONLY)), offset, len(data), is_memory=False)


async def read_all(origin: Origin, name: str, *, offset: int = 0, length: int | None = None) -> bytes:
    """The bytes of an object, or of a range of it."""
    _, data = await read_object(origin, name, offset=offset, length=length)
    return data


async def read_object(
    origin: Origin, name: str, *, offset: int = 0, length: int | None = None
) -> tuple[ObjectInfo, bytes]:
    """The information and bytes of one version of an object."""
    read = await origin.open(name, offset=offset, length=length)
    assert read is not None
    try:
        return read.info, b"".join([chunk async for chunk in read.chunks()])
    finally:
        await read.close()


async def list_all(origin: Origin, prefix: str = "", *, page: int = 1000) -> list[str]:
    """All names with a prefix, in the order of the listing, fetched page by page."""
    names: list[str] = []
    after = ""
    while True:
        listing = await origin.list(prefix, after=after, limit=page)
        names += [info.key for info in listing.items]
        assert len(listing.items) <= page
        if not listing.more:
            return names
        after = names[-1]


async def put_all(origin: Origin, names: Iterable[str]) -> None:
    """Put an empty object under each name, a few at a time: a server for tests is no match for a thousand at once."""
    rest = iter(names)

    async def work() -> None:
        for name in rest:
            await origin.put(name, b"", NOTHING_SAID)

    await asyncio.gather(*(work() for _ in range(16)))


def open_descriptors() -> int:
    """How many descriptors this process has open, without what earlier tests left to the garbage collector."""
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def descriptors_now() -> int:
    """How many descriptors this process has open, also those that only the garbage collector would close."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
