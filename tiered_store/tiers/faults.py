"""What can go wrong on a disk, in five words; the one place where foreign errors are translated.

Knows SQLite's and the system's error codes, and nothing of keys or entries. The invariant: what leaves
:func:`translated` is a :class:`TierFault`, a :class:`Damaged`, or a bug.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import diskcache

__all__ = ["Damaged", "Gone", "Kind", "TierFault", "translated"]


class Kind(Enum):
    """What a fault asks for."""

    FULL = "full"  # no room, in the file system or a quota: make room, decline, go on
    BUSY = "busy"  # a lock not given in time: try again soon; if that goes on, the disk is at fault
    SHORT = "short"  # this process has no descriptor or memory left: try again soon; never the disk's fault
    CORRUPT = "corrupt"  # the index cannot be understood: start a new one
    FAULTY = "faulty"  # the disk fails, is read-only or gone: set the tier aside and probe it


class TierFault(Exception):
    """A fault of the place, not of one object.

    Attributes:
        kind: what has to be done about it.
        reason: one phrase for the log.
    """

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(f"{kind.value}: {reason}")
        self.kind = kind
        self.reason = reason


class Damaged(Exception):
    """The bytes of one object are not what was stored: flipped, truncated or foreign."""


class Gone(Exception):
    """The index knows a file that is not there; whoever sees this heals the index."""


_ERRNOS = {
    errno.ENOSPC: Kind.FULL,
    errno.EDQUOT: Kind.FULL,
    errno.EMFILE: Kind.SHORT,
    errno.ENFILE: Kind.SHORT,
    errno.ENOMEM: Kind.SHORT,
}
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
_HINT = "the limit of open files (LimitNOFILE, ulimit -n) is too low for what goes on"
# By primary result code (https://www.sqlite.org/rescode.html). SQLITE_ERROR is "no such table" or
# "no such column" here, since every statement is diskcache's own: the file is not the index we made.
_SQLITE = {
    sqlite3.SQLITE_FULL: Kind.FULL,
    sqlite3.SQLITE_BUSY: Kind.BUSY,
    sqlite3.SQLITE_LOCKED: Kind.BUSY,
    sqlite3.SQLITE_NOMEM: Kind.SHORT,
    sqlite3.SQLITE_PROTOCOL: Kind.BUSY,
    sqlite3.SQLITE_CORRUPT: Kind.CORRUPT,
    sqlite3.SQLITE_NOTADB: Kind.CORRUPT,
    sqlite3.SQLITE_ERROR: Kind.CORRUPT,
    sqlite3.SQLITE_SCHEMA: Kind.CORRUPT,
    sqlite3.SQLITE_MISMATCH: Kind.CORRUPT,
    sqlite3.SQLITE_CONSTRAINT: Kind.CORRUPT,
}
# The shared-memory file of the write-ahead log could not grow, which is how a full disk looks to it.
_SQLITE_EXTENDED = {sqlite3.SQLITE_IOERR_SHMSIZE: Kind.FULL}


def _of_sqlite(error: sqlite3.Error) -> TierFault:
    # After some faults SQLite has rolled back by itself, and diskcache's ROLLBACK fails in its turn: the
    # first error is the one that counts.
    while isinstance(error.__context__, sqlite3.Error):
        error = error.__context__
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # raised by the Python module itself, e.g. for text that is not UTF-8
        return TierFault(Kind.CORRUPT, f"index: {error}")
    if code & 0xFF == sqlite3.SQLITE_CANTOPEN and _is_out_of_descriptors():
        return TierFault(Kind.SHORT, f"index: {error}; {_HINT}")
    kind = _SQLITE_EXTENDED.get(code) or _SQLITE.get(code & 0xFF, Kind.FAULTY)
    return TierFault(kind, f"index: {error} ({error.sqlite_errorname})")


def _of_timeout(error: diskcache.Timeout) -> TierFault:
    """What is behind the error that diskcache raises for whatever goes wrong at the start of a transaction."""
    cause = error.__context__
    return _of_sqlite(cause) if isinstance(cause, sqlite3.Error) else TierFault(Kind.BUSY, "index: timeout")


def _is_out_of_descriptors() -> bool:
    """SQLite does not say why it could not open a file; whether that would work for us tells."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in _NO_DESCRIPTOR
    return False


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of SQLite, diskcache and the system into faults.

    Raises:
        TierFault: in place of any of them. No frame here keeps one in a variable: such a frame is in the
            fault's traceback, and the ring would keep what was being written (spools, descriptors) until
            the garbage collector comes by.
    """
    try:
        yield
    except diskcache.Timeout as error:
        raise _of_timeout(error) from error
    except sqlite3.Error as error:
        raise _of_sqlite(error) from error
    except OSError as error:
        reason = f"{error}; {_HINT}" if error.errno in _NO_DESCRIPTOR else str(error)
        raise TierFault(_ERRNOS.get(error.errno or 0, Kind.FAULTY), reason) from error
