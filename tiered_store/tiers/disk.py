"""The disk tier: objects on the local disk, over diskcache. Loop side.

``get`` reads as it works: what waits to be written, what is open, then the index and the file in threads.
Writing, culling and trouble are ``upkeep.py``'s; the blocking half is ``volume.py``. The invariant is the
law of ``base.Tier``: the last put, whole and unchanged, or nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from tiered_store.aio.offload import Offload
from tiered_store.key import Key
from tiered_store.objects import Entry
from tiered_store.stats import TierStats
from tiered_store.tiers.cachefile import charge
from tiered_store.tiers.faults import Damaged, Gone, Kind, TierFault
from tiered_store.tiers.openfiles import Found, OpenFiles, Recent
from tiered_store.tiers.room import Room
from tiered_store.tiers.spoolfile import SpoolDescriptor, SpoolFile
from tiered_store.tiers.upkeep import Front, Upkeep
from tiered_store.tiers.volume import Volume
from tiered_store.tiers.waiting import Reads, WaitingRoom

__all__ = ["DiskTier", "SpoolFile"]

_WAITING_BOUNDS = {
    "max_bytes": 32 * 1024 * 1024,
    "max_entries": 4096,
    "max_files": 64,  # spools that wait hold two descriptors each
    "max_tombstone_bytes": 32 * 1024 * 1024,
}
_RECENT_KEYS = 4096
#: How long an upload or fill may wait for the tier to be culled before it goes without.
_ROOM_WAIT_S = 2.0
_SPOOL_STEP_BYTES = 4 * 1024 * 1024
#: A read that is overtaken so often reads as a miss: somebody writes that key all the time.
_ATTEMPTS = 4
#: Looks for many keys at a time: one in the thread that reads, and one for it to go on with.
_MAX_LOOKS = 2
#: So many failing files in a row are a failing disk.
_MAX_READ_FAULTS = 3


class DiskTier:
    """Objects on disk; implements ``base.Tier``.

    Args:
        directory: the tier's own; made with mode 0700. Anything in it may be removed.
        max_bytes: the bound for everything in there: files in whole blocks, index, spools.
        min_free_bytes: what the file system must keep free for others.
        min_free_inodes: likewise in files.
        max_open_files: how many verified files stay open for the next reader.
        offload: threads for verifying bodies and making spools; not closed here.
        on_corrupt: told on the loop of every object found damaged, after it was dropped.
        wall: seconds since the epoch.
        clock: monotonic seconds.
        probe_s: how long after a fault the disk is tried again.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        min_free_bytes: int,
        min_free_inodes: int,
        max_open_files: int,
        offload: Offload,
        on_corrupt: Callable[[Key], None],
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        probe_s: float = 5.0,
    ) -> None:
        self._offload = offload
        self._on_corrupt = on_corrupt
        self._clock = clock
        self._stats = TierStats(max_bytes=max_bytes)
        self._waiting = WaitingRoom(**_WAITING_BOUNDS)
        self._reads = Reads()
        self._files = OpenFiles(max_open_files)
        self._recent = Recent(_RECENT_KEYS)
        self._room = Room(
            directory,
            max_bytes=max_bytes,
            min_free_bytes=min_free_bytes,
            min_free_inodes=min_free_inodes,
            clock=clock,
            on_starved=self._starved,
        )
        self._volume = Volume(directory, self._room)
        # SQLite connections belong to threads: one reads, one writes, and both are closed at the end.
        self._reader = Offload(1, "disk-read")
        self._writer = Offload(1, "disk-write")
        self._upkeep = Upkeep(
            self._volume,
            self._room,
            Front(self._waiting, self._reads, self._files, self._recent, self._stats),
            reader=self._reader,
            writer=self._writer,
            wall=wall,
            clock=clock,
            probe_s=probe_s,
        )
        self._look_places = asyncio.Semaphore(_MAX_LOOKS)
        self._verifying: dict[str, asyncio.Event] = {}
        self._read_faults = 0
        self._is_closed = False
        # Bound once: `peek` is on the hot path.
        self._waiting_by_key = self._waiting.by_key

    @property
    def stats(self) -> TierStats:
        """Live counters; ``entries`` counts what is written."""
        self._stats.bytes = self._room.used
        return self._stats

    @property
    def is_available(self) -> bool:
        """Whether the tier answers and accepts; False while it is set aside."""
        return self._upkeep.is_available

    @property
    def suspect_before(self) -> float:
        """Entries validated before this may be stale, in seconds since the epoch; 0.0 for none.

        They were on disk when a run was killed or the tier was set aside. Artifacts are good all the same.
        """
        return self._upkeep.marks.suspect_before

    async def start(self) -> None:
        """Open the index; takes as long for many entries as for few.

        A directory or index that does not work is logged, and the tier set aside and probed.
        """
        await self._upkeep.start()

    def peek(self, key: Key) -> Entry | None:
        """The entry, if it waits to be written or its file is open; at most one ``fstat``."""
        waiting = self._waiting_by_key.get(key)
        if waiting is not None:
            return waiting.entry
        found = self._files.get(key)
        if found is None:
            return None
        self._recent.used(key)
        return found.entry

    async def get(self, key: Key) -> Entry | None:
        """The entry, or None."""
        for _ in range(_ATTEMPTS):
            if key in self._waiting_by_key:
                return self._waiting_by_key[key].entry
            if (entry := self.peek(key)) is not None or not self.is_available:
                return entry
            ticket = self._reads.begin(key)
            try:
                found = await self._find(key)
            finally:
                self._reads.end(key, ticket)
            if not ticket.is_overtaken:
                return self._judged(key, found)
        return None

    async def get_many(self, keys: Sequence[Key], hashed: Collection[Key]) -> dict[Key, Entry | None]:
        """The small entries among these, as :meth:`get` gives them, by one look into the index; None: no entry.

        What is not in the answer was not looked at, is large, or was written meanwhile: :meth:`get` has the answer.

        Args:
            keys: which; a few hundred.
            hashed: of which artifacts the bytes are to be hashed, and marked as verified if they have their digest.
        """
        async with self._look_places:
            return await self._look(keys, hashed)

    def put(self, key: Key, entry: Entry) -> None:
        """Keep this entry, or at least no older one; written in the background."""
        if not self.is_available:
            return  # whatever is on disk under this key will be suspect when the tier comes back
        self._reads.overtake(key)
        self._files.drop(key)
        if self._room.could_fit(charge(entry.info.size)):
            mine = Entry(
                entry.info,
                entry.body,
                validated_at=entry.validated_at,
                fresh_until=entry.fresh_until,
                tier="disk",
                crc=entry.crc,
            )
            mine.wire = entry.wire
            if self._waiting.put(key, mine):
                body = entry.body
                if not isinstance(body, bytes) and isinstance(body.descriptor, SpoolDescriptor):
                    body.descriptor.hand_over()
        else:
            self._waiting.discard(key)
        self._written_soon()

    def discard(self, key: Key) -> None:
        """Forget the key."""
        if not self.is_available:
            return
        self._reads.overtake(key)
        self._files.drop(key)
        self._waiting.discard(key)
        self._written_soon()

    async def drain(self) -> None:
        """Return when everything accepted so far has been written or given up."""
        await self._upkeep.drain()

    async def close(self) -> None:
        """Drain, note that the stop was orderly, and let go of files, connections and threads; once."""
        if self._is_closed:
            return
        self._is_closed = True
        await self.drain()
        await self._upkeep.stop()
        await self._reader.close()
        await self._writer.close()

    async def open_spool(self, size: int | None) -> SpoolFile | None:
        """Room for a growing file, reserved before a byte is written.

        Args:
            size: of the body, or None where it is not known; then more is reserved as it grows.

        Returns:
            the spool, or None when it cannot fit, there is no room even after a short wait for culling, or
            the tier is set aside.
        """
        wanted = charge(size) if size is not None else min(_SPOOL_STEP_BYTES, self._stats.max_bytes // 16)
        if not self._room.could_fit(wanted):
            return None
        deadline = self._clock() + _ROOM_WAIT_S
        is_last = False
        while self.is_available:
            try:
                spool = await self._offload.run(
                    self._volume.open_spool, wanted, min(_SPOOL_STEP_BYTES, self._stats.max_bytes // 16)
                )
            except TierFault as fault:
                self._upkeep.report(fault)
                return None
            remaining_s = deadline - self._clock()
            if spool is not None or is_last or remaining_s <= 0:
                return spool
            # Room that came since the attempt looks as if there was none to come: so there is one more.
            is_last = not self._upkeep.can_make_room(wanted)
            if not is_last:
                await self._upkeep.progress(remaining_s)
        return None

    async def _look(self, keys: Sequence[Key], hashed: Collection[Key]) -> dict[Key, Entry | None]:
        by_key = self._waiting_by_key
        answers = {key: by_key[key].entry for key in keys if key in by_key} if by_key else {}
        wanted = [key for key in keys if key not in answers] if answers else keys
        if not wanted or not self.is_available:
            return dict.fromkeys(wanted) | answers
        look = self._reads.begin_many()
        try:
            found = await self._reader.run(self._volume.lookup_many, wanted, hashed)
        except TierFault:
            return answers  # `get` finds out what that means, and for which of them
        finally:
            self._reads.end_many(look)
        if look.is_overtaken:
            return answers
        self._read_faults = 0
        for key, one in found.items():
            if key not in look.overtaken:
                answers[key] = None if one is None else self._judged(key, one)
        return answers

    def _judged(self, key: Key, found: Found | Damaged | Gone | None) -> Entry | None:
        """What a look that nothing has overtaken answers; what turned out to be damaged or gone is dropped."""
        if isinstance(found, Found):
            return self._accept(key, found)
        if found is not None:
            self.discard(key)
            if isinstance(found, Damaged):
                self._on_corrupt(key)
        return None

    async def _find(self, key: Key) -> Found | Damaged | Gone | None:
        """Look the key up and verify what is found; a fault is a miss."""
        try:
            found = await self._reader.run(self._volume.lookup, key)
            if found is not None and found.name and not self._files.is_verified(found):
                await self._verify(found)
        except (Damaged, Gone) as error:
            return error.with_traceback(None)
        except TierFault as fault:
            self._failed_read(key, fault)
            return None
        self._read_faults = 0
        return found

    async def _verify(self, found: Found) -> None:
        """Have the body read through, once for however many readers wait for it."""
        others = self._verifying.get(found.name)
        if others is not None:
            await others.wait()
            if self._files.is_verified(found):
                return
        done = self._verifying[found.name] = asyncio.Event()
        try:
            await self._offload.run(self._volume.verify, found)
            self._files.verified(found)
        finally:
            if self._verifying.get(found.name) is done:
                del self._verifying[found.name]
            done.set()

    def _accept(self, key: Key, found: Found) -> Entry | None:
        """Judge an entry from disk by its age, and keep its file open."""
        marks, entry = self._upkeep.marks, found.entry
        if found.epoch < marks.deny_epoch:
            return None  # it will be culled: nobody uses it any more
        if found.epoch < marks.suspect_epoch and entry.validated_at >= marks.suspect_before:
            # The wall clock was set back in between: the epochs know better.
            entry.validated_at = math.nextafter(marks.suspect_before, -math.inf)
        if found.name and found.is_unchanged():  # else it was evicted meanwhile; this reader has it all the same
            self._files.admit(key, found)
        self._recent.used(key)
        return entry

    def _failed_read(self, key: Key, fault: TierFault) -> None:
        if fault.kind is Kind.FAULTY:
            # One unreadable sector is that object's end; a run of them is the disk's.
            self._read_faults += 1
            if self._read_faults < _MAX_READ_FAULTS and self.is_available:
                self._stats.errors += 1
                self.discard(key)
                return
            self._read_faults = 0
        self._upkeep.report(fault)

    def _written_soon(self) -> None:
        if self._waiting.overflows:
            self._upkeep.deny_all()
        if self._waiting.is_plenty:
            self._upkeep.hurry()
        else:
            self._upkeep.wake()

    def _starved(self) -> None:
        self._upkeep.wake_from_thread()
