"""From what a caller has to what travels, and back: bytes, files, sealed memfds, maps.

Blocking file work only; no sockets. Both clients use it, the asyncio one from a thread where it can take long.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import mmap
import os
import stat
from collections.abc import Callable
from types import TracebackType
from typing import Any, BinaryIO, Final, TypeAlias

from tiered_store.client.operations import Received, Upload
from tiered_store.errors import DaemonUnavailable, ProtocolError
from tiered_store.objects import INLINE_MAX_BYTES, Descriptor, FileBody, ObjectInfo, read_body

__all__ = [
    "FileTarget",
    "PieceTarget",
    "Progress",
    "Source",
    "View",
    "bytes_of",
    "upload_of_bytes",
    "uploads_of_source",
]

#: Called with the bytes moved so far and the total, or None where that is not known.
Progress: TypeAlias = Callable[[int, int | None], None]
#: What can be stored as an artifact or file: bytes, a path, or a binary file object.
Source: TypeAlias = "bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO"

#: A piece of a copy between files: large enough to be cheap, small enough for a progress bar.
_COPY_BYTES: Final = 8 * 1024 * 1024
#: What is handed to a function at once.
_PIECE_BYTES: Final = 1024 * 1024
_FICLONE: Final = 0x40049409  # linux/fs.h
_UNSUPPORTED: Final = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF}


def upload_of_bytes(data: bytes | bytearray | memoryview) -> Upload:
    """Bytes up to the inline bound as they are; larger ones in a memfd that is sealed against every change."""
    view = memoryview(data)
    size = view.nbytes
    if size <= INLINE_MAX_BYTES:
        return Upload(size, inline=bytes(data))
    if not hasattr(os, "memfd_create"):
        return Upload(size, read=io.BytesIO(data).read)
    descriptor = Descriptor(os.memfd_create("tiered_store", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    view = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
    written = 0
    while written < size:
        written += os.write(descriptor.fd, view[written:])
    fcntl.fcntl(
        descriptor.fd,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
    )
    return Upload(size, descriptor=descriptor)


def uploads_of_source(source: Source, progress: Progress | None = None) -> Callable[[], Upload]:
    """How to read whatever can be read, in the form that costs least; call the result for each attempt.

    A regular file, a path or a binary file object at its beginning, travels as its descriptor: the daemon copies
    it, or adopts it if it is a memfd sealed against every change. A pipe, a file object in the middle, or one whose
    ``progress`` somebody wants to see, is streamed. That can be done only once: a second attempt is
    ``DaemonUnavailable``.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return lambda: upload_of_bytes(source)
    is_used = False

    def once() -> Upload:
        nonlocal is_used
        if is_used:
            raise DaemonUnavailable("the daemon went away in the middle of a stream, which cannot be sent again")
        if isinstance(source, str | os.PathLike):
            upload = _upload_of_path(source, progress)
        else:
            upload = _upload_of_object(source, progress)
        is_used = upload.read is not None
        return upload

    return once


def _upload_of_path(path: str | os.PathLike[str], progress: Progress | None) -> Upload:
    descriptor = Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    status = os.fstat(descriptor.fd)
    if stat.S_ISREG(status.st_mode):
        return _upload_of_descriptor(descriptor, status.st_size)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    return Upload(None, read=_reporting(lambda size: os.read(descriptor.fd, size), None, progress))


def _upload_of_object(source: BinaryIO, progress: Progress | None) -> Upload:
    """A file object: its file where that is all it gives, else what it reads."""
    if progress is None and isinstance(source, io.FileIO | io.BufferedReader):
        with contextlib.suppress(OSError, ValueError):  # no descriptor, no position, closed: reading it will tell
            status = os.fstat(source.fileno())
            if stat.S_ISREG(status.st_mode) and source.tell() == 0:
                return _upload_of_descriptor(Descriptor(os.dup(source.fileno())), status.st_size)
    return Upload(None, read=_reporting(source.read, None, progress))


def _upload_of_descriptor(descriptor: Descriptor, size: int) -> Upload:
    if size <= INLINE_MAX_BYTES:
        data = os.pread(descriptor.fd, size, 0)
        return Upload(len(data), inline=data)
    return Upload(size, descriptor=descriptor)


def _reporting(read: Callable[[int], bytes], total: int | None, progress: Progress | None) -> Callable[[int], bytes]:
    if progress is None:
        return read
    moved = 0

    def reporting(size: int) -> bytes:
        nonlocal moved
        data = read(size)
        moved += len(data)
        progress(moved, total)
        return data

    return reporting


def _checked_file(file: FileBody) -> FileBody:
    """Refuse a file that is shorter than announced: touching a map behind its end kills the process."""
    if os.fstat(file.descriptor.fd).st_size < file.offset + file.size:
        raise _too_short(file)
    return file


def _too_short(file: FileBody) -> ProtocolError:
    return ProtocolError(f"the daemon passed a file shorter than the {file.size} bytes it announced")


def bytes_of(received: Received) -> bytes:
    """The object as bytes. Reading from the descriptor beats mapping it and copying (docs/performance.md)."""
    if received.file is None:
        return received.data
    return read_body(_checked_file(received.file))


class View:
    """An object's bytes without a copy, as a context manager that gives a read-only memoryview.

    The map lives as long as any memoryview of it: leaving the ``with`` block lets go of it only when no
    slice is left in use.
    """

    def __init__(self, received: Received) -> None:
        self._received = received.described()
        self._map: mmap.mmap | None = None
        file = received.file
        if file is None or file.size == 0:
            self._view = memoryview(received.data)
            return
        start = file.offset - file.offset % mmap.ALLOCATIONGRANULARITY
        length = file.offset + file.size - start
        try:
            self._map = mmap.mmap(file.descriptor.fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=start)
        except (ValueError, OverflowError):
            # It compares with the file's size: touching a map behind its end would kill the process.
            raise _too_short(file) from None
        self._view = memoryview(self._map)[file.offset - start :]

    @property
    def info(self) -> ObjectInfo:
        """What is known of the object."""
        return self._received.info

    def __enter__(self) -> memoryview:
        return self._view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the bytes; slices that are still in use stay valid."""
        with contextlib.suppress(BufferError):  # a slice lives: the map goes when it does
            self._view.release()
            if self._map is not None:
                self._map.close()


class FileTarget:
    """A file being written beside its final name, and renamed into place when it is whole.

    Args:
        path: the final name; an existing file is replaced.
        progress: told about the bytes as they come.
    """

    def __init__(self, path: str | os.PathLike[str], progress: Progress | None = None) -> None:
        self._path = os.fspath(path)
        self._temporary = f"{self._path}.{os.getpid()}.{os.urandom(4).hex()}.part"
        self._progress = progress
        self._written = 0
        self._fd = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._is_there = True

    def sink(self, info: ObjectInfo) -> Callable[[bytes], Any]:
        """Start from the first byte, and give a function that appends; for bytes that come as a stream."""
        total = info.size
        self._restart()

        def write(data: bytes) -> None:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            self._report(len(data), total)

        return write

    def take(self, received: Received) -> None:
        """Write what came at once: bytes, or a file to clone or copy; for a stream, see that it was whole.

        Raises:
            ProtocolError: the daemon sent another number of bytes than it had announced.
        """
        size = received.info.size
        if received.file is not None:
            self._restart()  # an attempt that broke off may have left something
            self._copy(_checked_file(received.file))
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
            count = _copy_piece(source, file.offset + done, self._fd, min(_COPY_BYTES, file.size - done))
            if count == 0:
                raise ProtocolError("the daemon's file ended early")
            done += count
            self._report(count, file.size)

    def _report(self, count: int, total: int) -> None:
        self._written += count
        if self._progress is not None:
            self._progress(self._written, total)

    def commit(self) -> None:
        """Give the file its name."""
        fd, self._fd = self._fd, -1
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
        self._write = write
        self._progress = progress
        self._given = 0

    def sink(self, info: ObjectInfo) -> Callable[[bytes], Any]:
        """For bytes that come as a stream.

        Raises:
            DaemonUnavailable: at a second attempt, once pieces were given: they cannot be taken back.
        """
        self._refuse_second_attempt()
        return lambda data: self._give(data, info.size)

    def take(self, received: Received) -> None:
        """Give what came at once: bytes, or a file in pieces; for a stream, see that it was whole.

        Raises:
            DaemonUnavailable: as :meth:`sink`.
            ProtocolError: the daemon sent another number of bytes than it had announced.
        """
        if received.file is not None:
            self._refuse_second_attempt()
            file = _checked_file(received.file)
            for done in range(0, file.size, _PIECE_BYTES):
                self._give(read_body(file, done, _PIECE_BYTES), file.size)
        elif received.data:
            self._refuse_second_attempt()
            self._give(received.data, received.info.size)
        if self._given != received.info.size:
            raise ProtocolError(f"the daemon sent {self._given} bytes of an object of {received.info.size}")

    def _refuse_second_attempt(self) -> None:
        if self._given:
            raise DaemonUnavailable(f"the daemon closed the connection after {self._given} bytes of the object")

    def _give(self, data: bytes, total: int) -> None:
        self._given += len(data)
        self._write(data)
        if self._progress is not None:
            self._progress(self._given, total)


def _copy_piece(source: int, offset: int, target: int, size: int) -> int:
    """Copy inside the kernel where it can, through memory where it cannot."""
    try:
        return os.copy_file_range(source, target, size, offset_src=offset)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    data = os.pread(source, min(size, 1024 * 1024), offset)
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return len(data)
