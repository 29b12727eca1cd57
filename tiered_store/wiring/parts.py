"""The parts of a store, each as its sections describe it: built and started.

Each function pushes onto ``undo`` what closes the part again, before it starts it: whatever fails later, nothing stays
open. The parts do not know each other; ``opening.py`` joins them. S3 and the cdn are imported where they are
configured: importing them takes longer than all the rest of a start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tiered_store.aio.offload import Offload
from tiered_store.aio.ownership import NotOurs
from tiered_store.build.cache import BuildCache
from tiered_store.config.checks import opens_journal, uses_journal, waiting_puts
from tiered_store.config.model import CdnSection, Config, DiskSection, S3Section
from tiered_store.config.providers import said_origin
from tiered_store.errors import OriginUnavailable
from tiered_store.key import Key
from tiered_store.origins.base import Origin
from tiered_store.origins.guard import GuardedOrigin
from tiered_store.origins.local import LocalOrigin
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.stats import OriginStats
from tiered_store.store.backlog import Backlog, BacklogLimits
from tiered_store.store.journal import Journal
from tiered_store.store.store import Store
from tiered_store.tiers.directory import forget_marks
from tiered_store.tiers.disk import DiskTier
from tiered_store.wiring.settings import build_limits, cdn_settings, s3_settings

if TYPE_CHECKING:
    from tiered_store.origins.s3 import S3Origin
    from tiered_store.tiers.cdn import CdnTier

__all__ = ["new_pool", "start_backlog", "start_bucket", "start_build", "start_cdn", "start_disk", "start_origin"]

_log = logging.getLogger("tiered_store.wiring")

#: Threads that wait for files. Most of the time they are in a system call, not on a core.
_ORIGIN_THREADS = 8
_DISK_THREADS = 4
#: They hash, so that more than there are cores would gain nothing.
_BUILD_THREADS = 2
#: What a start waits for the directory of a disk tier that is off.
_LEAVE_TIMEOUT_S = 5.0


def new_pool(undo: contextlib.AsyncExitStack, name: str, threads: int) -> Offload:
    """Threads for one part."""
    pool = Offload(threads, name)
    undo.push_async_callback(pool.close)
    return pool


async def start_origin(
    config: Config, stats: OriginStats, undo: contextlib.AsyncExitStack, pools: list[Offload]
) -> Origin:
    """Start the configured origin, with threads of its own where it has work for them.

    A bucket gets a guard. A directory does not: one file that cannot be read says nothing about the others.
    """
    if config.origin.backend == "memory":
        memory = MemoryOrigin(quota_bytes=config.origin.quota_bytes or None)
        undo.push_async_callback(memory.close)
        return memory
    pools.append(new_pool(undo, "origin", _ORIGIN_THREADS))
    if config.origin.backend == "s3":
        bucket = await start_bucket(config.s3, undo, pools[-1])
        guarded = GuardedOrigin(
            bucket, stats, retry_for_s=config.origin.retry_for_s, hedged_reads=config.origin.hedged_reads
        )
        undo.push_async_callback(guarded.close)
        guarded.start()
        return guarded
    local = LocalOrigin(config.origin.path, offload=pools[-1])
    undo.push_async_callback(local.close)
    await local.start()
    return local


async def start_bucket(section: S3Section, undo: contextlib.AsyncExitStack, pool: Offload) -> S3Origin:
    """Start a bucket's origin, without a guard."""
    from tiered_store.origins.s3 import S3Origin

    bucket = S3Origin(s3_settings(section), pool)
    undo.push_async_callback(bucket.close)
    await bucket.start()
    return bucket


async def start_disk(
    section: DiskSection,
    undo: contextlib.AsyncExitStack,
    pools: list[Offload],
    *,
    max_open_files: int,
    on_corrupt: Callable[[Key], None],
) -> DiskTier | None:
    """Start the disk tier; where it is off, see to it that the next run does not trust what lies there."""
    pools.append(new_pool(undo, "disk", _DISK_THREADS if section.enabled else 1))
    if not section.enabled:
        await _leave_cache_suspect(section.path, pools[-1])
        return None
    disk = DiskTier(
        section.path,
        max_bytes=section.max_bytes,
        min_free_bytes=section.min_free_bytes,
        min_free_inodes=section.min_free_inodes,
        max_open_files=max_open_files,
        offload=pools[-1],
        on_corrupt=on_corrupt,
    )
    undo.push_async_callback(disk.close)
    await disk.start()
    return disk


async def _leave_cache_suspect(path: Path, pool: Offload) -> None:
    """Let the next run with a disk tier doubt what it finds there: this run's changes do not reach it.

    Nothing here keeps the daemon from starting. A disk that hangs may be why the tier is off.
    """
    try:
        async with asyncio.timeout(_LEAVE_TIMEOUT_S):
            forgotten = await pool.run(forget_marks, path)
    except (OSError, TimeoutError) as error:
        reason = str(error) or "no answer"
        _log.warning(
            "the unused cache directory cannot be marked as out of date; remove it before it is used again",
            extra={"path": str(path), "reason": reason},
        )
    else:
        if forgotten:
            _log.info("the unused cache directory was marked as out of date", extra={"path": str(path)})


async def start_cdn(section: CdnSection, undo: contextlib.AsyncExitStack) -> CdnTier | None:
    """Start the configured cdn, if there is one; it is not asked anything."""
    if not section.base_url:
        return None
    from tiered_store.tiers.cdn import CdnTier
    from tiered_store.tiers.purge import HttpPurger

    settings = cdn_settings(section)
    cdn = CdnTier(settings, HttpPurger(settings) if section.purge == "http" else None)
    undo.push_async_callback(cdn.close)
    await cdn.start()
    return cdn


async def start_backlog(config: Config, undo: contextlib.AsyncExitStack) -> Backlog | None:
    """Open the journal where a policy asks for one, and where an earlier configuration has left puts in one.

    The build cache uses one where it can be had, and does without where not.

    Raises:
        OriginUnavailable: it cannot be used. To go on without it would hide acknowledged puts from their readers.
    """
    section, is_used = config.write_back, uses_journal(config)
    has_puts = await asyncio.to_thread(waiting_puts, section.path) > 0
    if not has_puts and not opens_journal(config):
        return None
    journal = Journal(section.path, said_origin(config))
    backlog = Backlog(journal, BacklogLimits(section.max_bytes, section.max_entries))
    undo.push_async_callback(backlog.close)
    try:
        await backlog.start()
    except (NotOurs, OSError) as error:
        if not is_used and (isinstance(error, NotOurs) or not has_puts):
            # The default place, with puts of another daemon or origin; or it has none that could be missed.
            event = "puts in a journal are left to others" if has_puts else "the journal is left alone"
            _log.warning(event, extra={"reason": str(error)})
            await backlog.close()
            return None
        raise OriginUnavailable(f"the journal cannot be used (write_back.path): {error}", retryable=False) from error
    return backlog


def start_build(
    config: Config, store: Store, undo: contextlib.AsyncExitStack, pools: list[Offload]
) -> BuildCache | None:
    """The build cache over a store, with threads of its own; None where it is off."""
    if not config.build.enabled:
        return None
    pools.append(new_pool(undo, "build", _BUILD_THREADS))
    return BuildCache(store, pools[-1], build_limits(config))
