"""A build cache to test, over the store's rig."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.store import Rig, store_rig
from tiered_store.aio.offload import Offload
from tiered_store.build.cache import BuildCache, BuildLimits
from tiered_store.build.entry import Place
from tiered_store.objects import read_body
from tiered_store.stats import DialectStats

#: Long enough that no test meets it by accident.
_PATIENT = BuildLimits(read_timeout_s=60.0)


@dataclass
class BuildRig:
    """A build cache and what is below it."""

    cache: BuildCache
    rig: Rig

    async def put(
        self, place: Place, name: str, data: bytes, headers: dict[str, str] | None = None, **how: Any
    ) -> bool:
        """Store as a door does."""
        spool = self.cache.spool(len(data))
        await spool.write(data)
        return await self.cache.put(place, name, await spool.finish(), headers or {}, **how)

    async def get(self, place: Place, name: str) -> bytes | None:
        """The content, or None for a miss."""
        found = await self.cache.get(place, name)
        return None if found is None else read_body(found.body)

    def stats(self, place: Place) -> DialectStats:
        return self.cache.stats_of(place.dialect)


@asynccontextmanager
async def build_rig(limits: BuildLimits = _PATIENT, **options: Any) -> AsyncIterator[BuildRig]:
    """A build cache over a store rig with these ``options``."""
    async with store_rig(**options) as rig:
        offload = Offload(2, "build")
        build = BuildRig(BuildCache(rig.store, offload, limits, clock=rig.clock), rig)
        try:
            yield build
        finally:
            await build.cache.close()
            await offload.close()
