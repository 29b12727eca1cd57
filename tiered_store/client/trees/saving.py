"""Saving a tree: its files become artifacts where they are none yet, and its manifest is written as they do.

A plan (``steps.py``). The walk, the stat cache and the manifest are worked through in one order and by one thread at a
time; only the jobs between them run side by side.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

from tiered_store.client.trees.manifest import Enter, File, Link, ManifestWriter, Record
from tiered_store.client.trees.scan import Content, FileSeen, Seen, read_content, walk
from tiered_store.client.trees.statcache import StatCache
from tiered_store.client.trees.steps import BATCH_FILES, Exists, Job, PutFile, PutMany, Stop, Work
from tiered_store.errors import DaemonUnavailable, IntegrityError, StoreError
from tiered_store.key import ARTIFACT_PREFIX
from tiered_store.objects import INLINE_MAX_BYTES

__all__ = ["Saving"]

#: Of files in one job; those of the small ones are held in memory until they are stored.
_BATCH_BYTES: Final = 4 * 1024 * 1024
#: Digests remembered as being stored by this save: far more than are under way, in some 10 MiB.
_MAX_CLAIMS: Final = 65_536
#: How often a large file that changes between being hashed and being stored is begun again.
_ATTEMPTS: Final = 3
_TREE_MODE: Final = 0o100  # the owner's right to execute

Progress: TypeAlias = Callable[[int, int | None], None]


class _Saved(NamedTuple):
    """What a job has done: the entries it was given, in order, with the contents of the files among them."""

    entries: list[Seen]
    contents: list[Content]
    read_ns: int
    new_files: int
    new_bytes: int


class Saving:
    """The plan that saves one tree.

    Args:
        root: the directory.
        write: takes the manifest.
        cache: of the last save.
        stop: ends what is under way.
        progress: told of the bytes saved.

    Attributes:
        files, links, directories, bytes: in the tree.
        new_files, new_bytes: of them, what the store did not have.
        left_out: paths of what is neither file, link nor directory.
    """

    def __init__(
        self,
        root: bytes,
        write: Callable[[bytes], object],
        cache: StatCache,
        stop: Stop,
        progress: Progress | None = None,
    ) -> None:
        self._root = root
        self._writer = ManifestWriter(write)
        self._cache = cache
        self._stop = stop
        self._progress = progress
        self._claims: dict[str, None] = {}
        self._lock = threading.Lock()
        self.files = self.links = self.directories = self.bytes = 0
        self.new_files = self.new_bytes = 0
        self.left_out: list[bytes] = []

    # -- the plan -----------------------------------------------------------------------------------

    def jobs(self) -> Iterator[Job[_Saved]]:
        """A job for each run of entries."""
        entries: list[Seen] = []
        known: list[str | None] = []
        size = 0
        for seen in walk(self._root, self.left_out.append):
            entries.append(seen)
            if isinstance(seen, FileSeen):
                known.append(self._cache.digest(seen.place, seen.status))
                size += seen.status.st_size
            if len(entries) >= BATCH_FILES or size >= _BATCH_BYTES:
                yield self._job(entries, known)
                entries, known, size = [], [], 0
        yield self._job(entries, known)

    def take(self, saved: _Saved) -> None:
        """Write down what has been saved.

        Raises:
            StoreError: the tree cannot be written down: a name or a depth is over its limit.
        """
        contents = iter(saved.contents)
        for seen in saved.entries:
            if isinstance(seen, FileSeen):
                content = next(contents)
                status = content.status
                self._cache.remember(seen.place, status, content.digest, saved.read_ns)
                self._add(File(seen.name, content.digest, status.st_size, bool(status.st_mode & _TREE_MODE)))
                self.files += 1
                self.bytes += status.st_size
            else:
                self._add(seen)
                self.links += isinstance(seen, Link)
                self.directories += isinstance(seen, Enter)
        self.new_files += saved.new_files
        self.new_bytes += saved.new_bytes
        if self._progress is not None:
            self._progress(self.bytes, None)

    def _add(self, record: Record) -> None:
        try:
            self._writer.add(record)
        except ValueError as error:
            raise StoreError(f"this tree cannot be saved: {error}") from None

    # -- one job ------------------------------------------------------------------------------------

    def _job(self, entries: list[Seen], known: list[str | None]) -> Job[_Saved]:
        files = [seen for seen in entries if isinstance(seen, FileSeen)]
        read_ns = time.time_ns()

        def read() -> list[Content]:
            return [
                read_content(file.path, self._stop) if digest is None else Content(digest, file.status, None)
                for file, digest in zip(files, known, strict=True)
            ]

        unknown = [file for file, digest in zip(files, known, strict=True) if digest is None]
        is_short = all(file.status.st_size <= INLINE_MAX_BYTES for file in unknown)
        contents: list[Content] = (yield Work(read, is_short)) if files else []
        there: dict[str, bool] = (yield Exists(list({_key(c): None for c in contents}))) if files else {}
        missing = [index for index, content in enumerate(contents) if not there[_key(content)]]
        small = [index for index in missing if contents[index].status.st_size <= INLINE_MAX_BYTES]
        new_files = new_bytes = 0
        if small:
            new_files, new_bytes = yield from self._put_small(files, contents, small)
        for index in missing:
            if contents[index].status.st_size > INLINE_MAX_BYTES:
                size = yield from self._put_large(files[index], contents, index)
                new_files += size > 0
                new_bytes += size
        return _Saved(entries, contents, read_ns, new_files, new_bytes)

    def _put_small(self, files: list[FileSeen], contents: list[Content], small: list[int]) -> Job[tuple[int, int]]:
        """Store what the store lacks; how many contents that were, and how many bytes."""

        def read_again() -> None:
            # The cache knew it, but the store has lost it.
            for index in small:
                if contents[index].data is None:
                    contents[index] = read_content(files[index].path, self._stop)

        if any(contents[index].data is None for index in small):
            yield Work(read_again, is_short=True)
        items = {}
        for index in small:
            content = contents[index]
            if content.data is None:  # it has grown since it was seen
                raise IntegrityError(f"{files[index].path!r} grows while its tree is saved", source="client")
            if self._claim(_key(content)):
                items[_key(content)] = content.data
            contents[index] = content._replace(data=None)  # what waits for its turn in the manifest needs no bytes
        stored = yield PutMany(items)
        if len(stored) < len(items):
            raise DaemonUnavailable("the daemon is unavailable")
        return len(items), sum(map(len, items.values()))

    def _put_large(self, file: FileSeen, contents: list[Content], index: int) -> Job[int]:
        """Store a large file; how many bytes of it were new."""
        for attempt in range(_ATTEMPTS):
            content = contents[index]
            if not self._claim(_key(content)):
                return 0
            try:
                info = yield PutFile(_key(content), file.path)
            except IntegrityError:
                # It changed behind the hash, or the cache was wrong about it.
                self._unclaim(_key(content))
                if attempt == _ATTEMPTS - 1:
                    raise
                contents[index] = yield Work(lambda: read_content(file.path, self._stop))
                continue
            if info.size != content.status.st_size:
                raise DaemonUnavailable("the daemon is unavailable")
            return int(info.size)
        raise AssertionError

    def _claim(self, key: str) -> bool:
        """Whether nobody in this save is storing that content: equal files are stored and counted once."""
        with self._lock:
            if key in self._claims:
                return False
            if len(self._claims) >= _MAX_CLAIMS:
                del self._claims[next(iter(self._claims))]
            self._claims[key] = None
            return True

    def _unclaim(self, key: str) -> None:
        with self._lock:
            self._claims.pop(key, None)


def _key(content: Content) -> str:
    return ARTIFACT_PREFIX + content.digest
