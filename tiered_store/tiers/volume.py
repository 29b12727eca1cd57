"""The blocking half of the disk tier: directory, index, files and room, composed.

Everything here is called in threads: :meth:`Volume.lookup` in the one that reads, :meth:`verify` and
:meth:`open_spool` in any, the rest in the one that writes. Knows no event loop and nothing of what waits to
be written. The invariants: a body that is answered was whole when it was verified; a file is reachable
only through a row that was committed after the file was complete; what is dropped is unlinked in the
same call.
"""

from __future__ import annotations

import errno
import hashlib
import os
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tiered_store.key import Key, digest_of, is_artifact
from tiered_store.objects import INLINE_MAX_BYTES, Body, Descriptor, Entry, FileBody, read_body
from tiered_store.tiers.audit import Audit
from tiered_store.tiers.cachefile import BLOCK_BYTES, BODY_OFFSET, Record, body_crc, decode, decode_row, read_header
from tiered_store.tiers.directory import INDEX_NAME, CacheDirectory, Marks
from tiered_store.tiers.faults import Damaged, Gone, Kind, TierFault, translated
from tiered_store.tiers.index import Index
from tiered_store.tiers.openfiles import Found
from tiered_store.tiers.rawdisk import Refused, StoredFile
from tiered_store.tiers.room import Room
from tiered_store.tiers.spoolfile import SpoolFile, write_all
from tiered_store.tiers.staging import Adopted, Staging

__all__ = ["Done", "Opened", "Volume"]

#: No key begins with a slash, so this one is free to try the index with.
_PROBE = Key("/probe")
_CULL_STEP_BYTES = 1024 * 1024
#: Of rows that one look reads: some milliseconds of work, and what a batch of small objects has.
_LOOK_BYTES = 1024 * 1024
# O_NONBLOCK: opening a pipe that somebody left there must not wait for its other end.
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
#: What opening says of something that is no file: a link, a socket, a file in place of its directory.
_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.ENOTDIR})


@dataclass(frozen=True, slots=True)
class Opened:
    """How the directory was found.

    Attributes:
        marks: what the last orderly stop left, or None after any other end.
        was_empty: whether there was nothing at all before.
        is_rebuilding: whether files may be missing in the index.
        run: the number of this run; greater than that of all earlier ones.
        entries: how many the index knows.
    """

    marks: Marks | None
    was_empty: bool
    is_rebuilding: bool
    run: int
    entries: int


@dataclass(slots=True)
class Done:
    """What a piece of writing work did."""

    entries: int | None = None
    evicted: int = 0
    removed: list[str] = field(default_factory=list)
    adopted: dict[Key, Adopted] = field(default_factory=dict)


class Volume:
    """One directory's contents."""

    def __init__(self, path: Path, room: Room) -> None:
        self._directory = CacheDirectory(path)
        self._path = path
        self._room = room
        self._index: Index | None = None

    # -- opening and closing -------------------------------------------------------------------------

    def open(self) -> Opened:
        """Claim the directory, prove that it can be written and read, and open its index or a new one.

        Also the way back after a fault. The cost does not depend on the number of entries.

        Raises:
            TierFault: FAULTY if the directory is not ours or does not work.
        """
        with translated():
            self._directory.claim()
            self._probe_files()
            was_empty = not (self._path / INDEX_NAME).exists()
            was_empty = was_empty and not any(self._directory.object_directories())
            run = self._directory.begin_run()
            marks = self._directory.take_marks()
            is_rebuilding = self._directory.prepare_index()
            try:
                self._index = self._open_index()
            except TierFault as fault:
                if fault.kind in {Kind.FULL, Kind.BUSY, Kind.SHORT}:
                    raise
                # Plain files work in this directory, so it is the index that is broken.
                self._directory.abandon_index()
                is_rebuilding = self._directory.prepare_index()
                self._index = self._open_index()
            self._room.refresh()
            return Opened(marks, was_empty, is_rebuilding, run, self._settle())

    def abandon_index(self) -> None:
        """Move the index away; :meth:`open` starts a new one. Raises TierFault."""
        self.disconnect()
        self._index = None
        with translated():
            self._directory.abandon_index()

    def disconnect(self) -> None:
        """Close the calling thread's connections to the index."""
        if self._index is not None:
            with suppress(TierFault):
                self._index.close()

    def close(self, marks: Marks | None) -> None:
        """Let go of everything; with ``marks``, note that all was in order."""
        self.disconnect()
        self._index = None
        with suppress(TierFault), translated():
            if marks is not None:
                self._directory.leave_marks(marks)
        self._directory.release()

    def audit(self, *, rebuild: bool, deny_epoch: int) -> Iterator[None]:
        """An audit to be stepped through; charges at once what it may find. Raises TierFault."""
        audit = Audit(self._directory, self._opened(), self._room, rebuild=rebuild, deny_epoch=deny_epoch)
        with translated():
            audit.expect()
        return audit.steps()

    # -- reading ---------------------------------------------------------------------------------------

    def lookup(self, key: Key) -> Found | None:
        """Find an entry; the body of a file is not verified yet.

        Raises:
            Damaged: if what is stored is not what was put. Gone: if its file is missing.
            TierFault: as the disk says.
        """
        try:
            value = self._opened().get(key)
        except Refused as error:
            raise Damaged(str(error)) from error
        if value is None:
            return None
        if isinstance(value, bytes):
            return _in_row(key, value)
        with translated():
            return self._open_file(key, value)

    def lookup_many(self, keys: Sequence[Key], hashed: Collection[Key]) -> dict[Key, Found | Damaged | None]:
        """Find small entries, in one look into the index; None for keys that it does not have.

        What is not in the answer was not looked at, since a look reads a bounded number of bytes, or is in a file.

        Args:
            keys: which; a few hundred.
            hashed: of which artifacts the bytes are to be hashed, and marked as verified if they have their digest.

        Raises:
            TierFault: as the disk says.
        """
        answers: dict[Key, Found | Damaged | None] = {}
        files: set[Key] = set()
        size = 0
        with closing(self._opened().get_many(keys)) as rows:
            for key, value in rows:
                if isinstance(value, StoredFile):
                    files.add(key)
                    continue
                try:
                    found = answers[key] = _in_row(key, value, hashed)
                except Damaged as error:
                    answers[key] = error.with_traceback(None)
                    continue
                size += found.entry.info.size
                if size >= _LOOK_BYTES:
                    return answers
        for key in keys:
            if key not in files:
                answers.setdefault(key, None)
        return answers

    def verify(self, found: Found) -> None:
        """Read a file's body through and compare its checksum.

        Raises:
            Damaged: if it differs. TierFault: as the disk says.
        """
        entry = found.entry
        assert isinstance(entry.body, FileBody)
        with translated():
            if body_crc(entry.body.descriptor.fd, entry.body.size) != entry.crc:
                raise Damaged("body does not match its checksum")

    def _open_file(self, key: Key, value: StoredFile) -> Found:
        record, _ = decode(value.record)
        try:
            descriptor = Descriptor(os.open(self._path / value.name, _OPEN_FLAGS))
        except FileNotFoundError as error:
            raise Gone(value.name) from error
        except OSError as error:
            if error.errno in _NO_FILE:
                raise Damaged(f"no file: {error.strerror}") from error
            raise
        header, status = read_header(descriptor.fd)
        size = record.info.size
        if record.info.key != key or (header.info.key, header.info.size, header.crc) != (key, size, record.crc):
            raise Damaged("file does not match its row")
        body: Body = FileBody(descriptor, BODY_OFFSET, size, is_memory=False)
        if size <= INLINE_MAX_BYTES:
            body = read_body(body)
            if zlib.crc32(body) != record.crc:
                raise Damaged("body does not match its checksum")
            return Found(_entry(record, body), record.epoch)
        return Found(_entry(record, body), record.epoch, value.name, status.st_size, status.st_mtime_ns)

    # -- writing ---------------------------------------------------------------------------------------

    def open_spool(self, size: int, step: int) -> SpoolFile | None:
        """A spool with room for ``size`` bytes in all, or None if that is not there now. Raises TierFault."""
        if not self._room.reserve(size):
            return None
        with translated():
            return SpoolFile(self._directory.new_spool(), self._room, size, step)

    def apply(self, batch: Sequence[tuple[Key, Entry | None]], epoch: int, done: Done) -> None:
        """Write a batch of entries and tombstones: all of them or, with a fault, none.

        Args:
            batch: what to write, one change per key.
            epoch: the one to note in the records.
            done: filled in; what was culled to make room is in there also when a fault is raised.

        Raises:
            TierFault: FULL also when the bound leaves no room and nothing can be culled.
        """
        index = self._opened()
        staging = Staging(self._directory, self._room, index, epoch)
        reserved = sum(staging.estimate(key, entry) for key, entry in batch)
        self._make_room(reserved, done)
        try:
            with translated():
                changes = [(key, None if entry is None else staging.value(key, entry)) for key, entry in batch]
            removed = index.apply(changes)
        except BaseException:
            staging.undo()
            self._room.release(reserved)
            raise
        done.adopted = staging.adopted
        done.removed += removed
        self._unlink(removed)
        done.entries = self._settle(reserved + staging.settle())

    def touch(self, keys: Sequence[Key]) -> None:
        """Note that these were used, the last one last. Raises TierFault."""
        self._opened().touch(keys)

    def cull(self, done: Done) -> None:
        """Drop a piece of what is over the bounds, least recently used first. Fills in ``done``.

        Raises:
            TierFault: as the disk says.
        """
        self._room.refresh()
        if excess := self._room.excess():
            self._cull(excess, done)

    def step(self, audit: Iterator[None]) -> Done | None:
        """Go on with an audit; None when it has ended. Raises TierFault."""
        if next(audit, audit) is audit:
            return None
        return Done(entries=self._settle())

    def _cull(self, excess: int, done: Done) -> bool:
        count, removed = self._opened().cull(min(excess, _CULL_STEP_BYTES))
        self._unlink(removed)
        done.removed += removed
        done.evicted += count
        done.entries = self._settle()
        self._room.refresh()
        if not count:
            self._room.give_up()
        return count > 0

    def _make_room(self, size: int, done: Done) -> None:
        if not self._room.could_fit(size):
            raise TierFault(Kind.FULL, f"no room for {size} bytes within the bound")
        culled = 0
        while not self._room.reserve(size):
            # Files that are open keep their space until the loop has let go of them. Without this, what the
            # file system does not show yet would be culled for again and again, until nothing is left.
            if culled >= size and self._room.has_allowance(size):
                raise TierFault(Kind.FULL, f"no room for {size} bytes yet: removed files are still open")
            used = self._room.used
            if not self._cull(size, done):
                raise TierFault(Kind.FULL, f"no room for {size} bytes")
            culled += used - self._room.used

    # -- parts -----------------------------------------------------------------------------------------

    def _opened(self) -> Index:
        if self._index is None:
            raise TierFault(Kind.FAULTY, "the index is closed")
        return self._index

    def _open_index(self) -> Index:
        index = Index(self._path, log_bytes=min(1024 * 1024, self._room.max_bytes // 16))
        index.apply([(_PROBE, b"probe")])
        if index.get(_PROBE) != b"probe":
            raise TierFault(Kind.CORRUPT, "index does not give back what it was given")
        index.apply([(_PROBE, None)])
        return index

    def _probe_files(self) -> None:
        path = self._directory.new_spool()
        probe = os.urandom(BLOCK_BYTES)
        descriptor = Descriptor(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            write_all(descriptor.fd, probe, 0)
            if os.pread(descriptor.fd, len(probe), 0) != probe:
                raise TierFault(Kind.FAULTY, "a file does not give back what was written")
        finally:
            path.unlink()

    def _settle(self, released: int = 0) -> int:
        entries, used = self._opened().measure()
        self._room.settle(used, released)
        return entries

    def _unlink(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(OSError):  # what cannot be removed now is found by the next audit
                (self._path / name).unlink()


def _in_row(key: Key, value: bytes | Refused, hashed: Collection[Key] = ()) -> Found:
    """What a row holds. Raises Damaged."""
    if isinstance(value, Refused):
        raise Damaged(str(value))
    record, body = decode_row(value, key)
    entry = _entry(record, body)
    if key in hashed and is_artifact(key):
        entry.is_verified = hashlib.sha256(body).hexdigest() == digest_of(key)
    return Found(entry, record.epoch)


def _entry(record: Record, body: Body) -> Entry:
    return Entry(record.info, body, validated_at=record.validated_at, tier="disk", crc=record.crc)
