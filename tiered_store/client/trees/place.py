"""Putting the entries of a tree where they belong, and nowhere else.

Blocking file work only. Every name is used relative to the descriptor of its directory, and no link is followed on
the way: whatever somebody puts into the tree meanwhile, nothing is written outside of it. A name that is taken by
something else is freed first, so that a file with other links elsewhere is never written into. A directory that is in
the way of a file, or the other way round, is an error: it is not for a restore to remove a tree.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from tiered_store.client.targets import write_all
from tiered_store.client.trees.manifest import File, Link
from tiered_store.client.trees.steps import Stop
from tiered_store.objects import Descriptor

__all__ = [
    "OpenDirectory",
    "Placed",
    "about",
    "folds_case",
    "is_right",
    "new_file",
    "open_root",
    "put_link",
    "write_files",
]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE_BYTES = 1024 * 1024


class OpenDirectory:
    """A directory of the tree being restored; closed with its last reference.

    Attributes:
        fd: its descriptor.
        path: for messages.
        is_new: whether this restore has made it, so that nothing is in it.
    """

    __slots__ = ("_descriptor", "fd", "is_new", "path")

    def __init__(self, fd: int, path: bytes, *, is_new: bool) -> None:
        self._descriptor = Descriptor(fd)
        self.fd = fd
        self.path = path
        self.is_new = is_new

    def enter(self, name: bytes) -> OpenDirectory:
        """The directory of that name in this one, made if there is none.

        Raises:
            OSError: something else is in the way, a link included.
        """
        is_new = True
        try:
            try:
                os.mkdir(name, dir_fd=self.fd)
            except FileExistsError:
                is_new = False
            fd = os.open(name, _DIRECTORY, dir_fd=self.fd)
        except OSError as error:
            raise about(error, self, name) from None
        return OpenDirectory(fd, self.path + b"/" + name, is_new=is_new)


#: A file and the directory it belongs into.
Placed: TypeAlias = tuple[OpenDirectory, File]


def open_root(path: str | os.PathLike[str]) -> OpenDirectory:
    """The directory to restore into, made if need be; a link in its path is followed, for the caller named it."""
    os.makedirs(path, exist_ok=True)  # noqa: PTH103 - pathlib costs an import of 5 ms
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return OpenDirectory(fd, os.fsencode(path), is_new=False)


def folds_case(directory: OpenDirectory) -> bool:
    """Whether names that differ in case only are one here; found out with a file of an odd name."""
    name = b".tiered_store-%b" % os.urandom(8).hex().encode()
    with _named(directory, name):
        os.close(os.open(name, _CREATE, 0o600, dir_fd=directory.fd))
        try:
            os.stat(name.upper(), dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        finally:
            os.unlink(name, dir_fd=directory.fd)
    return True


def is_right(directory: OpenDirectory, file: File, stop: Stop) -> bool:
    """Whether the file is there already, by its digest; its right to be executed is put in order.

    Args:
        directory: where it should be.
        file: what it should be.
        stop: ends the read of a large one.
    """
    with _named(directory, file.name):
        try:
            fd = os.open(file.name, _READ, dir_fd=directory.fd)
        except OSError:  # not there, a link, a socket, not ours to read
            return False
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
                return False
            digest = hashlib.sha256()
            while piece := os.read(fd, _PIECE_BYTES):
                stop.check()
                digest.update(piece)
            if digest.hexdigest() != file.digest:
                return False
            if bool(status.st_mode & 0o100) != file.executable:
                if status.st_nlink > 1:
                    return False  # the mode is that of its other names, too
                os.fchmod(fd, _mode(status.st_mode & 0o777, executable=file.executable))
        finally:
            os.close(fd)
    return True


def _mode(mode: int, *, executable: bool) -> int:
    """Who may read may execute, or nobody may."""
    return mode | (mode & 0o444) >> 2 if executable else mode & ~0o111


def write_files(placed: Sequence[Placed], bodies: Iterable[bytes]) -> None:
    """Write small files; what was there is replaced. One that cannot be written whole is removed.

    Args:
        placed: the files.
        bodies: their bytes, which may raise what ends it.
    """
    create, write, close = os.open, os.write, os.close  # for a tree of many files this is the innermost loop
    for (directory, file), data in zip(placed, bodies, strict=True):
        try:
            try:
                fd = create(file.name, _CREATE, 0o777 if file.executable else 0o666, dir_fd=directory.fd)
            except FileExistsError:
                fd = _create(directory, file)
            try:
                count = write(fd, data)
                if count < len(data):
                    write_all(fd, data[count:])
            except BaseException:
                _remove(directory, file)
                raise
            finally:
                close(fd)
        except OSError as error:
            raise about(error, directory, file.name) from None


@contextmanager
def new_file(directory: OpenDirectory, file: File) -> Iterator[int]:
    """A descriptor to write a large file with; what was there is replaced. If that fails it is removed."""
    with _named(directory, file.name):
        fd = _create(directory, file)
    try:
        yield fd
    except BaseException:
        _remove(directory, file)
        raise
    finally:
        os.close(fd)


def _create(directory: OpenDirectory, file: File) -> int:
    mode = 0o777 if file.executable else 0o666
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file.name, dir_fd=directory.fd)
    return os.open(file.name, _CREATE, mode, dir_fd=directory.fd)


def _remove(directory: OpenDirectory, file: File) -> None:
    with contextlib.suppress(OSError):
        os.unlink(file.name, dir_fd=directory.fd)


def put_link(directory: OpenDirectory, link: Link) -> bool:
    """Make a symbolic link; whether that was necessary. What was there is replaced."""
    with _named(directory, link.name):
        try:
            os.symlink(link.target, link.name, dir_fd=directory.fd)
        except FileExistsError:
            with contextlib.suppress(OSError):  # no link
                if os.readlink(link.name, dir_fd=directory.fd) == link.target:
                    return False
            os.unlink(link.name, dir_fd=directory.fd)
            os.symlink(link.target, link.name, dir_fd=directory.fd)
    return True


@contextmanager
def _named(directory: OpenDirectory, name: bytes) -> Iterator[None]:
    """Have errors name the whole path and not only what is relative to a descriptor; too dear for each small file."""
    try:
        yield
    except OSError as error:
        raise about(error, directory, name) from None


def about(error: OSError, directory: OpenDirectory, name: bytes) -> OSError:
    """The error, naming the whole path."""
    return OSError(error.errno, error.strerror, os.fsdecode(directory.path + b"/" + name))
