"""Restoring a tree: its directories are made, and its files written, linked or left as they are where they are right.

A plan (``steps.py``). The manifest has been read to its end once before anything is written (:func:`survey`), so a
manifest that is refused changes nothing. A restore that was killed is begun again like any other: what is right by
its digest is kept, and what was half written is not right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

from tiered_store.client.targets import OpenTarget
from tiered_store.client.trees.linkstore import LinkStore
from tiered_store.client.trees.manifest import Enter, File, Leave, Link, Record, read_manifest
from tiered_store.client.trees.place import OpenDirectory, Placed, is_right, new_file, put_link, write_files
from tiered_store.client.trees.steps import (
    BATCH_DIRECTORIES,
    BATCH_FILES,
    GetInto,
    GetMany,
    Job,
    Stop,
    Work,
)
from tiered_store.errors import IntegrityError, NotFound
from tiered_store.key import ARTIFACT_PREFIX
from tiered_store.objects import INLINE_MAX_BYTES

__all__ = ["Restoring", "Surveyed", "survey"]

_PIECE_BYTES: Final = 256 * 1024
#: Of small files in one job: what a daemon that has them in memory answers in one frame.
_BATCH_BYTES: Final = 512 * 1024
#: Of a manifest whose records are kept from the first reading to the second: some 80,000 files, in some 40 MiB.
_KEPT_MAX_BYTES: Final = 8 * 1024 * 1024

Progress: TypeAlias = Callable[[int, int | None], None]


class Surveyed(NamedTuple):
    """A manifest that has been read to its end.

    Attributes:
        files, links, directories, bytes: what it names.
        records: all of them if they are few, so that they need not be read again.
    """

    files: int
    links: int
    directories: int
    bytes: int
    records: list[Record] | None


class _Restored(NamedTuple):
    """What a job has done."""

    bytes: int
    new_files: int
    new_bytes: int


def survey(manifest: memoryview, *, folds_case: bool = False) -> Surveyed:
    """Read a manifest to its end.

    Raises:
        IntegrityError: it is none, or cannot be restored where names fold case.
    """
    files = links = directories = size = 0
    records: list[Record] | None = [] if len(manifest) <= _KEPT_MAX_BYTES else None
    for record in read_manifest(_pieces(manifest), folds_case=folds_case):
        if isinstance(record, File):
            files += 1
            size += record.size
        elif isinstance(record, Link):
            links += 1
        elif isinstance(record, Enter):
            directories += 1
        if records is not None:
            records.append(record)
    return Surveyed(files, links, directories, size, records)


def _pieces(manifest: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(manifest), _PIECE_BYTES):
        yield manifest[start : start + _PIECE_BYTES]


class Restoring:
    """The plan that restores one tree.

    Args:
        root: the directory to restore into.
        manifest: its bytes.
        surveyed: what is in it.
        stop: ends what is under way.
        links: where files are linked from, or None to copy them.
        progress: told of the bytes that are in place.

    Attributes:
        new_files, new_bytes: what was not right before.
    """

    def __init__(
        self,
        root: OpenDirectory,
        manifest: memoryview,
        surveyed: Surveyed,
        stop: Stop,
        links: LinkStore | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._root = root
        self._manifest = manifest
        self._surveyed = surveyed
        self._stop = stop
        self._links = links
        self._progress = progress
        self._done = 0
        self.new_files = self.new_bytes = 0

    # -- the plan -----------------------------------------------------------------------------------

    def jobs(self) -> Iterator[Job[_Restored]]:
        """A job for each run of small files, and one for each large file; directories are made on the way."""
        here = self._root
        outer: list[OpenDirectory] = []
        batch: list[Placed] = []
        size = directories = 0
        last = None  # of whose files there are some in the batch
        is_new = True
        records = self._surveyed.records
        for record in read_manifest(_pieces(self._manifest)) if records is None else records:
            if isinstance(record, File):
                if record.size > INLINE_MAX_BYTES:
                    yield self._large((here, record))
                    continue
                if last is not here:
                    last = here
                    directories += 1
                    is_new = is_new and here.is_new
                batch.append((here, record))
                size += record.size
                if len(batch) >= BATCH_FILES or size >= _BATCH_BYTES or directories >= BATCH_DIRECTORIES:
                    yield self._small(batch, size, is_new=is_new)
                    batch = []
                    size = directories = 0
                    last = None
                    is_new = True
            elif isinstance(record, Enter):
                outer.append(here)
                here = here.enter(record.name)
            elif isinstance(record, Leave):
                here = outer.pop()
            else:
                put_link(here, record)
        if batch:
            yield self._small(batch, size, is_new=is_new)

    def take(self, restored: _Restored) -> None:
        """Count what is in place."""
        self._done += restored.bytes
        self.new_files += restored.new_files
        self.new_bytes += restored.new_bytes
        if self._progress is not None:
            self._progress(self._done, self._surveyed.bytes)

    # -- one job ------------------------------------------------------------------------------------

    def _small(self, batch: list[Placed], size: int, *, is_new: bool) -> Job[_Restored]:
        links = self._links
        wrong = batch
        if not is_new:
            wrong = yield Work(lambda: [placed for placed in batch if not self._is_right(placed)], is_short=True)
        lacking = wrong
        if links is not None and wrong:
            lacking = yield Work(lambda: links.link_all(wrong), is_short=True)
        if lacking:
            keys = [_key(file) for _, file in lacking]
            bodies = _bodies(lacking, keys, (yield GetMany(list(dict.fromkeys(keys)))))
            if links is None:
                yield Work(lambda: write_files(lacking, bodies), is_short=True)
            else:
                yield Work(lambda: self._fill_all(lacking, bodies), is_short=True)
        return _Restored(size, len(wrong), sum([file.size for _, file in wrong]))

    def _is_right(self, placed: Placed) -> bool:
        directory, file = placed
        return not directory.is_new and is_right(directory, file, self._stop)

    def _fill_all(self, lacking: list[Placed], bodies: Iterable[bytes]) -> None:
        assert self._links is not None
        for (directory, file), data in zip(lacking, bodies, strict=True):
            if not self._links.fill(directory, file, data):
                raise _disturbed()

    def _large(self, placed: Placed) -> Job[_Restored]:
        directory, file = placed
        wrong: bool = directory.is_new or not (yield Work(lambda: self._is_right(placed)))
        links = self._links
        if wrong and links is None:
            with new_file(directory, file) as fd:
                yield from self._fetch(directory, file, fd)
        elif wrong and links is not None and not (yield Work(lambda: links.link(directory, file), is_short=True)):
            with links.new_file(file) as fd:
                yield from self._fetch(directory, file, fd)
            if not links.link(directory, file):
                raise _disturbed()
        return _Restored(file.size, int(wrong), file.size if wrong else 0)

    def _fetch(self, directory: OpenDirectory, file: File, fd: int) -> Job[None]:
        def check(_done: int, _total: int | None) -> None:
            self._stop.check()

        try:
            info = yield GetInto(_key(file), OpenTarget(fd, directory.path + b"/" + file.name, check))
        except NotFound:
            raise _lost(directory, file) from None
        if info.size != file.size:
            raise _wrong_size(directory, file)


def _bodies(placed: list[Placed], keys: list[str], found: dict[str, bytes]) -> Iterator[bytes]:
    """The files' bytes, each as it is written."""
    for (directory, file), key in zip(placed, keys, strict=True):
        data = found.get(key)
        if data is None:
            raise _lost(directory, file)
        if len(data) != file.size:
            raise _wrong_size(directory, file)
        yield data


def _key(file: File) -> str:
    return ARTIFACT_PREFIX + file.digest


def _path(directory: OpenDirectory, file: File) -> str:
    return (directory.path + b"/" + file.name).decode("utf-8", "backslashreplace")


def _lost(directory: OpenDirectory, file: File) -> NotFound:
    return NotFound(f"the store has lost the content of {_path(directory, file)}", key=_key(file))


def _wrong_size(directory: OpenDirectory, file: File) -> IntegrityError:
    return IntegrityError(f"the manifest is wrong about the size of {_path(directory, file)}", key=_key(file))


def _disturbed() -> IntegrityError:
    return IntegrityError("the directory of links is changed by somebody else at the same time", source="client")
