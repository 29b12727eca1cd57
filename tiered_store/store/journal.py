"""The journal's files: puts that are acknowledged and not at the origin yet, one file each.

Blocking, for threads; knows neither keys' policies nor which entry counts. Layout of the directory::

    lock                     held (flock) by the daemon that uses the directory
    origin                   in words, where its puts are to go
    0000000000000012.put     an entry, named by its number; of two for one key the higher number counts
    0000000000000012.new     one being written; a crash leaves it, and the next start removes it
    0000000000000007.damaged what a start or a read could not understand, kept for a human to look at

A file is the body, then a JSON object that says what it is, then a footer: magic, size of the body, length of the JSON,
crc32 of JSON and footer. The body comes first so that it can share blocks with the file it is a copy of, and be mapped.

Invariants: an entry is there whole or not at all, and durably once :meth:`Journal.append` has returned; nothing that
was an entry is ever removed but by :meth:`Journal.remove`.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tiered_store.aio.ownership import NotOurs, lock_file, own_directory, sync_directory
from tiered_store.errors import InvalidKey
from tiered_store.key import parse_key
from tiered_store.objects import INLINE_MAX_BYTES, Body, Descriptor, FileBody, ObjectInfo, body_size
from tiered_store.origins.transfer import copy_range, write_all

__all__ = ["DamagedEntry", "Doubtful", "Journal", "Record"]

_log = logging.getLogger("tiered_store.journal")

_ENTRY, _NEW, _DAMAGED = ".put", ".new", ".damaged"
_ORIGIN = "origin"
_MAGIC = b"TSJRNL\x00\x01"
_FOOTER = struct.Struct("<8sQII")
#: One read from the end of a file brings the footer and nearly every JSON.
_TAIL_BYTES = 4096
#: Far above what a key and its metadata take with every character escaped; a damaged length must not cost memory.
_JSON_MAX_BYTES = 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
#: They say nothing of the file.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class DamagedEntry(Exception):
    """An entry's file is not what was written: cut short, flipped, or foreign."""


class Doubtful(OSError):
    """An entry could not be made durable, and may be there after a crash all the same."""


@dataclass(frozen=True, slots=True)
class Record:
    """What an entry says of its body.

    Attributes:
        sequence: the entry's number.
        info: key, size, and what readers are told until the origin has it.
        crc: zlib.crc32 of the body.
        file_bytes: the size of the entry's file.
    """

    sequence: int
    info: ObjectInfo
    crc: int
    file_bytes: int


@dataclass(slots=True)
class _Names:
    """The files of a directory, by what they are."""

    entries: list[int] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    highest: int = 0


class Journal:
    """One directory of entries. Methods may run in several threads at once, for different entries.

    Args:
        path: the journal's own directory.
        origin: in words, where its puts go; empty where nobody says.
    """

    def __init__(self, path: Path, origin: str = "") -> None:
        self.path = path
        self._origin = origin
        self._lock: Descriptor | None = None

    def open(self) -> int:
        """Make the directory if need be, and lock it; remove what was half written.

        Returns:
            a number that is higher than that of every entry.

        Raises:
            NotOurs: somebody else's directory, in use, or with puts for another origin. OSError: as the file system
                says.
        """
        missing = [place for place in (self.path, *self.path.parents) if not place.exists()]
        own_directory(self.path)
        for made in missing:  # else the end of the machine's power could take the directory, and all that is in it
            sync_directory(made.parent)
        self._lock = lock_file(self.path / "lock")
        names = self._names()
        if self._origin:
            self._belong(len(names.entries))
        for name in names.leftovers:
            (self.path / name).unlink(missing_ok=True)
        return names.highest + 1

    def close(self) -> None:
        """Let another daemon have the directory."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _belong(self, waiting: int) -> None:
        """See that what waits here is for this origin, and note that for the next start.

        A note that cannot be written costs the next start this check, and no put.
        """
        note = self.path / _ORIGIN
        noted = note.read_text(encoding="utf-8", errors="replace") if note.exists() else ""
        if noted == self._origin:
            return
        if noted and waiting:
            raise NotOurs(
                f"{self.path} has {waiting} puts for another origin: {noted}; this one is: {self._origin}. Start with "
                f"that one, and `tiered-store flush`; if it is the same under another name, remove {note}"
            )
        note.unlink(missing_ok=True)
        temporary = note.with_suffix(_NEW)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(self._origin)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(note)
            sync_directory(self.path)
        except OSError as error:
            fields = {"path": str(note), "reason": error.strerror}
            _log.warning("which origin the journal belongs to cannot be noted", extra=fields)

    def records(self) -> Iterator[Record]:
        """Every entry, lowest number first; bodies are not read, what cannot be understood is set aside.

        Raises:
            OSError: the directory cannot be read, or this process may open no more files.
        """
        for sequence in sorted(self._names().entries):
            try:
                yield self._record(sequence)
            except DamagedEntry as error:
                self.set_aside(sequence, str(error))

    def append(self, sequence: int, info: ObjectInfo, body: Body, crc: int | None = None) -> Record:
        """Write an entry, durably.

        Args:
            sequence: a number that no entry has.
            info: what is said of the body.
            body: complete, and not changing.
            crc: of the body, where it is known.

        Raises:
            OSError, EOFError: it is not there. Doubtful: nobody knows, until it has been removed.
        """
        if crc is None:
            crc = _crc(body)
        tail = _tail(info, crc)
        temporary = self._path(sequence, _NEW)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                if isinstance(body, bytes):
                    write_all(fd, body + tail)
                else:
                    copy_range(body.descriptor.fd, body.offset, body.size, fd)
                    os.lseek(fd, body.size, os.SEEK_SET)
                    write_all(fd, tail)
                os.fsync(fd)
            finally:
                os.close(fd)
            temporary.rename(self._path(sequence, _ENTRY))
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        try:
            sync_directory(self.path)
        except OSError as error:
            raise Doubtful(error.errno, error.strerror) from error
        return Record(sequence, info, crc, body_size(body) + len(tail))

    def read(self, record: Record, *, verify: bool) -> Body:
        """An entry's body: bytes if it is small, else its file, which stays readable when the entry is removed.

        Args:
            record: which.
            verify: whether to read a large body through for its checksum; small ones are always checked.

        Raises:
            FileNotFoundError: it was removed. DamagedEntry: other bytes than were written. OSError: it cannot be read.
        """
        file = Descriptor(os.open(self._path(record.sequence, _ENTRY), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        size = record.info.size
        if os.fstat(file.fd).st_size != record.file_bytes:
            raise DamagedEntry(f"the file has {os.fstat(file.fd).st_size} bytes, not {record.file_bytes}")
        body: Body = FileBody(file, 0, size, is_memory=False)
        if size <= INLINE_MAX_BYTES:
            body = os.pread(file.fd, size, 0)
        if (verify or isinstance(body, bytes)) and _crc(body) != record.crc:
            raise DamagedEntry("the body does not have its checksum")
        return body

    def remove(self, sequences: Iterable[int]) -> None:
        """Remove entries in this order, durably; those that are not there are fine. Raises OSError."""
        for sequence in sequences:
            self._path(sequence, _ENTRY).unlink(missing_ok=True)
        sync_directory(self.path)

    def set_aside(self, sequence: int, reason: str) -> None:
        """Take a damaged entry out of the journal, keep all its bytes, and say so in the log. Raises OSError."""
        kept = self._path(sequence, _DAMAGED)
        with suppress(FileNotFoundError):
            self._path(sequence, _ENTRY).rename(kept)
        _log.error(
            "an entry of the journal is damaged, and an acknowledged put may be lost; what is left of it was set aside",
            extra={"path": str(kept), "reason": reason},
        )

    def _path(self, sequence: int, suffix: str) -> Path:
        return self.path / f"{sequence:016d}{suffix}"

    def _names(self) -> _Names:
        names = _Names()
        with os.scandir(self.path) as found:
            for entry in found:
                number, dot, suffix = entry.name.partition(".")
                suffix = dot + suffix
                if not (number.isascii() and number.isdecimal()):
                    continue
                if suffix == _NEW:
                    names.leftovers.append(entry.name)
                elif suffix == _ENTRY:
                    names.entries.append(int(number))
                names.highest = max(names.highest, int(number))
        return names

    def _record(self, sequence: int) -> Record:
        try:
            fd = os.open(self._path(sequence, _ENTRY), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                return _parsed(sequence, fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise
            raise DamagedEntry(f"it cannot be read: {error.strerror}") from error


def _crc(body: Body) -> int:
    """zlib.crc32 of a body; raises OSError, EOFError."""
    if isinstance(body, bytes):
        return zlib.crc32(body)
    crc, done = 0, 0
    while done < body.size:
        data = os.pread(body.descriptor.fd, min(_CHUNK_BYTES, body.size - done), body.offset + done)
        if not data:
            raise EOFError(f"the file ends {body.size - done} bytes early")
        crc = zlib.crc32(data, crc)
        done += len(data)
    return crc


def _tail(info: ObjectInfo, crc: int) -> bytes:
    """What stands behind the body."""
    fields = {
        "key": info.key,
        "etag": info.etag,
        "content_type": info.content_type,
        "metadata": info.metadata,
        "modified_ns": info.modified_ns,
        "crc32": crc,
    }
    text = json.dumps(fields).encode()
    checked = zlib.crc32(_FOOTER.pack(_MAGIC, info.size, len(text), 0), zlib.crc32(text))
    return text + _FOOTER.pack(_MAGIC, info.size, len(text), checked)


def _parsed(sequence: int, fd: int) -> Record:
    """What the end of a file says. Raises DamagedEntry, OSError."""
    file_bytes = os.fstat(fd).st_size
    start = max(0, file_bytes - _TAIL_BYTES)
    tail = os.pread(fd, file_bytes - start, start)
    if len(tail) < _FOOTER.size:
        raise DamagedEntry("the file is cut short")
    magic, size, text_bytes, checked = _FOOTER.unpack(tail[-_FOOTER.size :])
    if magic != _MAGIC:
        raise DamagedEntry("the file does not end as an entry does")
    if text_bytes > _JSON_MAX_BYTES or size + text_bytes + _FOOTER.size != file_bytes:
        raise DamagedEntry(f"the file has {file_bytes} bytes, which is not what its end says")
    text = os.pread(fd, text_bytes, size)
    if zlib.crc32(_FOOTER.pack(magic, size, text_bytes, 0), zlib.crc32(text)) != checked:
        raise DamagedEntry("what the file says of its body does not have its checksum")
    try:
        said = json.loads(text)
        info = ObjectInfo(
            parse_key(said["key"]), size, said["etag"], said["content_type"], said["metadata"], said["modified_ns"]
        )
        return Record(sequence, info, said["crc32"], file_bytes)
    except (ValueError, KeyError, TypeError, InvalidKey) as error:
        raise DamagedEntry(f"what the file says of its body cannot be read: {error}") from error
