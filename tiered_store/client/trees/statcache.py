"""Which files have not changed since their tree was saved last: a file beside nobody's data, read and written in step.

A tree is walked in one order only, so the cache of its last save is read along with the walk, and the new one written:
memory does not depend on the number of files. It may always be removed; it is then only slower.

A file counts as unchanged while size, mtime, ctime, inode and device are what they were. That alone is not safe: a
file written again within one tick of the clock, with the same size, looks the same. Git's index has the same trouble
("racily clean", Documentation/technical/racy-git in git's sources) and the same cure: what was changed so shortly
before it was read is not taken for known, and is read again the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, Final, Self

__all__ = ["RACY_NS", "StatCache", "default_stat_cache"]

#: The coarsest clock of a file system in use, FAT's; local ones of Linux tick every 4 ms.
RACY_NS: Final = 2_000_000_000

_MAGIC: Final = b"tiered_store stat cache 1\n"
_FIELDS: Final = struct.Struct("<QqqQQ")  # size, mtime_ns, ctime_ns, inode, device
_DIGEST_BYTES: Final = 32
_LENGTH_BYTES: Final = 2
_CHECK: Final = struct.Struct("<I")
_PIECE_BYTES: Final = 1024 * 1024


def default_stat_cache(root: str | bytes | os.PathLike[str]) -> str:
    """Where the command line keeps the cache of the tree at ``root``: below ``$XDG_CACHE_HOME``, by its real path."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.path.expanduser("~/.cache")  # noqa: PTH111 - pathlib costs an import of 5 ms
    name = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
    return f"{base}/tiered_store/trees/{name}.stat"


class StatCache:
    """The digests of the last save, by path, for one walk; and those of this one.

    A context manager: leaving it by an exception keeps the old cache. A cache that cannot be read or written is none:
    faults of it are never errors of a save.

    Args:
        path: the file, or None for no cache.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = None if path is None else os.fspath(path)
        self._old: Iterator[tuple[bytes, bytes, bytes]] = iter(())
        self._current: tuple[bytes, bytes, bytes] | None = None
        self._new: BinaryIO | None = None
        self._check = 0
        self._temporary = ""

    def __enter__(self) -> Self:
        if self._path is not None:
            self._old = _entries(self._path)
            self._current = next(self._old, None)
            with contextlib.suppress(OSError):
                os.makedirs(os.path.dirname(self._path) or ".", mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
                self._temporary = f"{self._path}.{os.getpid()}.{os.urandom(4).hex()}.part"
                self._new = open(self._temporary, "xb", _PIECE_BYTES)  # noqa: PTH123
                self._new.write(_MAGIC)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        new, self._new = self._new, None
        self._old = iter(())
        if new is None:
            return
        assert self._path is not None
        try:
            with new:
                new.write(_CHECK.pack(self._check))
            if error is None:
                os.replace(self._temporary, self._path)  # noqa: PTH105
                return
        except OSError:
            pass
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)  # noqa: PTH108

    def digest(self, place: bytes, status: os.stat_result) -> str | None:
        """The digest of a file that has not changed, or None. Asked in the order of the walk.

        Args:
            place: the path in the tree, with NUL for ``/``: so that the order of bytes is that of the walk.
            status: of the file, now.
        """
        while self._current is not None and self._current[0] < place:
            self._current = next(self._old, None)
        if self._current is None or self._current[0] != place or self._current[1] != _fields(status):
            return None
        return self._current[2].hex()

    def remember(self, place: bytes, status: os.stat_result, digest: str, read_ns: int) -> None:
        """A file's digest, for the next save; in the order of the walk.

        Args:
            place: as for :meth:`digest`.
            status: of the file as it was read.
            digest: 64 hex digits.
            read_ns: when the read began, nanoseconds since the epoch.
        """
        if self._new is None or max(status.st_mtime_ns, status.st_ctime_ns) > read_ns - RACY_NS:
            return
        entry = _fields(status) + bytes.fromhex(digest) + len(place).to_bytes(_LENGTH_BYTES, "little") + place
        self._check = zlib.crc32(entry, self._check)
        try:
            self._new.write(entry)
        except OSError:  # a full disk: no cache, the next time is slow
            with contextlib.suppress(OSError):
                os.unlink(self._temporary)  # noqa: PTH108
            new, self._new = self._new, None
            with contextlib.suppress(OSError):
                new.close()


def _fields(status: os.stat_result) -> bytes:
    return _FIELDS.pack(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def _entries(path: str) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Path, fields and digest of each entry; none at all if any byte is damaged, no more where reading fails."""
    with contextlib.suppress(OSError), open(path, "rb", opener=_at_once) as file:
        if not _is_whole(file):
            return
        file.seek(len(_MAGIC))
        end = os.fstat(file.fileno()).st_size - _CHECK.size
        position = len(_MAGIC)
        while position < end:
            fields = file.read(_FIELDS.size)
            digest = file.read(_DIGEST_BYTES)
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            yield file.read(length), fields, digest
            position += _FIELDS.size + _DIGEST_BYTES + _LENGTH_BYTES + length


def _at_once(path: str, flags: int) -> int:
    """Opens it, and waits for nobody if it is a pipe; which is then empty."""
    return os.open(path, flags | os.O_NONBLOCK)


def _is_whole(file: BinaryIO) -> bool:
    if file.read(len(_MAGIC)) != _MAGIC:
        return False
    check = 0
    held = b""
    while piece := file.read(_PIECE_BYTES):
        held += piece
        check = zlib.crc32(held[: -_CHECK.size], check)
        held = held[-_CHECK.size :]
    return len(held) == _CHECK.size and _CHECK.unpack(held)[0] == check
