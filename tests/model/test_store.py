"""The store against a model: whatever is interleaved, lost, down or evicted, what it says is what the origin holds.

The model keeps, per key, the set of values that a reader may be told: one value when nothing is under way,
more while a write has not been acknowledged, or when somebody has changed the origin behind the store's
back. A read may answer with any value that was allowed at some moment while it ran.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.faults import FakeDisk, FaultyOrigin, FaultyTier, Gate, ManualClock
from tests.support.origins import pattern
from tests.support.store import NOTHING_SAID, data_of, settle
from tiered_store.aio.offload import Offload
from tiered_store.errors import NotFound, OriginUnavailable
from tiered_store.key import Key
from tiered_store.objects import INLINE_MAX_BYTES, Entry
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.store.limits import StoreLimits
from tiered_store.store.policy import Policies
from tiered_store.store.store import Store
from tiered_store.tiers.disk import DiskTier
from tiered_store.tiers.memory import MemoryTier

KEYS = [Key("s/a"), Key("s/b"), Key("s/b/c"), Key("cache/x")]
SIZES = [0, 1, 100, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, 300_000]
#: After so long an answer of the origin's must have been asked for again (ttl, and remembered misses).
EXPIRED_S = 63.0

keys = st.sampled_from(KEYS)
mutable_keys = st.sampled_from(KEYS[:3])
sizes = st.sampled_from(SIZES)


@dataclass
class Pending:
    """An operation under way. ``seen``: what a read may answer; ``value``: what a write leaves."""

    key: Key
    task: asyncio.Task[Any]
    seen: set[bytes | None] = field(default_factory=set)
    value: bytes | None = None
    is_late: bool = False


class StoreMachine(RuleBasedStateMachine):
    real_disk = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.clock, self.wall = ManualClock(1000.0), ManualClock(1_700_000_000.0)
        self.allowed: dict[Key, set[bytes | None]] = {key: {None} for key in KEYS}
        self.changed_at: dict[Key, float] = {}
        self.reads: list[Pending] = []
        self.writes: list[Pending] = []
        self.gates: list[Gate] = []
        self.is_down = False
        self.seed = 0

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(asyncio.wait_for(work, 30))

    @initialize()
    def start(self) -> None:
        self.run(self._start())

    async def _start(self) -> None:
        self.origin = FaultyOrigin(MemoryOrigin(), self._fault)
        self.memory = FaultyTier(MemoryTier(4_000_000))
        self.offload = Offload(2, "model")
        disk: Any = FakeDisk(self.directory.name)
        if self.real_disk:
            disk = DiskTier(
                Path(self.directory.name),
                max_bytes=64_000_000,
                min_free_bytes=0,
                min_free_inodes=0,
                max_open_files=4,
                offload=self.offload,
                on_corrupt=lambda key: None,
                wall=self.wall,
            )
            await disk.start()
        self.disk = FaultyTier(disk)
        self.store = Store(
            memory=self.memory,  # type: ignore[arg-type]
            disk=self.disk,  # type: ignore[arg-type]
            origin=self.origin,
            policies=Policies(),
            limits=StoreLimits(fill_buffer_bytes=4 * INLINE_MAX_BYTES, drain_s=5),
            clock=self.clock,
            wall=self.wall,
        )

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self._finish())
        self.runner.close()
        self.directory.cleanup()

    async def _finish(self) -> None:
        await self._release()
        await self.store.close()
        await self.offload.close()
        await settle()
        # `wait_for` runs this in a task of its own, beside the runner's.
        assert len(asyncio.all_tasks()) == 2

    # ------------------------------------------------------------------ faults

    def _fault(self, operation: str, name: str) -> Exception | Gate | None:
        if self.is_down:
            return OriginUnavailable("down")
        return None

    @rule(down=st.booleans())
    def origin_goes_down_or_comes_back(self, down: bool) -> None:
        self.is_down = down
        for read in self.reads:
            read.is_late = True  # it may have met the origin in either state

    @rule(memory=st.booleans(), disk=st.booleans())
    def tiers_fail_or_come_back(self, memory: bool, disk: bool) -> None:
        self.memory.is_down, self.disk.is_down = memory, disk

    @rule(key=keys, memory=st.booleans(), disk=st.booleans())
    def tiers_evict(self, key: Key, memory: bool, disk: bool) -> None:
        self.run(self._evict(key, memory=memory, disk=disk))

    async def _evict(self, key: Key, *, memory: bool, disk: bool) -> None:
        if memory:
            self.memory.inner.discard(key)
        if disk:
            self.disk.inner.discard(key)

    @rule(seconds=st.sampled_from([1.0, 3.0, EXPIRED_S, 100_000.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    @precondition(lambda self: len(self.gates) < 3)
    @rule(
        operation=st.sampled_from(["open", "chunk:0", "chunk:end", "put", "put_done", "delete_done", "stat"]), key=keys
    )
    def hold(self, operation: str, key: Key) -> None:
        """The next such request waits until everything is released."""
        self.gates.append(self.origin.hold(operation, key))

    # ------------------------------------------------------------- operations

    def _value(self, size: int) -> bytes:
        self.seed += 1
        return pattern(size, self.seed)

    def _allow(self, key: Key, value: bytes | None) -> None:
        self.allowed[key].add(value)
        for read in self.reads:
            if read.key == key:
                read.seen.add(value)

    @rule(key=keys, size=sizes)
    def put(self, key: Key, size: int) -> None:
        self.run(self._write(key, self._value(size)))

    @rule(key=keys)
    def delete(self, key: Key) -> None:
        self.run(self._write(key, None))

    async def _write(self, key: Key, value: bytes | None) -> None:
        self._allow(key, value)
        if value is None:
            work: Coroutine[Any, Any, Any] = self.store.delete(key)
        else:
            spool = self.store.spool(len(value), hashed=False)
            await spool.write(value)
            work = self.store.put(key, await spool.finish(), NOTHING_SAID)
        self.writes.append(Pending(key, asyncio.ensure_future(work), value=value))
        await self._go_on()

    @rule(
        key=keys,
        hints=st.sampled_from([{}, {}, {"no_promote": True}, {"only_if_cached": True}]),
        many=st.integers(1, 3),
    )
    def get(self, key: Key, hints: dict[str, bool], many: int) -> None:
        self.run(self._read(key, hints, many))

    async def _read(self, key: Key, hints: dict[str, bool], many: int) -> None:
        for _ in range(many):
            is_late = bool(hints.get("only_if_cached")) or self.is_down
            reading = asyncio.ensure_future(self._answer(key, hints))
            self.reads.append(Pending(key, reading, seen=set(self.allowed[key]), is_late=is_late))
        await self._go_on()

    async def _answer(self, key: Key, hints: dict[str, bool]) -> bytes | None:
        entry = self.store.peek(key)
        if entry is None:
            try:
                entry = await self.store.get(key, **hints)
            except NotFound:
                return None
        assert entry.info.key == key
        return data_of(entry)

    @rule(wanted=st.sets(keys, min_size=1))
    def get_many(self, wanted: set[Key]) -> None:
        self.run(self._read_many(sorted(wanted)))

    async def _read_many(self, wanted: list[Key]) -> None:
        """As a door does it: what is at hand, then by one look into the disk tier, then one by one."""
        known = asyncio.ensure_future(self.store.known([key for key in wanted if self.store.peek(key) is None]))
        for key in wanted:
            reading = asyncio.ensure_future(self._answer_of_many(key, known))
            self.reads.append(Pending(key, reading, seen=set(self.allowed[key]), is_late=self.is_down))
        await self._go_on()

    async def _answer_of_many(self, key: Key, known: asyncio.Future[dict[Key, Entry | None]]) -> bytes | None:
        found = await asyncio.shield(known)
        entry = found.get(key)
        if entry is not None:
            assert entry.info.key == key
            return data_of(entry)
        try:
            entry = await self.store.get(key, has_looked=key in found)
        except NotFound:
            return None
        assert entry.info.key == key
        return data_of(entry)

    @rule(key=keys)
    def stream(self, key: Key) -> None:
        self.run(self._stream(key))

    async def _stream(self, key: Key) -> None:
        self.reads.append(Pending(key, asyncio.ensure_future(self._pieces(key)), set(self.allowed[key]), is_late=True))
        await self._go_on()

    async def _pieces(self, key: Key) -> bytes | None:
        try:
            reading = await self.store.read(key)
        except NotFound:
            return None
        try:
            data = b"".join([piece async for piece in reading.chunks()])
            assert len(data) == reading.info.size
            return data
        finally:
            reading.close()

    @rule(key=mutable_keys, size=st.one_of(st.none(), sizes))
    def somebody_changes_the_origin(self, key: Key, size: int | None) -> None:
        """Behind the store's back; noticed when the ttl has passed."""
        if any(write.key == key for write in self.writes):
            return
        value = None if size is None else self._value(size)
        self._allow(key, value)
        self.changed_at[key] = self.clock.now
        inner = self.origin.inner
        self.run(inner.delete([key]) if value is None else _put(inner, key, value))

    @rule(which=st.integers(0, 20))
    def a_client_goes_away(self, which: int) -> None:
        # No precondition: what is under way depends on threads, and Hypothesis must not.
        pending = self.reads + self.writes
        if pending:
            pending[which % len(pending)].task.cancel()
            self.run(self._go_on())

    # ------------------------------------------------------------------ checks

    async def _go_on(self) -> None:
        """Let everything go as far as it can, and look at what has ended."""
        await settle(30)
        for read in [read for read in self.reads if read.task.done()]:
            self.reads.remove(read)
            await self._check(read)
        for key in {write.key for write in self.writes}:
            writes = [write for write in self.writes if write.key == key]
            if all(write.task.done() for write in writes) and not self.store._writes._locks._queues.get(key):
                self.writes = [write for write in self.writes if write.key != key]
                await self._written(key, writes)

    async def _written(self, key: Key, writes: list[Pending]) -> None:
        """All writes of a key have ended: what the origin holds is the only truth again."""
        truth = await self._truth(key)
        results = [
            write.task.exception() if not write.task.cancelled() else asyncio.CancelledError() for write in writes
        ]
        assert all(error is None or isinstance(error, OriginUnavailable | asyncio.CancelledError) for error in results)
        if results[-1] is None:
            assert truth == writes[-1].value  # acknowledged, and the last in order
        if all(isinstance(error, asyncio.CancelledError) for error in results):
            return  # perhaps none of them ever reached the origin, and the tiers are as they were
        self.allowed[key] = {truth}
        self.changed_at.pop(key, None)

    async def _check(self, read: Pending) -> None:
        if read.task.cancelled():
            return
        error = read.task.exception()
        if error is not None:
            assert isinstance(error, OriginUnavailable)
            assert read.is_late or self.is_down
            return
        answer = read.task.result()
        if answer is None and read.is_late:
            return  # only_if_cached
        assert answer in read.seen
        changed_at = self.changed_at.get(read.key)
        if changed_at is not None and self.clock.now - changed_at > EXPIRED_S and not read.is_late and not self.gates:
            assert answer == await self._truth(read.key)

    async def _truth(self, key: Key) -> bytes | None:
        try:
            read = await self.origin.inner.open(key)
        except NotFound:
            return None
        assert read is not None
        return b"".join([chunk async for chunk in read.chunks()])

    @rule()
    def everything_is_released(self) -> None:
        self.run(self._release())

    async def _release(self) -> None:
        for gate in self.gates:
            gate.open()
        self.gates.clear()
        self.origin.fault = self._fault
        for pending in self.reads + self.writes:
            await asyncio.wait([pending.task])
        await self.store._writes._tasks.wait(10)
        await self.store._fills._tasks.wait(10)
        await self.store._promotions._tasks.wait(10)
        await self._go_on()
        assert not self.reads
        assert not self.writes
        await self._tiers_hold_what_the_origin_holds()

    async def _tiers_hold_what_the_origin_holds(self) -> None:
        assert len(self.store._fills.flights._table) == 0
        assert len(self.store._writes._locks._queues) == 0
        assert self.store._staging._budget.used_bytes == 0
        assert self.origin.open_reads == 0
        for key in KEYS:
            for tier in (self.memory.inner, self.disk.inner):
                entry = await tier.get(key)
                if entry is not None:
                    assert data_of(entry) in self.allowed[key]
                    assert entry.info.key == key

    @invariant()
    def the_fills_stay_within_their_budget(self) -> None:
        if hasattr(self, "store"):
            assert self.store._staging._budget.used_bytes <= self.store._staging._budget.max_bytes


async def _put(origin: Any, key: Key, value: bytes) -> None:
    await origin.put(key, value, NOTHING_SAID)


class StoreMachineOnDisk(StoreMachine):
    real_disk = True


_SETTINGS = settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestStore = StoreMachine.TestCase
TestStore.settings = _SETTINGS
TestStoreOnDisk = StoreMachineOnDisk.TestCase
TestStoreOnDisk.settings = settings(_SETTINGS, max_examples=30)
