"""What a failed system call means to the user of a local origin: one table.

Knows error numbers and the errors of the store; does no I/O. Every ``OSError`` of the local origin
passes through :func:`translated`, so no caller ever sees one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiered_store.errors import (
    IntegrityError,
    InvalidKey,
    KeyConflict,
    NotFound,
    OriginUnavailable,
    PermissionDenied,
    QuotaExceeded,
    StoreError,
    TooLarge,
)

__all__ = ["ABSENT", "error_of", "translated"]

#: What a read meets where there is no object: nothing, a file in place of a directory, a symbolic link,
#: a socket, or a name that this file system cannot hold and so does not.
ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.ENAMETOOLONG})

_READS = frozenset({"stat", "open", "list"})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHORT = {
    errno.EMFILE: "this daemon's limit (LimitNOFILE, ulimit -n)",
    errno.ENFILE: "the system's limit (fs.file-max)",
}
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def error_of(error: OSError, operation: str, name: str, root: Path) -> StoreError:
    """The error that a user is told.

    Args:
        error: what the system call said.
        operation: ``"stat"``, ``"open"``, ``"list"``, ``"put"``, ``"copy"``, ``"delete"`` or ``"start"``.
        name: the object's name; empty where the origin as a whole is meant.
        root: the origin's directory, for messages to the operator.
    """
    number, reason = error.errno or 0, error.strerror or str(error)
    path = root / name
    if operation in _READS and number in ABSENT:
        return NotFound("no such object", key=name)
    if number in _FULL:
        kind = "is full" if number == errno.ENOSPC else f"has no quota left for uid {os.geteuid()}"
        return QuotaExceeded(f"the file system that holds {root} {kind}: delete objects or give it more room", key=name)
    if number in _FORBIDDEN:
        return PermissionDenied(f"uid {os.geteuid()} may not {operation} {path}: {reason}", key=name)
    if number == errno.ENAMETOOLONG:
        return InvalidKey(
            "this origin is a directory, and its file system cannot hold a segment over 255 bytes", key=name
        )
    if number == errno.ENOTDIR:
        return KeyConflict("a part of this key is not a directory at the origin, but a file or a link", key=name)
    if number in {errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST}:
        return KeyConflict("there are objects below this key, so the origin cannot hold a file there", key=name)
    if number == errno.EFBIG:
        return TooLarge(f"the file system that holds {root} cannot hold a file of this size", key=name)
    if number == errno.EXDEV:
        return OriginUnavailable(
            f"another file system is mounted below {root}, which must be one file system", key=name, retryable=False
        )
    if number in _SHORT:
        return OriginUnavailable(
            f"{operation} of {path} needs a file descriptor and none is left: {_SHORT[number]} "
            "on open files is too low for what goes on now",
            key=name,
        )
    return OriginUnavailable(f"{operation} of {path} failed: {reason}", key=name)


@contextmanager
def translated(operation: str, name: str, root: Path) -> Iterator[None]:
    """Turn what system calls raise inside into errors of the store; arguments as for :func:`error_of`.

    Raises:
        StoreError: in place of each OSError, and of an EOFError (a body shorter than announced).
    """
    try:
        yield
    except OSError as error:
        raise error_of(error, operation, name, root) from error
    except EOFError as error:
        raise IntegrityError(f"the body is shorter than announced: {error}", key=name) from error
