"""What must be readable: for each key the versions that an honest store may answer with.

A write that was acknowledged leaves one version, one that ended in an error the old or the new. Bodies follow from key
and version, so that any bytes can be judged, and nothing but numbers has to be remembered. A key has one writer, who is
its only reader as well; what other clients read at the same time are artifacts, which do not change.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

ABSENT = 0
KIB, MIB = 1024, 1024 * 1024
#: The sizes of bodies, and how often each kind comes: in line, in a file, in one request, in parts.
_SIZES = ((0, 1, 4), (1, 16 * KIB, 60), (64 * KIB, 65 * KIB + 2, 6), (65 * KIB, MIB, 20), (5 * MIB, 12 * MIB, 2))


def body_of(key: str, version: int) -> bytes:
    """The bytes of this version: its name, and noise."""
    chance = random.Random(f"{key}/{version}")
    low, high, _ = chance.choices(_SIZES, weights=[weight for _, _, weight in _SIZES])[0]
    return f"{key}/{version}\n".encode() + chance.randbytes(chance.randrange(low, high))


def version_of(key: str, data: bytes) -> int | None:
    """Which version these bytes are, all of them; None if they are none."""
    name, _, _ = data.partition(b"\n")
    found, _, number = name.decode(errors="replace").rpartition("/")
    is_named = found == key and number.isdigit()
    return int(number) if is_named and body_of(key, int(number)) == data else None


@dataclass
class Keys:
    """The keys of one writer.

    Attributes:
        allowed: the versions that may be there, by key; ``ABSENT`` among them where it may be gone.
    """

    names: list[str]
    allowed: dict[str, set[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.allowed = {name: {ABSENT} for name in self.names}
        self._last = 0

    def next_version(self) -> int:
        self._last += 1
        return self._last

    def wrote(self, key: str, version: int) -> None:
        """The write was acknowledged; ``ABSENT`` is a delete."""
        self.allowed[key] = {version}

    def may_have_written(self, key: str, version: int) -> None:
        """The write ended in an error."""
        self.allowed[key].add(version)

    def is_right(self, key: str, data: bytes | None) -> bool:
        """Whether these bytes, or None for no object, may be the answer to a read."""
        found = ABSENT if data is None else version_of(key, data)
        return found in self.allowed[key]

    def is_right_listing(self, names: list[str]) -> bool:
        """Whether all that must be there is, and nothing that must not, in order."""
        there = set(names)
        must = {key for key, versions in self.allowed.items() if ABSENT not in versions}
        may = {key for key, versions in self.allowed.items() if versions != {ABSENT}}
        return names == sorted(there) and must <= there <= may


@dataclass
class Record:
    """What one client saw.

    Attributes:
        done: operations that were answered, by name.
        errors: operations that ended in an error of the store, by its class.
        wrong: answers that no honest store gives; must stay empty.
    """

    done: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
