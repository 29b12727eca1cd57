"""Bringing files and index together again, in bounded steps, while the tier serves.

Runs in the tier's writing thread, between its other work, after an unclean stop or with a new index.
Knows files, records and rows. The invariants: what it removes nobody can be using (it looks file and row
up in one step, in the only thread that writes), and what it adopts is whole in its header and length; the
body is verified at the first read, as everybody's.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tiered_store.key import Key
from tiered_store.objects import Descriptor
from tiered_store.tiers.cachefile import BLOCK_BYTES, Record, charge, decode, encode, read_header
from tiered_store.tiers.directory import CacheDirectory
from tiered_store.tiers.faults import Damaged, translated
from tiered_store.tiers.index import Change, Index
from tiered_store.tiers.rawdisk import Refused, StoredFile, is_object_name
from tiered_store.tiers.room import HIGH_WATER, Room

__all__ = ["Audit"]

#: Files or rows looked at in one step: some milliseconds.
_STEP = 64


class Audit:
    """One pass over everything; every ``next`` on :meth:`steps` does a bounded piece of it.

    Args:
        rebuild: whether the index is new: then its rows are fewer than the files, not more.
        deny_epoch: records of earlier epochs are not adopted.
    """

    def __init__(self, directory: CacheDirectory, index: Index, room: Room, *, rebuild: bool, deny_epoch: int) -> None:
        self._directory = directory
        self._index = index
        self._room = room
        self._rebuild = rebuild
        self._deny_epoch = deny_epoch

    def expect(self) -> None:
        """Charge, from the start, what may lie in the directory uncounted.

        With a new index that can be as much as the bound allows: until the files are counted, only what
        is left above the high-water mark may be written.

        Raises:
            OSError: as the file system says.
        """
        if self._rebuild:
            _, known = self._index.measure()
            self._room.expect(int(self._room.max_bytes * HIGH_WATER) - known)
        else:
            self._room.expect(sum(path.lstat().st_size for path in self._directory.leftovers()))

    def steps(self) -> Iterator[None]:
        """The pass.

        Raises:
            TierFault: as the disk says; start anew later.
        """
        with translated():
            yield from self._sweep_leftovers()
            yield from self._compare_files()
            if self._rebuild:
                self._directory.rebuilt()
            else:
                yield from self._compare_rows()
            self._room.expect(0)

    def _sweep_leftovers(self) -> Iterator[None]:
        for path in self._directory.leftovers():
            size = path.lstat().st_size
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            self._room.found(size)
            yield

    def _compare_files(self) -> Iterator[None]:
        for directory in list(self._directory.object_directories()):
            paths = directory.iterdir()
            while piece := list(islice(paths, _STEP)):
                self._compare_piece(piece)
                yield

    def _compare_piece(self, paths: list[Path]) -> None:
        changes: dict[Key, Change] = {}
        for path in paths:
            file = self._inspect(path)
            if file is None:
                self._remove(path)
                continue
            record, stored = file
            key = Key(record.info.key)
            known = self._known(key, changes)
            if isinstance(known, StoredFile) and known.name == stored.name:
                continue
            if known is None or (self._rebuild and _is_older(known, record)):
                changes[key] = (key, stored)
                if isinstance(known, StoredFile):
                    self._remove(self._directory.path / known.name)
            else:
                self._remove(path)
        if changes:
            removed = self._index.apply(list(changes.values()))
            for name in removed:
                (self._directory.path / name).unlink(missing_ok=True)
            self._room.found(sum(value.charged for _, value in changes.values() if isinstance(value, StoredFile)))

    def _inspect(self, path: Path) -> tuple[Record, StoredFile] | None:
        """The file's record, or None if nothing should keep it."""
        name = str(path.relative_to(self._directory.path))
        if not is_object_name(name) or not path.is_file() or path.is_symlink():
            return None
        file = Descriptor(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        try:
            record, _ = read_header(file.fd)
        except Damaged:
            return None
        if record.epoch < self._deny_epoch:
            return None
        packed = encode(record)
        return record, StoredFile(name, charge(record.info.size, len(packed)), packed)

    def _known(self, key: Key, changes: dict[Key, Change]) -> object:
        if key in changes:
            return changes[key][1]
        try:
            return self._index.get(key)
        except Refused:
            return None

    def _remove(self, path: Path) -> None:
        try:
            found = path.lstat()
        except FileNotFoundError:
            return  # evicted or replaced since the directory was listed
        if stat.S_ISDIR(found.st_mode):
            return  # somebody's directory; not ours to empty
        path.unlink()
        self._room.found(-(-found.st_size // BLOCK_BYTES) * BLOCK_BYTES)

    def _compare_rows(self) -> Iterator[None]:
        keys = self._index.keys()
        while piece := list(islice(keys, _STEP)):
            gone: list[Change] = []
            for key in piece:
                try:
                    value = self._index.get(key)
                except Refused:
                    gone.append((key, None))
                    continue
                if isinstance(value, StoredFile) and not (self._directory.path / value.name).exists():
                    gone.append((key, None))
            if gone:
                for name in self._index.apply(gone):
                    (self._directory.path / name).unlink(missing_ok=True)
            yield


def _is_older(known: object, record: Record) -> bool:
    """Whether what the index has is from before this record."""
    try:
        other, _ = decode(known.record if isinstance(known, StoredFile) else bytes(known))  # type: ignore[call-overload]
    except Damaged:
        return True
    return (other.epoch, other.validated_at) < (record.epoch, record.validated_at)
