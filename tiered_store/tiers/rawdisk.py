"""The values diskcache may hold: bytes in a row, or the name of a file of ours. Nothing else, ever.

diskcache pickles whatever is not plain and unpickles what it finds (CVE-2025-69872: who can write the
directory runs code in the process). This ``Disk`` refuses both ways: there is no call of ``pickle`` on
any of its paths. It also takes file names and removals away from diskcache: files are written, named
and removed by the tier, which knows when a transaction is through.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from diskcache import Disk
from diskcache.core import MODE_BINARY, MODE_RAW, UNKNOWN

__all__ = ["OBJECTS", "RawDisk", "Refused", "StoredFile", "is_object_name"]

#: The directory of object files, below the tier's own.
OBJECTS = "objects"
_NAME = re.compile(rf"{OBJECTS}/[0-9a-f]{{2}}/[0-9a-f]{{30}}\Z")


def is_object_name(name: object) -> bool:
    """Whether this can be the name of an object file: nothing that leads elsewhere can."""
    return isinstance(name, str) and _NAME.match(name) is not None


class Refused(Exception):
    """A key or value that this tier never stores; not an OSError, which diskcache takes for a miss."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A value that lives in a file of its own.

    Attributes:
        name: relative to the tier's directory.
        charged: what the file takes, in bytes; 0 where it was read back, since the index keeps the sum.
        record: the packed record; newer than the one in the file when the object was only revalidated.
    """

    name: str
    charged: int
    record: bytes


class RawDisk(Disk):  # type: ignore[misc]  # diskcache has no types
    """Keys are text; values are ``bytes`` or a :class:`StoredFile`.

    Attributes:
        removed: names that diskcache wanted removed, for the owner to take after the commit.
    """

    def __init__(self, directory: str, min_file_size: int = 0, pickle_protocol: int = 0) -> None:
        super().__init__(directory, min_file_size=min_file_size, pickle_protocol=pickle_protocol)
        self.removed: list[str] = []

    def put(self, key: Any) -> tuple[str, bool]:
        """The key as a column."""
        if type(key) is not str:
            raise Refused(f"a key of type {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: Any) -> str:
        """The column as a key."""
        if not raw or type(key) is not str:
            raise Refused("a key that is not plain text")
        return key

    def store(self, value: Any, read: bool, key: Any = UNKNOWN) -> tuple[int, int, str | None, bytes]:
        """The value as columns: charged size, mode, file name, inline bytes."""
        if type(value) is bytes and not read:
            return 0, MODE_RAW, None, value
        if type(value) is StoredFile and is_object_name(value.name):
            return value.charged, MODE_BINARY, value.name, value.record
        raise Refused(f"a value of type {type(value).__name__}")

    def fetch(self, mode: int, filename: Any, value: Any, read: bool) -> bytes | StoredFile:
        """The columns as a value; opens nothing."""
        if type(value) is bytes:
            if mode == MODE_RAW and filename is None:
                return value
            if mode == MODE_BINARY and is_object_name(filename):
                return StoredFile(filename, 0, value)
        raise Refused(f"a row of mode {mode}")

    def filename(self, key: Any = UNKNOWN, value: Any = UNKNOWN) -> tuple[str, str]:
        """Refused: no file is written behind the tier's back."""
        raise Refused("a file written by diskcache")

    def remove(self, file_path: Any) -> None:
        """Note the name; inside a transaction it is too early to unlink."""
        if is_object_name(file_path):
            self.removed.append(file_path)
