"""Objects as files below a directory: each operation whole, blocking, for threads.

``local.py`` is the asynchronous face of this. The laws:

- A file is written under a temporary name, made durable, then renamed, and its directory made durable before the
  operation returns. Whoever looks sees the old object or the new one, with the metadata of the same one.
- Every operation closes what it opens and removes what it no longer needs before it ends, whether or not
  somebody still waits for it.
- What cannot be an object (symbolic links, directories, pipes, sockets, devices) does not exist for reads.

Steps of a put, and what a crash after each leaves: temporary file (removed by the next start's sweep); sidecar
of the new version (old object with old sidecar, the new sidecar is an orphan that a sweep collects); rename
(old or new pair); fsync of the directory (new pair, old sidecar an orphan); old sidecar removed (new pair).
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tiered_store.errors import NotFound, OriginUnavailable, StoreError
from tiered_store.objects import Body, Descriptor, ObjectInfo, metadata_bytes
from tiered_store.origins.base import CHUNK_BYTES, LISTING_METADATA_BYTES, Listing, ObjectChanged, PutHeaders
from tiered_store.origins.localerrors import ABSENT, translated
from tiered_store.origins.localpath import (
    NewDirectories,
    directory,
    remove_if_empty,
    split_name,
    sync_directories,
)
from tiered_store.origins.ownfiles import OwnFiles, TemporaryFile
from tiered_store.origins.removal import remove_files
from tiered_store.origins.sidecar import Sidecars, version_at, version_of
from tiered_store.origins.transfer import copy_range, write_all
from tiered_store.origins.walk import Windows, ordered_names

__all__ = ["LocalFiles", "OpenFile", "read_chunk"]

# O_NONBLOCK: opening a pipe that someone left there must not wait for its other end.
_FOR_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
#: A put loses its directory to a concurrent delete, or a read its file to a concurrent put, at most this often.
_ATTEMPTS = 64
_WRITES = frozenset({"put", "copy"})
#: File systems keep times far outside the years 1677 to 2262; messages and records have 64 bits for nanoseconds.
_MIN_NS, _MAX_NS = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file opened for reading, and the first bytes of the range asked for.

    Attributes:
        info: the whole object's.
        descriptor: None where ``head`` is all of the range.
        head: at most ``CHUNK_BYTES``.
        position: where the rest of the range begins.
        end: where it ends.
    """

    info: ObjectInfo
    descriptor: Descriptor | None
    head: bytes
    position: int
    end: int


def read_chunk(descriptor: Descriptor, info: ObjectInfo, position: int, count: int) -> bytes:
    """Exactly ``count`` bytes of the version that ``info`` describes.

    Raises:
        ObjectChanged: somebody writes into the file or has cut it off.
        OSError: from the read.
    """
    parts: list[bytes] = []
    missing = count
    while missing:
        part = os.pread(descriptor.fd, missing, position + count - missing)
        if not part:
            break
        parts.append(part)
        missing -= len(part)
    if missing or version_of(os.fstat(descriptor.fd)) != info.etag:
        raise ObjectChanged("the file was changed while it was being read", key=info.key)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _information(name: str, status: os.stat_result, headers: PutHeaders) -> ObjectInfo:
    # The etag keeps the time as it is: it tells versions apart.
    modified_ns = min(max(status.st_mtime_ns, _MIN_NS), _MAX_NS)
    return ObjectInfo(
        name, status.st_size, version_of(status), headers.content_type, dict(headers.metadata), modified_ns
    )


class LocalFiles:
    """The files below one root. Safe to use from several threads, and beside other processes that do the same.

    Args:
        root: the directory; made with mode 0700 if it is missing.
        fsync: whether puts and deletes wait until they are durable.
        clock: nanoseconds since the epoch, for the files' mtimes.

    Raises:
        StoreError: the root cannot be opened.
    """

    def __init__(self, root: Path, *, fsync: bool = True, clock: Callable[[], int] = time.time_ns) -> None:
        self.root = root
        with translated("start", "", root):
            with suppress(FileExistsError):
                root.mkdir(0o700, parents=True)
            self._root = Descriptor(os.open(root, os.O_RDONLY | os.O_DIRECTORY))
        self._fsync = fsync
        self._clock = clock
        self._last_mtime = 0
        self._clock_lock = threading.Lock()
        # Renames and unlinks of one name one after the other, so that each knows the version it ends.
        # Two names sharing a lock only wait for a rename, not for any bytes.
        self._locks = [threading.Lock() for _ in range(64)]
        self._own = OwnFiles(self._root)
        self._new_directories = NewDirectories()
        self._sidecars = Sidecars(self._own, fsync=fsync)
        self._windows = Windows(clock)

    def stat(self, name: str) -> ObjectInfo:
        """What is known of an object; errors as for ``Origin.stat``."""
        with self._told("stat", name):
            return self._stat(name)

    def stat_many(self, names: Sequence[str]) -> list[ObjectInfo | StoreError]:
        """What :meth:`stat` gives or raises for each; the root is looked at once before and once after all of them.

        Raises:
            OriginUnavailable: the root is not there.
        """
        answers: list[ObjectInfo | StoreError] = []
        self._check_root(names[0])
        for name in names:
            try:
                with translated("stat", name, self.root):
                    answers.append(self._stat(name))
            except StoreError as error:
                answers.append(error.with_traceback(None))
        self._check_root(names[0])
        return answers

    def _stat(self, name: str) -> ObjectInfo:
        parents, leaf = split_name(name)
        with directory(self._root.fd, parents) as parent:
            info = self._look_up(parent, leaf, name)
        if info is None:
            raise NotFound("no such object", key=name)
        return info

    def open(self, name: str, offset: int, length: int | None, if_none_match: str | None) -> OpenFile | None:
        """Open an object and read the first chunk of the range; arguments and errors as for ``Origin.open``."""
        with self._told("open", name), ExitStack() as stack:
            info, descriptor = self._open(name)
            stack.callback(descriptor.close)
            if if_none_match is not None and info.etag == if_none_match:
                return None
            start = min(offset, info.size)
            end = info.size if length is None else min(info.size, start + length)
            head = read_chunk(descriptor, info, start, min(end - start, CHUNK_BYTES))
            position = start + len(head)
            if position == end:
                return OpenFile(info, None, head, position, end)
            stack.pop_all()
            return OpenFile(info, descriptor, head, position, end)

    def put(self, name: str, body: Body, headers: PutHeaders) -> ObjectInfo:
        """Store an object durably; errors as for ``Origin.put``."""
        with self._told("put", name), self._own.temporary_file() as temporary:
            if isinstance(body, bytes):
                write_all(temporary.fd, body)
            else:
                copy_range(body.descriptor.fd, body.offset, body.size, temporary.fd)
            return self._commit(temporary, name, headers)

    def copy(self, source: str, target: str) -> ObjectInfo:
        """Store the source's bytes, content type and metadata as the target; errors as for ``Origin.copy``."""
        with ExitStack() as stack:
            with self._told("open", source):
                info, descriptor = self._open(source)
                stack.callback(descriptor.close)
            with self._told("copy", target), self._own.temporary_file() as temporary:
                copy_range(descriptor.fd, 0, info.size, temporary.fd)
                if version_of(os.fstat(descriptor.fd)) != info.etag:
                    raise OriginUnavailable("the file was changed while it was being copied", key=source)
                return self._commit(temporary, target, PutHeaders(info.content_type, info.metadata))

    def delete(self, names: Sequence[str]) -> int:
        """Remove objects durably; how many there were. Errors as for ``Origin.delete``."""
        self._check_root(names[0] if names else "")
        removed = remove_files(
            self._root.fd, self.root, names, lock_of=self._lock_of, forget=self._sidecars.remove, fsync=self._fsync
        )
        self._check_root(names[0] if names else "")
        return removed

    def list(self, prefix: str, after: str, limit: int) -> Listing:
        """One page, see ``walk.py`` for the order and the cost; errors as for ``Origin.list``."""
        items: list[ObjectInfo] = []
        room = LISTING_METADATA_BYTES
        try:
            with (
                self._told("list", prefix),
                closing(ordered_names(self._root.fd, self._windows, prefix, after)) as found,
            ):
                for parent, leaf, name in found:
                    if len(items) == limit or room < 0:
                        return Listing(items, more=True)
                    with suppress(FileNotFoundError):
                        info = self._look_up(parent, leaf, name)
                        if info is not None:
                            items.append(info)
                            room -= metadata_bytes(info.content_type, info.metadata)
        except NotFound:  # the prefix has a segment that this file system cannot hold
            return Listing([], more=False)
        self._check_root(prefix)
        return Listing(items, more=False)

    def sweep(self) -> Iterator[int]:
        """Collect what crashes left; yields after each slice of work how many files it removed."""
        yield from self._own.sweep()
        removed = 0
        for orphan in self._sidecars.old_ones(self._clock()):
            if orphan is None:
                yield removed
                removed = 0
            elif self._is_orphan(*orphan):
                self._sidecars.remove(*orphan)
                removed += 1
        yield removed

    def end(self) -> None:
        """Remove the temporary directory. The root's descriptor goes when the last running operation ends."""
        self._own.end()

    @contextmanager
    def _told(self, operation: str, name: str) -> Iterator[None]:
        self._check_root(name)
        try:
            with translated(operation, name, self.root):
                yield
        except (NotFound, OriginUnavailable):
            self._check_root(name)
            raise
        if operation in _WRITES:
            self._check_root(name)

    def _check_root(self, name: str) -> None:
        """Tell an origin that lost its directory from one that has no such object.

        A directory that was moved away or unmounted can still be used through its descriptor, but nobody
        would look there for what is put now: the next start would not.
        """
        try:
            there = self.root.stat()
        except (FileNotFoundError, NotADirectoryError):
            there = None
        except OSError:  # some directory on the way may not be passed any more, which says nothing of this one
            return
        if there is None or not os.path.samestat(os.fstat(self._root.fd), there):
            raise OriginUnavailable(
                f"the origin's directory {self.root} was removed or replaced: put it back, or restart the daemon",
                key=name,
            )

    def _is_orphan(self, name: str, version: str) -> bool:
        try:
            parents, leaf = split_name(name)
            with directory(self._root.fd, parents) as parent:
                return version_at(parent, leaf) != version
        except OSError as error:
            return error.errno in ABSENT
        except StoreError:
            return False

    def _look_up(self, parent: int, leaf: str, name: str) -> ObjectInfo | None:
        """An object's information from its directory, or None for what is not a regular file."""
        for _ in range(_ATTEMPTS):
            status = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                return None
            info = self._describe(status, parent, leaf, name)
            if info is not None:
                return info
        raise OriginUnavailable("the file is replaced faster than it can be looked at", key=name)

    def _open(self, name: str) -> tuple[ObjectInfo, Descriptor]:
        """Open one version of an object, and find its information."""
        parents, leaf = split_name(name)
        with directory(self._root.fd, parents) as parent:
            for _ in range(_ATTEMPTS):
                descriptor = Descriptor(os.open(leaf, _FOR_READING, dir_fd=parent))
                try:
                    status = os.fstat(descriptor.fd)
                    if not stat.S_ISREG(status.st_mode):
                        raise NotFound("no such object", key=name)
                    info = self._describe(status, parent, leaf, name)
                except BaseException:
                    # Not left to the last reference, which the error's traceback can hold for long.
                    descriptor.close()
                    raise
                if info is not None:
                    return info, descriptor
                descriptor.close()
        raise OriginUnavailable("the file is replaced faster than it can be opened", key=name)

    def _describe(self, status: os.stat_result, parent: int, leaf: str, name: str) -> ObjectInfo | None:
        """The information of this version, or None if the name holds another one by now."""
        version = version_of(status)
        headers = self._sidecars.load(name, version)
        if headers is None:
            # Nothing was said of it; or its sidecar went away with it, between its stat and the look for that.
            if version_at(parent, leaf) != version:
                return None
            headers = PutHeaders()
        return _information(name, status, headers)

    def _commit(self, temporary: TemporaryFile, name: str, headers: PutHeaders) -> ObjectInfo:
        """Make a written file durable and put it in its place, with its sidecar."""
        mtime_ns = self._next_mtime()
        os.utime(temporary.fd, ns=(mtime_ns, mtime_ns))
        if self._fsync:
            os.fsync(temporary.fd)
        status = os.fstat(temporary.fd)  # the file system may keep times less exactly than asked
        version = version_of(status)
        has_sidecar = headers.content_type is not None or bool(headers.metadata)
        if has_sidecar:
            self._sidecars.save(name, version, headers)
        try:
            replaced = self._install(temporary, name)
        finally:
            if has_sidecar and not temporary.moved:
                self._sidecars.remove(name, version)
        if replaced is not None and replaced != version:
            self._sidecars.remove(name, replaced)
        return _information(name, status, headers)

    def _install(self, temporary: TemporaryFile, name: str) -> str | None:
        """Rename a file into its place, durably; the version that was there before."""
        parents, leaf = split_name(name)
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError), self._new_directories.make(self._root.fd, parents) as (parent, first):
                try:
                    with self._lock_of(name):
                        replaced = version_at(parent, leaf)
                        temporary.move_to(parent, leaf)
                except IsADirectoryError:
                    if not remove_if_empty(parent, leaf):
                        raise
                    continue
                if self._fsync:
                    os.fsync(parent)
                    sync_directories(self._root.fd, parents, first)
                return replaced
            # A delete pruned a directory between two steps, or after it was opened.
        raise OriginUnavailable("its directory is removed as fast as it is made", key=name)

    def _next_mtime(self) -> int:
        """A time that no other file of this process has: inodes are reused, and then only this differs."""
        with self._clock_lock:
            self._last_mtime = max(self._clock(), self._last_mtime + 1)
            return self._last_mtime

    def _lock_of(self, name: str) -> threading.Lock:
        return self._locks[hash(name) % len(self._locks)]
