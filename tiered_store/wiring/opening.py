"""The store that a configuration describes, whole.

Nothing here serves. The invariant: what :func:`open_store` returns is started, and on an error nothing stays open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from tiered_store.aio.offload import Offload
from tiered_store.build.cache import BuildCache
from tiered_store.config.model import Config
from tiered_store.key import Key
from tiered_store.stats import OriginStats
from tiered_store.store.store import Store
from tiered_store.tiers.memory import MemoryTier
from tiered_store.wiring.descriptors import DescriptorPlan
from tiered_store.wiring.parts import start_backlog, start_build, start_cdn, start_disk, start_origin
from tiered_store.wiring.settings import store_limits, store_policies

__all__ = ["OpenStore", "open_store"]


class OpenStore:
    """A store that runs, with the threads below it.

    Attributes:
        store: started.
        build: the build cache over it, or None where it is off.
    """

    def __init__(self, store: Store, build: BuildCache | None, pools: Sequence[Offload]) -> None:
        self.store = store
        self.build = build
        self._pools = pools

    async def close(self) -> None:
        """Close the store, which closes its tiers and its origin, and then the threads that those used."""
        try:
            if self.build is not None:
                await self.build.close()
            await self.store.close()
        finally:
            for pool in self._pools:
                await pool.close()


async def open_store(config: Config, plan: DescriptorPlan) -> OpenStore:
    """Build the store that a configuration describes, and start it.

    Raises:
        PermissionDenied, OriginUnavailable: the origin, or the journal, cannot be used. A disk tier that cannot is no
            error.
    """

    def found_corrupt(key: Key) -> None:
        store.found_corrupt(key)  # made below; nobody reads before

    async with contextlib.AsyncExitStack() as undo:
        pools: list[Offload] = []
        origin_stats = OriginStats()
        origin = await start_origin(config, origin_stats, undo, pools)
        disk = await start_disk(config.disk, undo, pools, max_open_files=plan.disk, on_corrupt=found_corrupt)
        memory = MemoryTier(
            config.memory.max_bytes, max_share=config.memory.max_object_share, max_descriptors=plan.memory
        )
        cdn = await start_cdn(config.cdn, undo)
        backlog = await start_backlog(config, undo)
        store = Store(
            memory=memory,
            disk=disk,
            origin=origin,
            cdn=cdn,
            policies=store_policies(config),
            limits=store_limits(config),
            origin_stats=origin_stats,
            backlog=backlog,
        )
        await store.start()
        build = start_build(config, store, undo, pools)
        undo.pop_all()
        return OpenStore(store, build, pools)
