"""The index: diskcache, used only the way that suits a busy daemon.

Blocking. One thread writes (and may read), one other reads. Knows keys, packed rows and file names; not
what is in them. diskcache's own limits are switched off (its culling comes ten rows per write, whatever
their size), and a read writes nothing: recency comes in batches through :meth:`Index.touch`.

The invariant: a file name is handed out for removal only after the transaction that dropped it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import diskcache

from tiered_store.key import Key
from tiered_store.tiers.directory import INDEX_NAME
from tiered_store.tiers.faults import Kind, TierFault, translated
from tiered_store.tiers.rawdisk import RawDisk, Refused, StoredFile, is_object_name

__all__ = ["Change", "Index", "Value"]

Value = bytes | StoredFile
#: Charged size, mode, file name, inline bytes: what ``RawDisk.store`` makes of a value.
Columns = tuple[int, int, str | None, bytes]
#: A key, and the columns that hold its value, whatever they hold.
Row = tuple[Key, int, object, object]
#: A key and its new value, or None to forget it.
Change = tuple[Key, Value | None]

_TIMEOUT_S = 5.0
_PAGE_BYTES = 4096
#: What one transaction may add to the write-ahead log beyond the checkpoint threshold.
_LOG_SLACK_BYTES = 256 * 1024
_SHARED_MEMORY_BYTES = 32 * 1024


_UPSERT = """
INSERT INTO Cache (key, raw, store_time, expire_time, access_time, access_count, tag, size, mode, filename, value)
VALUES (?, 1, ?, NULL, ?, 0, NULL, ?, ?, ?, ?)
ON CONFLICT (key, raw) DO UPDATE SET
  store_time = excluded.store_time, expire_time = NULL, access_time = excluded.access_time, access_count = 0,
  tag = NULL, size = excluded.size, mode = excluded.mode, filename = excluded.filename, value = excluded.value
"""


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


class _Statements:
    """What is read and written often, in a few statements for a whole batch, straight from and into diskcache's table.

    diskcache needs some ten calls and 100 us of Python per row that it writes, under the interpreter's lock, which
    every reader of the daemon then waits for; these take a tenth, most of it in SQLite without the lock. They lean
    on the schema of the one version that is pinned; its triggers keep the totals, as for its own writes. A row of ours
    never expires.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()

    def select(self, keys: Sequence[Key]) -> Generator[Row]:
        """The rows that there are, in no order that matters; to be closed, since it holds a view of the index."""
        marks = ",".join("?" * len(keys))
        query = f"SELECT key, mode, filename, value FROM Cache WHERE raw = 1 AND key IN ({marks})"  # noqa: S608
        with closing(self._connection().execute(query, keys)) as rows:
            yield from rows

    def apply(self, changes: Sequence[tuple[Key, Columns | None]]) -> list[str]:
        """Make all changes in one transaction; gives the names that the changed rows referred to before."""
        now = time.time()
        keys = [key for key, _ in changes]
        rows = [(key, now, now, *columns) for key, columns in changes if columns is not None]
        gone = [(key,) for key, columns in changes if columns is None]
        marks = ",".join("?" * len(keys))
        with self._transaction() as sql:
            query = f"SELECT filename FROM Cache WHERE raw = 1 AND filename IS NOT NULL AND key IN ({marks})"  # noqa: S608
            names = [name for (name,) in sql.execute(query, keys)]
            sql.executemany("DELETE FROM Cache WHERE key = ? AND raw = 1", gone)
            sql.executemany(_UPSERT, rows)
        return names

    def touch(self, keys: Iterable[Key]) -> None:
        """Date the rows, each later than the one before."""
        now = time.time()
        rows = [(now + index * 1e-6, key) for index, key in enumerate(keys)]
        with self._transaction() as sql:
            sql.executemany("UPDATE Cache SET access_time = ? WHERE key = ? AND raw = 1", rows)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        sql = self._connection()
        sql.execute("BEGIN IMMEDIATE")
        try:
            yield sql
        except BaseException:
            with suppress(sqlite3.Error):
                sql.execute("ROLLBACK")
            raise
        sql.execute("COMMIT")

    def _connection(self) -> sqlite3.Connection:
        """The calling thread's connection, set up as diskcache sets up its own."""
        sql: sqlite3.Connection | None = getattr(self._local, "sql", None)
        if sql is None:
            sql = self._local.sql = sqlite3.connect(self._path, timeout=_TIMEOUT_S, isolation_level=None)
            for name, value in sql.execute("SELECT key, value FROM Settings WHERE key LIKE 'sqlite_%'").fetchall():
                # Only what is different: to set auto_vacuum is a write, also where it says what it is, and on a full
                # disk there could be no reading then.
                if sql.execute(f"PRAGMA {name[7:]}").fetchone() != (value,):
                    sql.execute(f"PRAGMA {name[7:]} = {value}").fetchall()
        return sql

    def close(self) -> None:
        """Close the calling thread's connection."""
        sql: sqlite3.Connection | None = getattr(self._local, "sql", None)
        if sql is not None:
            self._local.sql = None
            sql.close()


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
            except (AttributeError, AssertionError, KeyError, TypeError, ValueError) as error:
                # diskcache takes its settings from the file and trusts them.
                raise TierFault(Kind.CORRUPT, f"index: {error!r}") from error
        self._disk: RawDisk = self._writer.disk
        self._statements = _Statements(directory / INDEX_NAME)

    def get(self, key: Key) -> Value | None:
        """The value, or None; writes nothing.

        Raises:
            Refused: if it is nothing that this tier stores.
            TierFault: as the disk says.
        """
        value = next((value for _, value in self.get_many([key])), None)
        if isinstance(value, Refused):
            raise value
        return value

    def get_many(self, keys: Sequence[Key]) -> Generator[tuple[Key, Value | Refused]]:
        """The values that there are, for a few hundred keys; writes nothing. To be closed if it is not read to its end.

        What is nothing that this tier stores comes as the error that :meth:`get` raises.

        Raises:
            TierFault: as the disk says.
        """
        with translated(), closing(self._statements.select(keys)) as rows:
            for key, mode, filename, value in rows:
                try:
                    yield key, self._disk.fetch(mode, filename, value, read=False)
                except Refused as error:
                    yield key, error

    def apply(self, changes: Sequence[Change]) -> list[str]:
        """Make all changes or none; gives the names of files that nothing refers to any more.

        Raises:
            TierFault: as the disk says; then nothing was changed.
        """
        kept = {value.name for _, value in changes if isinstance(value, StoredFile)}
        with self._writing():
            dropped = self._statements.apply([(key, self._columns(key, value)) for key, value in changes])
        return [name for name in dropped if name not in kept and is_object_name(name)]

    def _columns(self, key: Key, value: Value | None) -> Columns | None:
        return None if value is None else self._disk.store(value, read=False, key=key)

    def touch(self, keys: Iterable[Key]) -> None:
        """Note that these were used just now, the last one last.

        Raises:
            TierFault: as the disk says.
        """
        with self._writing():
            self._statements.touch(keys)

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
                yield from self._writer.iterkeys()
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
            self._writer.close()
            self._statements.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with translated():
            try:
                yield
            except BaseException:
                # A COMMIT that failed may leave its transaction open, which diskcache does not expect;
                # a new connection starts clean.
                self._writer.close()
                self._statements.close()
                raise

    def _take_removed(self) -> list[str]:
        removed, self._disk.removed = self._disk.removed, []
        return removed
