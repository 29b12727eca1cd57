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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tiered_store.client.targets import write_all
from tiered_store.client.trees.manifest import File
from tiered_store.client.trees.place import OpenDirectory, Placed, about

__all__ = ["LinkStore"]

#: 2000-01-01: later than 1980, before which zip files know no time, and no time that a write would leave.
_MTIME_NS = 946_684_800_000_000_000
_PLAIN = stat.S_IFREG | 0o444
_EXECUTABLE = stat.S_IFREG | 0o555
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class LinkStore:
    """Contents by digest below one directory.

    Args:
        path: the directory, made when it is needed; on the file system of the trees.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fsencode(path)

    def link(self, directory: OpenDirectory, file: File) -> bool:
        """Make the file a link to its content; whether that could be done. See :meth:`link_all`."""
        return not self.link_all([(directory, file)])

    def link_all(self, placed: Iterable[Placed]) -> list[Placed]:
        """Make files links to their contents; those for which that could not be done. What was there is replaced.

        Raises:
            OSError: links cannot be made there at all, as between two file systems.
        """
        lacking = []
        source_of, look, link = self._source, os.lstat, os.link  # for a tree of many files this is the innermost loop
        for each in placed:
            directory, file = each
            source = source_of(file)
            try:
                status = look(source)
                if (
                    status.st_size != file.size
                    or status.st_mtime_ns != _MTIME_NS
                    or status.st_mode != (_EXECUTABLE if file.executable else _PLAIN)
                ):
                    lacking.append(each)
                    continue
                try:
                    link(source, file.name, dst_dir_fd=directory.fd, follow_symlinks=False)
                except FileExistsError:
                    _replace(source, directory, file)
            except FileNotFoundError:  # or removed in between
                lacking.append(each)
            except OSError as error:
                if error.errno == errno.EMLINK:  # an inode has only so many names; a fresh one takes over
                    lacking.append(each)
                    continue
                if error.errno == errno.EXDEV:
                    error.strerror = f"it must be on the file system of {os.fsdecode(self._path)!r} to be linked"
                raise about(error, directory, file.name) from None
        return lacking

    def fill(self, directory: OpenDirectory, file: File, data: bytes) -> bool:
        """Put a small content into the store, and make the file a link to it; whether that could be done.

        It gets its name at once and its mode and time at last, without which nobody takes it for whole. One that has
        the name already is taken if it is whole, and else replaced: somebody may be writing it just now.
        """
        source = self._source(file)
        try:
            fd = _create(source)
        except FileExistsError:
            if self.link(directory, file):
                return True
            with self.new_file(file) as fd:
                write_all(fd, data)
            return self.link(directory, file)
        try:
            write_all(fd, data)
            _finish(fd, file)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(source)  # noqa: PTH108
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, os.fsdecode(source)) from None
            raise
        finally:
            os.close(fd)
        return self.link(directory, file)

    @contextmanager
    def new_file(self, file: File) -> Iterator[int]:
        """A descriptor to write a content with, which then takes its place; nothing is left if that fails."""
        source = self._source(file)
        temporary = b"%b.%d.%b.part" % (source, os.getpid(), os.urandom(4).hex().encode())
        fd = _create(temporary)
        try:
            yield fd
            _finish(fd, file)
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


def _create(path: bytes) -> int:
    """A new file there, and its directory if there is none."""
    try:
        return os.open(path, _CREATE, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
        return os.open(path, _CREATE, 0o600)


def _finish(fd: int, file: File) -> None:
    """From now on it is taken for whole."""
    os.fchmod(fd, stat.S_IMODE(_EXECUTABLE if file.executable else _PLAIN))
    os.utime(fd, ns=(_MTIME_NS, _MTIME_NS))


def _replace(source: bytes, directory: OpenDirectory, file: File) -> None:
    os.unlink(file.name, dir_fd=directory.fd)
    os.link(source, file.name, dst_dir_fd=directory.fd, follow_symlinks=False)
