"""Tiers for tests: entries, memfds, a clock by hand, a disk tier in a directory, real disk use."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiered_store.aio.offload import Offload
from tiered_store.key import Key
from tiered_store.objects import INLINE_MAX_BYTES, Body, Descriptor, Entry, FileBody, ObjectInfo, read_body
from tiered_store.tiers.disk import DiskTier, SpoolFile

__all__ = [
    "ManualClock",
    "Rig",
    "body_of",
    "copied",
    "disk_rig",
    "disk_use",
    "entry_of",
    "memfd",
    "object_files",
    "open_descriptors",
    "spooled",
    "until",
]

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class ManualClock:
    """Time that passes when the test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def memfd(data: bytes) -> FileBody:
    """The data as a sealed memfd."""
    descriptor = Descriptor(os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    os.write(descriptor.fd, data)
    fcntl.fcntl(descriptor.fd, fcntl.F_ADD_SEALS, _SEALS)
    return FileBody(descriptor, 0, len(data), is_memory=True)


def body_of(data: bytes) -> Body:
    """The data as the law wants it: bytes when small, else a file."""
    return data if len(data) <= INLINE_MAX_BYTES else memfd(data)


def entry_of(key: str, body: Body | bytes, *, etag: str = "v1", validated_at: float = 1e9, **info: Any) -> Entry:
    """An entry; a body of bytes is put into a memfd when it is large."""
    placed = body_of(body) if isinstance(body, bytes) else body
    size = len(body) if isinstance(body, bytes) else body.size
    return Entry(ObjectInfo(key, size, etag, **info), placed, validated_at=validated_at)


async def spooled(tier: DiskTier, data: bytes, size: int | None = None) -> FileBody:
    """The data in a spool of the tier."""
    spool = await tier.open_spool(size)
    assert isinstance(spool, SpoolFile)
    await asyncio.to_thread(spool.write, data)
    return spool.body()


@dataclass
class Rig:
    """A started disk tier and what it said."""

    tier: DiskTier
    path: Path
    offload: Offload
    corrupt: list[Key]

    async def read(self, key: str) -> bytes | None:
        """The bytes under a key, checked against the entry's own claims."""
        entry = await self.tier.get(Key(key))
        if entry is None:
            return None
        data = read_body(entry.body)
        assert entry.info.key == key
        assert len(data) == entry.info.size
        assert entry.crc in {None, zlib.crc32(data)}
        assert isinstance(entry.body, bytes) == (entry.info.size <= INLINE_MAX_BYTES)
        return data


@asynccontextmanager
async def disk_rig(path: Path, **options: Any) -> AsyncIterator[Rig]:
    """A disk tier, started; closed at the end."""
    offload = Offload(2, "test-disk")
    corrupt: list[Key] = []
    settings: dict[str, Any] = {
        "max_bytes": 64 * 1024 * 1024,
        "min_free_bytes": 0,
        "min_free_inodes": 0,
        "max_open_files": 8,
        "probe_s": 0.01,
    } | options
    tier = DiskTier(path, offload=offload, on_corrupt=corrupt.append, **settings)
    await tier.start()
    try:
        yield Rig(tier, path, offload, corrupt)
    finally:
        await tier.close()
        await offload.close()


def copied(source: Path, target: Path) -> Path:
    """A copy of a directory that is in use: what would be found had the process been killed just now."""
    return Path(shutil.copytree(source, target))


def disk_use(path: Path) -> int:
    """What the files below a directory really take, in bytes."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(directory) / name).lstat().st_blocks * 512
    return total


def object_files(path: Path) -> list[Path]:
    """The object files of a disk tier's directory."""
    return sorted(path.glob("objects/*/*"))


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop go on until something is so; the test's own timeout is the limit."""
    while not condition():
        await asyncio.sleep(0.001)
