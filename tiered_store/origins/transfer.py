"""Moving bytes from one open file to another, by the cheapest way that this pair of files allows.

Knows descriptors and nothing of names, objects or origins. All of it blocks.

The law: either every byte asked for arrives at the target, or an exception says so. A way that a pair of
files does not support (other file system, old kernel, a sandbox that forbids the call) is never an
error as long as a later way works; the last one, read and write, works for every readable file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable

__all__ = ["copy_range", "write_all"]

# linux/fs.h: _IOW(0x94, 13, struct file_clone_range). Shares the blocks instead of copying them.
_FICLONERANGE = 0x4020940D
_CLONE_RANGE = struct.Struct("=qQQQ")  # source descriptor, source offset, length, target offset

#: One call moves at most this much in the kernel; far below the 2 GiB that Linux moves at once.
_KERNEL_BYTES = 64 * 1024 * 1024
#: One read of the last resort, the only way that holds bytes in this process.
_BUFFER_BYTES = 1024 * 1024

# "Not this way": sandboxes answer EPERM for calls they do not know, file systems any of the others.
_UNSUPPORTED = frozenset(
    {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM, errno.EBADF}
)


def write_all(target: int, data: bytes) -> None:
    """Write all of ``data`` at the file's position; one call may write less than it was given.

    Raises:
        OSError: from the write.
    """
    written = os.write(target, data)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(data):
        written += os.write(target, view[written:])


def _clone(source: int, offset: int, count: int, target: int) -> int:
    fcntl.ioctl(target, _FICLONERANGE, _CLONE_RANGE.pack(source, offset, count, 0))
    return count


def _copy_file_range(source: int, offset: int, count: int, target: int) -> int:
    return os.copy_file_range(source, target, min(count, _KERNEL_BYTES), offset)


def _sendfile(source: int, offset: int, count: int, target: int) -> int:
    return os.sendfile(target, source, offset, min(count, _KERNEL_BYTES))


def _read_and_write(source: int, offset: int, count: int, target: int) -> int:
    data = os.pread(source, min(count, _BUFFER_BYTES), offset)
    write_all(target, data)
    return len(data)


#: What moves some bytes from ``source`` at ``offset`` to the target's position and says how many.
_Way = Callable[[int, int, int, int], int]


def copy_range(source: int, offset: int, size: int, target: int) -> None:
    """Append ``size`` bytes of ``source``, beginning at ``offset``, to ``target``.

    Args:
        source: readable descriptor; its position is neither used nor moved.
        offset: bytes into the source.
        size: bytes.
        target: writable descriptor of an empty file, positioned at its start.

    Raises:
        EOFError: the source ends early.
        OSError: a read or write failed for a reason that another way would meet too.
    """
    if size == 0:
        return
    done = 0
    ways: list[_Way] = [_clone, _copy_file_range, _sendfile, _read_and_write]
    while done < size:
        way = ways[0]
        try:
            moved = way(source, offset + done, size - done, target)
        except OSError as error:
            if error.errno not in _UNSUPPORTED or len(ways) == 1:
                raise
            moved = 0
        # Some kernels answer 0 instead of an error; only from the last way does it mean the end.
        if moved == 0:
            if len(ways) == 1:
                raise EOFError(f"the source ends {size - done} bytes early")
            del ways[0]
        done += moved
