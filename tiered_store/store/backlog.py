"""The backlog: puts that are acknowledged because the journal has them, and wait for their upload.

Knows of each key the newest such put (the table is ``pendingputs.py``). Knows no origin: who uploads is told what
comes and goes (``uploader.py``).

Invariants. A file of the journal is its key's pending put, or it is dropped (``dropped.py``). A write that reached the
origin in another way is acknowledged only after :meth:`Backlog.settle`: no dropped put of its key can come back by a
crash then. A dropped file beside a newer pending put does no harm: at the start the newest of a key counts. Table and
bounds change on the event loop alone, in the turn in which what they say becomes true.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from tiered_store.aio.offload import Offload
from tiered_store.aio.tasks import TaskSet
from tiered_store.errors import DaemonUnavailable, OriginUnavailable
from tiered_store.key import Key
from tiered_store.objects import Body, ObjectInfo, body_size, metadata_bytes
from tiered_store.origins.base import PutHeaders
from tiered_store.stats import WriteBackStats
from tiered_store.store.dropped import Dropped
from tiered_store.store.journal import DamagedEntry, Doubtful, Journal, Record
from tiered_store.store.pendingputs import Pending, PendingPuts

__all__ = ["Backlog", "BacklogLimits", "Watcher"]

_log = logging.getLogger("tiered_store.journal")

#: They wait for the disk, not for a core; so many syncs of files go on at once.
_THREADS = 8
#: What a file takes besides body, key and metadata, more or less; once it is written, its true size counts.
_OVERHEAD_BYTES = 256
#: Content types and metadata of all pending puts, which are kept in memory.
_METADATA_MAX_BYTES = 64 * 1024 * 1024
#: How long a stop waits for what its threads do anyway, in seconds.
_CLOSE_S = 5.0
#: Between two lines in the log about a journal that takes no puts, in seconds.
_REPEAT_S = 60.0


@dataclass(frozen=True, slots=True)
class BacklogLimits:
    """How much may wait.

    Attributes:
        max_bytes: what the files of pending puts may take.
        max_entries: how many keys may have one.
    """

    max_bytes: int = 1024 * 1024 * 1024
    max_entries: int = 100_000


class Watcher(Protocol):
    """Whoever wants to know what comes and goes."""

    def came(self, key: Key) -> None:
        """The key has a pending put, or a newer one."""
        ...

    def went(self, key: Key) -> None:
        """It has none any more."""
        ...


class Backlog:
    """Pending puts by key.

    Args:
        journal: where they are; None where no put may be acknowledged before the origin has it.
        limits: how much may wait.
        wall: seconds since the epoch; ages count across restarts.
        clock: monotonic seconds, for the log.

    Attributes:
        watcher: told of every change, or None.
        stats: the live counters; see :meth:`counters`.
    """

    def __init__(
        self,
        journal: Journal | None = None,
        limits: BacklogLimits = BacklogLimits(),
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._limits = limits
        self._wall = wall
        self._clock = clock
        self._offload = Offload(_THREADS, "journal")
        self._tasks = TaskSet("work on the journal")
        self._dropped = Dropped(self._remove, clock=clock)
        self._puts = PendingPuts()
        self._reserved_bytes = 0  # for puts that are being written
        self._sequence = 0
        self._said_at = float("-inf")
        self.watcher: Watcher | None = None
        self.stats = WriteBackStats(max_bytes=limits.max_bytes if journal is not None else 0)

    def __len__(self) -> int:
        return len(self._puts)

    def __contains__(self, key: str) -> bool:
        return key in self._puts

    @property
    def is_on(self) -> bool:
        """Whether there is a journal."""
        return self._journal is not None

    async def start(self) -> None:
        """Lock the journal and learn what waits there.

        Raises:
            NotOurs: somebody else's directory, or in use. OSError: as the file system says.
        """
        journal = self._journal
        if journal is None:
            return
        self._sequence = await self._offload.run(journal.open)
        for record in await self._offload.run(lambda: list(journal.records())):
            self._admit(Pending(record, is_sound=False))
        self.stats.superseded = 0  # those of an earlier run were counted there
        if self._puts:
            oldest_s = round(self._oldest_s(), 1)
            fields = {"entries": len(self._puts), "bytes": self._bytes, "oldest_s": oldest_s}
            _log.info("puts wait in the journal for their upload", extra={"path": str(journal.path), **fields})

    async def close(self) -> None:
        """Remove what was dropped, and let go of the journal; what is pending stays in it."""
        try:
            await self._tasks.wait(_CLOSE_S)  # what a cancelled caller has left is dropped when it is there
            await self._dropped.close()
            await self._tasks.cancel()
        finally:
            await self._offload.close()
            if self._journal is not None:
                self._journal.close()
        if self._puts:
            fields = {"entries": len(self._puts), "bytes": self._bytes}
            _log.warning("puts stay in the journal until the next start", extra=fields)

    # ------------------------------------------------------------------- what is pending

    def get(self, key: Key) -> Pending | None:
        """The key's pending put."""
        return self._puts.get(key)

    def keys(self) -> list[Key]:
        """The keys of all pending puts, oldest put first."""
        return self._puts.keys()

    def listed(self, prefix: str, *, after: str, limit: int) -> list[ObjectInfo]:
        """What is known of pending puts whose key starts with ``prefix`` and sorts after ``after``, in byte order."""
        return self._puts.listed(prefix, after=after, limit=limit)

    async def body(self, pending: Pending) -> Body | None:
        """The bytes of a pending put; None if it is not pending any more.

        Readers who want the same one share the work; cancelling one cancels no other.

        Raises:
            OriginUnavailable: the journal cannot be read.
        """
        if self._puts.get(pending.key) is not pending:
            return None
        reading = pending.reading
        if reading is None:
            reading = pending.reading = self._tasks.start(self._read(pending, verify=not pending.is_sound))
            reading.add_done_callback(partial(_has_read, pending))
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            if reading.cancelled():  # by `close`
                raise DaemonUnavailable("the daemon is stopping", key=pending.key) from None
            raise

    async def verified_body(self, pending: Pending) -> Body | None:
        """As :meth:`body`, with the checksum seen now: what goes to the origin must be what was put."""
        return await self._read(pending, verify=True) if self._puts.get(pending.key) is pending else None

    async def _read(self, pending: Pending, *, verify: bool) -> Body | None:
        assert self._journal is not None
        try:
            body = await self._offload.run(self._journal.read, pending.record, verify=verify)
        except (DamagedEntry, FileNotFoundError, EOFError) as error:
            await self._set_aside(pending, str(error))
            return None
        except OSError as error:
            raise OriginUnavailable(f"the journal cannot be read: {error.strerror}", key=pending.key) from error
        pending.is_sound = pending.is_sound or verify
        return body

    async def _set_aside(self, pending: Pending, reason: str) -> None:
        """Its file is not what was written, or not there, which is right if it counts no more."""
        if self._puts.get(pending.key) is not pending:
            return
        assert self._journal is not None
        try:
            await self._offload.run(self._journal.set_aside, pending.record.sequence, reason)
        except OSError as error:
            raise OriginUnavailable(
                f"the put in the journal is damaged ({reason}), and cannot be set aside: {error.strerror}",
                key=pending.key,
            ) from error
        if self._puts.get(pending.key) is pending:
            self._drop(pending)

    async def _remove(self, sequences: Sequence[int]) -> None:
        assert self._journal is not None
        await self._offload.run(self._journal.remove, sequences)

    # ------------------------------------------------------------------- what comes and goes

    async def put(self, key: Key, body: Body, headers: PutHeaders, crc: int | None) -> Pending | None:
        """Write a put into the journal; when this returns it is durable, and pending.

        The caller sees to the order of puts of one key.

        Returns:
            None where there is no room for it, or the journal cannot be written: it has to go to the origin.
        """
        if self._journal is None:
            return None
        metadata = metadata_bytes(headers.content_type, headers.metadata)
        wanted = body_size(body) + metadata + len(key) + _OVERHEAD_BYTES
        if not self._has_room(key, wanted, metadata):
            self._bypassed("the journal is full", "see write_back.max_bytes and write_back.max_entries")
            return None
        self._sequence += 1
        etag, now_ns = f"pending-{secrets.token_hex(8)}", int(self._wall() * 1e9)
        info = ObjectInfo(key, body_size(body), etag, headers.content_type, headers.metadata, now_ns)
        self._reserved_bytes += wanted  # others must not count on this room meanwhile
        try:
            record = await self._append(self._journal, self._sequence, info, body, crc)
        except (OSError, EOFError) as error:
            self._bypassed("the journal cannot be written", str(error))
            return None
        finally:
            self._reserved_bytes -= wanted
        pending = Pending(record, is_sound=True)
        self._admit(pending)
        return pending

    def uploaded(self, pending: Pending) -> None:
        """The origin has it."""
        self._drop(pending)
        self.stats.uploads += 1

    def overruled(self, keys: Iterable[Key]) -> None:
        """Other writes of these keys are through at the origin; :meth:`settle` before they are acknowledged."""
        for key in keys:
            pending = self._puts.get(key)
            if pending is not None:
                self._drop(pending)
                self.stats.superseded += 1

    async def settle(self, keys: Iterable[Key]) -> None:
        """Wait until no dropped put of these keys can come back. Raises as ``Dropped.settle``."""
        await self._dropped.settle(keys)

    async def flushed(self) -> None:
        """Return when everything that is pending now is uploaded, replaced or deleted."""
        await self._puts.flushed()

    def counters(self) -> WriteBackStats:
        """The counters, brought up to date."""
        self.stats.entries, self.stats.bytes = len(self._puts), self._bytes
        self.stats.oldest_s = round(self._oldest_s(), 3)
        return self.stats

    def _has_room(self, key: Key, wanted: int, metadata: int) -> bool:
        return (
            len(self._puts) + (key not in self._puts) <= self._limits.max_entries
            and self._bytes + wanted <= self._limits.max_bytes
            and self._puts.metadata_bytes + metadata <= _METADATA_MAX_BYTES
        )

    async def _append(self, journal: Journal, sequence: int, info: ObjectInfo, body: Body, crc: int | None) -> Record:
        """In a thread, to its end: what a caller that was cancelled leaves is dropped as soon as it is there."""
        writing = self._tasks.start(self._offload.run(journal.append, sequence, info, body, crc))

        def drop(_: object) -> None:
            if writing.cancelled() or writing.exception() is None or isinstance(writing.exception(), Doubtful):
                self._dropped.add(Key(info.key), sequence)

        try:
            return await asyncio.shield(writing)
        except Doubtful:
            drop(writing)
            raise
        except asyncio.CancelledError:
            writing.add_done_callback(drop)
            raise

    def _admit(self, pending: Pending) -> None:
        old = self._puts.add(pending)
        if old is not None:
            self.stats.superseded += 1
            self._dropped.add(old.key, old.record.sequence)
        if self.watcher is not None:
            self.watcher.came(pending.key)

    def _drop(self, pending: Pending) -> None:
        """The key has no pending put any more."""
        self._puts.remove(pending)
        self._dropped.add(pending.key, pending.record.sequence)
        if self.watcher is not None:
            self.watcher.went(pending.key)

    @property
    def _bytes(self) -> int:
        return self._puts.bytes + self._reserved_bytes

    def _oldest_s(self) -> float:
        oldest = self._puts.oldest
        return 0.0 if oldest is None else max(0.0, self._wall() - oldest.info.modified_ns / 1e9)

    def _bypassed(self, event: str, reason: str) -> None:
        self.stats.bypassed += 1
        now = self._clock()
        if now - self._said_at >= _REPEAT_S:
            self._said_at = now
            fields = {"reason": reason, "entries": len(self._puts), "bytes": self._bytes}
            _log.warning(f"{event}: puts go straight to the origin", extra=fields)


def _has_read(pending: Pending, reading: asyncio.Task[Body | None]) -> None:
    pending.reading = None
    if not reading.cancelled():
        reading.exception()  # it is seen here, should all readers have gone
