"""The memory tier: a least-recently-used cache weighed in bytes, over cachetools.

Loop-only (cachetools does not lock). Small bodies are ``bytes``; larger ones are sealed memfds, whose
pages are this process's memory although they are not in its resident set.

A read looks into a plain table and notes the key; the notes are applied, in their order, before anything is
evicted. So the order of eviction is exactly that of use, and a hot key is moved once for many reads. (The idea of
a read buffer is Caffeine's, which has it for the sake of threads: https://github.com/ben-manes/caffeine/wiki/Design.)

Invariant: the charge of all entries, overhead included, never exceeds ``max_bytes``, and at most
``max_descriptors`` of them hold a descriptor. The table holds what the cache holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from sys import getsizeof
from typing import cast

from cachetools import LRUCache

from tiered_store.key import Key
from tiered_store.objects import Entry, metadata_bytes
from tiered_store.stats import TierStats

__all__ = ["ENTRY_OVERHEAD_BYTES", "MemoryTier"]

#: What an entry costs besides its key and body: the entry, its info and etag, four table slots and the
#: door's encoding. Measured by filling a tier with 1 KiB objects (benchmarks, "full memory tier").
ENTRY_OVERHEAD_BYTES = 1000
#: Uses that are noted before they are applied.
_MAX_NOTED = 1024
_PAGE_BYTES = 4096


def _charge(entry: Entry) -> int:
    """What an entry counts against the bound, in bytes."""
    body = entry.body
    size = len(body) if isinstance(body, bytes) else -(-body.size // _PAGE_BYTES) * _PAGE_BYTES
    info = entry.info
    total = size + ENTRY_OVERHEAD_BYTES + len(info.key) * (1 if info.key.isascii() else 4)
    if info.metadata or info.content_type:
        # Twice: as the strings they are, and in the encoding that the door keeps for the next reply.
        total += metadata_bytes(info.content_type, info.metadata) + getsizeof(info.content_type)
        total += sum(100 + getsizeof(name) + getsizeof(value) for name, value in info.metadata.items())
    return total


class _Evicting(LRUCache[Key, Entry]):
    """An LRU that tells its owner whom it pushes out."""

    def __init__(self, max_bytes: int, owner: MemoryTier) -> None:
        super().__init__(max_bytes, getsizeof=_charge)
        self._owner = owner

    def popitem(self) -> tuple[Key, Entry]:
        key, entry = super().popitem()
        self._owner._evicted(key)  # noqa: SLF001 - one class in two halves
        return key, entry


class MemoryTier:
    """Objects in RAM.

    Args:
        max_bytes: the bound, overhead included.
        max_share: an object larger than this share of the bound is not kept: one object must not
            push out hundreds.
        max_descriptors: how many objects may be memfds at once.
    """

    def __init__(self, max_bytes: int, *, max_share: float = 1 / 8, max_descriptors: int = 1024) -> None:
        self._cache = _Evicting(max_bytes, self)
        self._table: dict[Key, Entry] = {}
        self._noted: list[Key] = []
        self._max_charge = int(max_bytes * max_share)
        self._max_descriptors = max_descriptors
        # The keys whose body is a memfd, least recently used first.
        self._files: OrderedDict[Key, None] = OrderedDict()
        self.stats = TierStats(max_bytes=max_bytes)

    def accepts(self, size: int) -> bool:
        """Whether a body of ``size`` bytes could be kept at all."""
        return size + ENTRY_OVERHEAD_BYTES <= self._max_charge

    def peek(self, key: Key) -> Entry | None:
        """The entry, or None; marks it as used."""
        entry = self._table.get(key)
        if entry is not None:
            self._noted.append(key)
            if len(self._noted) >= _MAX_NOTED:
                self._apply_notes()
        return entry

    def peek_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """As :meth:`peek`, for each of the keys; they may be unchecked text."""
        known = cast("Sequence[Key]", keys)
        self._noted += known
        if len(self._noted) >= _MAX_NOTED:
            self._apply_notes()
        return list(map(self._table.get, known))

    async def get(self, key: Key) -> Entry | None:
        """As :meth:`peek`: nothing in memory needs waiting for."""
        return self.peek(key)

    def put(self, key: Key, entry: Entry) -> None:
        """Keep the entry, unless it is over the share or its bytes are not in memory."""
        if self._noted:
            self._apply_notes()
        is_file = not isinstance(entry.body, bytes)
        if _charge(entry) > self._max_charge or (not isinstance(entry.body, bytes) and not entry.body.is_memory):
            self._drop(key)
        else:
            self._files.pop(key, None)
            while is_file and len(self._files) >= self._max_descriptors:
                oldest = next(iter(self._files))
                del self._cache[oldest]
                self._evicted(oldest)
            self._cache[key] = entry
            self._table[key] = entry
            if is_file:
                self._files[key] = None
        self._account()

    def discard(self, key: Key) -> None:
        """Forget the key."""
        self._drop(key)
        self._account()

    async def drain(self) -> None:
        """Nothing is ever under way here."""

    async def close(self) -> None:
        """Forget everything."""
        self._noted.clear()
        self._files.clear()
        self._table.clear()
        self._cache.clear()
        self._account()

    def _apply_notes(self) -> None:
        """Move what was used to the end of the order, each key once, by its last use."""
        noted, self._noted = self._noted, []
        for key in reversed(dict.fromkeys(reversed(noted))):
            if key in self._table:
                self._cache[key]  # reading is using
                if key in self._files:
                    self._files.move_to_end(key)

    def _drop(self, key: Key) -> None:
        if self._table.pop(key, None) is not None:
            del self._cache[key]
            self._files.pop(key, None)

    def _evicted(self, key: Key) -> None:
        del self._table[key]
        self._files.pop(key, None)
        self.stats.evictions += 1

    def _account(self) -> None:
        self.stats.bytes = int(self._cache.currsize)
        self.stats.entries = len(self._cache)
