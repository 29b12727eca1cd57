"""A local directory of contents that restored files are hard links to: a warm restore then copies nothing.

Blocking file work only. One file per content, and a further one where it is executable, for links share one mode: they
are all read-only, since writing into one would change every tree that has it. A superuser can write into them in
spite of that, so each has a fixed mtime and the size it was made with, and one that does not have them is made anew.
The directory may be removed at any time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from tiered_store.client.trees.manifest import File
from tiered_store.client.trees.place import OpenDirectory

__all__ = ["LinkStore"]

#: 2000-01-01: later than 1980, before which zip files know no time, and no time that a write would leave.
_MTIME_NS = 946_684_800_000_000_000
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class LinkStore:
    """Contents by digest below one directory.

    Args:
        path: the directory, made when it is needed; on the file system of the trees.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fsencode(path)

    def link(self, directory: OpenDirectory, file: File) -> bool:
        """Make the file a link to its content; whether that could be done. What was there is replaced.

        Raises:
            OSError: links cannot be made there at all, as between two file systems.
        """
        source = self._source(file)
        try:
            status = os.lstat(source)
        except FileNotFoundError:
            return False
        if (
            status.st_size != file.size
            or status.st_mtime_ns != _MTIME_NS
            or status.st_mode != stat.S_IFREG | _mode(file)
        ):
            return False
        try:
            try:
                os.link(source, file.name, dst_dir_fd=directory.fd, follow_symlinks=False)
            except FileExistsError:
                os.unlink(file.name, dir_fd=directory.fd)
                os.link(source, file.name, dst_dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:  # removed in between
            return False
        except OSError as error:
            if error.errno == errno.EMLINK:  # an inode has only so many names; a fresh one takes over
                return False
            name = os.fsdecode(directory.path + b"/" + file.name)
            if error.errno == errno.EXDEV:
                raise OSError(
                    error.errno, f"it must be on the file system of {os.fsdecode(self._path)!r} to be linked", name
                ) from None
            raise OSError(error.errno, error.strerror, name) from None
        return True

    @contextmanager
    def new_file(self, file: File) -> Iterator[int]:
        """A descriptor to write a content with, which then takes its place; nothing is left if that fails."""
        source = self._source(file)
        os.makedirs(os.path.dirname(source), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
        temporary = b"%b.%d.%b.part" % (source, os.getpid(), os.urandom(4).hex().encode())
        fd = os.open(temporary, _CREATE, 0o600)
        try:
            yield fd
            os.fchmod(fd, _mode(file))
            os.utime(fd, ns=(_MTIME_NS, _MTIME_NS))
            os.replace(temporary, source)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)  # noqa: PTH108
            raise
        finally:
            os.close(fd)

    def _source(self, file: File) -> bytes:
        digest = file.digest.encode()
        return b"%b/%b/%b%b" % (self._path, digest[:2], digest, b"x" if file.executable else b"")


def _mode(file: File) -> int:
    return 0o555 if file.executable else 0o444
