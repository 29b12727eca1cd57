"""A store to test, with everything round it at hand, and proof afterwards that it left nothing behind."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.faults import FaultyOrigin, ManualClock
from tiered_store.key import artifact_key, parse_key
from tiered_store.objects import Entry, ObjectInfo, body_size, read_body
from tiered_store.origins.base import Origin, PutHeaders
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.store.backlog import Backlog, BacklogLimits
from tiered_store.store.journal import Journal
from tiered_store.store.limits import StoreLimits
from tiered_store.store.policy import Policies, Policy
from tiered_store.store.reading import Reading
from tiered_store.store.sources import CdnPlace
from tiered_store.store.store import Store
from tiered_store.tiers.memory import MemoryTier

MIB = 1024 * 1024
NOTHING_SAID = PutHeaders()
_DEFAULTS = StoreLimits()
_BACKLOG = BacklogLimits()


@dataclass
class Rig:
    """A store and what is round it."""

    store: Store
    origin: FaultyOrigin
    memory: MemoryTier
    disk: Any
    clock: ManualClock
    wall: ManualClock

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    def counter(self, name: str) -> Any:
        return self.store.stats()[name]

    async def there(self, key: str, data: bytes) -> ObjectInfo:
        """Put an object into the origin behind the store's back."""
        return await self.origin.inner.put(key, data, NOTHING_SAID)

    async def put(self, key: str | None, data: bytes, headers: PutHeaders = NOTHING_SAID) -> ObjectInfo:
        """Upload through the store, as a client does."""
        hashed = key is None or key.startswith("sha256:")
        spool = self.store.spool(len(data), hashed=hashed)
        for start in range(0, len(data), MIB):
            await spool.write(data[start : start + MIB])
        return await self.store.put(None if key is None else parse_key(key), await spool.finish(), headers)

    async def get(self, key: str, **hints: bool) -> bytes:
        return data_of(await self.store.get(parse_key(key), **hints))

    async def stream(self, key: str, offset: int = 0, length: int | None = None, **hints: bool) -> bytes:
        reading = await self.store.read(parse_key(key), **hints)
        try:
            return b"".join([piece async for piece in reading.chunks(offset, length)])
        finally:
            reading.close()


async def collect(reading: Reading, into: bytearray) -> None:
    """Stream to the end; what came before an error is in ``into``."""
    async for piece in reading.chunks():
        into += piece


def data_of(entry: Entry) -> bytes:
    assert body_size(entry.body) == entry.info.size
    return read_body(entry.body)


def artifact_of(data: bytes) -> str:
    return artifact_key(hashlib.sha256(data).hexdigest())


@asynccontextmanager
async def store_rig(
    *,
    policies: Iterable[Policy] = (),
    limits: StoreLimits = _DEFAULTS,
    disk: Any = None,
    memory_bytes: int = 8 * MIB,
    origin: Origin | None = None,
    cdn: CdnPlace | None = None,
    journal: Path | None = None,
    backlog: BacklogLimits = _BACKLOG,
) -> AsyncIterator[Rig]:
    """A started store over an origin in memory; closed, and checked for leaks, at the end. Closes the cdn, too.

    With a ``journal``, puts below ``back/`` are written back.
    """
    descriptors = _count_descriptors()
    clock, wall = ManualClock(1000.0), ManualClock(1_700_000_000.0)
    inner = FaultyOrigin(origin if origin is not None else MemoryOrigin())
    memory = MemoryTier(memory_bytes)
    waiting = None
    if journal is not None:
        policies = [*policies, Policy("back/", write_back=True)]
        waiting = Backlog(Journal(journal), backlog, wall=wall)
        await waiting.start()
    store = Store(
        memory=memory,
        disk=disk,
        origin=inner,
        cdn=cdn,
        policies=Policies(policies),
        limits=limits,
        backlog=waiting,
        clock=clock,
        wall=wall,
    )
    await store.start()
    rig = Rig(store, inner, memory, disk, clock, wall)
    try:
        yield rig
    finally:
        await store.close()
    assert inner.open_reads == 0
    assert inner.is_closed
    del rig, store, inner, memory, waiting
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    if _count_descriptors() > descriptors:
        gc.collect()  # slow, and mostly nothing is left to collect
        await until(lambda: _count_descriptors() <= descriptors)
    await until(lambda: getattr(disk, "spools", 0) == 0)


def _count_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for what another thread is about to do, such as letting go of its last reference."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.001)


async def settle(turns: int = 10) -> None:
    """Let everything run that does not wait for anything: a few turns of the event loop."""
    for _ in range(turns):
        await asyncio.sleep(0)
