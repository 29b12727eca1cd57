"""The tier's directory: whose it is, who holds it, and how the last run ended.

Layout::

    lock        held (flock) by the daemon that uses the directory
    clean       there only between an orderly stop and the next start; says what has to be known then
    rebuild     there while entries may be missing in the index whose files are there
    cache.db    the index (diskcache)
    objects/    one file per large object, fanned out by two digits
    spool/      files that are being written

Blocking. Knows neither diskcache nor entries. The invariant: at most one process uses a directory, and
none uses one that somebody else could have written to.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tiered_store.aio.ownership import NotOurs, lock_file, own_directory, sync_directory
from tiered_store.objects import Descriptor
from tiered_store.tiers.faults import Kind, TierFault
from tiered_store.tiers.rawdisk import OBJECTS

__all__ = ["INDEX_NAME", "CacheDirectory", "Marks", "forget_marks"]

INDEX_NAME = "cache.db"
#: A run's number is the upper half of a 64-bit epoch.
_MAX_RUNS = 2**32 - 1
#: Neither through a link nor waiting for the other end of a pipe, whoever left it here.
_AS_IT_IS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MARKS_MAX_BYTES = 4096
_LOCK, _CLEAN, _REBUILD, _SPOOL, _BROKEN = "lock", "clean", "rebuild", "spool", "broken"


@dataclass(frozen=True, slots=True)
class Marks:
    """What has to be known of earlier times to judge an entry.

    Epochs only grow; every record carries the one it was written in.

    Attributes:
        epoch: the current one.
        suspect_epoch: entries of earlier epochs may have been replaced or deleted unnoticed.
        suspect_before: the same as a time, for the store: when that was noticed, seconds since the
            epoch of Unix; 0.0 for never.
        deny_epoch: entries of earlier epochs are not answered at all.
        audit_due: whether files and index may disagree.
    """

    epoch: int = 1
    suspect_epoch: int = 0
    suspect_before: float = 0.0
    deny_epoch: int = 0
    audit_due: bool = False


class CacheDirectory:
    """One directory and the lock on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: Descriptor | None = None
        # Names of this run's spools start with this; other names in there are leftovers.
        self._run = secrets.token_hex(8)
        self._spools = 0

    def claim(self) -> None:
        """Make the directory if need be, check it and lock it; again is fine.

        Raises:
            TierFault: if it is not ours alone, or held by another daemon.
            OSError: as the file system says.
        """
        try:
            own_directory(self.path)
            self._claim_lock()
        except NotOurs as error:
            raise TierFault(Kind.FAULTY, str(error)) from None
        for name in (OBJECTS, _SPOOL):
            (self.path / name).mkdir(mode=0o700, exist_ok=True)

    def release(self) -> None:
        """Let another daemon have it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def begin_run(self) -> int:
        """A number greater than that of every earlier run, noted durably (in the lock file).

        Raises:
            OSError: as the file system says.
        """
        assert self._lock is not None, "claim() comes first"
        fd = self._lock.fd
        text = os.pread(fd, 32, 0)
        try:
            last = int(text or b"0")
        except ValueError:
            last = -1
        if not 0 <= last < _MAX_RUNS:
            last = int(time.time())  # somebody wrote into it; more than any count of runs
        os.pwrite(fd, b"%-20d\n" % (last + 1), 0)
        os.ftruncate(fd, 21)
        os.fsync(fd)
        return last + 1

    def take_marks(self) -> Marks | None:
        """Read and remove what the last orderly stop left; None if there was none.

        Raises:
            OSError: if it cannot be removed, durably: it must not be there when this run is killed.
        """
        path = self.path / _CLEAN
        try:
            text = _read_plain(path)
        except FileNotFoundError:
            return None
        path.unlink()
        sync_directory(self.path)
        return _marks_of(text)

    def leave_marks(self, marks: Marks) -> None:
        """Note, durably, that this run has ended in order.

        Raises:
            OSError: as the file system says.
        """
        temporary = self.path / f"{_CLEAN}.new"
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            json.dump(asdict(marks), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path / _CLEAN)
        sync_directory(self.path)

    def prepare_index(self) -> bool:
        """See to it that the index file is there with the right mode; tells whether a rebuild is due."""
        index = self.path / INDEX_NAME
        if index.is_symlink() or (index.exists() and not index.is_file()):
            self.abandon_index()
        fd = os.open(index, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        is_new = os.fstat(fd).st_size == 0
        os.close(fd)
        if is_new and any(self.object_directories()):
            self._note_rebuild()
        return (self.path / _REBUILD).exists()

    def abandon_index(self) -> None:
        """Move a broken index aside, which is instant however large it is; the audit removes it."""
        self._note_rebuild()
        broken = self.path / _BROKEN
        broken.mkdir(mode=0o700, exist_ok=True)
        for suffix in ("", "-wal", "-shm"):
            path = self.path / (INDEX_NAME + suffix)
            if path.exists() or path.is_symlink():
                path.rename(broken / f"{secrets.token_hex(8)}{suffix}")

    def rebuilt(self) -> None:
        """The index knows every file again."""
        (self.path / _REBUILD).unlink(missing_ok=True)

    def new_object(self) -> str:
        """A name for an object file; its directory is there."""
        digits = secrets.token_hex(16)
        directory = f"{OBJECTS}/{digits[:2]}"
        (self.path / directory).mkdir(mode=0o700, exist_ok=True)
        return f"{directory}/{digits[2:]}"

    def new_spool(self) -> Path:
        """A name for a spool."""
        self._spools += 1
        return self.path / _SPOOL / f"{self._run}-{self._spools}-{secrets.token_hex(4)}"

    def leftovers(self) -> list[Path]:
        """Files of earlier runs that nobody will ever use: spools, broken indexes."""
        spools = [path for path in (self.path / _SPOOL).iterdir() if not path.name.startswith(self._run)]
        broken = self.path / _BROKEN
        return spools + (list(broken.iterdir()) if broken.is_dir() else [])

    def object_directories(self) -> Iterator[Path]:
        """The directories that hold object files."""
        with os.scandir(self.path / OBJECTS) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield Path(entry.path)

    def _claim_lock(self) -> None:
        path = self.path / _LOCK
        if self._lock is not None:
            try:
                if os.path.samestat(os.fstat(self._lock.fd), path.stat()):
                    return
            except FileNotFoundError:
                pass
            self.release()  # the directory was removed and made again under us
        self._lock = lock_file(path)

    def _note_rebuild(self) -> None:
        path = self.path / _REBUILD
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | _AS_IT_IS, 0o600))


def forget_marks(path: Path) -> bool:
    """Remove, durably, what an orderly stop left in a directory that this run does not use; tells whether it was there.

    The run changes objects without the knowledge of what is cached there, so that the next run which uses the
    directory has to suspect that. Only what such a run would believe is removed, whatever directory this is. The lock
    is not asked for: a daemon that holds it has taken its mark, and one that leaves one now only has to ask again.

    Raises:
        OSError: as the file system says.
    """
    mark = path / _CLEAN
    try:
        if _marks_of(_read_plain(mark)) is None:
            return False
        mark.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    sync_directory(path)
    return True


def _marks_of(text: bytes) -> Marks | None:
    """What an orderly stop wrote; None if this is something else."""
    try:
        marks = Marks(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    # What somebody else wrote may have any type.
    return marks if all(type(getattr(marks, one.name)).__name__ == one.type for one in fields(marks)) else None


def _read_plain(path: Path) -> bytes:
    """What a small file of ours holds; nothing where a link, a pipe or something large has its name.

    Raises:
        OSError: FileNotFoundError, or as the file system says.
    """
    try:
        fd = os.open(path, os.O_RDONLY | _AS_IT_IS)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # a link; a socket
            return b""
        raise
    with os.fdopen(fd, "rb") as file:
        return file.read(_MARKS_MAX_BYTES) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
