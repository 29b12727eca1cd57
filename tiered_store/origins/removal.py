"""Removing many files durably, with as few fsyncs as that takes.

Knows names, directories and versions, nothing of reading or writing. All of it blocks.

The law: when :func:`remove_files` returns or raises, what it has unlinked is durably gone. Every file of a group
is unlinked before the first directory is fsynced: a journalling file system then writes one transaction for all of
them instead of one for each.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

from tiered_store.errors import InvalidKey
from tiered_store.origins.localerrors import ABSENT, translated
from tiered_store.origins.localpath import FOR_LISTING, open_directory, prune, split_name
from tiered_store.origins.sidecar import version_at

__all__ = ["remove_files"]

#: So many directories are open at once.
_GROUP = 64


def remove_files(
    root: int,
    path: Path,
    names: Sequence[str],
    *,
    lock_of: Callable[[str], threading.Lock],
    forget: Callable[[str, str], None],
    fsync: bool,
) -> int:
    """Unlink objects, then their sidecars, then directories that are empty now.

    Args:
        root: the directory that names are relative to.
        path: its path, for messages.
        names: what to remove; names without an object are fine.
        lock_of: the lock to hold while the file of a name is exchanged or removed.
        forget: told (name, version) for each object that has durably gone.
        fsync: whether to wait until it is durable.

    Returns:
        how many objects there were.

    Raises:
        StoreError: for the first name that could not be removed; those after it may still be there.
    """
    by_directory: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        try:
            segments, _ = split_name(name)
        except InvalidKey:  # there cannot be such an object
            continue
        by_directory.setdefault(tuple(segments), []).append(name)
    removed = 0
    remaining = iter(by_directory.items())
    while group := list(islice(remaining, _GROUP)):
        gone: list[tuple[str, str]] = []
        with ExitStack() as open_directories:
            for parents, inside in group:
                gone += _unlink(root, path, parents, inside, lock_of, open_directories, fsync=fsync)
        for name, version in gone:
            forget(name, version)
        for parents, _ in group:
            prune(root, parents)
        removed += len(gone)
    return removed


def _unlink(
    root: int,
    path: Path,
    parents: Sequence[str],
    names: Sequence[str],
    lock_of: Callable[[str], threading.Lock],
    open_directories: ExitStack,
    *,
    fsync: bool,
) -> list[tuple[str, str]]:
    """Unlink files of one directory, whose fsync is left to ``open_directories``; the (name, version) of each."""
    gone: list[tuple[str, str]] = []
    with translated("delete", names[0], path):
        try:
            fd = open_directory(root, parents, FOR_LISTING)
        except OSError as error:
            if error.errno in ABSENT:
                return gone
            raise
    open_directories.callback(_finish, fd, names[0], path, fsync=fsync)
    for name in names:
        leaf = name.rpartition("/")[2]
        with translated("delete", name, path), lock_of(name):
            version = version_at(fd, leaf)
            if version is None:
                continue
            try:
                os.unlink(leaf, dir_fd=fd)
            except (FileNotFoundError, IsADirectoryError):  # another process was faster
                continue
        gone.append((name, version))
    return gone


def _finish(fd: int, name: str, path: Path, *, fsync: bool) -> None:
    try:
        if fsync:
            with translated("delete", name, path):
                os.fsync(fd)
    finally:
        os.close(fd)
