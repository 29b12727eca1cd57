"""The memory tier: a least-recently-used cache weighed in bytes, over cachetools.

Loop-only (cachetools does not lock). Small bodies are ``bytes``; larger ones are sealed memfds, whose
pages are this process's memory although they are not in its resident set. Invariant: the charge of
all entries, overhead included, never exceeds ``max_bytes``, and at most ``max_descriptors`` of them
hold a descriptor.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from cachetools import LRUCache

from tiered_store.key import Key
from tiered_store.objects import Entry
from tiered_store.stats import TierStats

__all__ = ["ENTRY_OVERHEAD_BYTES", "MemoryTier"]

#: What an entry costs besides its key and body: the entry, its info and etag, three table slots and the
#: door's encoding. Measured by filling a tier with 1 KiB objects (benchmarks, "full memory tier").
ENTRY_OVERHEAD_BYTES = 900
_PAGE_BYTES = 4096


def _charge(entry: Entry) -> int:
    """What an entry counts against the bound, in bytes."""
    body = entry.body
    size = len(body) if isinstance(body, bytes) else -(-body.size // _PAGE_BYTES) * _PAGE_BYTES
    info = entry.info
    total = size + ENTRY_OVERHEAD_BYTES + len(info.key)
    if info.metadata:
        total += sum(200 + len(name) + len(value) for name, value in info.metadata.items())
    return total


class _Evicting(LRUCache[Key, Entry]):
    """An LRU that tells its owner whom it pushes out, and answers None for what it does not hold."""

    def __init__(self, max_bytes: int, owner: MemoryTier) -> None:
        super().__init__(max_bytes, getsizeof=_charge)
        self._owner = owner

    def __missing__(self, key: Key) -> None:  # type: ignore[override]  # cheaper than catching KeyError per miss
        return None

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
        entry: Entry | None = self._cache[key]
        if entry is not None and entry.body.__class__ is not bytes:
            self._files.move_to_end(key)
        return entry

    def peek_many(self, keys: Sequence[str]) -> list[Entry | None]:
        """As :meth:`peek`, for each of the keys; they may be unchecked text."""
        cache, files = self._cache, self._files
        entries: list[Entry | None] = [cache[Key(key)] for key in keys]
        if files:
            for entry in entries:
                if entry is not None and entry.body.__class__ is not bytes:
                    files.move_to_end(Key(entry.info.key))
        return entries

    async def get(self, key: Key) -> Entry | None:
        """As :meth:`peek`: nothing in memory needs waiting for."""
        return self.peek(key)

    def put(self, key: Key, entry: Entry) -> None:
        """Keep the entry, unless it is over the share or its bytes are not in memory."""
        self._files.pop(key, None)
        is_file = not isinstance(entry.body, bytes)
        if _charge(entry) > self._max_charge or (not isinstance(entry.body, bytes) and not entry.body.is_memory):
            self._cache.pop(key, None)
        else:
            while is_file and len(self._files) >= self._max_descriptors:
                oldest = next(iter(self._files))
                del self._cache[oldest]
                self._evicted(oldest)
            self._cache[key] = entry
            if is_file:
                self._files[key] = None
        self._account()

    def discard(self, key: Key) -> None:
        """Forget the key."""
        self._files.pop(key, None)
        self._cache.pop(key, None)
        self._account()

    async def drain(self) -> None:
        """Nothing is ever under way here."""

    async def close(self) -> None:
        """Forget everything."""
        self._files.clear()
        self._cache.clear()
        self._account()

    def _evicted(self, key: Key) -> None:
        self._files.pop(key, None)
        self.stats.evictions += 1

    def _account(self) -> None:
        self.stats.bytes = int(self._cache.currsize)
        self.stats.entries = len(self._cache)
