"""From what a caller has to what travels, and back: bytes, files, sealed memfds, maps.

The files and functions that objects are written into are in ``targets.py``.

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
from typing import BinaryIO, TypeAlias

from tiered_store.client.callers import apart
from tiered_store.client.operations import Received, Upload
from tiered_store.errors import DaemonUnavailable, ProtocolError
from tiered_store.objects import INLINE_MAX_BYTES, Descriptor, FileBody, ObjectInfo, read_body

__all__ = [
    "Progress",
    "Source",
    "View",
    "bytes_of",
    "checked_file",
    "upload_of_bytes",
    "uploads_of_source",
]

#: Called with the bytes moved so far and the total, or None where that is not known.
Progress: TypeAlias = Callable[[int, int | None], None]
#: What can be stored as an artifact or file: bytes, a path, or a binary file object.
Source: TypeAlias = "bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO"


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
    ``DaemonUnavailable``. What the source and ``progress`` raise comes packed (``callers.py``).
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return lambda: upload_of_bytes(source)
    is_used = False

    def once() -> Upload:
        nonlocal is_used
        if is_used:
            raise DaemonUnavailable("the daemon went away in the middle of a stream, which cannot be sent again")
        if isinstance(source, str | os.PathLike):
            upload = apart(_upload_of_path)(source, progress)
        else:
            upload = apart(_upload_of_object)(source, progress)
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
    return Upload(None, read=_reading(lambda size: os.read(descriptor.fd, size), progress))


def _upload_of_object(source: BinaryIO, progress: Progress | None) -> Upload:
    """A file object: its file where that is all it gives, else what it reads."""
    if progress is None and isinstance(source, io.FileIO | io.BufferedReader):
        with contextlib.suppress(OSError, ValueError):  # no descriptor, no position, closed: reading it will tell
            status = os.fstat(source.fileno())
            if stat.S_ISREG(status.st_mode) and source.tell() == 0:
                return _upload_of_descriptor(Descriptor(os.dup(source.fileno())), status.st_size)
    return Upload(None, read=_reading(source.read, progress))


def _upload_of_descriptor(descriptor: Descriptor, size: int) -> Upload:
    if size <= INLINE_MAX_BYTES:
        data = os.pread(descriptor.fd, size, 0)
        return Upload(len(data), inline=data)
    return Upload(size, descriptor=descriptor)


def _reading(read: Callable[[int], object], progress: Progress | None) -> Callable[[int], bytes]:
    """What the source reads, checked, and told about."""
    moved = 0

    def reading(size: int) -> bytes:
        nonlocal moved
        data = read(size)
        if data is None:
            # What a non-blocking file gives when it has nothing yet. To take it for the end would store half of it.
            raise BlockingIOError(errno.EAGAIN, "the source is non-blocking and has no bytes now; give one that waits")
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"the source must be binary: its read() gives {type(data).__name__}, not bytes")
        data = bytes(data)
        moved += len(data)
        if progress is not None:
            progress(moved, None)
        return data

    return apart(reading)


def checked_file(file: FileBody) -> FileBody:
    """The file, unless it is shorter than announced: touching a map behind its end kills the process.

    Raises:
        ProtocolError: it is.
    """
    if os.fstat(file.descriptor.fd).st_size < file.offset + file.size:
        raise _too_short(file)
    return file


def _too_short(file: FileBody) -> ProtocolError:
    return ProtocolError(f"the daemon passed a file shorter than the {file.size} bytes it announced")


def bytes_of(received: Received) -> bytes:
    """The object as bytes. Reading from the descriptor beats mapping it and copying (docs/performance.md)."""
    if received.file is None:
        return received.data
    return read_body(checked_file(received.file))


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
