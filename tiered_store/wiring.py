"""Configuration to store: the one place where concrete classes meet.

Also divides what the process may use between the parts: file descriptors. Nothing here serves; the
invariant is that what :func:`open_store` returns is started, and that on an error nothing stays open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tiered_store.aio.offload import Offload
from tiered_store.aio.ownership import NotOurs
from tiered_store.config.checks import uses_journal, waiting_puts
from tiered_store.config.model import CdnSection, Config, S3Section
from tiered_store.config.providers import place_of, said_origin
from tiered_store.errors import OriginUnavailable
from tiered_store.key import RESERVED_PREFIX, Key
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.origins.base import Origin
from tiered_store.origins.guard import GuardedOrigin
from tiered_store.origins.local import LocalOrigin
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.origins.probe import Probe
from tiered_store.servers.limits import NativeLimits
from tiered_store.stats import OriginStats
from tiered_store.store.backlog import Backlog, BacklogLimits
from tiered_store.store.journal import Journal
from tiered_store.store.limits import StoreLimits
from tiered_store.store.policy import Policies, Policy
from tiered_store.store.store import Store
from tiered_store.tiers.directory import forget_marks
from tiered_store.tiers.disk import DiskTier
from tiered_store.tiers.memory import MemoryTier

if TYPE_CHECKING:  # what an S3 origin or a cdn needs takes long to import, and most daemons have none
    from tiered_store.origins.s3 import S3Origin
    from tiered_store.origins.s3settings import S3Settings
    from tiered_store.tiers.cdn import CdnTier
    from tiered_store.tiers.cdnsettings import CdnSettings

__all__ = [
    "CannotStart",
    "DescriptorPlan",
    "OpenStore",
    "cdn_settings",
    "divide_descriptors",
    "native_limits",
    "open_bucket",
    "open_probe",
    "open_store",
    "raise_descriptor_limit",
    "s3_settings",
    "store_limits",
]

_log = logging.getLogger(__name__)

#: Kept back for the interpreter, the event loop and the logs, SQLite's files (three per thread of the disk
#: tier), and the files of running fills (an origin's and a spool's each).
_RESERVED = 256
#: A connection holds its socket, and up to one more descriptor that is on its way in or out.
_PER_CONNECTION = 2
#: An upload from the journal holds its file, and one more at an origin that is a directory.
_PER_UPLOAD = 2
#: With fewer than this to divide, next to nothing large could be cached.
_USABLE_MINIMUM = 64
#: Open files of the disk tier beyond this gain nothing: opening one costs some ten microseconds.
_DISK_MAXIMUM = 8192
#: Threads that wait for files. Most of the time they are in a system call, not on a core.
_ORIGIN_THREADS = 8
_DISK_THREADS = 4
#: What a start waits for the directory of a disk tier that is off.
_LEAVE_TIMEOUT_S = 5.0
#: The kernel's default for fs.nr_open; what "unlimited" is taken to mean.
_UNLIMITED = 2**20


class CannotStart(Exception):
    """The machine does not give what the configuration needs; the message says what to do."""


@dataclass(frozen=True, slots=True)
class DescriptorPlan:
    """Who may hold how many file descriptors.

    Attributes:
        limit: of the process (RLIMIT_NOFILE).
        connections: how many clients can be connected.
        memory: how many objects of the memory tier may be memfds.
        disk: how many cache files the disk tier keeps open.
    """

    limit: int
    connections: int
    memory: int
    disk: int


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE to the hard limit, and give it back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _UNLIMITED if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Not fatal: the kernel may allow less than the limit says (fs.nr_open), and the old one works too.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def divide_descriptors(limit: int, config: Config) -> DescriptorPlan:
    """Divide the process's descriptors.

    256 are kept back, those for the connections to an S3 origin and a cdn, and two for each upload from a journal.
    Connections of clients come first, two each, but get at most half of the rest; what they leave goes to the tiers,
    half to each; an origin in memory, whose large objects are files too, is left half of it first. The memory tier
    takes no more than it could ever fill with objects large enough to be files, the disk tier at most 8192.

    Raises:
        CannotStart: if the limit leaves too little for any use.
    """
    reserved = _RESERVED
    if config.origin.backend == "s3":
        reserved += config.s3.max_connections
    if config.cdn.base_url:
        reserved += config.cdn.max_connections
    if uses_journal(config):
        reserved += _PER_UPLOAD * config.write_back.uploads_at_once
    usable = limit - reserved
    if usable < _USABLE_MINIMUM:
        raise CannotStart(
            f"the process may open only {limit} files; allow at least {reserved + _USABLE_MINIMUM} "
            "(ulimit -n, or LimitNOFILE= in the systemd unit)"
        )
    connections = min(config.server.max_connections, usable // 2 // _PER_CONNECTION)
    rest = usable - connections * _PER_CONNECTION
    if config.origin.backend == "memory":
        rest //= 2
    memory = min(rest // 2 if config.disk.enabled else rest, config.memory.max_bytes // INLINE_MAX_BYTES)
    disk = min(rest - memory, _DISK_MAXIMUM) if config.disk.enabled else 0
    return DescriptorPlan(limit, connections, memory, disk)


def native_limits(config: Config, plan: DescriptorPlan) -> NativeLimits:
    """What one peer of the native socket may use."""
    return NativeLimits(
        max_connections=plan.connections,
        max_in_flight=config.server.max_in_flight,
        max_metadata_bytes=config.limits.max_metadata_bytes,
        write_buffer_bytes=config.server.write_buffer_bytes,
        hello_timeout_s=config.server.hello_timeout_s,
        stall_timeout_s=config.server.stall_timeout_s,
        slow_request_s=config.log.slow_request_s,
    )


class OpenStore:
    """A store that runs, with the threads below it.

    Attributes:
        store: started.
    """

    def __init__(self, store: Store, pools: Sequence[Offload]) -> None:
        self.store = store
        self._pools = pools

    async def close(self) -> None:
        """Close the store, which closes its tiers and its origin, and then the threads that those used."""
        try:
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
        origin = await _open_origin(config, origin_stats, undo, pools)
        disk = None
        pools.append(_pool(undo, "disk", _DISK_THREADS if config.disk.enabled else 1))
        if config.disk.enabled:
            disk = DiskTier(
                config.disk.path,
                max_bytes=config.disk.max_bytes,
                min_free_bytes=config.disk.min_free_bytes,
                min_free_inodes=config.disk.min_free_inodes,
                max_open_files=plan.disk,
                offload=pools[-1],
                on_corrupt=found_corrupt,
            )
            undo.push_async_callback(disk.close)
            await disk.start()
        else:
            await _leave_cache_suspect(config.disk.path, pools[-1])
        memory = MemoryTier(
            config.memory.max_bytes, max_share=config.memory.max_object_share, max_descriptors=plan.memory
        )
        cdn = await _open_cdn(config.cdn, undo)
        backlog = await _open_backlog(config, undo)
        store = Store(
            memory=memory,
            disk=disk,
            origin=origin,
            cdn=cdn,
            policies=_policies(config),
            limits=store_limits(config),
            origin_stats=origin_stats,
            backlog=backlog,
        )
        await store.start()
        undo.pop_all()
        return OpenStore(store, pools)


async def _open_origin(
    config: Config, stats: OriginStats, undo: contextlib.AsyncExitStack, pools: list[Offload]
) -> Origin:
    """Start the configured origin, with threads of its own where it has work for them.

    A bucket gets a guard. A directory does not: one file that cannot be read says nothing about the others.
    """
    if config.origin.backend == "memory":
        memory = MemoryOrigin(quota_bytes=config.origin.quota_bytes or None)
        undo.push_async_callback(memory.close)
        return memory
    pools.append(_pool(undo, "origin", _ORIGIN_THREADS))
    if config.origin.backend == "s3":
        bucket = await _open_bucket(config.s3, undo, pools[-1])
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


async def _open_bucket(section: S3Section, undo: contextlib.AsyncExitStack, pool: Offload) -> S3Origin:
    from tiered_store.origins.s3 import S3Origin

    bucket = S3Origin(s3_settings(section), pool)
    undo.push_async_callback(bucket.close)
    await bucket.start()
    return bucket


@contextlib.asynccontextmanager
async def open_bucket(config: Config) -> AsyncIterator[S3Origin]:
    """The bucket of a configuration with an S3 origin, alone, for as long as the context lasts."""
    async with contextlib.AsyncExitStack() as undo:
        yield await _open_bucket(config.s3, undo, _pool(undo, "origin", 1))


@contextlib.asynccontextmanager
async def open_probe(config: Config, timeout_s: float) -> AsyncIterator[Probe]:
    """What tries out the configured origin; names are taken that no key can have, where the origin has such names.

    Raises:
        PermissionDenied, OriginUnavailable: the origin cannot even be started.
    """
    mark = secrets.token_hex(16)
    name, others, rehearsals = f"tiered-store-probe-{mark}", {}, {}
    async with contextlib.AsyncExitStack() as undo:
        if config.origin.backend == "s3":
            origin: Origin = (bucket := await _open_bucket(config.s3, undo, _pool(undo, "origin", 1)))
            name = f"{RESERVED_PREFIX}/probe-{mark}"
            others = {
                f"as {storage_class}": f"{prefix.rstrip('/')}/{name}".removeprefix("/")
                for prefix, storage_class in config.s3.storage_classes.items()
            }
            rehearsals = {"put in parts": lambda: bucket.rehearse_parts(name)}
        else:
            origin = await _open_origin(config, OriginStats(), undo, [])
        yield Probe(origin, name, others=others, rehearsals=rehearsals, timeout_s=timeout_s)


async def _open_cdn(section: CdnSection, undo: contextlib.AsyncExitStack) -> CdnTier | None:
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


def cdn_settings(section: CdnSection) -> CdnSettings:
    """What a cdn tier is told."""
    from tiered_store.tiers.cdnsettings import CdnSettings

    return CdnSettings(
        base_url=section.base_url,
        purge_url=section.purge_url,
        timeout_s=section.timeout_ms / 1000,
        headers={name: value.get_secret_value() for name, value in section.headers.items()},
        max_connections=section.max_connections,
        part_bytes=section.part_bytes,
        parts_at_once=section.parts_at_once,
    )


async def _open_backlog(config: Config, undo: contextlib.AsyncExitStack) -> Backlog | None:
    """Open the journal where a policy asks for one, and where an earlier configuration has left puts in one.

    Raises:
        OriginUnavailable: it cannot be used. To go on without it would hide acknowledged puts from their readers.
    """
    section, is_used = config.write_back, uses_journal(config)
    if not is_used and not await asyncio.to_thread(waiting_puts, section.path):
        return None
    journal = Journal(section.path, said_origin(config))
    backlog = Backlog(journal, BacklogLimits(section.max_bytes, section.max_entries))
    undo.push_async_callback(backlog.close)
    try:
        await backlog.start()
    except (NotOurs, OSError) as error:
        if not is_used and isinstance(error, NotOurs):  # the default place, and puts of another daemon or origin
            _log.warning("puts in a journal are left to others", extra={"reason": str(error)})
            await backlog.close()
            return None
        raise OriginUnavailable(f"the journal cannot be used (write_back.path): {error}", retryable=False) from error
    return backlog


def s3_settings(section: S3Section) -> S3Settings:
    """What an S3 origin is told: the section, with what follows from the provider; an empty text is not said."""
    from tiered_store.origins.s3settings import S3Settings

    place = place_of(section)
    return S3Settings(
        bucket=section.bucket,
        prefix=section.prefix,
        endpoint_url=place.endpoint_url,
        region=place.region,
        path_style=place.path_style,
        access_key_id=section.access_key_id.get_secret_value() or None,
        secret_access_key=section.secret_access_key.get_secret_value() or None,
        session_token=section.session_token.get_secret_value() or None,
        sse=section.sse,
        sse_kms_key_id=section.sse_kms_key_id,
        storage_classes=section.storage_classes,
        max_connections=section.max_connections,
        connect_timeout_s=section.connect_timeout_s,
        read_timeout_s=section.read_timeout_s,
        part_bytes=section.part_bytes,
        parts_at_once=section.parts_at_once,
    )


def _pool(undo: contextlib.AsyncExitStack, name: str, threads: int) -> Offload:
    pool = Offload(threads, name)
    undo.push_async_callback(pool.close)
    return pool


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


def _policies(config: Config) -> Policies:
    return Policies(
        Policy(
            rule.prefix,
            immutable=rule.immutable,
            ttl_s=rule.ttl_s,
            stale_while_revalidate_s=rule.stale_while_revalidate_s,
            stale_if_error_s=rule.stale_if_error_s,
            negative_ttl_s=rule.negative_ttl_s,
            cdn=rule.cdn,
            write_back=rule.write_back,
        )
        for rule in config.policies
    )


def store_limits(config: Config) -> StoreLimits:
    """What the store refuses, and what it may hold at once.

    Of the connections to a bucket a sixteenth is for readers that hold one as long as they like, an eighth, at least,
    for requests that hold one shortly (parts, questions, listings), and fills get the rest.
    """
    bounds = {}
    if config.origin.backend == "s3":
        through = max(1, config.s3.max_connections // 16)
        short = max(2, config.s3.max_connections // 8)
        bounds = {"max_through_reads": through, "max_fills": config.s3.max_connections - through - short}
    if config.cdn.base_url:
        reads = config.cdn.max_connections - config.cdn.parts_at_once
        bounds["max_fills"] = min(reads, bounds.get("max_fills", reads))
    return StoreLimits(
        max_object_bytes=config.limits.max_object_bytes,
        max_metadata_bytes=config.limits.max_metadata_bytes,
        fill_buffer_bytes=config.fills.buffer_bytes,
        spool_memory_bytes=config.fills.spool_memory_bytes,
        upload_buffer_bytes=config.fills.upload_buffer_bytes,
        max_uploads=config.fills.max_uploads,
        # Asking a directory costs less than remembering it is worth.
        exists_ttl_s=config.s3.exists_ttl_s if config.origin.backend == "s3" else 0.0,
        uploads_at_once=config.write_back.uploads_at_once,
        drain_s=config.server.drain_timeout_s,
        **bounds,
    )
