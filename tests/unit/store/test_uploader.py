"""The uploader: every pending put gets there, in turn, once at a time, and a failing origin is left alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.faults import Gate, ManualClock, ManualTimers
from tests.support.store import NOTHING_SAID, settle, until
from tiered_store.aio.limits import KeyedLocks
from tiered_store.errors import DeadlineExceeded, KeyConflict, OriginUnavailable, PermissionDenied
from tiered_store.key import Key
from tiered_store.objects import Body, ObjectInfo
from tiered_store.origins.base import PutHeaders
from tiered_store.store.backlog import Backlog
from tiered_store.store.journal import Journal
from tiered_store.store.pendingputs import Pending
from tiered_store.store.uploader import Uploader

A, B = Key("a"), Key("b")


@dataclass
class Origin:
    """What was sent, in order, and how each sending is to end."""

    faults: dict[str, Callable[[], Exception | None]] = field(default_factory=dict)
    gate: Gate | None = None
    sent: list[tuple[Key, bytes]] = field(default_factory=list)
    asked: Counter[Key] = field(default_factory=Counter)
    at_once: int = 0
    most: int = 0

    async def send(self, key: Key, body: Body, headers: PutHeaders) -> ObjectInfo:
        self.asked[key] += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.pass_through()
            fault = self.faults.get(key) or self.faults.get("*")
            error = None if fault is None else fault()
            if error is not None:
                raise error
        finally:
            self.at_once -= 1
        assert isinstance(body, bytes)
        self.sent.append((key, body))
        return ObjectInfo(key, len(body), "origin's")


@dataclass
class Rig:
    backlog: Backlog
    uploader: Uploader
    origin: Origin
    timers: ManualTimers
    locks: KeyedLocks

    async def put(self, key: Key, data: bytes = b"x") -> None:
        assert await self.backlog.put(key, data, NOTHING_SAID, None) is not None

    async def quiet(self) -> None:
        """Let everything go as far as it goes without time passing."""
        await until(lambda: not self.uploader._under_way)
        await settle()

    async def after(self, seconds: float) -> None:
        self.timers.advance(seconds)
        await self.quiet()


def down() -> Exception:
    return OriginUnavailable("down")


@asynccontextmanager
async def uploading(path: Path, at_once: int = 2) -> AsyncIterator[Rig]:
    clock, origin, locks = ManualClock(), Origin(), KeyedLocks()
    timers = ManualTimers(clock)
    backlog = Backlog(Journal(path / "journal"))
    await backlog.start()

    async def arrived(pending: Pending, info: ObjectInfo) -> None:
        assert info.etag == "origin's"
        if backlog.get(pending.key) is pending:
            backlog.uploaded(pending)

    uploader = Uploader(
        backlog,
        locks,
        send=origin.send,
        arrived=arrived,
        at_once=at_once,
        clock=clock,
        chance=lambda: 1.0,  # pauses are as long as they get
        later=timers,
    )
    uploader.start()
    try:
        yield Rig(backlog, uploader, origin, timers, locks)
    finally:
        if origin.gate is not None:
            origin.gate.open()
        await uploader.close(5)
        await backlog.close()
    assert timers.waiting == []


async def test_what_is_put_is_uploaded_in_turn_and_so_many_at_once(tmp_path: Path) -> None:
    async with uploading(tmp_path, at_once=3) as rig:
        rig.origin.gate = Gate()
        keys = [Key(f"k{number}") for number in range(9)]
        for key in keys:
            await rig.put(key, key.encode())
        await rig.origin.gate.reached.wait()
        await until(lambda: rig.origin.at_once == 3)
        rig.origin.gate.open()
        await rig.uploader.flush(None)
        assert sorted(rig.origin.sent) == [(key, key.encode()) for key in keys]
        assert rig.origin.most == 3
        assert rig.uploader.counters().uploads == 9


async def test_what_an_earlier_run_left_is_uploaded_oldest_first(tmp_path: Path) -> None:
    before = Backlog(Journal(tmp_path / "journal"))
    await before.start()
    for key in ("z", "m", "a"):
        await before.put(Key(key), b"", NOTHING_SAID, None)
    await before.close()
    async with uploading(tmp_path, at_once=1) as rig:
        assert await rig.uploader.flush(None) == 3
        assert [key for key, _ in rig.origin.sent] == ["z", "m", "a"]


async def test_a_newer_put_during_an_upload_goes_next_and_never_beside_it(tmp_path: Path) -> None:
    async with uploading(tmp_path) as rig:
        gate = rig.origin.gate = Gate()
        await rig.put(A, b"1")
        await gate.reached.wait()
        await rig.put(A, b"2")
        await rig.put(A, b"3")
        assert rig.origin.at_once == 1
        gate.open()
        await rig.uploader.flush(None)
        assert rig.origin.sent == [(A, b"1"), (A, b"3")]
        assert rig.uploader.counters().superseded == 2


async def test_an_upload_waits_for_another_write_of_its_key_at_the_origin(tmp_path: Path) -> None:
    async with uploading(tmp_path) as rig:
        await rig.locks.acquire(A)
        await rig.put(A)
        await rig.put(B)
        await until(lambda: len(rig.origin.sent) == 1)
        assert rig.origin.sent == [(B, b"x")]
        rig.backlog.overruled([A])
        rig.locks.release(A)
        await rig.quiet()
        assert rig.origin.asked[A] == 0


async def test_a_key_that_fails_waits_longer_each_time_and_gets_there(tmp_path: Path, caplog) -> None:
    async with uploading(tmp_path, at_once=1) as rig:
        rig.origin.faults[A] = down
        await rig.put(A)
        for pause_s in (1, 2, 4, 8):
            await rig.quiet()
            assert rig.timers.next_s == pause_s
            await rig.put(B)  # others are not held up
            await until(lambda: B not in rig.backlog)
            stats = rig.uploader.counters()
            assert (stats.failing, stats.last_error, stats.entries) == (1, "down", 1)
            await rig.after(pause_s - 0.1)
            before = rig.origin.asked[A]
            await rig.after(0.1)
            assert rig.origin.asked[A] == before + 1
        rig.origin.faults.clear()
        await rig.after(16)
        stats = rig.uploader.counters()
        assert (stats.failing, stats.last_error, stats.entries, stats.failures) == (0, "", 0, 5)
        assert sum("failed" in record.message for record in caplog.records) == 1


async def test_the_longest_pause_is_a_minute(tmp_path: Path) -> None:
    async with uploading(tmp_path) as rig:
        rig.origin.faults[A] = down
        await rig.put(A)
        for _ in range(10):
            await rig.quiet()
            await rig.after(60)
        asked = rig.origin.asked[A]
        await rig.after(59)
        assert rig.origin.asked[A] == asked
        await rig.after(1)
        assert rig.origin.asked[A] == asked + 1


async def test_what_will_not_change_by_itself_is_tried_once_a_minute_and_holds_nobody_up(tmp_path: Path) -> None:
    async with uploading(tmp_path) as rig:
        rejected = [Key(f"no/{number}") for number in range(30)]
        rig.origin.faults.update({key: lambda: KeyConflict("a file is in the way") for key in rejected})
        for key in rejected:
            await rig.put(key)
        await rig.quiet()
        assert all(rig.origin.asked[key] == 1 for key in rejected)
        assert rig.timers.next_s == 60
        await rig.put(A)
        await until(lambda: A not in rig.backlog)
        assert rig.uploader.counters().failing == 30
        await rig.after(60)
        await until(lambda: all(rig.origin.asked[key] == 2 for key in rejected))


@pytest.mark.parametrize("error", [down, lambda: PermissionDenied("403")])
async def test_an_origin_that_answers_nobody_is_not_stormed(tmp_path: Path, error) -> None:
    async with uploading(tmp_path, at_once=4) as rig:
        rig.origin.faults["*"] = error
        for number in range(200):
            await rig.put(Key(f"k{number}"))
        await rig.quiet()
        first = rig.origin.asked.total()
        assert first <= 8  # five in a row open the breaker; a few were under way
        for _ in range(20):
            await rig.after(60)
        assert rig.origin.asked.total() <= first + 20
        rig.origin.faults.clear()
        await rig.after(60)
        await until(lambda: rig.uploader.counters().entries <= 8)
        await rig.after(60)  # those that failed last have a pause of their own
        await until(lambda: not rig.backlog)


async def test_a_flush_tries_at_once_what_was_paused(tmp_path: Path) -> None:
    async with uploading(tmp_path) as rig:
        rig.origin.faults["*"] = down
        for number in range(30):
            await rig.put(Key(f"k{number}"))
        await rig.quiet()
        rig.origin.faults.clear()
        assert await rig.uploader.flush(5) == 30
        assert len(rig.origin.sent) == 30


async def test_a_flush_tries_again_what_was_under_way_and_fails(tmp_path: Path) -> None:
    async with uploading(tmp_path) as rig:
        gate = rig.origin.gate = Gate()
        await rig.put(A)
        await gate.reached.wait()
        flushing = asyncio.create_task(rig.uploader.flush(5))
        await settle()
        faults = [down()]
        rig.origin.faults[A] = lambda: faults.pop() if faults else None
        gate.open()
        assert await flushing == 1
        assert rig.origin.asked[A] == 2


async def test_while_a_flush_waits_what_is_paused_is_tried_again_and_what_was_refused_is_not(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("tiered_store.store.uploader._HURRY_S", 0.0001)
    async with uploading(tmp_path) as rig:
        rig.origin.faults[A] = down
        rig.origin.faults[B] = lambda: KeyConflict("a file is in the way")
        await rig.put(A)
        await rig.put(B)
        await rig.quiet()
        flushing = asyncio.create_task(rig.uploader.flush(5))
        await until(lambda: rig.origin.asked[A] > 4)  # and no time has passed on the clock
        assert rig.origin.asked[B] == 2
        flushing.cancel()
        await asyncio.wait([flushing])
        assert rig.backlog._puts._waiting == []


async def test_a_flush_that_takes_too_long_says_what_is_left(tmp_path: Path) -> None:
    async with uploading(tmp_path) as rig:
        rig.origin.faults["*"] = down
        await rig.put(A)
        await rig.put(B)
        with pytest.raises(DeadlineExceeded, match=r"after 0.05 s 2 puts \(\d+ bytes\) are not uploaded yet; .* down"):
            await rig.uploader.flush(0.05)


async def test_what_is_deleted_or_replaced_elsewhere_is_tried_no_more(tmp_path: Path) -> None:
    async with uploading(tmp_path) as rig:
        rig.origin.faults["*"] = down
        await rig.put(A)
        await rig.quiet()
        rig.backlog.overruled([A])
        assert rig.uploader.counters().failing == 0
        await rig.after(100)
        assert rig.origin.asked[A] == 1


async def test_a_bug_of_ours_costs_one_attempt(tmp_path: Path, caplog) -> None:
    async with uploading(tmp_path) as rig:
        rig.origin.faults[A] = lambda: ValueError("a bug")
        await rig.put(A)
        await rig.quiet()
        assert rig.uploader.counters().last_error == "a bug"
        assert any(record.exc_info for record in caplog.records)
        rig.origin.faults.clear()
        await rig.after(60)
        assert not rig.backlog


async def test_a_stop_uploads_what_it_can_and_leaves_the_rest(tmp_path: Path) -> None:
    async with uploading(tmp_path) as rig:
        rig.origin.faults[A] = down
        await rig.put(A)
        await rig.quiet()
        gate = rig.origin.gate = Gate()
        for number in range(6):
            await rig.put(Key(f"k{number}"))
        await gate.reached.wait()
        closing = asyncio.create_task(rig.uploader.close(10))
        gate.open()
        await closing
        assert rig.backlog.keys() == [A]


async def test_a_stop_does_not_wait_longer_than_it_may(tmp_path: Path) -> None:
    async with uploading(tmp_path) as rig:
        rig.origin.gate = Gate()
        await rig.put(A)
        await rig.origin.gate.reached.wait()
        await rig.uploader.close(0.01)
        assert A in rig.backlog
        assert rig.origin.at_once == 0
