"""Whether files could be made at a path: asked of the kernel, without making any.

Knows no setting. Says what stands in the way, and whose fault it is: a path that was named wrongly stays wrong
until somebody changes the configuration or the permissions, while a file system that is read-only or fails may
come back by itself. The invariant: nothing is created, changed or removed, not even for a moment. (A probe file
would ask more, but it writes to a disk that may be failing; and ``O_TMPFILE``, which leaves no trace, is as
unknown to NFS and many FUSE file systems as it is to ``/proc``.)
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Obstacle", "obstacle"]

#: The path itself is wrong, or this user may not go there; any other error is the file system's state.
_WRONG_PATH = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL})
#: Views of the kernel, not places for files. Root passes ``access`` there, and no file can be made all the same.
_KERNEL_VIEWS = frozenset({"bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "proc", "sysfs", "tracefs"})
_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why files cannot be made.

    Attributes:
        reason: what is in the way, and what to do.
        is_passing: whether it is a state of the file system, which may end without a change of the configuration.
    """

    reason: str
    is_passing: bool = False


def obstacle(directory: Path) -> Obstacle | None:
    """What keeps this user from making files in a directory, which may have to be made first; None if nothing does.

    Judges the nearest place on the way there that exists. A full file system is no obstacle: it can be read, and
    what happens to writes is up to whoever makes them.
    """
    for place in (directory, *directory.parents):
        try:
            found = place.stat()
        except FileNotFoundError:
            if place.is_symlink():
                return Obstacle(f"{place} is a symbolic link that leads nowhere")
            continue
        except NotADirectoryError:
            continue  # a parent is a file; the loop comes to it
        except OSError as error:
            return Obstacle(f"{place}: {error.strerror}", is_passing=error.errno not in _WRONG_PATH)
        return _obstacle_at(place, found)
    raise AssertionError("an absolute path has the root above it, which is there")


def _obstacle_at(place: Path, found: os.stat_result) -> Obstacle | None:
    if not stat.S_ISDIR(found.st_mode):
        return Obstacle(f"{place} is not a directory")
    kind = _file_system(found.st_dev)
    if kind in _KERNEL_VIEWS:
        return Obstacle(f"{place} is a view of the kernel ({kind}) and holds no files; choose another path")
    if os.access(place, os.W_OK | os.X_OK):
        return None
    try:
        is_read_only = bool(os.statvfs(place).f_flag & os.ST_RDONLY)
    except OSError as error:
        return Obstacle(f"{place}: {error.strerror}", is_passing=error.errno not in _WRONG_PATH)
    if is_read_only:
        return Obstacle(f"{place} is on a file system that is mounted read-only", is_passing=True)
    return Obstacle(f"{place} is not writable for this user; change its owner or choose another path")


def _file_system(device: int) -> str | None:
    """The type of the file system with this device number (proc(5), mountinfo); None where the kernel does not say."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        mount, _, about = line.partition(" - ")
        if mount.split(" ", 3)[2] == number:
            return about.split(" ", 1)[0]
    return None
