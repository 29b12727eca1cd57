"""A directory of this process's own: nobody else can write there, and one process at a time uses it.

Blocking, for threads. Knows nothing of what is kept in it. The lock is ``flock(2)`` on a file inside, which the kernel
gives back however a process ends.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from tiered_store.objects import Descriptor

__all__ = ["NotOurs", "lock_file", "own_directory", "sync_directory"]


class NotOurs(Exception):
    """Somebody else's directory, or in use by another process; the text says whose."""


def own_directory(path: Path) -> None:
    """Make the directory if need be, see that nobody else can write to it, and close it to others (mode 0700).

    Raises:
        NotOurs: it is no directory, or not ours alone.
        OSError: as the file system says.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotOurs(f"{path} is not a directory")
    if found.st_uid != os.geteuid():
        raise NotOurs(f"{path} belongs to uid {found.st_uid}, not to {os.geteuid()}")
    if found.st_mode & 0o022:
        raise NotOurs(f"{path} is writable by others (mode {stat.S_IMODE(found.st_mode):04o})")
    if stat.S_IMODE(found.st_mode) != 0o700:
        path.chmod(0o700)


def lock_file(path: Path) -> Descriptor:
    """Lock a file, which is made if need be; whoever holds the descriptor holds the lock.

    Raises:
        NotOurs: another process holds it. OSError: as the file system says.
    """
    lock = Descriptor(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    try:
        fcntl.flock(lock.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _holder(os.fstat(lock.fd))
        other = "another daemon" if holder is None else f"another daemon (pid {holder})"
        raise NotOurs(f"{path.parent} is in use by {other}") from None
    return lock


def sync_directory(path: Path) -> None:
    """Make what was made, renamed and removed in a directory durable. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _holder(locked: os.stat_result) -> int | None:
    """Who holds the lock on a file, by the kernel's table (proc(5), locks); None if it cannot be seen from here."""
    file = f"{os.major(locked.st_dev):02x}:{os.minor(locked.st_dev):02x}:{locked.st_ino}"
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        _, kind, _, _, pid, *where = line.split()
        if kind == "FLOCK" and where[0] == file:
            return int(pid)
    return None
