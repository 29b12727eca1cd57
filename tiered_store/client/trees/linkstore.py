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
from tiered_store.objects import Descriptor

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
        #: Contents are named relative to it: the kernel then looks at two names per file and not at all of the path.
        self._root: Descriptor | None = None

    def link(self, directory: OpenDirectory, file: File) -> bool:
        """Make the file a link to its content; whether that could be done. See :meth:`link_all`."""
        return not self.link_all([(directory, file)])

    def link_all(self, placed: Iterable[Placed]) -> list[Placed]:
        """Make files links to their contents; those for which that could not be done. What was there is replaced.

        Raises:
            OSError: links cannot be made there at all, as between two file systems.
        """
        root = self._opened()
        if root is None:
            return list(placed)
        lacking = []
        fd, look, link = root.fd, os.stat, os.link  # for a tree of many files this is the innermost loop
        for each in placed:
            directory, file = each
            source = _source(file)
            try:
                status = look(source, dir_fd=fd, follow_symlinks=False)
                if (
                    status.st_size != file.size
                    or status.st_mtime_ns != _MTIME_NS
                    or status.st_mode != (_EXECUTABLE if file.executable else _PLAIN)
                ):
                    lacking.append(each)
                    continue
                try:
                    link(source, file.name, src_dir_fd=fd, dst_dir_fd=directory.fd, follow_symlinks=False)
                except FileExistsError:
                    os.unlink(file.name, dir_fd=directory.fd)
                    link(source, file.name, src_dir_fd=fd, dst_dir_fd=directory.fd, follow_symlinks=False)
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
        source = _source(file)
        try:
            root, fd = self._create(source)
        except FileExistsError:
            if self.link(directory, file):
                return True
            with self.new_file(file) as fd:
                write_all(fd, data)
            return self.link(directory, file)
        with self._finished(root, fd, source, file):
            write_all(fd, data)
        return self.link(directory, file)

    @contextmanager
    def new_file(self, file: File) -> Iterator[int]:
        """A descriptor to write a content with, which then takes its place; nothing is left if that fails."""
        source = _source(file)
        temporary = b"%b.%d.%b.part" % (source, os.getpid(), os.urandom(4).hex().encode())
        root, fd = self._create(temporary)
        with self._finished(root, fd, temporary, file, source):
            yield fd

    @contextmanager
    def _finished(self, root: Descriptor, fd: int, name: bytes, file: File, final: bytes = b"") -> Iterator[None]:
        """Make a new content one to link to, and close it; if that fails it is removed."""
        try:
            yield
            os.fchmod(fd, stat.S_IMODE(_EXECUTABLE if file.executable else _PLAIN))
            os.utime(fd, ns=(_MTIME_NS, _MTIME_NS))
            if final:
                os.replace(name, final, src_dir_fd=root.fd, dst_dir_fd=root.fd)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=root.fd)
            if isinstance(error, OSError) and error.filename is None:
                raise self._about(error, name) from None
            raise
        finally:
            os.close(fd)

    def _create(self, name: bytes) -> tuple[Descriptor, int]:
        """A new file, and what it is relative to; directories that are not there are made."""
        root = self._opened()
        try:
            if root is not None:
                with contextlib.suppress(FileNotFoundError):
                    return root, os.open(name, _CREATE, 0o600, dir_fd=root.fd)
            os.makedirs(os.path.dirname(self._path + b"/" + name), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
            root = self._opened(anew=True)  # it may have been removed
            assert root is not None
            return root, os.open(name, _CREATE, 0o600, dir_fd=root.fd)
        except OSError as error:
            raise self._about(error, name) from None

    def _opened(self, *, anew: bool = False) -> Descriptor | None:
        """The directory, if there is one. Kept by who uses it: another thread may open it anew."""
        root = None if anew else self._root
        if root is None:
            with contextlib.suppress(FileNotFoundError):
                root = Descriptor(os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                self._root = root
        return root

    def _about(self, error: OSError, name: bytes) -> OSError:
        return OSError(error.errno, error.strerror, os.fsdecode(self._path + b"/" + name))


def _source(file: File) -> bytes:
    digest = file.digest.encode()
    return b"%b/%b%b" % (digest[:2], digest, b"x" if file.executable else b"")
