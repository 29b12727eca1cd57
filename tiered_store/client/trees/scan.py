"""What is below a directory, in the order of a manifest; and the bytes of a file, if they hold still.

Blocking file work only. Names are bytes throughout: a file system knows no encoding. A link that is found is never
followed; one that takes a directory's place after that was listed is (docs/trees.md). The walk holds the names of the
directories that are open, and no descriptors.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

from tiered_store.client.trees.manifest import Enter, Leave, Link
from tiered_store.client.trees.steps import Stop
from tiered_store.errors import IntegrityError
from tiered_store.objects import INLINE_MAX_BYTES

__all__ = ["Content", "FileSeen", "Seen", "read_content", "walk"]

#: How often a file that changes while it is read is read again.
_ATTEMPTS: Final = 3
_PIECE_BYTES: Final = 1024 * 1024
#: A file that has become a pipe must not make us wait, nor a link lead us elsewhere.
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_GONE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


class FileSeen(NamedTuple):
    """A regular file.

    Attributes:
        name: in its directory.
        path: to open it.
        place: its path in the tree, with NUL for ``/``.
        status: when it was seen.
    """

    name: bytes
    path: bytes
    place: bytes
    status: os.stat_result


Seen: TypeAlias = "FileSeen | Link | Enter | Leave"


class Content(NamedTuple):
    """What a file held.

    Attributes:
        digest: sha256, 64 hex digits.
        status: of the file while it held that.
        data: its bytes if they are few, else None.
    """

    digest: str
    status: os.stat_result
    data: bytes | None


def walk(root: bytes, left_out: Callable[[bytes], object]) -> Iterator[Seen]:
    """Everything below a directory.

    Args:
        root: the directory; the one link that is followed.
        left_out: called with the path of each socket, pipe and device: these are no content.

    Raises:
        OSError: a directory cannot be read. One that goes meanwhile was not there.
    """
    levels = [iter(sorted(os.listdir(root)))]  # noqa: PTH208 - bytes, and pathlib costs an import of 5 ms
    paths, places = [root], [b""]
    while levels:
        name = next(levels[-1], None)
        if name is None:
            levels.pop(), paths.pop(), places.pop()
            if levels:
                yield Leave()
            continue
        path = paths[-1] + b"/" + name
        try:
            status = os.lstat(path)
            mode = status.st_mode
            if stat.S_ISREG(mode):
                yield FileSeen(name, path, places[-1] + name, status)
            elif stat.S_ISDIR(mode):
                names = sorted(os.listdir(path))  # noqa: PTH208
                yield Enter(name)
                levels.append(iter(names))
                paths.append(path)
                places.append(places[-1] + name + b"\0")
            elif stat.S_ISLNK(mode):
                yield Link(name, os.readlink(path))  # noqa: PTH115
            else:
                left_out(path)
        except (FileNotFoundError, NotADirectoryError):
            continue


def read_content(path: bytes, stop: Stop) -> Content:
    """The digest of a file, and its bytes if they are few.

    A file is taken to have held still if size, times and inode are the same before and behind the read. One that did
    not is read again.

    Args:
        path: the file.
        stop: ends the read of a large one.

    Raises:
        IntegrityError: it does not hold still, or has gone.
        OSError: it cannot be read.
    """
    for _ in range(_ATTEMPTS):
        try:
            fd = os.open(path, _FLAGS)
        except OSError as error:
            if error.errno in _GONE:
                raise _changed(path, "has gone") from None
            raise
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                raise _changed(path, "is no file any more")
            digest, data, size = _digest(fd, before.st_size, stop)
            after = os.fstat(fd)
        finally:
            os.close(fd)
        if size == after.st_size and _identity(after) == _identity(before):
            return Content(digest, after, data)
    raise _changed(path, f"changed in each of {_ATTEMPTS} attempts to read it")


def _digest(fd: int, expected: int, stop: Stop) -> tuple[str, bytes | None, int]:
    """Digest, bytes if they are few, and size; one that grows is not followed beyond what it was expected to have."""
    data = os.read(fd, INLINE_MAX_BYTES + 1)
    if len(data) <= INLINE_MAX_BYTES:
        return hashlib.sha256(data).hexdigest(), data, len(data)
    digest = hashlib.sha256(data)
    size = len(data)
    while data and size <= expected:
        stop.check()
        data = os.read(fd, _PIECE_BYTES)
        digest.update(data)
        size += len(data)
    return digest.hexdigest(), None, size


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def _changed(path: bytes, how: str) -> IntegrityError:
    return IntegrityError(
        f"{os.fsdecode(path)!r} {how} while its tree was saved; save it when nobody writes there", source="client"
    )
