"""Which programs use a directory now, so that nobody removes what a go command was given.

Each program holds a lock on a file of its own in ``running/``, named by when it started; a program that was killed
holds none. The *gate* is a lock that a program takes, shared, while it announces itself or takes up a file that was
not used for long, and that whoever removes files holds alone, for moments: neither happens in the middle of the other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Final

__all__ = ["Gate", "Running", "oldest_start"]

#: Files are removed in steps of some milliseconds. Who waits longer waits for a process that is stopped.
_PATIENCE_S: Final = 2.0
_PAUSE_S: Final = 0.005


class Gate:
    """The lock, held for the length of a ``with`` block; gives whether it could be taken in time.

    Any thread may use it: the kernel's lock belongs to the open file, which they share, so they take turns.

    Args:
        directory: whose gate.
        kind: ``fcntl.LOCK_SH``, or ``fcntl.LOCK_EX`` to be alone.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, directory: str, kind: int) -> None:
        self._fd = os.open(directory + "/gate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._kind = kind
        self._lock = allocate_lock()

    def __enter__(self) -> bool:
        self._lock.acquire()
        try:
            return self._take()
        except BaseException:
            self._lock.release()
            raise

    def _take(self) -> bool:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(self._fd, self._kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    return False
                time.sleep(_PAUSE_S)
            except OSError:  # a file system without locks: there nobody removes anything
                return self._kind == fcntl.LOCK_SH
            else:
                return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError:
            return
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close it; not inside its block."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Running:
    """Announces this program as one that uses a directory, until it is closed or dies.

    Raises:
        OSError: nothing can be written there, or whoever removes files there is stuck.
    """

    def __init__(self, directory: str) -> None:
        self._places = directory + "/running/"
        self.gate = Gate(directory, fcntl.LOCK_SH)
        self._fd = -1
        try:
            with self.gate as is_held:
                if not is_held:
                    raise TimeoutError(errno.ETIMEDOUT, "its gate is shut", directory)
                self._announce()
        except BaseException:
            self.close()
            raise

    def _announce(self) -> None:
        self._path = f"{self._places}{time.time_ns()}-{os.getpid()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._fd = os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(self._places, 0o700, exist_ok=True)  # noqa: PTH103 - pathlib costs an import of 5 ms
            self._fd = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # without locks nothing is removed

    def left(self) -> None:
        """Say that this program hands out no more files, and needs none of those it did."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:  # noqa: SIM105 - contextlib costs an import, too
                os.unlink(self._path)  # noqa: PTH108 - as above
            except OSError:
                pass
            os.close(fd)

    def close(self) -> None:
        """Let go of everything."""
        self.left()
        self.gate.close()


def oldest_start(directory: str) -> float:
    """When the oldest of the programs that use a directory started, in seconds since the epoch: now, if there is none.

    Only behind a gate that is held alone.

    Raises:
        OSError: it cannot be told.
    """
    return min(_starts(directory + "/running/"), default=time.time())


def _starts(places: str) -> Iterator[float]:
    for name in os.listdir(places):  # noqa: PTH208 - as above
        try:
            started = int(name.partition("-")[0]) / 1e9
        except ValueError:
            continue  # not one of ours
        if _is_running(places + name):
            yield started


def _is_running(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        os.unlink(path)  # noqa: PTH108 - it was killed
        return False
    finally:
        os.close(fd)
