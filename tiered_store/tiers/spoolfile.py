"""A growing file in the tier's directory: where fills and uploads put bytes before they are an object.

Blocking, for threads. The invariants: no byte is written that was not reserved before; what a reader
or a client gets is opened for reading only; a spool that nobody put into the tier is gone when the last
reference to it goes.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from threading import Lock

from tiered_store.objects import Descriptor, FileBody
from tiered_store.tiers.cachefile import BODY_OFFSET, charge, split
from tiered_store.tiers.room import Room

__all__ = ["SpoolDescriptor", "SpoolFile", "write_all"]

#: How long a writer waits for the tier to be culled when its object outgrows the room reserved.
_WAIT_S = 2.0


def write_all(fd: int, data: bytes | bytearray | memoryview, at: int) -> None:
    """Write all of ``data`` at an offset, however many calls that takes. Raises OSError."""
    view = memoryview(data)
    while view.nbytes:
        written = os.pwrite(fd, view, at)
        view = view[written:]
        at += written


class SpoolDescriptor(Descriptor):
    """A read-only descriptor of a spool; keeps the spool until the tier has adopted its file."""

    __slots__ = ("spool",)

    def __init__(self, fd: int, spool: SpoolFile) -> None:
        super().__init__(fd)
        self.spool: SpoolFile | None = spool

    def hand_over(self) -> None:
        """The tier has accepted the file."""
        if self.spool is not None:
            self.spool.hand_over()


class SpoolFile:
    """One spool. ``write`` and ``body`` belong to one thread at a time; ``discard`` may come from any.

    Args:
        path: of the new file; its directory exists.
        room: where further room comes from.
        reserved: bytes reserved already.
        step: how much to reserve at once when that is not enough.

    Attributes:
        descriptor: of the file, for reading and writing.
        body_offset: where the body begins in the file.
        size: bytes of the body written so far.

    Raises:
        OSError: if the file cannot be made; what was reserved is given back.
    """

    body_offset = BODY_OFFSET

    def __init__(self, path: Path, room: Room, reserved: int, step: int) -> None:
        self._room = room
        self._reserved = reserved
        self._step = step
        self._path: Path | None = None
        self._handed_over = False
        self._lock = Lock()
        self.size = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self.descriptor = Descriptor(os.open(path, flags, 0o600))
        self._path = path

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append.

        Raises:
            OSError: ENOSPC when there is no room left, also after a short wait for some; or as the
                file system says.
        """
        view = memoryview(data)
        needed = charge(self.size + view.nbytes)
        if needed > self._reserved:
            self._reserve(needed)
        write_all(self.descriptor.fd, view, BODY_OFFSET + self.size)
        self.size += view.nbytes

    def body(self) -> FileBody:
        """What was written so far, through a descriptor that cannot write.

        Raises:
            OSError: if no descriptor is left.
        """
        fd = os.open(f"/proc/self/fd/{self.descriptor.fd}", os.O_RDONLY | os.O_CLOEXEC)
        return FileBody(SpoolDescriptor(fd, self), BODY_OFFSET, self.size, is_memory=False)

    def discard(self) -> None:
        """Remove the file and give its room back, unless it was put into the tier; further calls do nothing."""
        if not self._handed_over:
            self._remove()

    def draws_from(self, room: Room) -> bool:
        """Whether this is a spool of the tier whose room that is."""
        return self._room is room

    def hand_over(self) -> None:
        """From now on the tier decides what becomes of the file."""
        self._handed_over = True

    @property
    def is_open(self) -> bool:
        """Whether the file is still a spool: neither adopted nor discarded."""
        return self._path is not None

    def move(self, target: Path, record: bytes) -> int:
        """Make it a cache file: the record round the body, then the final name. Gives its mtime in ns.

        Until :meth:`settle` the file is still removed with the spool.

        Raises:
            OSError: as the file system says, ENOENT if it was discarded.
        """
        page, tail = split(record)
        with self._lock:
            if self._path is None:
                raise FileNotFoundError(errno.ENOENT, "the spool was discarded")
            write_all(self.descriptor.fd, page, 0)
            write_all(self.descriptor.fd, tail, BODY_OFFSET + self.size)
            self._path.rename(target)
            self._path = target
            return os.fstat(self.descriptor.fd).st_mtime_ns

    def settle(self) -> int:
        """The file is in the index: it is no spool any more. Gives the bytes that were reserved for it."""
        with self._lock:
            self._path = None
            reserved, self._reserved = self._reserved, 0
            return reserved

    def __del__(self) -> None:
        self._remove()

    def _reserve(self, needed: int) -> None:
        more = max(needed - self._reserved, self._step)
        if not self._room.reserve_or_wait(more, _WAIT_S):
            raise OSError(errno.ENOSPC, "no room left in the disk tier")
        self._reserved += more

    def _remove(self) -> None:
        with self._lock:
            path, self._path = self._path, None
            reserved, self._reserved = self._reserved, 0
        if path is not None:
            with suppress(OSError):  # what cannot be removed now is found by the next audit
                path.unlink(missing_ok=True)
        if reserved:
            self._room.release(reserved)
