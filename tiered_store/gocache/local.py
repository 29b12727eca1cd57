"""The directory in which a go command finds its files: outputs by their sha256, and which action made which.

Blocking file work; knows no daemon and no protocol. Below the directory lie, fanned out by two hex digits:

* ``<xx>/<output>-d``: an output, read-only. Its mtime is made of its name (:func:`mark_of`), and whoever writes into
  the file changes that: a file with the right size and mark is the one that was verified; no other is handed out.
* ``<xx>/<action>-a``: one line: format, output, size, when it was put, and whether a daemon has it.

Both appear whole, by a rename, and nothing is changed in place but that last letter. The atime of either is when it
was last used, give or take ``STAMP_S`` (``trim.py`` removes the oldest); it is set here, whatever the file system does
about reads.
"""

from __future__ import annotations

import os
import stat
import time

from tiered_store.gocache.running import Running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

__all__ = ["STAMP_S", "LocalCache", "Output", "mark_of"]

#: How exact the time of the last use is. Each stamp is a write to an inode, so a file has one in five minutes at most.
STAMP_S: Final = 300
_FORMAT: Final = b"tsgo1"
_LINE_MAX_BYTES: Final = 256
_LATEST_NS: Final = 253402300800 * 10**9  # the year 10000, which a reply could not spell
_WAITING, _UPLOADED = b"w", b"u"


def mark_of(output: str) -> int:
    """The mtime of a verified output, in nanoseconds since the epoch.

    An even second of 2001 or 2002: file systems exist that keep no finer times, and no clock says so any more.
    """
    return (1_000_000_000 + 2 * int(output[:6], 16)) * 1_000_000_000


class Output:
    """What is behind an action.

    Attributes:
        output: sha256 of the content, in hex.
        size: in bytes.
        stored_ns: when it was put, nanoseconds since the epoch.
        is_uploaded: whether a daemon has it, too.
    """

    __slots__ = ("is_uploaded", "output", "size", "stored_ns")

    def __init__(self, output: str, size: int, stored_ns: int, *, is_uploaded: bool) -> None:
        self.output = output
        self.size = size
        self.stored_ns = stored_ns
        self.is_uploaded = is_uploaded


class LocalCache:
    """Outputs and actions below one directory, which any number of go commands use at once.

    Args:
        directory: absolute; made if need be.

    Raises:
        OSError: it cannot be used.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._temporary = directory + "/incoming/"
        self._made = 0
        try:
            os.mkdir(self._temporary, 0o700)  # noqa: PTH102 - pathlib costs an import of 5 ms
        except FileExistsError:
            pass
        except FileNotFoundError:
            # With all that is above it for us alone: beside Go's directory a daemon keeps its disk tier by default, and
            # that uses no directory that others could write to.
            before = os.umask(0o077)
            try:
                os.makedirs(self._temporary, exist_ok=True)  # noqa: PTH103 - as above
            finally:
                os.umask(before)
        self.running = Running(directory)

    def path_of(self, output: str) -> str:
        """Where an output is, if it is there."""
        return f"{self.directory}/{output[:2]}/{output}-d"

    def _action_path(self, action: str) -> str:
        return f"{self.directory}/{action[:2]}/{action}-a"

    # -- reading ------------------------------------------------------------------------------------

    def find(self, action: str) -> Output | None:
        """What an action made, if its output is here and as it was verified; it counts as used now."""
        path = self._action_path(action)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            line = os.read(fd, _LINE_MAX_BYTES)
        except OSError:
            return None
        finally:
            os.close(fd)
        found = _decode(line)
        if found is None or not self.has(found.output, found.size, path):
            return None
        return found

    def has(self, output: str, size: int, action_path: str | None = None) -> bool:
        """Whether an output is here, and as it was verified; it counts as used now, and so does the action's file."""
        path = self.path_of(output)
        try:
            status = os.stat(path)  # noqa: PTH116 - pathlib costs an import of 5 ms
        except OSError:
            return False
        if status.st_size != size or status.st_mtime_ns != mark_of(output) or not stat.S_ISREG(status.st_mode):
            return False
        return time.time() - status.st_atime < STAMP_S or self._stamp(path, output, action_path)

    def _stamp(self, path: str, output: str, action_path: str | None) -> bool:
        """Say that files are in use; whether the output is still there.

        What was used lately nobody removes. What was not may be removed at this moment, unless the gate is held.
        """
        with self.running.gate as is_held:
            if not is_held:
                return False
            now = time.time_ns()
            try:
                os.utime(path, ns=(now, mark_of(output)))
                if action_path is not None:
                    os.utime(action_path, ns=(now, now))
            except OSError:
                return os.path.exists(path)  # noqa: PTH110 - as above
            return True

    # -- writing ------------------------------------------------------------------------------------

    def create(self) -> tuple[int, str]:
        """A new file, open for writing and reading, and its temporary name.

        Raises:
            OSError: it cannot be made.
        """
        self._made += 1
        path = f"{self._temporary}{os.getpid()}-{self._made}-{os.urandom(4).hex()}"
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), path

    def install(self, fd: int, temporary: str, output: str) -> None:
        """Give a file that was written, and verified, its name; closes ``fd``.

        Raises:
            OSError: it cannot be done; the file is gone.
        """
        try:
            try:
                os.fchmod(fd, 0o444)
                os.utime(fd, ns=(time.time_ns(), mark_of(output)))
            finally:
                os.close(fd)  # some file systems tell only now that it could not be written
            self._rename(temporary, self.path_of(output))
        except OSError:
            self.discard(temporary)
            raise

    def note(self, action: str, found: Output) -> None:
        """Remember what an action made.

        Raises:
            OSError: it cannot be written.
        """
        state = _UPLOADED if found.is_uploaded else _WAITING
        line = b"%b %b %d %d %b\n" % (_FORMAT, found.output.encode(), found.size, found.stored_ns, state)
        fd, temporary = self.create()
        try:
            try:
                os.write(fd, line)
            finally:
                os.close(fd)
            self._rename(temporary, self._action_path(action))
        except OSError:
            self.discard(temporary)
            raise

    def uploaded(self, action: str, output: str) -> None:
        """Remember that a daemon has what an action made, if that is still this output."""
        try:
            fd = os.open(self._action_path(action), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return
        try:
            line = os.read(fd, _LINE_MAX_BYTES)
            found = _decode(line)
            if found is not None and found.output == output:
                os.pwrite(fd, _UPLOADED, len(line) - 2)
        except OSError:
            return
        finally:
            os.close(fd)

    def discard(self, temporary: str) -> None:
        """Remove a file that was not installed."""
        try:
            os.unlink(temporary)  # noqa: PTH108 - as above
        except OSError:
            return

    def _rename(self, temporary: str, path: str) -> None:
        try:
            os.rename(temporary, path)  # noqa: PTH104 - as above
        except FileNotFoundError:
            parent = path.rpartition("/")[0]
            try:  # noqa: SIM105 - contextlib costs an import, too
                os.mkdir(parent, 0o700)  # noqa: PTH102 - as above
            except FileExistsError:
                pass
            os.rename(temporary, path)  # noqa: PTH104 - as above


def _decode(line: bytes) -> Output | None:
    """Read what :meth:`LocalCache.note` wrote; None for whatever else."""
    fields = line.split(b" ")
    if len(fields) != 5 or fields[0] != _FORMAT or len(fields[1]) != 64 or fields[4] not in (b"w\n", b"u\n"):
        return None
    try:
        output = bytes.fromhex(fields[1].decode()).hex()
        size, stored_ns = int(fields[2]), int(fields[3])
    except ValueError:
        return None
    if len(output) != 64 or size < 0 or not 0 <= stored_ns < _LATEST_NS:
        return None
    return Output(output, size, stored_ns, is_uploaded=fields[4] == b"u\n")
