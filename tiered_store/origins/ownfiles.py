"""The origin's own corner, ``.tiered_store/`` below its root: temporary files, and where sidecars lie.

Knows nothing of objects. All of it blocks.

Several daemons, in several containers, may share one root. Each works in a temporary directory of its own
and holds ``flock`` on it for as long as it lives, so what belongs to a dead one can be told without process
ids, clocks or a registry: its lock is free. The law: no file of a living process is ever removed by another.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from tiered_store.key import RESERVED_PREFIX
from tiered_store.objects import Descriptor
from tiered_store.origins.localpath import FOR_LISTING, FOR_LOOKUP, directory

__all__ = ["OwnFiles", "TemporaryFile"]

logger = logging.getLogger(__name__)

_TEMPORARY = "tmp"
_META = "meta"

#: How file systems without (this kind of) locks answer; NFS wants a writable descriptor, which no directory has.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF})
#: A new session loses its directory only to a sweep that looks at it in the same microseconds.
_ATTEMPTS = 16


class TemporaryFile:
    """A file that becomes an entry of some directory by :meth:`move_to`, or is gone at the end of the ``with`` block.

    Attributes:
        fd: open for reading and writing.
        moved: whether it has taken its place.
    """

    def __init__(self, session: Descriptor, name: str) -> None:
        self._session = session
        self._name = name
        self.moved = False
        # 0666 less the umask, as for any program's files: others may be meant to read what an origin holds.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self.fd = os.open(name, flags, 0o666, dir_fd=session.fd)

    def move_to(self, parent: int, leaf: str) -> None:
        """Rename it to ``leaf`` in the directory ``parent``, in place of a file that is there.

        Raises:
            OSError: it has not moved.
        """
        os.rename(self._name, leaf, src_dir_fd=self._session.fd, dst_dir_fd=parent)
        self.moved = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self.fd)
        if not self.moved:
            with suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=self._session.fd)


def _make(parent: int, segment: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(segment, 0o700, dir_fd=parent)
        os.fsync(parent)


class OwnFiles:
    """The directories below ``root/.tiered_store``, made when something is first written.

    A root that cannot be written can therefore still be read. Someone who clears the corner away while the
    daemon runs loses metadata, and nothing else: it is made again.

    Args:
        root: the origin's directory; owned by the caller, for longer than this object is used.
    """

    def __init__(self, root: Descriptor) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._serial = itertools.count()
        self._session: Descriptor | None = None
        self._session_name = ""
        self._meta: Descriptor | None = None

    def temporary_file(self) -> TemporaryFile:
        """A new file, under a name that no other writer has.

        Raises:
            OSError: it cannot be made.
        """
        name = f"{next(self._serial):x}"
        session = self._session or self._begin_session()
        try:
            return TemporaryFile(session, name)
        except FileNotFoundError:  # the corner was cleared away
            with self._lock:
                if self._session is session:
                    self._session = self._meta = None
            return TemporaryFile(self._session or self._begin_session(), name)

    def meta(self, *, make: bool = False) -> Descriptor | None:
        """The directory of the sidecars, open for listing, or None if there is none (and ``make`` is false).

        Raises:
            OSError: it cannot be made or opened.
        """
        if self._meta is not None:
            return self._meta
        with self._lock:
            try:
                self._meta = Descriptor(self._open(_META, make=make))
            except FileNotFoundError:
                if make:
                    raise
            return self._meta

    def end(self) -> None:
        """Leave: remove the temporary directory, unless a file of a writer that is still busy is in it."""
        with self._lock:
            session, self._session, self._meta = self._session, None, None
            if session is None:
                return
            with suppress(OSError), directory(self._root.fd, [RESERVED_PREFIX, _TEMPORARY]) as parent:
                os.rmdir(self._session_name, dir_fd=parent)

    def sweep(self) -> Iterator[int]:
        """Remove what dead processes left; yields after each of their directories the number of files removed.

        Raises:
            OSError: the temporary directories cannot be read.
        """
        try:
            parent = self._open(_TEMPORARY, make=False)
        except FileNotFoundError:
            return
        try:
            with os.scandir(parent) as entries:
                for entry in entries:
                    if entry.name != self._session_name and entry.is_dir(follow_symlinks=False):
                        yield _clear_if_dead(parent, entry.name)
        finally:
            os.close(parent)

    def _open(self, segment: str, *, make: bool) -> int:
        if make:
            _make(self._root.fd, RESERVED_PREFIX)
        with directory(self._root.fd, [RESERVED_PREFIX], FOR_LISTING if make else FOR_LOOKUP) as own:
            if make:
                _make(own, segment)
            return os.open(segment, FOR_LISTING, dir_fd=own)

    def _begin_session(self) -> Descriptor:
        with self._lock:
            if self._session is not None:  # another thread was faster
                return self._session
            self._meta = None  # what was opened for reading may have been cleared away since
            parent = self._open(_TEMPORARY, make=True)
            try:
                for _ in range(_ATTEMPTS):
                    name = secrets.token_hex(8)
                    session = _locked_directory(parent, name)
                    if session is not None:
                        self._session, self._session_name = session, name
                        return session
            finally:
                os.close(parent)
        raise OSError(errno.EAGAIN, "no temporary directory could be kept from being swept")


def _locked_directory(parent: int, name: str) -> Descriptor | None:
    """Make a directory and lock it, or None if a sweep came between the two."""
    os.mkdir(name, 0o700, dir_fd=parent)
    try:
        made = Descriptor(os.open(name, FOR_LISTING, dir_fd=parent))
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(made.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except (BlockingIOError, FileNotFoundError):
        return None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        # Without locks on this file system nobody can tell the dead from the living, so nobody sweeps.
    return made


def _clear_if_dead(parent: int, name: str) -> int:
    """Remove another process's temporary directory if its lock is free; how many files were in it."""
    removed = 0
    try:
        fd = os.open(name, FOR_LISTING, dir_fd=parent)
    except OSError:  # gone, or made by another user
        return 0
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with os.scandir(fd) as entries:
            for entry in entries:
                os.unlink(entry.name, dir_fd=fd)
                removed += 1
        os.rmdir(name, dir_fd=parent)
    except OSError as error:
        # Alive, or no locks here, or another sweep is at it.
        if error.errno not in _NO_LOCKS | {errno.EWOULDBLOCK, errno.ENOENT, errno.ENOTEMPTY}:
            logger.warning("temporary files of a dead process stay in %s: %s", name, str(error))
    finally:
        os.close(fd)
    return removed
