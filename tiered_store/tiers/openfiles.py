"""What is at hand without a thread: files that are open and verified, and which keys were used lately.

Loop-only; the only system call is ``fstat``. The invariant: an open file answers only while it is, by size,
time and link count, the one that was verified in this run.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass

from tiered_store.key import Key
from tiered_store.objects import Entry, FileBody

__all__ = ["Found", "OpenFiles", "Recent"]

_MAX_VERIFIED = 65_536


@dataclass(slots=True)
class Found:
    """An entry as it was found on disk.

    Attributes:
        entry: whole, except that the body of a file may still have to be verified.
        epoch: the one it was written in.
        name: of its file, or empty for a row.
        file_bytes: the file's length.
        mtime_ns: the file's, when it was opened.
    """

    entry: Entry
    epoch: int
    name: str = ""
    file_bytes: int = 0
    mtime_ns: int = 0

    def is_unchanged(self) -> bool:
        """Whether the open file is still the one that was verified; one ``fstat``, no other I/O."""
        assert isinstance(self.entry.body, FileBody)
        status = os.fstat(self.entry.body.descriptor.fd)
        return status.st_mtime_ns == self.mtime_ns and status.st_size == self.file_bytes and status.st_nlink > 0


class OpenFiles:
    """Verified files, open for the next reader; least recently used first to go.

    Args:
        max_files: how many are kept open.
    """

    def __init__(self, max_files: int) -> None:
        self._max_files = max_files
        self._open: OrderedDict[Key, Found] = OrderedDict()
        self._keys: dict[str, Key] = {}
        # Which files need no second look in this run; forgetting one costs a checksum.
        self._verified: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, key: Key) -> Found | None:
        """The open file, if it is unchanged."""
        found = self._open.get(key)
        if found is None:
            return None
        if not found.is_unchanged():
            self.drop(key)
            self._verified.pop(found.name, None)
            return None
        self._open.move_to_end(key)
        return found

    def is_verified(self, found: Found) -> bool:
        """Whether this very file was verified before in this run."""
        return self._verified.get(found.name) == found.mtime_ns

    def verified(self, found: Found) -> None:
        """The file was read through and is right."""
        self._verified[found.name] = found.mtime_ns
        self._verified.move_to_end(found.name)
        if len(self._verified) > _MAX_VERIFIED:
            self._verified.popitem(last=False)

    def admit(self, key: Key, found: Found) -> None:
        """Keep a verified file open."""
        self.verified(found)
        self.drop(key)
        self._open[key] = found
        self._keys[found.name] = key
        if len(self._open) > self._max_files:
            _, oldest = self._open.popitem(last=False)
            del self._keys[oldest.name]

    def drop(self, key: Key) -> None:
        """Let go of a key's file; readers keep theirs."""
        found = self._open.pop(key, None)
        if found is not None:
            del self._keys[found.name]

    def removed(self, name: str) -> None:
        """The file was removed: its space comes back when nobody holds it open."""
        self._verified.pop(name, None)
        key = self._keys.get(name)
        if key is not None:
            self.drop(key)

    def clear(self) -> None:
        """Let go of all, and trust none."""
        self._open.clear()
        self._keys.clear()
        self._verified.clear()


class Recent:
    """Keys used lately, the last one last, until they are written.

    Args:
        max_keys: how many are kept; older ones lose their place in the queue for eviction.
    """

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        # Ordered: to find the first key of a plain dict takes the longer, the more of them were taken out before.
        self._keys: OrderedDict[Key, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def used(self, key: Key) -> None:
        """Note a use."""
        keys = self._keys
        keys[key] = None
        keys.move_to_end(key)
        if len(keys) > self._max_keys:
            keys.popitem(last=False)

    def take(self, count: int) -> list[Key]:
        """The ``count`` oldest ones, which are then no longer kept."""
        taken = [key for key, _ in zip(self._keys, range(count), strict=False)]
        for key in taken:
            del self._keys[key]
        return taken
