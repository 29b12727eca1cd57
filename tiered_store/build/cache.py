"""The build cache that every dialect is a door to: a tool's key, and what is behind it, or a miss.

A build must never fail because of its cache. So a read is whole and verified, or it is a miss: what is damaged, what
an origin does not give in time, what cannot be understood. Damage that a tier holds is dropped there, and the origin is
asked again within the same read. A write stores the content as an artifact, which equal outputs share, and then the
entry that names it (``entry.py``).

Knows no protocol of any tool. Invariant: what a read gives has been hashed in this run, and is what its entry says.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, TypeVar

from tiered_store.aio.offload import Offload
from tiered_store.aio.together import all_true
from tiered_store.build.deadlines import Deadlines
from tiered_store.build.decoding import Decoder
from tiered_store.build.entry import ENTRY_MAX_BYTES, Place, ToolEntry, encode_entry
from tiered_store.build.verification import Verification
from tiered_store.errors import (
    IntegrityError,
    InvalidKey,
    NotFound,
    StoreError,
    TooLarge,
)
from tiered_store.key import Key, digest_of
from tiered_store.objects import Body, Entry, read_body
from tiered_store.origins.base import PutHeaders
from tiered_store.stats import DialectStats
from tiered_store.store.spool import Spool, Staged
from tiered_store.store.store import Store

__all__ = ["BuildCache", "BuildLimits", "Found"]

_log = logging.getLogger("tiered_store.build")

T = TypeVar("T")

#: Of contents and entries. A content type would be one more file, and two more waits for the disk, at a local origin.
_NOTHING_SAID: Final = PutHeaders()
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
#: What a tier has in place of damaged bytes comes from below; below the origin there is nothing.
_ATTEMPTS: Final = 2
#: More names than there are dialects: those beyond are counted as one.
_MAX_DIALECTS: Final = 32
#: So many questions at once for one action result, which may name thousands of files.
_QUESTIONS_AT_ONCE: Final = 32
#: Fewer bytes are parsed in less time than a hop to a thread takes.
_PARSE_HERE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What the build cache allows.

    Attributes:
        read_timeout_s: how long a read may wait for the origin before it is a miss.
        max_entry_bytes: the largest content that is taken; 0 is no bound but the store's.
        write_timeout_s: how long a write may take, once its content is here.
        write_back: whether a write is acknowledged when the journal has it, where there is one.
    """

    read_timeout_s: float = 8.0
    max_entry_bytes: int = 2 * 1024 * 1024 * 1024
    write_timeout_s: float = 60.0
    write_back: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """A hit: whole and verified.

    Attributes:
        entry: what the tool said with it, and what it is.
        body: the content.
        tier: the place that answered.
    """

    entry: ToolEntry
    body: Body
    tier: str


class BuildCache:
    """Tools' keys and what is behind them. All methods belong to the store's event loop.

    Args:
        store: where it all is; started.
        offload: where contents are hashed, and large messages parsed; not closed here.
        limits: see there.
        clock: monotonic seconds, for the log.
    """

    def __init__(
        self,
        store: Store,
        offload: Offload,
        limits: BuildLimits = BuildLimits(),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._limits = limits
        self._offload = offload
        self._verification = Verification(offload)
        self._stats: dict[str, DialectStats] = {}
        self._decoder = Decoder()
        self._deadlines = Deadlines(limits.read_timeout_s, limits.write_timeout_s, clock)

    async def close(self) -> None:
        """End the reads that still run, and the writes that nobody waits for; before the store is closed."""
        await self._deadlines.close()

    # ------------------------------------------------------------------ reads

    async def get(self, place: Place, name: str) -> Found | None:
        """What is behind a tool's key, or None: there is nothing that could be given out, for whatever reason.

        A writer in quarantine sees what is its own first, and then what everybody sees.
        """
        stats = self.stats_of(place.dialect)
        found = await self._deadlines.read(self._get(place, name, stats), stats)
        if found is None:
            stats.misses += 1
        else:
            stats.hits += 1
        return found

    def peek(self, place: Place, name: str) -> Found | None:
        """A hit that needs no wait: in memory, and hashed before. None: ask :meth:`get`, which costs five times that.

        The name may be unchecked text.
        """
        key = Key(place.prefix + name)
        held = self._store.peek(key)
        try:
            entry = None if held is None else self._decoder.entry_of(key, held)
        except ValueError:
            return None
        content = None if entry is None else self._store.peek(entry.content)
        if entry is None or content is None or not content.is_verified or content.info.size != entry.size:
            return None
        self.stats_of(place.dialect).hits += 1
        return Found(entry, content.body, content.tier)

    async def head(self, place: Place, name: str) -> ToolEntry | None:
        """The entry behind a tool's key if its content exists, else None; both are in use now, and not read."""
        stats = self.stats_of(place.dialect)
        return await self._deadlines.read(self._head(place, name, stats), stats)

    async def heads(self, place: Place, names: Iterable[str]) -> dict[str, ToolEntry | None]:
        """As :meth:`head`, for many keys within the time of one read: what is not known by then is not there."""
        found: dict[str, ToolEntry | None] = dict.fromkeys(names)

        async def look(name: str) -> bool:
            found[name] = await self.head(place, name)
            return True

        await self.judge(place, all_true(look, list(found), at_once=_QUESTIONS_AT_ONCE))
        return found

    async def has_all(self, place: Place, names: Iterable[str]) -> bool:
        """Whether each of these keys has its content; they are in use now."""
        stats = self.stats_of(place.dialect)
        return await self._deadlines.read(self._has_all(place, names, stats), stats) is True

    async def judge(self, place: Place, work: Coroutine[Any, Any, bool]) -> bool:
        """What ``work``, which asks about any number of keys, says within the time that one read has; else False."""
        return await self._deadlines.read(work, self.stats_of(place.dialect), goes_on=False) is True

    async def parse(self, read: Callable[[bytes], T], body: Body) -> T:
        """What a function makes of all the bytes of a body; in a thread, unless they are few. Raises what it raises."""
        if isinstance(body, bytes) and len(body) <= _PARSE_HERE_BYTES:
            return read(body)
        return await self._offload.run(lambda: read(read_body(body)))

    def unreadable(self, dialect: str, entry: ToolEntry) -> None:
        """Drop a content that was found, and whose file then could not be read: the next reader gets another copy."""
        self._damaged(entry.content, self.stats_of(dialect))

    @property
    def read_timeout_s(self) -> float:
        """How long a read may take before it is a miss."""
        return self._limits.read_timeout_s

    # ----------------------------------------------------------------- writes

    @property
    def max_bytes(self) -> int:
        """The largest content that is taken; 0 is no bound but the store's."""
        return self._limits.max_entry_bytes

    def check_size(self, size: int) -> None:
        """Refuse content that is too large before its bytes are taken. Raises TooLarge."""
        limit = self._limits.max_entry_bytes
        if limit and size > limit:
            raise TooLarge(f"the build cache takes at most {limit} bytes under one key (build.max_entry_bytes)")
        self._store.check_size(size)

    def spool(self, size: int | None) -> Spool:
        """Room for content of ``size`` bytes (None: not known), to be finished or aborted.

        Raises:
            TooLarge: over the bound. DaemonUnavailable: too many uploads are under way.
        """
        if size is not None:
            self.check_size(size)
        return self._store.spool(size, hashed=True)

    async def put(
        self,
        place: Place,
        name: str,
        staged: Staged,
        headers: Mapping[str, str] = _NO_HEADERS,
        *,
        overwrite: bool = True,
    ) -> bool:
        """Store content, and then the entry that names it; returns when both are safe.

        Args:
            place: whose key it is.
            name: the tool's key.
            staged: the content.
            headers: what the tool wants back, by lower-case name.
            overwrite: whether what is there already may be replaced.

        Returns:
            False if something was there and it may not.

        Raises:
            InvalidKey: no such key can be. TooLarge: the content, or the headers. Others as ``Store.put``.
        """
        stats = self.stats_of(place.dialect)
        try:
            key = place.key(name)
            self.check_size(staged.size)
            if not overwrite and await self._deadlines.read(self._get_of(key, stats), stats) is not None:
                return False  # whole and verified: what is damaged is replaced in any case
            await self._deadlines.write(self._put(key, staged, headers), key)
        except StoreError:
            stats.refused += 1
            raise
        stats.puts += 1
        return True

    async def remove(self, place: Place, name: str) -> bool:
        """Forget a tool's key; tells whether it was there. The content stays, which others may share.

        Raises:
            InvalidKey: no such key can be. Others as ``Store.delete``.
        """
        return await self._store.delete(place.key(name))

    # ---------------------------------------------------------------- counters

    def stats_of(self, dialect: str) -> DialectStats:
        """The live counters of a dialect, which its door moves too, where it refuses something."""
        stats = self._stats.get(dialect)
        if stats is None:
            if len(self._stats) >= _MAX_DIALECTS:
                dialect = "others"
            stats = self._stats.setdefault(dialect, DialectStats())
        return stats

    def counters(self) -> dict[str, object]:
        """As plain data, for ``stats``: a section for each dialect that was used."""
        return {dialect: asdict(stats) for dialect, stats in self._stats.items()}

    # ----------------------------------------------------------- the read path

    async def _get(self, place: Place, name: str, stats: DialectStats) -> Found | None:
        for key in _keys(place, name):
            found = await self._get_of(key, stats)
            if found is not None:
                return found
        return None

    async def _get_of(self, key: Key, stats: DialectStats) -> Found | None:
        entry = await self._entry(key, stats)
        if entry is None:
            return None
        for _ in range(_ATTEMPTS):
            try:
                held = await self._held(entry.content)
            except IntegrityError:
                await self._abandon(key, stats)
                return None
            if held is None:
                return None
            if await self._verification.holds(held):
                if held.info.size != entry.size:
                    break  # another content than was stored: the entry is wrong, and the tool will write it anew
                return Found(entry, held.body, held.tier)
            self._damaged(entry.content, stats)
        return None

    async def _abandon(self, key: Key, stats: DialectStats) -> None:
        """The content is damaged at the origin. Without its entry everybody sees that it has to be made again.

        Else Bazel would be given action results that name it, and would end the build, in every run.
        """
        stats.damaged += 1
        _log.warning("an entry whose content is damaged at the origin is removed", extra={"key": key})
        with contextlib.suppress(StoreError):
            await self._store.delete(key)

    async def _head(self, place: Place, name: str, stats: DialectStats) -> ToolEntry | None:
        for key in _keys(place, name):
            entry = await self._head_of(key, stats)
            if entry is not None:
                return entry
        return None

    async def _head_of(self, key: Key, stats: DialectStats) -> ToolEntry | None:
        entry = await self._entry(key, stats)
        if entry is None:
            return None
        held = self._store.peek(entry.content)
        try:
            info = held.info if held is not None else await self._store.stat(entry.content)
        except NotFound:
            return None
        return entry if info.size == entry.size else None

    async def _has_all(self, place: Place, names: Iterable[str], stats: DialectStats) -> bool:
        async def is_there(name: str) -> bool:
            return await self._head(place, name, stats) is not None

        return await all_true(is_there, dict.fromkeys(names), at_once=_QUESTIONS_AT_ONCE)

    async def _entry(self, key: Key, stats: DialectStats) -> ToolEntry | None:
        for _ in range(_ATTEMPTS):
            held = await self._held(key)
            if held is None:
                return None
            try:
                return self._decoder.entry_of(key, held)
            except ValueError:
                self._damaged(key, stats)
        return None

    async def _held(self, key: Key) -> Entry | None:
        held = self._store.peek(key)
        if held is not None:
            return held
        try:
            return await self._store.get(key)
        except NotFound:
            return None

    def _damaged(self, key: Key, stats: DialectStats) -> None:
        stats.damaged += 1
        self._store.condemn(key)
        _log.warning("a damaged object of the build cache was dropped", extra={"key": key})

    # ---------------------------------------------------------- the write path

    async def _put(self, key: Key, staged: Staged, headers: Mapping[str, str]) -> None:
        write_back = self._limits.write_back
        content = await self._store.put(None, staged, _NOTHING_SAID, write_back=write_back)
        entry = ToolEntry(digest_of(Key(content.key)), staged.size, time.time_ns(), dict(headers))
        if self._has_already(key, entry):
            return  # tools upload again what they have uploaded before: spare the origin a write
        body = encode_entry(entry)
        if len(body) > ENTRY_MAX_BYTES:
            raise TooLarge(f"what comes with content, its headers, is bounded by {ENTRY_MAX_BYTES} bytes", key=key)
        await self._store.put(key, Staged.of_bytes(body, hashed=False), _NOTHING_SAID, write_back=write_back)

    def _has_already(self, key: Key, entry: ToolEntry) -> bool:
        held = self._store.peek(key)
        if held is None:
            return False
        try:
            there = self._decoder.entry_of(key, held)
        except ValueError:
            return False
        return (there.digest, there.size, there.headers) == (entry.digest, entry.size, entry.headers)


def _keys(place: Place, name: str) -> Iterable[Key]:
    """Where a reader looks, in order."""
    try:
        return [place.key(name), *([place.trusted.key(name)] if place.writer else [])]
    except InvalidKey:
        return []
