"""The index: diskcache, used only the way that suits a busy daemon.

Blocking. One thread writes (and may read), one other reads. Knows keys, packed rows and file names; not
what is in them. diskcache's own limits are switched off (its culling comes ten rows per write, whatever
their size), and a read writes nothing: recency comes in batches through :meth:`Index.touch`.

The invariant: a file name is handed out for removal only after the transaction that dropped it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import diskcache

from tiered_store.key import Key
from tiered_store.tiers.directory import INDEX_NAME
from tiered_store.tiers.faults import Kind, TierFault, translated
from tiered_store.tiers.rawdisk import RawDisk, Refused, StoredFile

__all__ = ["Change", "Index", "Value"]

Value = bytes | StoredFile
#: A key and its new value, or None to forget it.
Change = tuple[Key, Value | None]

_TIMEOUT_S = 5.0
_PAGE_BYTES = 4096
#: What one transaction may add to the write-ahead log beyond the checkpoint threshold.
_LOG_SLACK_BYTES = 256 * 1024
_SHARED_MEMORY_BYTES = 32 * 1024


def _settings(log_pages: int) -> dict[str, object]:
    return {
        "eviction_policy": "least-recently-used",
        "cull_limit": 0,  # never inside a write; the tier culls by itself
        "size_limit": 2**62,
        "statistics": 0,
        "tag_index": 0,
        # FULL: pages freed by a cull leave the file at the commit, so that the file's size is the truth.
        "sqlite_auto_vacuum": 1,
        # Per connection, and there are three: 2 MiB each. No mapping: a disk that fails under a mapped
        # file is SIGBUS, under a read it is an error.
        "sqlite_cache_size": 512,
        "sqlite_mmap_size": 0,
        "sqlite_journal_mode": "wal",
        "sqlite_synchronous": 1,
        "sqlite_wal_autocheckpoint": log_pages,
        "sqlite_journal_size_limit": log_pages * _PAGE_BYTES,
        "disk_min_file_size": 2**62,
        "disk_pickle_protocol": 0,
    }


class Index:
    """Open the index in a directory, which is made where it is not there.

    Args:
        directory: the tier's own.
        log_bytes: how long the write-ahead log may grow before it is folded into the index.

    Raises:
        TierFault: CORRUPT if it cannot be understood.
    """

    def __init__(self, directory: Path, *, log_bytes: int) -> None:
        log_pages = max(16, log_bytes // _PAGE_BYTES)
        settings = _settings(log_pages)
        self._log = directory / f"{INDEX_NAME}-wal"
        self._log_floor = log_pages * _PAGE_BYTES + _LOG_SLACK_BYTES
        with translated():
            try:
                self._writer = diskcache.Cache(directory, timeout=_TIMEOUT_S, disk=RawDisk, **settings)
                # A second instance, since the policy decides whether `get` writes and belongs to the instance.
                self._reader = diskcache.Cache(directory, timeout=_TIMEOUT_S, disk=RawDisk, **settings)
                self._reader.reset("eviction_policy", "none", update=False)
                self._reader.close()  # this thread's connection; the reading thread opens its own
            except (AttributeError, AssertionError, KeyError, TypeError, ValueError) as error:
                # diskcache takes its settings from the file and trusts them.
                raise TierFault(Kind.CORRUPT, f"index: {error!r}") from error
        self._disk: RawDisk = self._writer.disk

    def get(self, key: Key) -> Value | None:
        """The value, or None; writes nothing.

        Raises:
            Refused: if it is nothing that this tier stores.
            TierFault: as the disk says.
        """
        with translated():
            value: Value | None = self._reader.get(key)
            return value

    def apply(self, changes: Sequence[Change]) -> list[str]:
        """Make all changes or none; gives the names of files that nothing refers to any more.

        Raises:
            TierFault: as the disk says; then nothing was changed.
        """
        kept = {value.name for _, value in changes if isinstance(value, StoredFile)}
        self._disk.removed.clear()
        with self._writing(), self._writer.transact():
            for key, value in changes:
                if value is None:
                    self._writer.delete(key)
                else:
                    self._writer.set(key, value)
        return [name for name in self._take_removed() if name not in kept]

    def touch(self, keys: Iterable[Key]) -> None:
        """Note that these were used just now, the last one last.

        diskcache has no call for that alone; under its least-recently-used policy a `get` does it, and
        inside one transaction it costs no commit of its own.

        Raises:
            TierFault: as the disk says.
        """
        with self._writing(), self._writer.transact():
            for key in keys:
                try:
                    self._writer.get(key)
                except Refused:
                    self._writer.delete(key)
        self._disk.removed.clear()

    def cull(self, size: int) -> tuple[int, list[str]]:
        """Drop least recently used entries until about ``size`` bytes less are used.

        Returns:
            how many were dropped, and the files to remove.

        Raises:
            TierFault: as the disk says.
        """
        self._disk.removed.clear()
        with self._writing():
            self._writer.reset("size_limit", max(0, self._writer.volume() - size), update=False)
            count: int = self._writer.cull()
        return count, self._take_removed()

    def keys(self) -> Iterator[Key]:
        """All keys, in order, without holding a lock; what changes meanwhile may or may not be seen.

        Raises:
            TierFault: as the disk says.
        """
        with translated():
            try:
                yield from self._reader.iterkeys()
            except Refused as error:
                raise TierFault(Kind.CORRUPT, f"index: {error}") from error

    def measure(self) -> tuple[int, int]:
        """How many entries there are and how many bytes index and files take, by the index's own sums.

        Raises:
            TierFault: as the disk says.
        """
        with translated():
            entries, volume = len(self._writer), self._writer.volume()
            try:
                log = self._log.stat().st_size
            except FileNotFoundError:
                log = 0
            return entries, volume + max(log, self._log_floor) + _SHARED_MEMORY_BYTES

    def close(self) -> None:
        """Close the calling thread's connections; call it in every thread that used the index."""
        with translated():
            self._reader.close()
            self._writer.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with translated():
            try:
                yield
            except BaseException:
                # A COMMIT that failed may leave its transaction open, which diskcache does not expect;
                # a new connection starts clean.
                self._writer.close()
                raise

    def _take_removed(self) -> list[str]:
        removed, self._disk.removed = self._disk.removed, []
        return removed
