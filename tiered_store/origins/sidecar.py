"""Content type and user metadata of a local origin's files, each in a small file of its own.

Knows versions of files and where sidecars lie, not how objects are read or written. All of it blocks.

The law: a sidecar describes one version of one file. Its name is made of the object's name and the version
(inode, size, mtime), so after a crash at any moment a file has the sidecar that was written for it, or none;
never one of another version. It is durable before the file it describes can be seen, and removed after that
file has durably gone.

Format 1: a line ``tiered_store sidecar 1 <crc32 of the rest, 8 hex digits>``, then one JSON object with
``name``, ``content_type`` (only if there is one) and ``metadata``. All sidecars lie in one directory: file
systems of today index directories, and a second level would cost a system call on every ``stat``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import suppress

from tiered_store.errors import TooLarge
from tiered_store.origins.base import PutHeaders
from tiered_store.origins.localerrors import ABSENT
from tiered_store.origins.ownfiles import OwnFiles
from tiered_store.origins.transfer import write_all

__all__ = ["Sidecars", "decode", "encode", "version_at", "version_of"]

logger = logging.getLogger(__name__)

_MAGIC = b"tiered_store sidecar "
_FORMAT = b"1"
#: Content type and metadata, with what a message adds to each pair: they have to fit its head together with a key.
_MAX_SAID_BYTES = 48 * 1024
_PAIR_BYTES = 4
#: Above what that takes as JSON, which spells a control character with six; a file beyond it is not one of ours.
_MAX_FILE_BYTES = 320 * 1024
#: So many faulty sidecars are remembered, to log each one once.
_MAX_REMEMBERED = 1024
#: A sidecar without its file is an orphan only if no writer can be between writing the two.
_ORPHAN_AGE_NS = 3600 * 1_000_000_000
#: Sidecars looked at before the sweep gives its thread back.
_SWEEP_SLICE = 256


def version_of(status: os.stat_result) -> str:
    """The etag of a file: inode, size and mtime in hex, at most 60 characters.

    Writers of the origin give each file an mtime of its own, so a reused inode does not repeat an etag.
    """
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def version_at(parent: int, leaf: str) -> str | None:
    """The etag of the regular file at ``leaf`` in an open directory, or None where there is none.

    Raises:
        OSError: it cannot be told.
    """
    try:
        status = os.stat(leaf, dir_fd=parent, follow_symlinks=False)
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise
    return version_of(status) if stat.S_ISREG(status.st_mode) else None


def encode(name: str, headers: PutHeaders) -> bytes:
    """A sidecar's bytes.

    Raises:
        TooLarge: more metadata than a sidecar holds.
        UnicodeError: a text that is not Unicode.
    """
    if _said_bytes(headers) > _MAX_SAID_BYTES:
        raise TooLarge(f"a local origin keeps at most {_MAX_SAID_BYTES} bytes of metadata with an object", key=name)
    said: dict[str, object] = {"name": name, "metadata": headers.metadata}
    if headers.content_type is not None:
        said["content_type"] = headers.content_type
    text = json.dumps(said, ensure_ascii=False, sort_keys=True).encode()
    return b"%s%s %08x\n%s\n" % (_MAGIC, _FORMAT, zlib.crc32(text), text)


def decode(raw: bytes, name: str) -> PutHeaders:
    """What a sidecar says.

    Raises:
        ValueError, TypeError: naming what is wrong with it.
    """
    line, _, text = raw.partition(b"\n")
    if not line.startswith(_MAGIC):
        raise ValueError("it is not a sidecar")
    form, _, checksum = line[len(_MAGIC) :].partition(b" ")
    if form != _FORMAT:
        raise ValueError(f"its format is {form[:16]!r}, and this version reads {_FORMAT!r}")
    text = text.removesuffix(b"\n")
    if checksum != b"%08x" % zlib.crc32(text):
        raise ValueError("its checksum is wrong")
    said = _parse(text)
    if said.get("name") != name:  # two names with one hash: cannot happen by chance
        raise ValueError("it describes another object")
    content_type, metadata = said.get("content_type"), said.get("metadata")
    if not isinstance(content_type, str | None):
        raise TypeError("its content type is not a text")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not an object of texts")
    headers = PutHeaders(content_type, metadata)
    if _said_bytes(headers) > _MAX_SAID_BYTES:
        raise ValueError(f"it has more than {_MAX_SAID_BYTES} bytes of metadata")
    return headers


def _parse(text: bytes) -> dict[str, object]:
    """The JSON object of a sidecar; ValueError or TypeError for anything else."""
    try:
        said = json.loads(text.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(said, dict):
        raise TypeError("it is not an object")
    return said


def _said_bytes(headers: PutHeaders) -> int:
    """What headers take in a message; UnicodeError where one is not Unicode, so cannot be sent."""
    size = len((headers.content_type or "").encode())
    return size + sum(
        len(name.encode()) + len(value.encode()) + _PAIR_BYTES for name, value in headers.metadata.items()
    )


class Sidecars:
    """Reads, writes and collects sidecars. Safe to use from several threads.

    Args:
        own: the origin's own directories.
        fsync: whether what is written is made durable.
    """

    def __init__(self, own: OwnFiles, *, fsync: bool) -> None:
        self._own = own
        self._fsync = fsync
        self._reported: set[str] = set()

    def load(self, name: str, version: str) -> PutHeaders | None:
        """What was said of this version, or None where nothing was. A faulty sidecar is logged and says nothing.

        Raises:
            OSError: it is there and cannot be read.
        """
        meta = self._own.meta()
        if meta is None:
            return None
        sidecar = _sidecar_name(name, version)
        try:
            raw = _read(sidecar, meta.fd)
        except FileNotFoundError:
            return None
        try:
            return decode(raw, name)
        except (ValueError, TypeError) as error:
            self._report(name, sidecar, str(error))
            return PutHeaders()

    def save(self, name: str, version: str, headers: PutHeaders) -> None:
        """Write down, durably, what is said of a version that is about to appear.

        Raises:
            TooLarge: see :func:`encode`.
            OSError: it is not written.
        """
        raw = encode(name, headers)
        with self._own.temporary_file() as temporary:
            write_all(temporary.fd, raw)
            if self._fsync:
                os.fsync(temporary.fd)
            meta = self._own.meta(make=True)
            assert meta is not None
            temporary.move_to(meta.fd, _sidecar_name(name, version))
            if self._fsync:
                os.fsync(meta.fd)

    def remove(self, name: str, version: str) -> None:
        """Forget what was said of a version that is gone; what cannot be removed is left to the next sweep."""
        meta = self._own.meta()
        if meta is not None:
            with suppress(OSError):
                os.unlink(_sidecar_name(name, version), dir_fd=meta.fd)

    def _report(self, name: str, sidecar: str, fault: str) -> None:
        if sidecar in self._reported:
            return
        if len(self._reported) >= _MAX_REMEMBERED:
            self._reported.clear()
        self._reported.add(sidecar)
        logger.warning("metadata of %r is unreadable and left out: %s (file %s)", name, fault, sidecar)

    def old_ones(self, now_ns: int) -> Iterator[tuple[str, str] | None]:
        """Walk over the sidecars that may be orphans, as (name, version); None ends a slice of work.

        Args:
            now_ns: the time; what was written in the last hour may belong to a put that is not done yet.

        Raises:
            OSError: the directory cannot be read.
        """
        meta = self._own.meta()
        if meta is None:
            return
        with os.scandir(meta.fd) as entries:
            for number, entry in enumerate(entries, 1):
                with suppress(OSError, ValueError, TypeError):
                    if now_ns - entry.stat(follow_symlinks=False).st_mtime_ns > _ORPHAN_AGE_NS:
                        name = _parse(_read(entry.name, meta.fd).partition(b"\n")[2]).get("name")
                        version = entry.name.partition(".")[2]
                        if isinstance(name, str) and entry.name == _sidecar_name(name, version):
                            yield name, version
                if number % _SWEEP_SLICE == 0:
                    yield None


def _sidecar_name(name: str, version: str) -> str:
    # A name of up to 1,024 bytes does not fit a file name, its hash does.
    return f"{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}.{version}"


def _read(sidecar: str, meta: int) -> bytes:
    fd = os.open(sidecar, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=meta)
    try:
        return os.pread(fd, _MAX_FILE_BYTES, 0)
    finally:
        os.close(fd)
