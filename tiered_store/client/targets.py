"""Where an object's bytes go as they come: a file that appears whole, something that is no file, a function.

Blocking file work only; no sockets. What the caller's functions raise comes packed (``callers.py``), and so do errors
in writing files, which are the caller's too: a pipe whose reader has gone is no daemon that has gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any, Final

from tiered_store.client.bodies import Progress, checked_file
from tiered_store.client.callers import apart
from tiered_store.client.operations import Blocking, Received
from tiered_store.errors import DaemonUnavailable, ProtocolError
from tiered_store.objects import FileBody, ObjectInfo, read_body

__all__ = ["FileTarget", "OpenTarget", "PieceTarget", "StreamTarget", "target_of", "write_all"]

#: A piece of a copy between files: large enough to be cheap, small enough for a progress bar.
_COPY_BYTES: Final = 8 * 1024 * 1024
#: What is handed to a function at once.
_PIECE_BYTES: Final = 1024 * 1024
_FICLONE: Final = 0x40049409  # linux/fs.h
_UNSUPPORTED: Final = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF}


def target_of(path: str | os.PathLike[str], progress: Progress | None = None) -> FileTarget | StreamTarget:
    """A target for what is at this path: a regular file or nothing is replaced, anything else is written into.

    Raises:
        OSError: it cannot be written, which is known before anything is asked of the daemon.
    """
    name = os.fsdecode(path)
    try:
        status = os.stat(name)  # noqa: PTH116 - pathlib costs an import of 5 ms
    except FileNotFoundError:
        if name.endswith("/") or not name:
            raise
        return FileTarget(name, progress)
    if stat.S_ISREG(status.st_mode):
        return FileTarget(name, progress, replaced=status)
    return StreamTarget(name, progress)


class OpenTarget:
    """A file that is open for writing and whose bytes all come from the object.

    Args:
        fd: its descriptor, which stays the caller's.
        name: for errors.
        progress: told about the bytes as they come.
    """

    def __init__(self, fd: int, name: str | bytes, progress: Progress | None = None) -> None:
        self._fd = fd
        self._name = name
        self._progress = None if progress is None else apart(progress)
        self._written = 0

    def sink(self, info: ObjectInfo) -> Callable[[bytes], Any]:
        """Start from the first byte, and give a function that appends; for bytes that come as a stream."""
        total = info.size
        self._restart()

        def write(data: bytes) -> None:
            apart(self._append)(data)
            self._report(len(data), total)

        return write

    def _append(self, data: bytes) -> None:
        with _named(self._name):
            write_all(self._fd, data)

    def may_restart(self) -> bool:
        """Whether the bytes may come from the first one again."""
        return self._fd >= 0

    def take(self, received: Received) -> None:
        """Write what came at once: bytes, or a file to clone or copy; for a stream, see that it was whole.

        Raises:
            ProtocolError: the daemon sent another number of bytes than it had announced.
        """
        size = received.info.size
        if received.file is not None:
            self._restart()  # an attempt that broke off may have left something
            self._copy(checked_file(received.file))
        elif received.data or not size:
            self.sink(received.info)(received.data)
        if self._written != size:
            raise ProtocolError(f"the daemon sent {self._written} bytes of an object of {size}")

    def _restart(self) -> None:
        self._written = 0
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)

    def _copy(self, file: FileBody) -> None:
        source = file.descriptor.fd
        if file.offset == 0 and file.size == os.fstat(source).st_size:
            with contextlib.suppress(OSError):  # no reflinks on this file system
                fcntl.ioctl(self._fd, _FICLONE, source)
                self._report(file.size, file.size)
                return
        done = 0
        while done < file.size:
            with _named(self._name):
                count = _copy_piece(source, file.offset + done, self._fd, min(_COPY_BYTES, file.size - done))
            if count == 0:
                raise ProtocolError("the daemon's file ended early")
            done += count
            self._report(count, file.size)

    def _report(self, count: int, total: int) -> None:
        self._written += count
        if self._progress is not None:
            self._progress(self._written, total)


class FileTarget(OpenTarget):
    """A file being written beside its final name, and renamed into place when it is whole.

    Args:
        path: the final name. A symbolic link stays one: what it points at is replaced, or made.
        progress: told about the bytes as they come.
        replaced: of the file that is there; the new one gets its permissions, and its owner where that may be.
    """

    def __init__(
        self, path: str | os.PathLike[str], progress: Progress | None = None, *, replaced: os.stat_result | None = None
    ) -> None:
        name = os.fsdecode(path)
        self._path = os.path.realpath(name)
        self._temporary = f"{self._path}.{os.getpid()}.{os.urandom(4).hex()}.part"
        with _named(name):
            fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        super().__init__(fd, name, progress)
        self._is_there = True
        if replaced is not None:
            self._resemble(replaced)

    def _resemble(self, replaced: os.stat_result) -> None:
        with contextlib.suppress(OSError):  # only root may give files away
            os.fchown(self._fd, replaced.st_uid, replaced.st_gid)
        with contextlib.suppress(OSError):  # a file system without permissions
            os.fchmod(self._fd, replaced.st_mode & 0o777)

    def commit(self) -> None:
        """Give the file its name."""
        fd, self._fd = self._fd, -1
        with _named(self._name):
            os.close(fd)
            os.replace(self._temporary, self._path)  # noqa: PTH105 - pathlib costs an import of 5 ms
        self._is_there = False

    def abandon(self) -> None:
        """Remove what was written; does nothing after a :meth:`commit` that succeeded."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        if self._is_there:
            self._is_there = False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary)  # noqa: PTH108


class PieceTarget:
    """A function that takes the bytes in pieces.

    Args:
        write: called with each piece.
        progress: told about the bytes as they come.
    """

    def __init__(self, write: Callable[[bytes], object], progress: Progress | None = None) -> None:
        self._write = apart(write)
        self._progress = None if progress is None else apart(progress)
        self._given = 0

    def sink(self, info: ObjectInfo) -> Callable[[bytes], Any]:
        """For bytes that come as a stream.

        Raises:
            DaemonUnavailable: at a second attempt, once pieces were given: they cannot be taken back.
        """
        self._refuse_second_attempt()
        return lambda data: self._give(data, info.size)

    def may_restart(self) -> bool:
        """Whether nothing was given yet."""
        return not self._given

    def take(self, received: Received) -> None:
        """Give what came at once: bytes, or a file in pieces; for a stream, see that it was whole.

        Raises:
            DaemonUnavailable: as :meth:`sink`.
            ProtocolError: the daemon sent another number of bytes than it had announced.
        """
        if received.file is not None:
            self._refuse_second_attempt()
            file = checked_file(received.file)
            for done in range(0, file.size, _PIECE_BYTES):
                self._give(read_body(file, done, _PIECE_BYTES), file.size)
        elif received.data:
            self._refuse_second_attempt()
            self._give(received.data, received.info.size)
        if self._given != received.info.size:
            raise ProtocolError(f"the daemon sent {self._given} bytes of an object of {received.info.size}")

    def _refuse_second_attempt(self) -> None:
        if not self.may_restart():
            raise DaemonUnavailable(f"the daemon closed the connection after {self._given} bytes of the object")

    def _give(self, data: bytes, total: int) -> None:
        self._given += len(data)
        self._write(data)
        if self._progress is not None:
            self._progress(self._given, total)


class StreamTarget(PieceTarget):
    """A device, a pipe or whatever else is no regular file: opened and written into, never replaced.

    Opening a pipe waits for its reader. A directory cannot be opened so.
    """

    def __init__(self, path: str, progress: Progress | None = None) -> None:
        self._name = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
        super().__init__(self._append, progress)

    def sink(self, info: ObjectInfo) -> Callable[[bytes], Blocking]:
        """As for any function, but for the driver to run where waiting for a reader hurts nobody."""
        give = super().sink(info)
        return lambda data: Blocking(lambda: give(data) or b"")

    def _append(self, data: bytes) -> None:
        with _named(self._name):
            write_all(self._fd, data)

    def commit(self) -> None:
        """Close it; some files tell only now that they could not be written."""
        fd, self._fd = self._fd, -1
        with _named(self._name):
            os.close(fd)

    def abandon(self) -> None:
        """Close it; does nothing after a :meth:`commit`. What was written stays."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@contextlib.contextmanager
def _named(path: str | bytes) -> Iterator[None]:
    """Have errors name the file that the caller asked for: not the one beside it, and not none at all."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def write_all(fd: int, data: bytes) -> None:
    """Write until nothing is left."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _copy_piece(source: int, offset: int, target: int, size: int) -> int:
    """Copy inside the kernel where it can, through memory where it cannot."""
    try:
        return os.copy_file_range(source, target, size, offset_src=offset)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    data = os.pread(source, min(size, 1024 * 1024), offset)
    write_all(target, data)
    return len(data)
