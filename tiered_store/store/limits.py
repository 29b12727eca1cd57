"""The store's bounds, as one value that wiring builds from the configuration."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StoreLimits"]

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What the store refuses, and what it may hold at once.

    Attributes:
        max_object_bytes: the largest object that may be stored; 0 means no bound. What the origin
            already holds can be read whatever its size.
        max_metadata_bytes: user metadata and content type of one object, as UTF-8.
        fill_buffer_bytes: buffers of all running fills and uploads by descriptor together; those beyond it
            wait their turn.
        spool_memory_bytes: anonymous memory for uploads and fills that find no room in the disk tier.
        upload_buffer_bytes: pieces that unfinished uploads gather in memory, all together; uploads beyond it
            write every piece to their file at once.
        max_uploads: unfinished uploads that may hold a file at once; more are refused.
        max_writes: puts, copies and deletes that are with the origin at once; further ones wait their turn.
        max_fills: fills that are with the cdn or the origin at once; further ones wait their turn. With
            ``max_through_reads`` less than the origin's connections, where those are bounded.
        max_through_reads: readers of objects for which this machine has no room; each has a read of its own.
        max_background_tasks: revalidations and promotions under way at once; more are not started.
        exists_ttl_s: how long the origin's word that it has an artifact holds for those who put it again; 0 asks
            each time.
        uploads_at_once: puts that wait in the journal and are on their way to the origin at once.
        drain_s: how long ``close`` waits for running writes and uploads, in seconds.
    """

    max_object_bytes: int = 16 * 1024 * _MIB
    max_metadata_bytes: int = 16 * 1024
    fill_buffer_bytes: int = 64 * _MIB
    spool_memory_bytes: int = 256 * _MIB
    upload_buffer_bytes: int = 64 * _MIB
    max_uploads: int = 512
    max_writes: int = 256
    max_fills: int = 1024
    max_through_reads: int = 32
    max_background_tasks: int = 64
    exists_ttl_s: float = 0.0
    uploads_at_once: int = 8
    drain_s: float = 30.0
