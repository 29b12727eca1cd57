"""The values of one database: what is behind a Redis key, how long it counts, and who may replace it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from tiered_store.build.cache import BuildCache, Found
from tiered_store.build.entry import Place, ToolEntry
from tiered_store.servers.intake import Intake
from tiered_store.servers.resp.names import name_of
from tiered_store.store.spool import Staged

__all__ = ["SetOptions", "Values", "lifetime", "set_options"]

#: The header of an entry that says until when it counts: milliseconds since the epoch.
_EXPIRES: Final = "expires-ms"
#: As far into the future as Redis itself can count.
_LIFETIME_MAX_MS: Final = 2**53


@dataclass(frozen=True, slots=True)
class SetOptions:
    """How a value is stored.

    Attributes:
        lifetime_ms: how long it counts; 0: for ever.
        only_new: store it only where there is none.
        only_old: store it only in place of another.
    """

    lifetime_ms: int = 0
    only_new: bool = False
    only_old: bool = False


def lifetime(word: bytes, unit_ms: int) -> SetOptions | str:
    """Options of a value that counts for so long; or what is wrong with the number."""
    if not word.isdigit() or len(word) > 16:
        return "value is not an integer or out of range"
    if not 0 < int(word) * unit_ms <= _LIFETIME_MAX_MS:
        return "invalid expire time in 'set' command"
    return SetOptions(int(word) * unit_ms)


def set_options(words: list[bytes]) -> SetOptions | str:
    """Read what follows a SET; or what is wrong with it."""
    time_to_live = SetOptions()
    conditions: set[bytes] = set()
    rest = iter(words)
    for word in rest:
        option = word.upper()
        if option in {b"NX", b"XX"}:
            conditions.add(option)
        elif option in {b"EX", b"PX"} and not time_to_live.lifetime_ms:
            said = lifetime(next(rest, b""), 1000 if option == b"EX" else 1)
            if isinstance(said, str):
                return said
            time_to_live = said
        else:
            return "syntax error"
    if len(conditions) > 1:
        return "syntax error"
    return SetOptions(time_to_live.lifetime_ms, b"NX" in conditions, b"XX" in conditions)


class Values:
    """The values of one place.

    Args:
        cache: where they are.
        place: which.
        wall: seconds since the epoch.
    """

    def __init__(self, cache: BuildCache, place: Place, wall: Callable[[], float] = time.time) -> None:
        self._cache = cache
        self._place = place
        self._wall = wall

    def peek(self, key: bytes) -> Found | None:
        """As :meth:`get`, if it needs no wait."""
        found = self._cache.peek(self._place, name_of(key))
        return found if found is not None and self._counts(found.entry) else None

    async def get(self, key: bytes) -> Found | None:
        """What is behind a key, or None."""
        found = await self._cache.get(self._place, name_of(key))
        return found if found is not None and self._counts(found.entry) else None

    def _counts(self, entry: ToolEntry) -> bool:
        if not entry.headers:
            return True
        until = entry.headers.get(_EXPIRES, "")
        return not until.isdigit() or int(until) > self._wall() * 1000

    async def _has(self, key: bytes) -> bool:
        entry = await self._cache.head(self._place, name_of(key))
        return entry is not None and self._counts(entry)

    async def put(self, key: bytes, value: bytes | Intake, options: SetOptions) -> bool:
        """Store a value; whether it was, or its condition does not hold.

        A condition is looked at before the value is stored: of two clients that both find none, both store theirs.
        It spares work, and is no lock.

        Raises:
            StoreError: it cannot be stored.
        """
        if (options.only_new or options.only_old) and await self._has(key) is not options.only_old:
            return False
        headers = {}
        if options.lifetime_ms:
            headers[_EXPIRES] = str(int(self._wall() * 1000) + options.lifetime_ms)
        staged = await value.finish() if isinstance(value, Intake) else Staged.of_bytes(value, hashed=True)
        return await self._cache.put(self._place, name_of(key), staged, headers)

    async def count(self, keys: Iterable[bytes]) -> int:
        """How many of these keys there are, as far as one read's time tells; one that is named twice counts twice."""
        names = [name_of(key) for key in keys]
        found = await self._cache.heads(self._place, names)
        return sum([(entry := found[name]) is not None and self._counts(entry) for name in names])

    async def remove(self, keys: Iterable[bytes]) -> int:
        """Forget these keys; how many there were. Raises StoreError."""
        return sum([await self._cache.remove(self._place, name_of(key)) for key in keys])
