"""Write-back against a model: whatever fails, however often the store is killed, the origin ends up as the model says.

The model keeps, per key, the values that it may have: one after an acknowledged write, more after one that failed
without an answer. Uploads go on in the background all the time, as far as the event loop runs.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.support.faults import FakeDisk, FaultyOrigin, ManualClock
from tests.support.origins import pattern
from tests.support.store import NOTHING_SAID, data_of, settle
from tiered_store.errors import NotFound, OriginUnavailable, StoreError
from tiered_store.key import Key
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.store.backlog import Backlog, BacklogLimits
from tiered_store.store.journal import Journal
from tiered_store.store.limits import StoreLimits
from tiered_store.store.policy import Policies, Policy
from tiered_store.store.store import Store
from tiered_store.tiers.memory import MemoryTier

#: Few, so that what happens to one meets what has happened to it before.
KEYS = [Key("back/a"), Key("back/b"), Key("other/a")]
SIZES = [0, 100, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1]
#: No room for two large puts: the second one goes straight to the origin, also over what is pending for its key.
LIMITS = BacklogLimits(max_bytes=3 * INLINE_MAX_BYTES // 2)

keys = st.sampled_from(KEYS)


class Kept(MemoryOrigin):
    """An origin that outlives the stores in front of it."""

    async def close(self) -> None:
        pass


class WriteBackMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.inner = Kept()
        self.clock, self.wall = ManualClock(1000.0), ManualClock(1_700_000_000.0)
        self.allowed: dict[Key, set[bytes | None]] = {key: {None} for key in KEYS}
        self.runs = 0
        self.seed = 0
        self.failing = ""
        self.last = KEYS[0]
        self.entries: dict[Key, Any] = {}

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(asyncio.wait_for(work, 30))

    # ------------------------------------------------------------------ starting and stopping

    @initialize()
    def start(self) -> None:
        self.run(self._start())

    @property
    def journal(self) -> Path:
        return Path(self.directory.name) / f"journal-{self.runs}"

    async def _start(self) -> None:
        self.origin = FaultyOrigin(self.inner, self._fault)
        self.disk = FakeDisk(self.directory.name)
        self.disk.entries = self.entries
        self.disk.suspect_before = self.wall.now
        self.backlog = Backlog(Journal(self.journal), LIMITS, wall=self.wall)
        await self.backlog.start()
        self.memory = MemoryTier(4_000_000)
        self.store = Store(
            memory=self.memory,
            disk=self.disk,
            origin=self.origin,
            policies=Policies([Policy("back/", write_back=True)]),
            limits=StoreLimits(drain_s=5),
            backlog=self.backlog,
            clock=self.clock,
            wall=self.wall,
        )
        await self.store.start()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self._finish())
        self.runner.close()
        self.directory.cleanup()

    async def _finish(self) -> None:
        self.failing = ""
        await self._flush()
        await self.store.close()
        await settle()
        assert len(asyncio.all_tasks()) == 2  # `wait_for` runs this in a task of its own
        assert list(self.journal.glob("*.put")) == []

    @rule()
    def restart(self) -> None:
        self.run(self._restart())

    async def _restart(self) -> None:
        await self.store.close()
        self.entries = dict(self.disk.entries)
        await self._start()

    @rule(keeps=st.booleans())
    def kill(self, keeps: bool) -> None:
        """What lies on disk now is all that the next run has; the disk tier may be set back to nothing, or not."""
        self.run(self._kill(keeps))

    async def _kill(self, keeps: bool) -> None:
        before = self.journal
        self.runs += 1
        self.journal.mkdir(mode=0o700)
        for path in before.iterdir():
            with suppress(FileNotFoundError):  # dropped before, and being removed
                shutil.copy(path, self.journal)
        self.origin.fault = lambda operation, name: OriginUnavailable("killed")
        self.entries = dict(self.disk.entries) if keeps else {}
        await self.store.close()
        self.wall.advance(1)  # what the disk tier holds is older than this start: suspect
        await self._start()

    # ------------------------------------------------------------------------------------ faults

    def _fault(self, operation: str, name: str) -> Exception | None:
        if self.failing == "down" or (self.failing and operation.endswith(self.failing)):
            return OriginUnavailable(self.failing)
        return None

    @rule(how=st.sampled_from(["", "down", "put", "_done"]))
    def origin_fails_or_comes_back(self, how: str) -> None:
        self.failing = how

    @rule(what=st.sampled_from(["memory", "disk", "both"]))
    def tiers_evict(self, what: str) -> None:
        for key in KEYS:
            if what != "disk":
                self.memory.discard(key)
            if what != "memory":
                self.disk.discard(key)

    @rule(key=keys, size=st.sampled_from(SIZES), how=st.sampled_from(["put", "down"]))
    def put_while_the_origin_fails(self, key: Key, size: int, how: str) -> None:
        self.failing = how
        self.run(self._put(key, size))

    @rule(seconds=st.sampled_from([1.0, 3.0, 63.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    @rule(turns=st.sampled_from([1, 5, 50]))
    def the_loop_goes_on(self, turns: int) -> None:
        self.run(settle(turns))

    # -------------------------------------------------------------------------------- operations

    async def _change(self, key: Key, value: bytes | None, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except OriginUnavailable:
            self.allowed[key] = {*self.allowed[key], value}
        else:
            self.allowed[key] = {value}

    @rule(key=keys, size=st.sampled_from(SIZES))
    def put(self, key: Key, size: int) -> None:
        self.run(self._put(key, size))

    async def _put(self, key: Key, size: int) -> None:
        self.seed += 1
        self.last = key
        data = pattern(size, self.seed)
        spool = self.store.spool(size, hashed=False)
        await spool.write(data)
        await self._change(key, data, self.store.put(key, await spool.finish(), NOTHING_SAID))

    @rule(size=st.sampled_from(SIZES))
    def put_again(self, size: int) -> None:
        """The key that was put last, at an origin that works: straight over what may be pending."""
        self.failing = ""
        self.run(self._put(self.last, size))

    @rule(key=keys)
    def delete(self, key: Key) -> None:
        self.run(self._change(key, None, self.store.delete(key)))

    @rule()
    def delete_prefix(self) -> None:
        self.run(self._delete_prefix())

    async def _delete_prefix(self) -> None:
        back = [key for key in KEYS if key.startswith("back/")]
        try:
            await self.store.delete_prefix("back/")
        except OriginUnavailable:
            for key in back:
                self.allowed[key].add(None)
        else:
            for key in back:
                self.allowed[key] = {None}

    @rule(source=keys, onto=keys)
    def copy(self, source: Key, onto: Key) -> None:
        if source != onto:
            self.run(self._copy(source, onto))

    async def _copy(self, source: Key, target: Key) -> None:
        values = self.allowed[source]
        try:
            await self.store.copy(source, target)
        except NotFound:
            assert None in values
        except OriginUnavailable:
            self.allowed[target] = self.allowed[target] | values - {None}
        else:
            assert values != {None}
            self.allowed[target] = values - {None}

    @rule(key=keys, hints=st.sampled_from([{}, {"no_promote": True}]))
    def get(self, key: Key, hints: dict[str, bool]) -> None:
        self.run(self._get(key, hints))

    async def _get(self, key: Key, hints: dict[str, bool]) -> None:
        try:
            entry = self.store.peek(key) or await self.store.get(key, **hints)
        except NotFound:
            assert None in self.allowed[key]
        except OriginUnavailable:
            assert self.failing
            assert key not in self.backlog
        else:
            assert entry.info.key == key
            assert data_of(entry) in self.allowed[key]

    @rule(key=keys)
    def stat(self, key: Key) -> None:
        self.run(self._stat(key))

    async def _stat(self, key: Key) -> None:
        try:
            info = await self.store.stat(key)
        except NotFound:
            assert None in self.allowed[key]
        except OriginUnavailable:
            assert self.failing
        else:
            assert info.size in {len(value) for value in self.allowed[key] if value is not None}

    @rule(limit=st.integers(1, 6))
    def list(self, limit: int) -> None:
        self.run(self._list(limit))

    async def _list(self, limit: int) -> None:
        found: list[str] = []
        more = True
        try:
            while more:
                page = await self.store.list("", after=found[-1] if found else "", limit=limit)
                found += [info.key for info in page.items]
                more = page.more
        except OriginUnavailable:
            assert self.failing
            return
        assert found == sorted(set(found))
        assert {key for key in KEYS if None not in self.allowed[key]} <= set(found)
        assert set(found) <= {key for key in KEYS if self.allowed[key] != {None}}

    @rule()
    def flush(self) -> None:
        self.run(self._flush())

    async def _flush(self) -> None:
        """Afterwards the origin holds what the model says, and so does everybody who asks the store."""
        try:
            await self.store.flush(0.05 if self.failing else 20)
        except StoreError:
            assert self.failing
            return
        if self.failing:
            return
        assert not len(self.backlog)
        for key in KEYS:
            truth = await self._truth(key)
            assert truth in self.allowed[key]
            self.allowed[key] = {truth}
            await self._get(key, {})

    async def _truth(self, key: Key) -> bytes | None:
        try:
            read = await self.inner.open(key)
        except NotFound:
            return None
        return b"".join([chunk async for chunk in read.chunks()])


TestWriteBack = WriteBackMachine.TestCase
TestWriteBack.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
