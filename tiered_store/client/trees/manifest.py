"""The manifest of a directory tree: one canonical sequence of bytes for each tree, and its strict reader.

Pure: no files, no sockets. A manifest is itself stored as an artifact, so equal trees have equal keys. That holds
because there is one way only to write a tree down:

- it begins with ``HEADER``; every record ends with a NUL, which no name and no link can contain;
- ``f<sha256> <size> <name>`` is a file, ``x<sha256> <size> <name>`` an executable one, ``l<name>/<target>`` a symbolic
  link, ``d<name>`` a directory, whose entries follow, and ``u`` its end (the root has none);
- the entries of a directory are in the order of their names' bytes, kinds mixed, and no name comes twice.

So what a hostile manifest could say is mostly not sayable: a name is one segment, so nothing is absolute or climbs;
names rise strictly, so nothing comes twice, and nothing can be both a link and the directory that files are put into.
The reader needs memory for the depth of a tree and not for its size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

from tiered_store.errors import IntegrityError

__all__ = [
    "HEADER",
    "MAX_DEPTH",
    "TREE_CONTENT_TYPE",
    "Enter",
    "File",
    "Leave",
    "Link",
    "ManifestWriter",
    "Record",
    "read_manifest",
]

#: Says what the artifact is to whoever asks for it by its key; the reader goes by ``HEADER`` alone.
TREE_CONTENT_TYPE: Final = "application/vnd.tiered-store.tree"
HEADER: Final = b"tiered_store tree 1\0"
#: Every open level of a restore holds a descriptor; the deepest trees of real packages have some fifty levels.
MAX_DEPTH: Final = 256
#: Of one name, as in Linux (NAME_MAX), and of what a link points at (PATH_MAX less its NUL).
NAME_MAX_BYTES: Final = 255
TARGET_MAX_BYTES: Final = 4095
#: More entries are no tree that anybody built, and would take hours to undo.
MAX_ENTRIES: Final = 10_000_000
#: No file system that we know of holds a larger file.
SIZE_MAX_BYTES: Final = 2**63 - 1
_RECORD_MAX_BYTES: Final = 1 + NAME_MAX_BYTES + 1 + TARGET_MAX_BYTES

_FILE = re.compile(rb"([fx])([0-9a-f]{64}) (0|[1-9][0-9]{0,18}) ([^/]{1,255})\Z")
_LINK = re.compile(rb"l([^/]{1,255})/([^\0]{1,4095})\Z")
_DIRECTORY = re.compile(rb"d([^/]{1,255})\Z")
_NO_NAMES: Final = {b".", b".."}


class File(NamedTuple):
    """A regular file.

    Attributes:
        name: in its directory.
        digest: sha256 of its bytes, 64 lowercase hex digits.
        size: in bytes.
        executable: whether its owner may execute it.
    """

    name: bytes
    digest: str
    size: int
    executable: bool


class Link(NamedTuple):
    """A symbolic link, which is never followed: its target may be anything."""

    name: bytes
    target: bytes


class Enter(NamedTuple):
    """A directory; the records up to its :class:`Leave` are its entries."""

    name: bytes


class Leave(NamedTuple):
    """The end of the directory that was entered last."""


Record: TypeAlias = "File | Link | Enter | Leave"
_LEAVE = Leave()


class _Order:
    """What every record is held against: names, order, depth and number."""

    def __init__(self, *, folds_case: bool = False) -> None:
        self.last = b""
        self.folds_case = folds_case
        self._outer: list[bytes] = []
        self._folded: list[set[str]] = [set()]
        self._entries = 0

    def name(self, name: bytes) -> None:
        """A further entry of the directory that is open; the caller has seen to its length, and that it has no "/".

        Raises:
            ValueError: saying what is wrong with it.
        """
        if name <= self.last:
            raise ValueError(f"the name {name!r} comes twice, or out of order")
        if name in _NO_NAMES:
            raise ValueError(f"the name {name!r} cannot be one of a file")
        self.last = name
        if self.folds_case:
            self._fold(name, self._folded[-1])

    def count(self, entries: int) -> None:
        """So many more entries. Raises ValueError: too many."""
        self._entries += entries
        if self._entries > MAX_ENTRIES:
            raise ValueError(f"it has more than {MAX_ENTRIES:,} entries")

    def _fold(self, name: bytes, names: set[str]) -> None:
        import unicodedata  # few file systems fold case

        folded = unicodedata.normalize("NFD", name.decode("utf-8", "surrogateescape").casefold())
        if folded in names:
            raise ValueError(f"the name {name!r} is, to this file system, that of another entry: it folds case")
        names.add(folded)

    def enter(self) -> None:
        """The entry named last is a directory. Raises ValueError: too deep."""
        if self.depth == MAX_DEPTH:
            raise ValueError(f"it is deeper than {MAX_DEPTH} directories")
        self._outer.append(self.last)
        self.last = b""
        if self.folds_case:
            self._folded.append(set())

    def leave(self) -> None:
        """Raises ValueError: no directory is open."""
        if self.depth == 0:
            raise ValueError("it ends a directory that it has not begun")
        self.last = self._outer.pop()
        if self.folds_case:
            self._folded.pop()

    @property
    def depth(self) -> int:
        return len(self._outer)


class ManifestWriter:
    """Writes records in their canonical form, and refuses what :func:`read_manifest` would.

    Args:
        write: takes the bytes.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._order = _Order()
        write(HEADER)

    def add(self, record: Record) -> None:
        """Write the next record.

        Raises:
            ValueError: the tree cannot be written down, or not in this order; says why.
        """
        if isinstance(record, Leave):
            self._order.leave()
            self._write(b"u\0")
            return
        name = record.name
        if not 0 < len(name) <= NAME_MAX_BYTES or b"/" in name or b"\0" in name:
            raise ValueError(f"the name {name[:80]!r} cannot be one of a file")
        self._order.name(name)
        self._order.count(1)
        if isinstance(record, File):
            kind = b"x" if record.executable else b"f"
            self._write(b"%b%b %d %b\0" % (kind, record.digest.encode(), record.size, name))
        elif isinstance(record, Link):
            if not 0 < len(record.target) <= TARGET_MAX_BYTES:
                raise ValueError(f"the link {name!r} points at {len(record.target)} bytes")
            self._write(b"l%b/%b\0" % (name, record.target))
        else:
            self._order.enter()
            self._write(b"d%b\0" % name)


def read_manifest(pieces: Iterable[bytes | memoryview], *, folds_case: bool = False) -> Iterator[Record]:
    """The records of a manifest.

    Args:
        pieces: its bytes, cut anywhere.
        folds_case: whether the tree is for a file system to which ``A`` and ``a`` are one name. Such names are then
            refused, for which the names of the open directories are kept.

    Raises:
        IntegrityError: these bytes are no manifest; nothing behind the first fault is given.
    """
    try:
        yield from _records(_cut(pieces), _Order(folds_case=folds_case))
    except ValueError as error:
        raise IntegrityError(f"this artifact is no manifest of a tree that can be restored: {error}") from None


def _cut(pieces: Iterable[bytes | memoryview]) -> Iterator[list[bytes]]:
    """The records without their NUL, in lists; the first is the header's."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + bytes(piece)).split(b"\0")
        yield whole
        if len(rest) > _RECORD_MAX_BYTES:
            raise ValueError("a record does not end")
    if rest:
        raise ValueError("it ends in the middle of a record")


def _records(raw: Iterator[list[bytes]], order: _Order) -> Iterator[Record]:
    has_begun = False
    is_file, make = _FILE.match, tuple.__new__  # this is once per file of a tree
    for records in raw:
        if not has_begun and records:
            if records.pop(0) != HEADER[:-1]:
                break
            has_begun = True
        order.count(len(records) - records.count(b"u"))
        for record in records:
            match = is_file(record)
            if match is not None:
                kind, digest, digits, name = match.groups()
                if order.last < name and name not in _NO_NAMES and not order.folds_case:
                    order.last = name
                else:
                    order.name(name)
                size = int(digits)
                if size > SIZE_MAX_BYTES:
                    raise ValueError(f"no file has {size} bytes")
                yield make(File, (name, digest.decode(), size, kind == b"x"))
            elif record == b"u":
                order.leave()
                yield _LEAVE
            else:
                yield _other(record, order)
    if not has_begun:
        raise ValueError("it does not begin as one")
    if order.depth:
        raise ValueError("it ends in the middle of a directory")


def _other(record: bytes, order: _Order) -> Enter | Link:
    """What is neither a file nor the end of a directory."""
    if (match := _DIRECTORY.match(record)) is not None:
        order.name(match[1])
        order.enter()
        return Enter(match[1])
    if (match := _LINK.match(record)) is not None:
        order.name(match[1])
        return Link(match[1], match[2])
    raise ValueError(f"{record[:80]!r} is no record")
