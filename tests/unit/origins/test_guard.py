"""A guard round an origin that follows a script: every operation, reads that break, reads that are late."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from tests.support.faults import Gate, ManualClock
from tests.support.store import settle
from tiered_store.errors import IntegrityError, NotFound, OriginUnavailable, PermissionDenied
from tiered_store.objects import Body, ObjectInfo
from tiered_store.origins.base import Listing, ObjectChanged, OriginRead, PutHeaders
from tiered_store.origins.guard import GuardedOrigin
from tiered_store.origins.hedging import Latencies
from tiered_store.stats import OriginStats

DATA = b"abcdefghij"
INFO = ObjectInfo("a", len(DATA), "e1")

Outcome = BaseException | Gate | None


class FailingGate(Gate):
    """Behind it there is a failure."""

    async def pass_through(self) -> None:
        await super().pass_through()
        raise down("the first fails")


class ScriptedOrigin:
    """An object of ten bytes, given two at a time. Each call takes the next outcome that is said for its operation."""

    def __init__(self) -> None:
        self.script: dict[str, list[Outcome]] = {}
        self.calls: Counter[str] = Counter()
        self.resumed_at: list[int] = []
        self.reads: list[ScriptedRead] = []
        self.is_closed = False

    def say(self, operation: str, *outcomes: Outcome) -> None:
        self.script.setdefault(operation, []).extend(outcomes)

    async def outcome(self, operation: str) -> None:
        await asyncio.sleep(0)
        self.calls[operation] += 1
        outcomes = self.script.get(operation)
        outcome = outcomes.pop(0) if outcomes else None
        if isinstance(outcome, Gate):
            try:
                await outcome.pass_through()
            except asyncio.CancelledError:
                self.calls[f"{operation} cancelled"] += 1
                raise
        elif outcome is not None:
            raise outcome

    async def stat(self, name: str) -> ObjectInfo:
        await self.outcome("stat")
        return INFO

    async def open(
        self, name: str, *, offset: int = 0, length: int | None = None, if_none_match: str | None = None
    ) -> OriginRead | None:
        await self.outcome("open")
        if if_none_match == INFO.etag:
            return None
        self.reads.append(ScriptedRead(self, offset, len(DATA) if length is None else offset + length))
        return self.reads[-1]

    async def put(self, name: str, body: Body, headers: PutHeaders) -> ObjectInfo:
        await self.outcome("put")
        return INFO

    async def delete(self, names: Sequence[str]) -> int:
        await self.outcome("delete")
        return len(names)

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Listing:
        await self.outcome("list")
        return Listing([INFO], more=False)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        await self.outcome("copy")
        return INFO

    async def close(self) -> None:
        self.is_closed = True

    @property
    def open_reads(self) -> int:
        return sum(not read.is_closed for read in self.reads)


class ScriptedRead:
    """Resumable. Its chunks ask for the outcome of ``chunk:<offset>``."""

    info = INFO

    def __init__(self, origin: ScriptedOrigin, offset: int, end: int) -> None:
        self.origin = origin
        self.position = offset
        self.end = end
        self.is_closed = False

    async def chunks(self) -> AsyncIterator[bytes]:
        while self.position < self.end:
            await self.origin.outcome(f"chunk:{self.position}")
            chunk = DATA[self.position : min(self.position + 2, self.end)]
            self.position += len(chunk)
            yield chunk
        await self.origin.outcome("chunk:end")

    async def resume(self) -> None:
        await self.origin.outcome("resume")
        self.origin.resumed_at.append(self.position)

    async def close(self) -> None:
        self.is_closed = True


class Unresumable:
    """A read that only knows how to begin."""

    def __init__(self, read: OriginRead) -> None:
        self.info = read.info
        self.chunks = read.chunks
        self.close = read.close


class Rig:
    """Retries' pauses end at once. What waits for a late answer waits until ``late`` says that it is."""

    def __init__(self, *, retry_for_s: float = 30.0, hedged_reads: bool = False) -> None:
        self.clock = ManualClock()
        self.stats = OriginStats()
        self.origin = ScriptedOrigin()
        self.waits: list[tuple[float, asyncio.Event]] = []
        self.hedged = hedged_reads
        self.guarded = GuardedOrigin(
            self.origin,
            self.stats,
            retry_for_s=retry_for_s,
            hedged_reads=hedged_reads,
            clock=self.clock,
            chance=lambda: 0.5,
            sleep=self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        if not self.hedged:
            self.clock.advance(seconds)
            return
        event = asyncio.Event()
        self.waits.append((seconds, event))
        await event.wait()

    async def late(self) -> None:
        """The time of the last wait is over."""
        await settle()
        self.waits[-1][1].set()
        await settle()

    async def read(self, **options: int) -> bytes:
        read = await self.guarded.open("a", **options)
        assert read is not None
        try:
            return b"".join([chunk async for chunk in read.chunks()])
        finally:
            await read.close()


def down(text: str = "cut off") -> OriginUnavailable:
    return OriginUnavailable(text)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.guarded.close()
    assert rig.origin.is_closed
    assert rig.origin.open_reads == 0


@pytest.fixture
async def hedged() -> AsyncIterator[Rig]:
    """100 answers of a tenth of a millisecond are known of each kind, which allows two second tries of each."""
    rig = Rig(hedged_reads=True)
    for _ in range(100):
        await rig.read()
        await rig.guarded.stat("a")
    yield rig
    await rig.guarded.close()
    await settle()
    assert rig.origin.open_reads == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


OPERATIONS: dict[str, Callable[[GuardedOrigin], object]] = {
    "stat": lambda origin: origin.stat("a"),
    "open": lambda origin: origin.open("a", if_none_match="e1"),
    "put": lambda origin: origin.put("a", b"", PutHeaders()),
    "delete": lambda origin: origin.delete(["a", "b"]),
    "list": lambda origin: origin.list(""),
    "copy": lambda origin: origin.copy("a", "b"),
}
RESULTS = {"stat": INFO, "open": None, "put": INFO, "delete": 2, "list": Listing([INFO], more=False), "copy": INFO}


class TestOperations:
    @pytest.mark.parametrize("operation", OPERATIONS)
    async def test_each_is_tried_again(self, rig: Rig, operation: str) -> None:
        rig.origin.say(operation, down(), down())
        assert await OPERATIONS[operation](rig.guarded) == RESULTS[operation]  # type: ignore[misc]
        assert (rig.origin.calls[operation], rig.stats.retries) == (3, 2)

    @pytest.mark.parametrize("operation", OPERATIONS)
    async def test_an_answer_is_the_answer(self, rig: Rig, operation: str) -> None:
        for answer in (NotFound("no"), PermissionDenied("no")):
            rig.origin.say(operation, answer)
            with pytest.raises(type(answer)):
                await OPERATIONS[operation](rig.guarded)  # type: ignore[misc]
        assert rig.origin.calls[operation] == 2

    @pytest.mark.parametrize("operation", OPERATIONS)
    async def test_none_is_asked_while_the_breaker_is_open(self, rig: Rig, operation: str) -> None:
        rig.origin.say("stat", *[down("it is down")] * 5)
        with pytest.raises(OriginUnavailable, match="it is down"):
            await rig.guarded.stat("a")
        rig.origin.calls.clear()
        with pytest.raises(OriginUnavailable, match=r"left alone for another 0\.4 s.*: it is down") as caught:
            await OPERATIONS[operation](rig.guarded)  # type: ignore[misc]
        assert caught.value.retryable
        assert not rig.origin.calls
        rig.clock.advance(0.5)
        assert await OPERATIONS[operation](rig.guarded) == RESULTS[operation]  # type: ignore[misc]
        assert not rig.stats.breaker_open

    @pytest.mark.parametrize("operation", OPERATIONS)
    async def test_a_request_that_is_cancelled_ends_its_attempt(self, rig: Rig, operation: str) -> None:
        gate = Gate()
        rig.origin.say(operation, gate)
        task = asyncio.ensure_future(OPERATIONS[operation](rig.guarded))  # type: ignore[arg-type]
        await gate.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert rig.origin.calls[f"{operation} cancelled"] == 1


class TestStart:
    @pytest.mark.parametrize(
        ("answer", "events"),
        [
            (None, []),
            (NotFound("no"), []),
            (down(), ["the origin does not answer; what is cached is served"]),
            (PermissionDenied("no"), ["the origin refuses; what is cached is served"]),
        ],
    )
    async def test_the_log_says_if_nobody_answers(
        self, rig: Rig, caplog: pytest.LogCaptureFixture, answer: Exception | None, events: list[str]
    ) -> None:
        rig.origin.say("open", answer)
        rig.guarded.start()
        await settle()
        assert [record.getMessage() for record in caplog.records] == events
        assert (rig.origin.calls["open"], rig.stats.retries, rig.origin.open_reads) == (1, 0, 0)

    async def test_a_stop_does_not_wait_for_the_answer(self, rig: Rig) -> None:
        rig.origin.say("open", Gate())
        rig.guarded.start()
        await settle()
        await rig.guarded.close()
        assert rig.origin.calls["open cancelled"] == 1


class TestResume:
    @pytest.mark.parametrize("at", [0, 2, 8])
    async def test_a_read_goes_on_where_it_broke(self, rig: Rig, at: int) -> None:
        rig.origin.say(f"chunk:{at}", down())
        assert await rig.read() == DATA
        assert rig.origin.resumed_at == [at]
        assert (rig.origin.calls["open"], rig.stats.retries) == (1, 1)

    async def test_so_does_a_range(self, rig: Rig) -> None:
        rig.origin.say("chunk:5", down())
        assert await rig.read(offset=3, length=4) == DATA[3:7]
        assert rig.origin.resumed_at == [5]

    async def test_more_than_once(self, rig: Rig) -> None:
        for at in range(0, 10, 2):
            rig.origin.say(f"chunk:{at}", down())
        rig.origin.say("chunk:end", down())
        assert await rig.read() == DATA
        assert rig.origin.resumed_at == [0, 2, 4, 6, 8, 10]

    async def test_what_fails_to_go_on_is_tried_again(self, rig: Rig) -> None:
        rig.origin.say("chunk:4", down())
        rig.origin.say("resume", down(), down())
        assert await rig.read() == DATA
        assert (rig.origin.calls["resume"], rig.origin.resumed_at, rig.stats.retries) == (3, [4], 3)

    async def test_not_with_another_version(self, rig: Rig) -> None:
        rig.origin.say("chunk:4", down())
        rig.origin.say("resume", ObjectChanged("another version"))
        with pytest.raises(OriginUnavailable, match="another version") as caught:
            await rig.read()
        assert caught.value.retryable
        assert rig.origin.calls["resume"] == 1

    async def test_not_behind_wrong_bytes(self, rig: Rig) -> None:
        rig.origin.say("chunk:end", IntegrityError("wrong"))
        with pytest.raises(IntegrityError):
            await rig.read()
        assert rig.origin.calls["resume"] == 0

    async def test_not_a_read_that_cannot(self, rig: Rig) -> None:
        opened = rig.origin.open

        async def open_once(name: str, **options: object) -> OriginRead:
            read = await opened(name)
            assert read is not None
            return Unresumable(read)  # type: ignore[return-value]

        rig.origin.open = open_once  # type: ignore[assignment,method-assign]
        rig.origin.say("chunk:4", down("broken"))
        with pytest.raises(OriginUnavailable, match="broken"):
            await rig.read()
        assert rig.stats.retries == 0

    async def test_time_counts_from_the_break(self) -> None:
        rig = Rig(retry_for_s=0.1)
        read = await rig.guarded.open("a")
        assert read is not None
        chunks = read.chunks()
        assert await anext(chunks) == b"ab"
        rig.clock.advance(1000.0)
        rig.origin.say("chunk:2", down())
        assert await anext(chunks) == b"cd"
        rig.clock.advance(1000.0)
        rig.origin.say("chunk:4", down())
        rig.origin.say("resume", *[down("for long")] * 3)
        with pytest.raises(OriginUnavailable, match="for long"):  # tried after 0.025 and 0.075 s, not 0.175
            await anext(chunks)
        assert rig.origin.calls["resume"] == 1 + 2
        await read.close()

    async def test_a_server_that_cuts_off_every_body_is_left_alone(self, rig: Rig) -> None:
        """Its answers are no answers as long as no bytes come."""
        rig.origin.say("chunk:0", *[down()] * 5)
        with pytest.raises(OriginUnavailable):
            await rig.read()
        assert rig.stats.breaker_open
        assert rig.origin.calls["chunk:0"] == 5

    async def test_a_probes_answer_counts_before_its_bytes(self, rig: Rig) -> None:
        rig.origin.say("stat", *[down()] * 5)
        with pytest.raises(OriginUnavailable):
            await rig.guarded.stat("a")
        rig.clock.advance(0.5)
        read = await rig.guarded.open("a")
        assert read is not None
        assert not rig.stats.breaker_open
        await read.close()

    async def test_a_reader_that_leaves_its_probe_makes_room_for_another(self, rig: Rig) -> None:
        """The breaker opens and is half open again in a read's pause; then that read's retry is the probe."""
        read = await rig.guarded.open("a")
        assert read is not None
        attempts = rig.guarded._attempts

        async def pause(seconds: float) -> None:
            for _ in range(4):
                with pytest.raises(OriginUnavailable):
                    await attempts.once(attempts.enter(), failing)
            rig.clock.advance(0.5)

        attempts._sleep = pause
        gate = Gate()
        rig.origin.say("chunk:0", down())
        rig.origin.say("resume", gate)
        task = asyncio.ensure_future(anext(read.chunks()))
        await gate.reached.wait()
        with pytest.raises(OriginUnavailable, match="until one request"):
            await rig.guarded.stat("a")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await read.close()
        assert await rig.guarded.stat("a") == INFO
        assert not rig.stats.breaker_open

    async def test_a_read_that_is_closed_does_not_go_on(self, rig: Rig) -> None:
        read = await rig.guarded.open("a")
        assert read is not None
        chunks = read.chunks()
        await anext(chunks)
        await read.close()
        await read.close()
        with pytest.raises(OriginUnavailable, match="closed before its end"):
            await anext(chunks)
        assert rig.origin.calls["resume"] == 0

    async def test_nor_one_that_is_closed_in_a_pause(self, rig: Rig) -> None:
        read = await rig.guarded.open("a")
        assert read is not None
        gate = Gate()

        attempts = rig.guarded._attempts

        async def pause(seconds: float) -> None:
            for _ in range(4):
                with pytest.raises(OriginUnavailable):
                    await attempts.once(attempts.enter(), failing)
            rig.clock.advance(0.5)
            await gate.pass_through()

        attempts._sleep = pause
        rig.origin.say("chunk:0", down())
        task = asyncio.ensure_future(anext(read.chunks()))
        await gate.reached.wait()
        await read.close()
        gate.open()
        with pytest.raises(OriginUnavailable):
            await task
        assert rig.origin.calls["resume"] == 0
        assert await rig.guarded.stat("a") == INFO  # it would have been the probe, and made room for another


async def failing(entered: object) -> None:
    raise down()


class TestLatencies:
    def test_nothing_is_said_of_few(self) -> None:
        latencies = Latencies()
        for _ in range(99):
            latencies.add(0.01)
        assert latencies.late_s is None
        latencies.add(0.01)
        assert latencies.late_s == pytest.approx(0.01, rel=0.1)

    @pytest.mark.parametrize("slow", [0, 1])
    def test_one_in_a_hundred_is_later(self, slow: int) -> None:
        latencies = Latencies()
        for number in range(200):
            latencies.add(5.0 if number < slow + 2 else 0.02)
        assert latencies.late_s == pytest.approx(5.0 if slow else 0.02, rel=0.1)

    def test_what_is_old_is_forgotten(self) -> None:
        latencies = Latencies()
        for _ in range(1900):
            latencies.add(1.0)
        for _ in range(20_000):
            latencies.add(0.001)
        assert latencies.late_s == pytest.approx(0.001, rel=0.1)
        assert sum(latencies._counts) < 2000

    @pytest.mark.parametrize(("took_s", "said_s"), [(0.0, 1e-4), (1e-9, 1e-4), (1e6, 100.0)])
    def test_extremes_are_taken_for_the_bounds(self, took_s: float, said_s: float) -> None:
        latencies = Latencies()
        for _ in range(100):
            latencies.add(took_s)
        assert latencies.late_s == pytest.approx(said_s, rel=0.1)


class TestHedges:
    async def test_not_before_enough_is_known(self) -> None:
        rig = Rig(hedged_reads=True)
        for _ in range(99):
            await rig.read()
        gate = Gate()
        rig.origin.say("open", gate)
        task = asyncio.create_task(rig.read())
        await gate.reached.wait()
        assert rig.waits == []
        gate.open()
        assert await task == DATA
        await rig.guarded.close()

    async def test_a_quick_answer_needs_no_second(self, hedged: Rig) -> None:
        assert await hedged.read() == DATA
        assert hedged.stats.hedges == 0

    @pytest.mark.parametrize("operation", ["open", "stat"])
    async def test_the_second_answer_wins_and_the_first_is_cancelled(self, hedged: Rig, operation: str) -> None:
        gate = Gate()
        hedged.origin.say(operation, gate)
        ask = hedged.read if operation == "open" else lambda: hedged.guarded.stat("a")
        task = asyncio.ensure_future(ask())
        await hedged.late()
        assert hedged.waits[-1][0] == pytest.approx(1e-4)
        assert await task == (DATA if operation == "open" else INFO)
        await settle()
        assert hedged.origin.calls[f"{operation} cancelled"] == 1
        assert (hedged.stats.hedges, hedged.stats.hedges_won, hedged.stats.retries) == (1, 1, 0)

    async def test_the_first_answer_wins_and_the_second_is_cancelled(self, hedged: Rig) -> None:
        first, second = Gate(), Gate()
        hedged.origin.say("open", first, second)
        task = asyncio.create_task(hedged.read())
        await hedged.late()
        assert second.reached.is_set()
        first.open()
        assert await task == DATA
        await settle()
        assert hedged.origin.calls["open cancelled"] == 1
        assert (hedged.stats.hedges, hedged.stats.hedges_won) == (1, 0)

    async def test_a_loser_that_was_quick_enough_is_closed(self, hedged: Rig) -> None:
        first, second = Gate(), Gate()
        hedged.origin.say("open", first, second)
        before = len(hedged.origin.reads)
        task = asyncio.create_task(hedged.read())
        await hedged.late()
        first.open()
        second.open()
        assert await task == DATA
        await settle()
        assert len(hedged.origin.reads) == before + 2
        assert hedged.origin.open_reads == 0

    async def test_no_such_object_is_an_answer(self, hedged: Rig) -> None:
        hedged.origin.say("stat", Gate(), NotFound("no"))
        task = asyncio.create_task(hedged.guarded.stat("a"))
        await hedged.late()
        with pytest.raises(NotFound):
            await task
        assert hedged.stats.hedges_won == 1

    async def test_a_second_that_fails_leaves_it_to_the_first(self, hedged: Rig) -> None:
        first = Gate()
        hedged.origin.say("stat", first, down())
        task = asyncio.create_task(hedged.guarded.stat("a"))
        await hedged.late()
        assert not task.done()
        first.open()
        assert await task == INFO
        assert (hedged.stats.hedges, hedged.stats.hedges_won) == (1, 0)

    async def test_two_that_fail_are_one_failure_to_be_tried_again(self, hedged: Rig) -> None:
        first = FailingGate()
        hedged.origin.say("stat", first, down("second"))
        task = asyncio.create_task(hedged.guarded.stat("a"))
        await hedged.late()
        first.open()
        await hedged.late()  # the pause before the retry
        assert await task == INFO
        assert (hedged.stats.hedges, hedged.stats.hedges_won, hedged.stats.retries) == (1, 0, 1)

    async def test_of_two_that_fail_the_first_says_why(self, hedged: Rig) -> None:
        first = FailingGate()
        hedged.origin.say("stat", first, down("second"))
        hedged.guarded._attempts._retry_for_s = 0.0
        task = asyncio.create_task(hedged.guarded.stat("a"))
        await hedged.late()
        first.open()
        with pytest.raises(OriginUnavailable, match="first"):
            await task

    async def test_at_most_one_read_in_fifty(self, hedged: Rig) -> None:
        """200 reads so far: four second tries, whatever kind they are of."""
        for _ in range(4):
            hedged.origin.say("stat", Gate())
            task = asyncio.create_task(hedged.guarded.stat("a"))
            await hedged.late()
            assert await task == INFO
        gate = Gate()
        hedged.origin.say("stat", gate)
        task = asyncio.create_task(hedged.guarded.stat("a"))
        await hedged.late()
        assert hedged.stats.hedges == 4
        gate.open()
        assert await task == INFO

    async def test_cancelling_ends_both(self, hedged: Rig) -> None:
        hedged.origin.say("open", Gate(), Gate())
        task = asyncio.create_task(hedged.read())
        await hedged.late()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle()
        assert hedged.origin.calls["open cancelled"] == 2

    async def test_writes_are_not_made_twice(self, hedged: Rig) -> None:
        gate = Gate()
        hedged.origin.say("put", gate)
        before = len(hedged.waits)
        task = asyncio.create_task(hedged.guarded.put("a", b"", PutHeaders()))
        await gate.reached.wait()
        assert len(hedged.waits) == before
        gate.open()
        await task
