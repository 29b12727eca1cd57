"""The table of pending puts: what the backlog knows in memory, of each key the newest one.

Pure bookkeeping, on the event loop alone; knows neither the journal nor who uploads. The invariant: order, bytes and
who waits for a flush follow the table in the turn in which it changes.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort

from tiered_store.key import Key
from tiered_store.objects import Body, ObjectInfo, metadata_bytes
from tiered_store.store.journal import Record

__all__ = ["Pending", "PendingPuts"]


class Pending:
    """One put that waits for its upload.

    Attributes:
        key: whose newest put it is.
        record: what the journal says of it.
        number: counts puts in the order in which they became pending.
        is_sound: whether its checksum was seen to be right in this run.
        reading: the reading of its body that goes on now, shared by everybody who wants it.
    """

    __slots__ = ("is_sound", "key", "number", "reading", "record")

    def __init__(self, record: Record, *, is_sound: bool) -> None:
        self.key = Key(record.info.key)
        self.record = record
        self.number = 0
        self.is_sound = is_sound
        self.reading: asyncio.Task[Body | None] | None = None

    @property
    def info(self) -> ObjectInfo:
        """What readers are told; the etag is the daemon's own until the origin has given one."""
        return self.record.info


class PendingPuts:
    """Pending puts by key.

    Attributes:
        bytes: what their files take.
        metadata_bytes: content types and metadata of all of them.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.metadata_bytes = 0
        self._table: dict[Key, Pending] = {}  # in the order in which they became pending
        self._keys: list[Key] = []  # the same in byte order
        self._added = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def __len__(self) -> int:
        return len(self._table)

    def __contains__(self, key: str) -> bool:
        return key in self._table

    @property
    def oldest(self) -> Pending | None:
        """The one that has been pending longest."""
        return next(iter(self._table.values()), None)

    def get(self, key: Key) -> Pending | None:
        """The key's pending put."""
        return self._table.get(key)

    def keys(self) -> list[Key]:
        """The keys of all of them, oldest put first."""
        return list(self._table)

    def listed(self, prefix: str, *, after: str, limit: int) -> list[ObjectInfo]:
        """What is known of those whose key starts with ``prefix`` and sorts after ``after``, in byte order."""
        # The byte order of UTF-8 is the order of code points, in which Python compares texts.
        start = max(bisect_left(self._keys, prefix), bisect_right(self._keys, after))
        found = []
        for key in self._keys[start : start + limit]:
            if not key.startswith(prefix):
                break
            found.append(self._table[key].info)
        return found

    def add(self, pending: Pending) -> Pending | None:
        """It is its key's newest put; gives the one that it replaces."""
        old = self._table.pop(pending.key, None)
        if old is None:
            insort(self._keys, pending.key)
        else:
            self._count(old, -1)
        self._added += 1
        pending.number = self._added
        self._table[pending.key] = pending
        self._count(pending, 1)
        self._tell_waiting()
        return old

    def remove(self, pending: Pending) -> None:
        """Its key has no pending put any more."""
        del self._table[pending.key]
        del self._keys[bisect_left(self._keys, pending.key)]
        self._count(pending, -1)
        self._tell_waiting()

    async def flushed(self) -> None:
        """Return when everything that is pending now is replaced or removed."""
        if not self._table:
            return
        waiter = (self._added, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter[1]
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _count(self, pending: Pending, sign: int) -> None:
        self.bytes += sign * pending.record.file_bytes
        self.metadata_bytes += sign * metadata_bytes(pending.info.content_type, pending.info.metadata)

    def _tell_waiting(self) -> None:
        if not self._waiting:
            return
        oldest = self.oldest
        for last, gone in self._waiting:
            if (oldest is None or oldest.number > last) and not gone.done():
                gone.set_result(None)
