"""What the disk tier does in the background: write, cull, note recency, audit, and survive its disk.

One task on the loop, which sends one piece of work after another to the one writing thread; so nothing here
needs a lock. Knows how to react to a fault, not how to read or write an entry. The invariants: a change
leaves the waiting room only when it is on disk or something stricter covers it; while the tier is set
aside it answers nothing, and what was stored before is suspect when it comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from tiered_store.aio.offload import Offload
from tiered_store.key import Key
from tiered_store.stats import TierStats
from tiered_store.tiers.chores import Auditing, Touching
from tiered_store.tiers.directory import Marks
from tiered_store.tiers.faults import Kind, TierFault
from tiered_store.tiers.openfiles import Found, OpenFiles, Recent
from tiered_store.tiers.room import Room
from tiered_store.tiers.spoolfile import SpoolDescriptor
from tiered_store.tiers.volume import Done, Opened, Volume
from tiered_store.tiers.waiting import Reads, Waiting, WaitingRoom

__all__ = ["Front", "Upkeep"]

_log = logging.getLogger(__name__)

_BATCH_ENTRIES = 256
_BATCH_BYTES = 4 * 1024 * 1024
#: After a batch that took all there was, the next one may grow for so long: a transaction for each of a thousand
#: puts in a second costs ten times what the puts do.
_LINGER_S = 0.02
_RETRY_S = 0.1
_MAX_RETRY_S = 5.0
#: So many times in a row "try again soon" is believed.
_MAX_BUSY = 20
_MAX_PROBE_BACKOFF = 16
#: A full file system does not say how much is missing; make this much room.
_FULL_WANTS_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Front:
    """What the tier knows without the disk; see ``waiting.py`` and ``openfiles.py``."""

    waiting: WaitingRoom
    reads: Reads
    files: OpenFiles
    recent: Recent
    stats: TierStats


class Upkeep:
    """The background task and the state that only it moves.

    Args:
        probe_s: how long after a fault the disk is tried again (longer after further ones), and how often
            the file system's free space is looked at when nothing else happens.

    Attributes:
        is_available: whether the tier answers and accepts.
        marks: how to judge what was stored earlier.
    """

    def __init__(
        self,
        volume: Volume,
        room: Room,
        front: Front,
        *,
        reader: Offload,
        writer: Offload,
        wall: Callable[[], float],
        clock: Callable[[], float],
        probe_s: float,
    ) -> None:
        self._volume = volume
        self._room = room
        self._front = front
        self._reader = reader
        self._writer = writer
        self._wall = wall
        self._clock = clock
        self._probe_s = probe_s
        self.is_available = False
        self.marks = Marks()
        self._touching = Touching(front.recent, volume, writer, clock=clock)
        self._auditing = Auditing(volume, writer, self._take)
        self._index_is_broken = False
        self._is_culling = False
        self._retry_at = self._cull_at = float("-inf")
        self._retry_s = _RETRY_S
        self._busy = 0
        self._probe_at = 0.0
        self._probe_backoff = 1
        self._looked_at = clock()
        self._is_stopping = False
        self._linger_until = 0.0  # on the loop's clock
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._progress = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    # -- from outside ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the volume, or set it aside, and begin."""
        self._loop = asyncio.get_running_loop()
        await self._open(at_start=True)
        self._task = self._loop.create_task(self._run(), name="disk tier upkeep")

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def hurry(self) -> None:
        """As :meth:`wake`, and somebody waits for it."""
        self._urgent.set()
        self._wake.set()

    def wake_from_thread(self) -> None:
        """As :meth:`wake`, from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: nobody is left to make room
                self._loop.call_soon_threadsafe(self._wake.set)

    async def progress(self, timeout_s: float | None = None) -> None:
        """Return after the next piece of work, or after ``timeout_s``."""
        event = self._progress
        with suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), timeout_s)

    def can_make_room(self, size: int) -> bool:
        """Whether waiting for :meth:`progress` may bring ``size`` bytes of room."""
        return self._clock() >= self._cull_at and not self._room.is_hopeless(size)

    async def drain(self) -> None:
        """Return when all that waits now is written or given up."""
        front, target = self._front, self._front.waiting.sequence
        while self.is_available and self._clock() >= self._retry_at:
            oldest = front.waiting.oldest
            if oldest is None or oldest > target:
                return
            self.hurry()
            await self.progress()

    async def stop(self) -> None:
        """End the task and let go of the volume; the marks are left only if all was in order."""
        self._is_stopping = True
        self.hurry()
        if self._task is not None:
            await self._task
        with suppress(TierFault):
            await self._touching.write_all(lambda: self.is_available)
        is_clean = self.is_available and not self._front.waiting.by_key and not self._index_is_broken
        marks = replace(self.marks, audit_due=self._auditing.is_due) if is_clean else None
        self.is_available = False
        self._forget()
        await self._reader.run(self._volume.disconnect)
        await self._writer.run(self._volume.close, marks)

    def report(self, fault: TierFault) -> None:
        """Somebody met a fault; react as its kind asks."""
        if not self.is_available or self._index_is_broken:
            return  # known already
        self._front.stats.errors += 1
        if fault.kind is Kind.FAULTY:
            self._set_aside(fault.reason)
        elif fault.kind is Kind.CORRUPT:
            _log.error("the disk tier's index is broken, starting a new one", extra={"reason": fault.reason})
            self._index_is_broken = True
        else:
            self._postpone(fault)
        self.wake()

    def deny_all(self) -> None:
        """Too many discards wait: answer nothing any more that is on disk now, which covers them all."""
        epoch = self.marks.epoch + 1
        self.marks = replace(self.marks, epoch=epoch, deny_epoch=epoch)
        _log.warning("more discards than the disk tier can write: it starts anew")
        self._front.waiting.drop_tombstones()
        self._front.files.clear()
        self._front.reads.overtake_all()

    # -- the task ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            self._urgent.clear()
            try:
                rest_s = await self._pass()
            except TierFault as fault:
                self.report(fault)
                rest_s = _RETRY_S
            except Exception as error:  # a bug must not end the tier for good
                _log.exception("the disk tier's upkeep failed")
                self.report(TierFault(Kind.FAULTY, repr(error)))
                rest_s = _RETRY_S
            self._progress.set()
            self._progress = asyncio.Event()
            linger_s = self._linger_s()
            if linger_s:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._urgent.wait(), linger_s)
            elif rest_s:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), rest_s)

    def _linger_s(self) -> float:
        """How long to let the next batch grow: not when somebody waits for it, nor when there is enough of it."""
        assert self._loop is not None
        if self._urgent.is_set() or self._front.waiting.is_plenty:
            return 0.0
        return max(0.0, self._linger_until - self._loop.time())

    async def _pass(self) -> float:
        """Do a piece of everything that is due; gives how long to rest afterwards, in seconds."""
        if self._index_is_broken:
            await self._replace_index()
        if not self.is_available:
            if self._clock() >= self._probe_at:
                await self._open(at_start=False)
            return 0.0 if self.is_available else max(0.001, self._probe_at - self._clock())
        worked = await self._cull()
        worked = await self._write() or worked
        worked = await self._touch() or worked
        pause_s = await self._audit()
        if worked:
            return 0.0
        if self._front.waiting.by_key:
            return max(0.001, self._retry_at - self._clock())
        return pause_s or self._probe_s

    async def _write(self) -> bool:
        waiting = self._front.waiting
        if not self.is_available or not waiting.by_key or self._clock() < self._retry_at:
            return False
        batch = waiting.batch(_BATCH_ENTRIES, min(_BATCH_BYTES, self._room.max_bytes // 16))
        epoch, done = self.marks.epoch, Done()
        changes = [(key, change.entry) for key, change in batch]
        try:
            await self._writer.run(self._volume.apply, changes, epoch, done)
        except TierFault as fault:
            if fault.kind is Kind.FULL:
                for key, change in batch:
                    waiting.declined(key, change)
                self._room.want(_FULL_WANTS_BYTES)
            raise
        finally:
            self._take(done)
        self._retry_s, self._busy = _RETRY_S, 0
        if len(batch) < _BATCH_ENTRIES and self._loop is not None:
            self._linger_until = self._loop.time() + _LINGER_S
        for key, change in batch:
            self._written(key, change, epoch, done)
        return True

    def _written(self, key: Key, change: Waiting, epoch: int, done: Done) -> None:
        is_last_word = self._front.waiting.written(key, change)
        adopted = done.adopted.get(key)
        if adopted is None:
            return
        assert change.entry is not None
        body = change.entry.body
        if not isinstance(body, bytes) and isinstance(body.descriptor, SpoolDescriptor):
            body.descriptor.spool = None  # it is a cache file now, and the writable descriptor may go
        if is_last_word and epoch >= self.marks.deny_epoch:
            found = Found(change.entry, epoch, adopted.name, adopted.file_bytes, adopted.mtime_ns)
            self._front.files.admit(key, found)

    async def _cull(self) -> bool:
        now, was_culling, self._is_culling = self._clock(), self._is_culling, False
        is_over = self._room.excess() > 0
        if now < self._cull_at or (now - self._looked_at < self._probe_s and not is_over):
            return False
        if is_over and not was_culling:
            # Who is least recently used shall be the truth of now.
            await self._touching.write_all(lambda: self.is_available)
        self._looked_at, done = now, Done()
        try:
            await self._writer.run(self._volume.cull, done)
        except TierFault as fault:
            # A disk so full that the index cannot even forget: leave it, others may free something.
            if fault.kind is not Kind.FULL:
                raise
            self._front.stats.errors += 1
            self._cull_at = now + _MAX_RETRY_S
        finally:
            self._take(done)
        self._is_culling = done.evicted > 0
        return self._is_culling

    async def _touch(self) -> bool:
        if not self._touching.is_due() or not self.is_available or self._clock() < self._retry_at:
            return False
        await self._touching.step()
        return True

    async def _audit(self) -> float:
        """Gives how long to rest when there is nothing else to do."""
        if not self.is_available or not self._auditing.is_due or self._clock() < self._retry_at:
            return 0.0
        return await self._auditing.step(self.marks.deny_epoch)

    # -- faults ----------------------------------------------------------------------------------------------

    async def _open(self, *, at_start: bool) -> None:
        await self._reader.run(self._volume.disconnect)
        try:
            opened = await self._writer.run(self._volume.open)
        except TierFault as fault:
            await self._writer.run(self._volume.close, None)
            self._probe_at = self._clock() + self._probe_s * self._probe_backoff
            self._probe_backoff = min(self._probe_backoff * 2, _MAX_PROBE_BACKOFF)
            if at_start:
                self._front.stats.errors += 1
                _log.error("the disk tier cannot be used", extra={"reason": fault.reason})
            return
        self.marks = self._judge(opened, at_start=at_start)
        self._auditing.opened(is_due=self.marks.audit_due, is_rebuilding=opened.is_rebuilding)
        self._front.stats.entries = opened.entries
        self._probe_backoff, self._busy, self._retry_at = 1, 0, float("-inf")
        self.is_available = True
        if not at_start:
            _log.warning("the disk tier is back", extra={"entries": opened.entries})

    def _judge(self, opened: Opened, *, at_start: bool) -> Marks:
        """How to judge what the volume holds."""
        epoch = opened.run << 32  # room for deny_all() in between
        marks = opened.marks
        if at_start and marks is not None and not opened.is_rebuilding:
            return replace(marks, epoch=max(epoch, marks.epoch + 1))
        if opened.was_empty:
            return Marks(epoch=epoch)
        # Killed, set aside, or without its index: changes of that time may not have reached the disk.
        deny_epoch = (marks if marks is not None else self.marks).deny_epoch
        return Marks(
            epoch=epoch, suspect_epoch=epoch, suspect_before=self._wall(), deny_epoch=deny_epoch, audit_due=True
        )

    async def _replace_index(self) -> None:
        self.is_available = False
        self._forget()
        await self._reader.run(self._volume.disconnect)
        self._index_is_broken = False
        try:
            await self._writer.run(self._volume.abandon_index)
        except TierFault as fault:
            self._set_aside(fault.reason)
            return
        self._probe_at = self._clock()

    def _set_aside(self, reason: str) -> None:
        _log.error("the disk tier is set aside", extra={"reason": reason, "probe_s": self._probe_s})
        self.is_available = False
        self._auditing.interrupt()
        self._probe_at = self._clock() + self._probe_s
        self._forget()

    def _forget(self) -> None:
        self._front.waiting.clear()
        self._front.files.clear()
        self._front.reads.overtake_all()

    def _postpone(self, fault: TierFault) -> None:
        self._busy = self._busy + 1 if fault.kind is Kind.BUSY else 0
        if self._busy > _MAX_BUSY:
            self._set_aside(fault.reason)
            return
        if self._retry_s == _RETRY_S:
            _log.warning("the disk tier declines for a while", extra={"reason": fault.reason})
        self._retry_at = self._clock() + self._retry_s
        self._retry_s = min(self._retry_s * 2, _MAX_RETRY_S)

    def _take(self, done: Done) -> None:
        stats = self._front.stats
        stats.evictions += done.evicted
        if done.entries is not None:
            stats.entries = done.entries
        for name in done.removed:
            self._front.files.removed(name)
