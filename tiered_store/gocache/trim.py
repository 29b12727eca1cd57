"""Keeps a directory of outputs within its bounds: what was not used for long goes, and what is too much, oldest first.

Runs behind a go command's last request, in at most one program at a time. Removes nothing that a running go command
was given: what it was given was used, give or take ``STAMP_S``, after its program started (``running.py``).
"""

from __future__ import annotations

import fcntl
import os
import time

from tiered_store.gocache.local import STAMP_S
from tiered_store.gocache.running import Gate, oldest_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

__all__ = ["trim"]

#: How often a program that has written something looks, and one that has not.
_AFTER_WRITES_S: Final = 600
_AFTER_READS_S: Final = 86400
#: A file that is being written has a temporary name, and no go command takes a day for one.
_TEMPORARY_AGE_S: Final = 86400
#: Some milliseconds of work, for which others may have to wait.
_STEP: Final = 64
#: Twice what a time of last use may be late, and the clocks of two file systems apart.
_MARGIN_S: Final = 2 * STAMP_S
#: Removed down to here, so that the next program does not begin where this one stopped.
_TARGET_SHARE: Final = 0.9


def trim(directory: str, max_bytes: int, max_age_s: float, *, has_written: bool) -> int:
    """Remove what is too much, if nobody has looked lately; how many files that were.

    Args:
        directory: of the outputs.
        max_bytes: what its files may take.
        max_age_s: after how many seconds without use a file goes.
        has_written: whether this program has added to it.

    Raises:
        OSError: the directory cannot be read or written.
    """
    fd = os.open(directory + "/trimmed", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(fd)
        age_s = time.time() - status.st_mtime
        if status.st_size and 0 <= age_s < (_AFTER_WRITES_S if has_written else _AFTER_READS_S):
            return 0
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return 0  # another one is at it, or there are no locks
        os.pwrite(fd, b"looked\n", 0)
        os.utime(fd)
        _remove_temporary(directory)
        return _remove(directory, _excess(directory, max_bytes, max_age_s))
    finally:
        os.close(fd)


def _excess(directory: str, max_bytes: int, max_age_s: float) -> list[str]:
    """The files that should go, the longest unused first."""
    found = sorted(_files(directory))
    total = sum(size for _, size, _ in found)
    oldest = time.time() - max_age_s
    bound = max_bytes if total <= max_bytes else int(max_bytes * _TARGET_SHARE)
    excess = []
    for used, size, path in found:
        if used >= oldest and total <= bound:
            break
        excess.append(path)
        total -= size
    return excess


def _files(directory: str) -> Iterator[tuple[float, int, str]]:
    """Of each output and action: when it was used last, the bytes it takes, and its path."""
    for number in range(256):
        try:
            entries = os.scandir(f"{directory}/{number:02x}")
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # replaced or removed meanwhile
                yield status.st_atime, status.st_blocks * 512, entry.path


def _remove(directory: str, paths: list[str]) -> int:
    gate = Gate(directory, fcntl.LOCK_EX)
    removed = 0
    try:
        for start in range(0, len(paths), _STEP):
            with gate as is_held:
                if not is_held:
                    return removed
                before = oldest_start(directory) - _MARGIN_S
                removed += sum(_remove_unused(path, before) for path in paths[start : start + _STEP])
    finally:
        gate.close()
    return removed


def _remove_unused(path: str, before: float) -> bool:
    try:
        if os.stat(path, follow_symlinks=False).st_atime >= before:  # noqa: PTH116 - pathlib costs an import of 5 ms
            return False
        os.unlink(path)  # noqa: PTH108 - as above
    except OSError:
        return False
    return True


def _remove_temporary(directory: str) -> None:
    with os.scandir(directory + "/incoming") as entries:
        for entry in entries:
            if time.time() - entry.stat(follow_symlinks=False).st_mtime > _TEMPORARY_AGE_S:
                os.unlink(entry.path)  # noqa: PTH108 - as above
