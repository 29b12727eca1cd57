"""Reaching files below a root directory, one segment at a time.

Knows directories and segments, nothing of objects. All of it blocks.

The law: nothing here leaves the root, whatever somebody else does to the tree meanwhile. Every segment is
opened relative to the directory before it, with ``O_NOFOLLOW``, and ``..`` is never asked for; a
directory replaced by a symbolic link between two steps is an error at the second step, not an escape.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from tiered_store.errors import InvalidKey
from tiered_store.key import key_of_name

__all__ = [
    "FOR_LISTING",
    "FOR_LOOKUP",
    "NewDirectories",
    "directory",
    "make_directories",
    "open_directory",
    "prune",
    "remove_if_empty",
    "split_name",
    "sync_directories",
]

#: To look up and create entries; asks for no permission but to pass through.
FOR_LOOKUP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
#: To read entries, or to fsync them.
FOR_LISTING = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
#: How deep a tree of empty directories is cleared away for a file that shall take its place.
_MAX_EMPTY_DEPTH = 32


def split_name(name: str) -> tuple[list[str], str]:
    """The directories on the way to an object, and its last segment.

    Raises:
        InvalidKey: the name belongs to no key; the doors check this, and so does the last place before the disk.
    """
    if key_of_name(name) is None:
        raise InvalidKey("this name breaks the rules for keys", key=name)
    *parents, leaf = name.split("/")
    return parents, leaf


def open_directory(root: int, segments: Sequence[str], flags: int = FOR_LOOKUP) -> int:
    """A new descriptor of the directory ``segments`` below ``root``; the caller closes it.

    Even for the root itself it is a new open file, because listings of a shared one would share a position.

    Raises:
        OSError: a segment is missing, is no directory (or is a symbolic link: ENOTDIR), or may not be passed.
    """
    current = os.open(".", FOR_LOOKUP if segments else flags, dir_fd=root)
    last = len(segments) - 1
    for depth, segment in enumerate(segments):
        try:
            below = os.open(segment, flags if depth == last else FOR_LOOKUP, dir_fd=current)
        finally:
            os.close(current)
        current = below
    return current


@contextmanager
def directory(root: int, segments: Sequence[str], flags: int = FOR_LOOKUP) -> Iterator[int]:
    """:func:`open_directory` for the length of a ``with`` block."""
    fd = open_directory(root, segments, flags)
    try:
        yield fd
    finally:
        os.close(fd)


class NewDirectories:
    """Directories that are being made, and whose own entries may not be durable yet.

    A put that finds a directory which another put has just made must not rely on that one's fsync: after a
    power cut the directory, and the acknowledged object in it, could be gone. So it syncs what is noted here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._making: Counter[tuple[str, ...]] = Counter()

    @contextmanager
    def make(self, root: int, segments: Sequence[str]) -> Iterator[tuple[int, int]]:
        """As :func:`make_directories`; what is made counts as new until the block ends.

        Yields:
            its descriptor, closed at the end, and the depth from which on :func:`sync_directories` is due.
        """
        noted: list[tuple[str, ...]] = []

        def note(depth: int) -> None:
            noted.append(tuple(segments[: depth + 1]))
            with self._lock:
                self._making[noted[-1]] += 1

        try:
            fd, found = make_directories(root, segments, note)
            try:
                yield fd, min(found, self._first(segments))
            finally:
                os.close(fd)
        finally:
            with self._lock:
                self._making -= Counter(noted)  # keeps only what is left of them

    def _first(self, segments: Sequence[str]) -> int:
        with self._lock:
            if self._making:
                for depth in range(len(segments)):
                    if tuple(segments[: depth + 1]) in self._making:
                        return depth
        return len(segments)


def make_directories(
    root: int, segments: Sequence[str], making: Callable[[int], None] = lambda _: None
) -> tuple[int, int]:
    """Open a directory like :func:`open_directory` (for listing), making it and its parents where they are missing.

    Args:
        root: where to start.
        segments: the directory's path.
        making: told the depth of each directory before it is made.

    Returns:
        its descriptor, which the caller closes, and how many of ``segments`` had been there before.

    Raises:
        FileNotFoundError: somebody removed a directory between two steps; try again.
        OSError: as open_directory, and from mkdir.
    """
    current = os.open(".", FOR_LOOKUP if segments else FOR_LISTING, dir_fd=root)
    last = len(segments) - 1
    found = len(segments)
    for depth, segment in enumerate(segments):
        flags = FOR_LISTING if depth == last else FOR_LOOKUP
        try:
            try:
                below = os.open(segment, flags, dir_fd=current)
            except FileNotFoundError:
                found = min(found, depth)
                making(depth)
                with suppress(FileExistsError):  # another writer was faster
                    os.mkdir(segment, dir_fd=current)
                below = os.open(segment, flags, dir_fd=current)
        finally:
            os.close(current)
        current = below
    return current, found


def sync_directories(root: int, segments: Sequence[str], first: int) -> None:
    """Fsync the directories from depth ``first`` to the parent of the last segment: new entries become durable.

    A directory that is gone needs no fsync: whoever removed it removed what was in it.

    Raises:
        OSError: from fsync.
    """
    for depth in range(first, len(segments)):
        try:
            fd = open_directory(root, segments[:depth], FOR_LISTING)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def prune(root: int, segments: Sequence[str]) -> None:
    """Remove the directory ``segments`` and its parents as far as they are empty; never the root."""
    for depth in range(len(segments) - 1, -1, -1):
        try:
            with directory(root, segments[:depth]) as parent:
                os.rmdir(segments[depth], dir_fd=parent)
        except OSError:  # not empty, gone already, or not ours to remove: it stays, and so do its parents
            return


def remove_if_empty(parent: int, segment: str, depth: int = 0) -> bool:
    """Remove a directory that holds no file, only (empty) directories.

    Such trees are left by a process that died between making directories and renaming its file into them.

    Returns:
        whether the name is free now.

    Raises:
        OSError: the directory cannot be read.
    """
    if depth > _MAX_EMPTY_DEPTH:
        return False
    try:
        fd = os.open(segment, FOR_LISTING, dir_fd=parent)
    except FileNotFoundError:
        return True
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False) or not remove_if_empty(fd, entry.name, depth + 1):
                    return False
    finally:
        os.close(fd)
    try:
        os.rmdir(segment, dir_fd=parent)
    except OSError as error:
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY}:
            return False  # somebody was faster, or it is a mount point
        if error.errno != errno.ENOENT:
            raise
    return True
