"""How a batch of entries becomes rows and files, before the transaction that makes them count.

Blocking; runs in the tier's writing thread. Small bodies go into the row; a spool of the tier's own is
renamed; a file that the tier has already stays where it is; anything else is copied. The invariant: until
the transaction is through, :meth:`Staging.undo` leaves nothing behind.
"""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass

from tiered_store.key import Key
from tiered_store.objects import INLINE_MAX_BYTES, Descriptor, Entry, FileBody, body_size, read_body
from tiered_store.tiers.cachefile import BLOCK_BYTES, BODY_OFFSET, Record, body_crc, charge, encode, split
from tiered_store.tiers.directory import CacheDirectory
from tiered_store.tiers.faults import Damaged
from tiered_store.tiers.index import Index, Value
from tiered_store.tiers.rawdisk import Refused, StoredFile
from tiered_store.tiers.room import Room
from tiered_store.tiers.spoolfile import SpoolDescriptor, SpoolFile, write_all

__all__ = ["Adopted", "Staging"]

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Adopted:
    """A spool that became a cache file, still open."""

    name: str
    file_bytes: int
    mtime_ns: int


class Staging:
    """One batch's files.

    Args:
        epoch: the one to note in the records.

    Attributes:
        adopted: what became of the batch's spools.
    """

    def __init__(self, directory: CacheDirectory, room: Room, index: Index, epoch: int) -> None:
        self._directory = directory
        self._room = room
        self._index = index
        self._epoch = epoch
        self._copies: list[str] = []
        self._spools: list[SpoolFile] = []
        self.adopted: dict[Key, Adopted] = {}

    def estimate(self, key: Key, entry: Entry | None) -> int:
        """At most what a change adds to index, write-ahead log and files before they are measured."""
        if entry is None:
            return 1024
        size, body = entry.info.size, entry.body
        if size > INLINE_MAX_BYTES:
            is_reserved = isinstance(body, FileBody) and self._own_spool(body) is not None
            return 4 * BLOCK_BYTES + (0 if is_reserved else charge(size))
        # Twice, for the log; a row over a quarter of a page takes whole ones; and one leaf of the index's trees.
        row = size + len(key) + 512
        if row > BLOCK_BYTES // 4:
            row = -(-row // BLOCK_BYTES) * BLOCK_BYTES
        return 2 * row + BLOCK_BYTES

    def value(self, key: Key, entry: Entry) -> Value | None:
        """What the index shall hold, its file written or moved; None to decline the entry.

        Raises:
            OSError, TierFault: as the disk says.
        """
        if body_size(entry.body) != entry.info.size:
            return None  # whoever built this entry is wrong; a cache must not make it worse
        try:
            if entry.info.size <= INLINE_MAX_BYTES:
                data = read_body(entry.body)
                return self._packed(key, entry, zlib.crc32(data)) + data
            if isinstance(entry.body, FileBody):
                return self._file(key, entry, entry.body)
            return self._copy(key, entry)
        except (Damaged, EOFError, ValueError):
            return None

    def undo(self) -> None:
        """Remove what was written. Spools are left to their owners, who still hold them."""
        for name in self._copies:
            with suppress(OSError):
                (self._directory.path / name).unlink()

    def settle(self) -> int:
        """The transaction is through; gives the bytes that the spools had reserved."""
        return sum(spool.settle() for spool in self._spools)

    def _packed(self, key: Key, entry: Entry, crc: int) -> bytes:
        try:
            return encode(Record(entry.info.renamed(key), crc, entry.validated_at, self._epoch))
        except (struct.error, TypeError, AttributeError) as error:
            # Declined alone, like a record that is too long: a fault here would set the whole tier aside.
            raise ValueError("an entry that no record can hold") from error

    def _file(self, key: Key, entry: Entry, body: FileBody) -> StoredFile:
        spool = self._own_spool(body)
        kept = None if spool is not None else self._kept_file(key, body)
        if spool is None and kept is None:
            return self._copy(key, entry)
        crc = entry.crc
        if crc is None:
            crc = body_crc(body.descriptor.fd, body.size, body.offset)
        packed = self._packed(key, entry, crc)
        if spool is None:
            assert kept is not None
            return StoredFile(kept.name, kept.charged, packed)
        name = self._directory.new_object()
        self._spools.append(spool)
        mtime_ns = spool.move(self._directory.path / name, packed)
        file_bytes = BODY_OFFSET + spool.size + max(0, len(packed) - BODY_OFFSET)
        self.adopted[key] = Adopted(name, file_bytes, mtime_ns)
        return StoredFile(name, charge(spool.size, len(packed)), packed)

    def _own_spool(self, body: FileBody) -> SpoolFile | None:
        descriptor = body.descriptor
        spool = descriptor.spool if isinstance(descriptor, SpoolDescriptor) else None
        if spool is None or not spool.is_open or not spool.draws_from(self._room):
            return None
        if any(spool is taken for taken in self._spools):
            return None  # two keys of this batch have the same body
        # The whole of it, since the header says how long the file is.
        return spool if body.size == spool.size and body.offset == BODY_OFFSET else None

    def _kept_file(self, key: Key, body: FileBody) -> StoredFile | None:
        """The key's own file, if that is what the body is: then only the row is new (a revalidation)."""
        try:
            value = self._index.get(key)
        except Refused:
            return None
        if not isinstance(value, StoredFile) or body.offset != BODY_OFFSET:
            return None
        try:
            there = (self._directory.path / value.name).stat()
        except FileNotFoundError:
            return None
        if not os.path.samestat(os.fstat(body.descriptor.fd), there):
            return None
        return StoredFile(value.name, -(-there.st_size // BLOCK_BYTES) * BLOCK_BYTES, value.record)

    def _copy(self, key: Key, entry: Entry) -> StoredFile:
        """Write a file of our own; bytes that differ from their checksum are not kept."""
        name = self._directory.new_object()
        path = self._directory.path / name
        target = Descriptor(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            crc, at = 0, 0
            while at < entry.info.size:
                data = read_body(entry.body, at, _CHUNK)
                write_all(target.fd, data, BODY_OFFSET + at)
                crc = zlib.crc32(data, crc)
                at += len(data)
            if entry.crc is not None and entry.crc != crc:
                raise Damaged("source does not match its checksum")
            packed = self._packed(key, entry, crc)
            page, tail = split(packed)
            write_all(target.fd, tail, BODY_OFFSET + at)
            write_all(target.fd, page, 0)
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise
        self._copies.append(name)
        return StoredFile(name, charge(at, len(packed)), packed)
