"""Anonymous files in memory: written once, then sealed, so that a client can map them without trust.

Blocking calls, made for threads. Knows no tier. Invariant: the number of bytes in unfinished and
unclaimed memory files stays within their :class:`MemoryRoom`.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections import deque

from tiered_store.errors import QuotaExceeded
from tiered_store.objects import Body, Descriptor, FileBody

__all__ = ["MemoryFile", "MemoryRoom", "claim"]

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class MemoryRoom:
    """A bound on anonymous memory. Never waits: who finds no room is told so."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._used_bytes = 0
        self._given: deque[int] = deque()
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Raises QuotaExceeded if ``size`` more bytes do not fit."""
        with self._lock:
            while self._given:
                self._used_bytes -= self._given.popleft()
            fits = self._used_bytes + size <= self._max_bytes
            if fits:
                self._used_bytes += size
        if not fits:
            raise QuotaExceeded(
                f"no room to collect the object: the disk tier has none, and the {self._max_bytes} bytes of memory "
                "set aside for that are in use or too few",
                retryable=True,
            )

    def give(self, size: int) -> None:
        """Give back what was taken. Takes no lock: finalizers run anywhere, also inside :meth:`take`."""
        self._given.append(size)


class _CountedDescriptor(Descriptor):
    """A memfd that counts against a room until it is closed, or until somebody else counts it."""

    __slots__ = ("_room", "taken")

    def __init__(self, fd: int, room: MemoryRoom) -> None:
        super().__init__(fd)
        self._room = room
        self.taken = 0

    def reserve(self, size: int) -> None:
        """Count at least ``size`` bytes; raises QuotaExceeded."""
        if size > self.taken:
            self._room.take(size - self.taken)
            self.taken = size

    def release(self) -> None:
        """Count no longer."""
        taken, self.taken = self.taken, 0
        self._room.give(taken)

    def close(self) -> None:
        super().close()
        self.release()


def claim(body: Body) -> None:
    """The memory tier holds this body and counts it from here on."""
    if isinstance(body, FileBody) and isinstance(body.descriptor, _CountedDescriptor):
        body.descriptor.release()


class MemoryFile:
    """One memfd in the making; looks like a spool file of the disk tier.

    Its bytes count against the room until the last reference to the descriptor goes, readers included,
    or until :func:`claim`.

    Args:
        room: where its bytes are counted.
        size: the size to reserve at once, or None where it is not known.

    Raises:
        QuotaExceeded: no room. OSError: no memory or no descriptors left.
    """

    body_offset = 0

    def __init__(self, room: MemoryRoom, size: int | None) -> None:
        fd = os.memfd_create("tiered_store", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self.descriptor = _CountedDescriptor(fd, room)
        self.descriptor.reserve(size or 0)
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append; raises QuotaExceeded when the room ends."""
        view = memoryview(data)
        self.descriptor.reserve(self.size + len(view))
        while view:
            written = os.write(self.descriptor.fd, view)
            self.size += written
            view = view[written:]

    def body(self) -> FileBody:
        """Seal the file: nobody, this process included, can change it from here on."""
        fcntl.fcntl(self.descriptor.fd, fcntl.F_ADD_SEALS, _SEALS)
        return FileBody(self.descriptor, 0, self.size, is_memory=True)

    def discard(self) -> None:
        """Nothing to remove: memory and room go with the last reference to the descriptor."""
