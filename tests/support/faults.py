"""Faults and gates for tests: wrappers that fail or hold where a test says so, and a clock set by hand."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path

from tiered_store.key import Key
from tiered_store.objects import Body, Descriptor, Entry, FileBody, ObjectInfo
from tiered_store.origins.base import Listing, Origin, OriginRead, PutHeaders
from tiered_store.stats import TierStats
from tiered_store.tiers.base import Tier
from tiered_store.tiers.disk import DiskTier


class ManualClock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class ManualTimers:
    """Timers that fire when a test lets the time pass; stands in for ``loop.call_later``."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.waiting: list[Timer] = []

    def __call__(self, delay_s: float, function: Callable[[], None]) -> Timer:
        timer = Timer(self, self._clock.now + delay_s, function)
        self.waiting.append(timer)
        return timer

    @property
    def next_s(self) -> float | None:
        """How long until the next one fires."""
        return min((timer.due - self._clock.now for timer in self.waiting), default=None)

    def advance(self, seconds: float) -> None:
        """Let the time pass, and fire what is due by then."""
        self._clock.advance(seconds)
        for timer in [timer for timer in self.waiting if timer.due <= self._clock.now]:
            timer.cancel()
            timer.function()


class Timer:
    """One of them."""

    def __init__(self, timers: ManualTimers, due: float, function: Callable[[], None]) -> None:
        self._timers = timers
        self.due = due
        self.function = function

    def cancel(self) -> None:
        if self in self._timers.waiting:
            self._timers.waiting.remove(self)


class Gate:
    """A place where the code under test waits until the test opens it."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()
        self.passed = 0

    def open(self) -> None:
        self._open.set()

    async def pass_through(self) -> None:
        self.reached.set()
        await self._open.wait()
        self.passed += 1


#: What happens before (or, for "put_done" and the like, after) an operation: None, an error to raise, or a gate.
Fault = Callable[[str, str], "Exception | Gate | None"]


class FaultyOrigin:
    """An origin with a say in every call.

    ``fault(operation, name)`` is asked before ``stat``, ``open``, ``put``, ``delete``, ``list``, ``copy`` and
    before every chunk (``chunk:0``, ``chunk:1``, ...; ``chunk:end`` before the end), and, once the inner
    origin is through, as ``put_done``, ``delete_done`` and ``copy_done``. ``calls`` counts all of those.
    """

    def __init__(self, origin: Origin, fault: Fault | None = None) -> None:
        self.inner = origin
        self.fault: Fault = fault if fault is not None else (lambda operation, name: None)
        self.calls: Counter[str] = Counter()
        self.open_reads = 0
        self.is_closed = False

    def hold(self, operation: str, name: str | None = None) -> Gate:
        """A gate at one operation (of one name); earlier faults stay."""
        gate, before = Gate(), self.fault
        self.fault = lambda op, at: gate if op == operation and name in {None, at} else before(op, at)
        return gate

    def fail(self, operation: str, error: Callable[[], Exception]) -> None:
        """Every such operation fails from now on."""
        before = self.fault
        self.fault = lambda op, at: error() if op == operation else before(op, at)

    def heal(self) -> None:
        self.fault = lambda operation, name: None

    async def ask(self, operation: str, name: str) -> None:
        self.calls[operation] += 1
        answer = self.fault(operation, name)
        if isinstance(answer, Gate):
            await answer.pass_through()
        elif answer is not None:
            raise answer

    async def stat(self, name: str) -> ObjectInfo:
        await self.ask("stat", name)
        return await self.inner.stat(name)

    async def open(
        self, name: str, *, offset: int = 0, length: int | None = None, if_none_match: str | None = None
    ) -> OriginRead | None:
        await self.ask("open", name)
        read = await self.inner.open(name, offset=offset, length=length, if_none_match=if_none_match)
        if read is None:
            return None
        self.open_reads += 1
        return _FaultyRead(self, name, read)

    async def put(self, name: str, body: Body, headers: PutHeaders) -> ObjectInfo:
        await self.ask("put", name)
        info = await self.inner.put(name, body, headers)
        await self.ask("put_done", name)
        return info

    async def delete(self, names: Sequence[str]) -> int:
        await self.ask("delete", names[0])
        count = await self.inner.delete(names)
        await self.ask("delete_done", names[0])
        return count

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Listing:
        await self.ask("list", prefix)
        return await self.inner.list(prefix, after=after, limit=limit)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        await self.ask("copy", source)
        info = await self.inner.copy(source, target)
        await self.ask("copy_done", target)
        return info

    async def close(self) -> None:
        self.is_closed = True
        await self.inner.close()


class _FaultyRead:
    def __init__(self, origin: FaultyOrigin, name: str, read: OriginRead) -> None:
        self._origin = origin
        self._name = name
        self._read = read
        self._closed = False

    @property
    def info(self) -> ObjectInfo:
        return self._read.info

    async def chunks(self) -> AsyncIterator[bytes]:
        index = 0
        async for chunk in self._read.chunks():
            await self._origin.ask(f"chunk:{index}", self._name)
            yield chunk
            index += 1
        await self._origin.ask("chunk:end", self._name)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._origin.open_reads -= 1
        await self._read.close()


class LyingOrigin:
    """An origin whose reads pass through a function: too short, too long, flipped."""

    def __init__(self, origin: Origin, lie: Callable[[bytes], bytes]) -> None:
        self._origin = origin
        self._lie = lie

    def __getattr__(self, name: str) -> object:
        return getattr(self._origin, name)

    async def open(self, name: str, **options: object) -> OriginRead | None:
        read = await self._origin.open(name, **options)  # type: ignore[arg-type]
        return None if read is None else _LyingRead(read, self._lie)


class _LyingRead:
    def __init__(self, read: OriginRead, lie: Callable[[bytes], bytes]) -> None:
        self._read = read
        self._lie = lie

    @property
    def info(self) -> ObjectInfo:
        return self._read.info

    async def chunks(self) -> AsyncIterator[bytes]:
        whole = self._lie(b"".join([chunk async for chunk in self._read.chunks()]))
        for start in range(0, len(whole), 1024 * 1024):
            yield whole[start : start + 1024 * 1024]

    async def close(self) -> None:
        await self._read.close()


class FaultyTier:
    """A tier that can be out of order, which by the law of ``Tier`` reads as "nothing"."""

    def __init__(self, tier: Tier) -> None:
        self.inner = tier
        self.is_down = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def peek(self, key: Key) -> Entry | None:
        return None if self.is_down else self.inner.peek(key)

    async def get(self, key: Key) -> Entry | None:
        return None if self.is_down else await self.inner.get(key)

    async def get_many(self, keys: Sequence[Key], hashed: Collection[Key]) -> dict[Key, Entry | None]:
        if self.is_down:
            return dict.fromkeys(keys)
        assert isinstance(self.inner, FakeDisk | DiskTier)
        return await self.inner.get_many(keys, hashed)

    def put(self, key: Key, entry: Entry) -> None:
        if self.is_down:
            self.inner.discard(key)
        else:
            self.inner.put(key, entry)


class FakeSpoolFile:
    """A spool file that runs out of room, or loses what it had, when told to."""

    body_offset = 4096

    def __init__(self, disk: FakeDisk) -> None:
        self._disk = disk
        fd, self.path = tempfile.mkstemp(dir=disk.directory)
        self.descriptor = Descriptor(fd)
        self.size = 0
        disk.spools += 1

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._disk.room_bytes is not None and self.size + len(data) > self._disk.room_bytes:
            if self._disk.loses_everything:
                os.ftruncate(self.descriptor.fd, 0)
            raise OSError(errno.ENOSPC, "no space left")
        os.pwrite(self.descriptor.fd, data, self.body_offset + self.size)
        self.size += len(data)

    def body(self) -> FileBody:
        return FileBody(_FakeDescriptor(os.dup(self.descriptor.fd), self), self.body_offset, self.size, is_memory=False)

    def discard(self) -> None:
        if self.path:
            Path(self.path).unlink(missing_ok=True)  # a test that failed has removed the directory already
            self.path = ""
            self._disk.spools -= 1

    def __del__(self) -> None:
        self.discard()


class _FakeDescriptor(Descriptor):
    """As the disk tier's: keeps the spool file for as long as its body is used."""

    __slots__ = ("spool",)

    def __init__(self, fd: int, spool: FakeSpoolFile) -> None:
        super().__init__(fd)
        self.spool = spool


class FakeDisk:
    """A disk tier for the store's own tests: a dict, with a gate before its reads.

    Args:
        directory: for spool files.

    Attributes:
        peeks: whether ``peek`` knows what it holds.
        gate: where ``get`` and ``get_many`` wait, or None.
        looks_at: how many keys ``get_many`` gets to; None for all.
        room_bytes: what a spool file takes before ENOSPC; None for no bound, 0 for no spool at all.
        loses_everything: whether a full spool file cannot be read back either.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = directory
        self.entries: dict[Key, Entry] = {}
        self.stats = TierStats()
        self.suspect_before = 0.0
        self.peeks = False
        self.gate: Gate | None = None
        self.gets = 0
        self.looks = 0
        self.looks_at: int | None = None
        self.room_bytes: int | None = None
        self.loses_everything = False
        self.spools = 0
        self.is_closed = False

    def peek(self, key: Key) -> Entry | None:
        return self.entries.get(key) if self.peeks else None

    async def get(self, key: Key) -> Entry | None:
        self.gets += 1
        entry = self.entries.get(key)
        if self.gate is not None:
            await self.gate.pass_through()
        return entry

    async def get_many(self, keys: Sequence[Key], hashed: Collection[Key]) -> dict[Key, Entry | None]:
        self.looks += 1
        found = {key: self.entries.get(key) for key in keys[: self.looks_at]}
        if self.gate is not None:
            await self.gate.pass_through()
        return {key: entry for key, entry in found.items() if entry is None or isinstance(entry.body, bytes)}

    def put(self, key: Key, entry: Entry) -> None:
        self.entries[key] = Entry(entry.info, entry.body, validated_at=entry.validated_at, tier="disk", crc=entry.crc)

    def discard(self, key: Key) -> None:
        self.entries.pop(key, None)

    async def open_spool(self, size: int | None) -> FakeSpoolFile | None:
        return None if self.room_bytes == 0 else FakeSpoolFile(self)

    async def drain(self) -> None:
        pass

    async def close(self) -> None:
        self.is_closed = True
        self.entries.clear()
