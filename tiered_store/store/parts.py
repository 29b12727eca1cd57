"""What a store is made of: the rooms round its read path, built and joined.

Knows which room needs which others, and nothing of what they do. Nothing is started here, and nothing is closed: the
store does both, in its order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tiered_store.aio.limits import ByteBudget
from tiered_store.aio.offload import Offload
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.origins.base import Origin
from tiered_store.stats import StoreStats
from tiered_store.store.backlog import Backlog
from tiered_store.store.cache import Cache, DiskPlace, MemoryPlace
from tiered_store.store.damage import KnownDamage
from tiered_store.store.fills import Fills
from tiered_store.store.flights import Flights
from tiered_store.store.freshness import Freshness
from tiered_store.store.limits import StoreLimits
from tiered_store.store.lookups import Lookups
from tiered_store.store.memfd import MemoryRoom
from tiered_store.store.negative import NegativeCache
from tiered_store.store.pending import PendingReads
from tiered_store.store.policy import Policies
from tiered_store.store.promotion import Promotions
from tiered_store.store.sources import CdnPlace, Sources
from tiered_store.store.staging import Staging
from tiered_store.store.through import ThroughReads
from tiered_store.store.uploader import Uploader
from tiered_store.store.uploads import UploadRoom
from tiered_store.store.upstream import Upstream
from tiered_store.store.writes import Writes

__all__ = ["Parts", "Shared", "assemble"]

#: Threads for hashing and for spool files; tiers and origins have their own.
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Shared:
    """What both reads and writes need."""

    upstream: Upstream
    sources: Sources
    staging: Staging
    cache: Cache
    freshness: Freshness
    negative: NegativeCache
    damage: KnownDamage
    counters: StoreStats
    budget: ByteBudget
    offload: Offload


@dataclass(frozen=True, slots=True)
class Parts:
    """All of it, with what reads and what writes."""

    shared: Shared
    pending: PendingReads
    promotions: Promotions
    lookups: Lookups
    fills: Fills
    through: ThroughReads
    writes: Writes
    uploader: Uploader


def assemble(
    *,
    memory: MemoryPlace,
    disk: DiskPlace | None,
    origin: Origin,
    cdn: CdnPlace | None,
    policies: Policies,
    limits: StoreLimits,
    counters: StoreStats,
    backlog: Backlog,
    clock: Callable[[], float],
    wall: Callable[[], float],
) -> Parts:
    """Build everything for a store with these arguments; see there."""
    offload = Offload(_THREADS, "store")
    budget = ByteBudget(max(limits.fill_buffer_bytes, INLINE_MAX_BYTES))
    upstream = Upstream(origin, counters.origin, clock=clock, exists_ttl_s=limits.exists_ttl_s)
    shared = Shared(
        upstream=upstream,
        sources=Sources(upstream, cdn, policies, counters),
        staging=_staging(disk, limits, budget, offload),
        cache=Cache(memory, disk, counters),
        freshness=_freshness(disk, policies, clock, wall),
        negative=NegativeCache(clock),
        damage=KnownDamage(),
        counters=counters,
        budget=budget,
        offload=offload,
    )
    promotions = Promotions(shared.cache, shared.freshness, shared.staging, max_running=limits.max_background_tasks)
    lookups = Lookups(shared.cache, promotions)
    fills = _fills(shared, limits)
    writes = _writes(shared, backlog, limits, (fills.flights, lookups.flights, promotions.flights))
    return Parts(
        shared=shared,
        pending=PendingReads(backlog, shared.cache, shared.freshness),
        promotions=promotions,
        lookups=lookups,
        fills=fills,
        through=_through(shared, limits),
        writes=writes,
        uploader=_uploader(backlog, writes, limits, clock),
    )


def _staging(disk: DiskPlace | None, limits: StoreLimits, budget: ByteBudget, offload: Offload) -> Staging:
    return Staging(
        disk,
        MemoryRoom(limits.spool_memory_bytes),
        UploadRoom(limits.upload_buffer_bytes, limits.max_uploads),
        budget=budget,
        offload=offload,
        max_object_bytes=limits.max_object_bytes,
    )


def _freshness(
    disk: DiskPlace | None, policies: Policies, clock: Callable[[], float], wall: Callable[[], float]
) -> Freshness:
    return Freshness(
        policies,
        clock=clock,
        wall=wall,
        suspect_before=(lambda: float("-inf")) if disk is None else (lambda: disk.suspect_before),
    )


def _fills(shared: Shared, limits: StoreLimits) -> Fills:
    return Fills(
        shared.sources,
        shared.staging,
        shared.cache,
        shared.freshness,
        shared.negative,
        shared.damage,
        shared.counters,
        budget=shared.budget,
        max_running=limits.max_fills,
        max_revalidations=limits.max_background_tasks,
    )


def _through(shared: Shared, limits: StoreLimits) -> ThroughReads:
    return ThroughReads(
        shared.upstream,
        budget=shared.budget,
        offload=shared.offload,
        condemn=shared.damage.remember,
        max_open=limits.max_through_reads,
    )


def _writes(shared: Shared, backlog: Backlog, limits: StoreLimits, flights: Sequence[Flights[Any]]) -> Writes:
    return Writes(
        shared.upstream,
        shared.staging,
        shared.cache,
        shared.freshness,
        shared.negative,
        shared.damage,
        shared.counters,
        sources=shared.sources,
        backlog=backlog,
        flights=flights,
        max_metadata_bytes=limits.max_metadata_bytes,
        max_running=limits.max_writes,
    )


def _uploader(backlog: Backlog, writes: Writes, limits: StoreLimits, clock: Callable[[], float]) -> Uploader:
    return Uploader(
        backlog,
        writes.origin_locks,
        send=writes.upload,
        arrived=writes.uploaded,
        at_once=limits.uploads_at_once,
        clock=clock,
    )
