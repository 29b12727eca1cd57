"""Fills from a cdn and the origin behind it: whatever that does, readers get the right bytes, or learn to ask again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cdn import (
    Asked,
    Behaviour,
    FakeCdn,
    Served,
    answer_of,
    broken_after,
    fake_cdn,
    flipped,
    head_of,
    hung_up,
    stalled_after,
    status,
    well,
)
from tests.support.faults import FakeDisk
from tests.support.origins import pattern
from tests.support.store import MIB, Rig, artifact_of, collect, settle, store_rig, until
from tiered_store.aio.ranges import CHUNK_BYTES
from tiered_store.errors import IntegrityError, NotFound, OriginUnavailable, QuotaExceeded
from tiered_store.key import name_of_key, parse_key
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.origins.base import ObjectChanged
from tiered_store.store.limits import StoreLimits
from tiered_store.store.policy import Policy
from tiered_store.store.reading import PIECE_BYTES
from tiered_store.tiers.cdn import CdnTier
from tiered_store.tiers.purge import HttpPurger

LARGE = pattern(4 * MIB)
SMALL = pattern(1000)
KEY = parse_key(artifact_of(LARGE))
NAME = name_of_key(KEY)
C = parse_key("cache/a")
SHORT_S = 0.25
SIZES = pytest.mark.parametrize("data", [b"", SMALL, LARGE], ids=["empty", "small", "large"])


@dataclass
class Both:
    """A store between a cdn and an origin."""

    rig: Rig
    server: FakeCdn
    tier: CdnTier

    async def there(self, key: str, data: bytes) -> None:
        """An object that the cdn and the origin have, as the same version."""
        name = name_of_key(parse_key(key))
        info = await self.rig.there(name, data)
        self.server.objects[name] = Served(data, f'"{info.etag}"')

    async def artifact(self, data: bytes) -> str:
        key = artifact_of(data)
        await self.there(key, data)
        return key

    @property
    def cdn(self) -> Any:
        return self.rig.counter("cdn")

    @property
    def origin_opens(self) -> int:
        return self.rig.origin.calls["open"]


@asynccontextmanager
async def both(
    tmp_path: Path, *, timeout_s: float = 5.0, purge: bool = False, spool_memory: int | None = None, **options: Any
) -> AsyncIterator[Both]:
    """A store, its cdn and its origin; and proof that nothing was left behind."""
    disk = options.pop("disk", None) or FakeDisk(tmp_path)
    if spool_memory is not None:
        options["limits"] = StoreLimits(spool_memory_bytes=spool_memory)
    async with fake_cdn() as server:
        settings = server.settings(timeout_s=timeout_s, part_bytes=CHUNK_BYTES, parts_at_once=3, max_connections=8)
        tier = CdnTier(settings, HttpPurger(settings) if purge else None)
        await tier.start()
        async with store_rig(cdn=tier, disk=disk, **options) as rig:
            found = Both(rig, server, tier)
            yield found
            await until(lambda: len(rig.store._fills.flights._table) == 0)
            await until(lambda: tier._places._value == 5 and tier._tokens._left == 3)
            assert rig.store._staging._budget.used_bytes == 0
            del found
        await until(lambda: server.connections == 0)


@SIZES
async def test_what_the_cdn_has_the_origin_is_not_asked_for(tmp_path: Path, data: bytes) -> None:
    async with both(tmp_path) as at:
        key = await at.artifact(data)
        entry = await at.rig.store.get(parse_key(key))
        assert entry.tier == "cdn"
        del entry
        assert await at.rig.get(key) == data
        assert key in at.rig.disk.entries
        assert (at.rig.memory.peek(parse_key(key)) is None) is (data is LARGE)  # too large a share of this tier
        assert (at.origin_opens, at.cdn["hits"], at.cdn["bytes_read"]) == (0, 1, len(data))
        assert await at.rig.stream(key, 3, 5) == data[3:8]


@SIZES
async def test_what_the_cdn_has_not_the_origin_has(tmp_path: Path, data: bytes) -> None:
    async with both(tmp_path) as at:
        await at.rig.there("cache/a", data)
        entry = await at.rig.store.get(C)
        assert entry.tier == "origin"
        assert await at.rig.get("cache/a") == data
        assert (at.origin_opens, at.cdn["misses"], at.cdn["errors"]) == (1, 1, 0)
        with pytest.raises(NotFound):
            await at.rig.get("cache/none")
        del entry


@pytest.mark.parametrize(
    ("policy", "asked"),
    [
        (None, False),
        (Policy("sessions/", cdn=True), True),
        (Policy("sessions/", immutable=True), True),
        (Policy("sessions/", immutable=True, cdn=False), False),
    ],
)
async def test_the_policy_decides(tmp_path: Path, policy: Policy | None, asked: bool) -> None:
    async with both(tmp_path, policies=[policy] if policy else []) as at:
        await at.there("sessions/a", SMALL)
        assert await at.rig.get("sessions/a") == SMALL
        assert (at.server.names() == ["sessions/a"]) is asked
        assert at.origin_opens == (0 if asked else 1)


async def test_a_conditional_read_is_the_origins(tmp_path: Path) -> None:
    async with both(tmp_path, policies=[Policy("sessions/", ttl_s=5, cdn=True)]) as at:
        await at.there("sessions/a", SMALL)
        await at.rig.get("sessions/a")
        at.rig.advance(6)
        assert await at.rig.get("sessions/a") == SMALL
        assert (len(at.server.asked), at.rig.counter("origin")["not_modified"]) == (1, 1)


FAILURES: dict[str, Behaviour] = {
    "stalls": stalled_after(None),
    "500": status("500 No"),
    "breaks off": broken_after(10),
    "stalls in the body": stalled_after(10),
}


@pytest.mark.parametrize("behave", FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_a_cdn_that_fails_is_no_error(tmp_path: Path, behave: Behaviour, data: bytes) -> None:
    async with both(tmp_path, timeout_s=SHORT_S) as at:
        key = await at.artifact(data)
        await at.there("cache/a", data)
        at.server.behave = behave
        readers = [at.rig.get(key), at.rig.stream(key), at.rig.get("cache/a"), at.rig.stream("cache/a")]
        assert await asyncio.gather(*readers) == [data] * 4
        assert at.cdn["errors"] == 2
        assert at.origin_opens == 2


async def test_one_that_fails_again_and_again_is_left_alone(tmp_path: Path) -> None:
    async with both(tmp_path, timeout_s=SHORT_S) as at:
        at.server.behave = stalled_after(None)
        for number in range(8):
            await at.rig.there(f"cache/{number}", SMALL)
            assert await at.rig.get(f"cache/{number}") == SMALL
        assert (at.cdn["errors"], at.cdn["skipped"], at.cdn["breaker_open"]) == (5, 3, True)
        assert len(at.server.asked) == 5


async def test_the_origin_goes_on_where_the_cdn_broke_off(tmp_path: Path) -> None:
    async with both(tmp_path) as at:
        key = await at.artifact(LARGE)
        await at.there("cache/a", LARGE)
        at.server.behave = _first_part_only
        for name in (key, "cache/a"):
            before = at.rig.counter("origin")["bytes_read"]
            reading, received = await at.rig.store.read(parse_key(name)), bytearray()
            await collect(reading, received)
            reading.close()
            assert received == LARGE
            assert at.rig.counter("origin")["bytes_read"] - before == len(LARGE) - CHUNK_BYTES
            del reading


async def test_the_cdn_is_let_go_where_the_origin_goes_on(tmp_path: Path) -> None:
    """What it still has on its way would take room and connections."""
    async with both(tmp_path, timeout_s=60) as at:
        await at.there("cache/a", LARGE)

        async def behave(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
            part = asked.span[0] // CHUNK_BYTES if asked.span else None
            return await (well if part == 0 else hung_up if part == 1 else stalled_after(0))(cdn, asked, writer)

        at.server.behave = behave
        gate = at.rig.origin.hold("chunk:0")
        reader = asyncio.create_task(at.rig.get("cache/a"))
        await gate.reached.wait()
        await until(lambda: at.server.connections == 0)
        gate.open()
        assert await reader == LARGE
        del reader


async def _first_part_only(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
    return await (well if asked.span and asked.span[0] == 0 else broken_after(0))(cdn, asked, writer)


class TestAnotherVersion:
    """The cdn breaks off in the middle of what the origin has no more."""

    async def start(self, at: Both) -> None:
        at.server.objects["cache/a"] = Served(pattern(4 * MIB, 2), '"old"')
        await at.rig.there("cache/a", LARGE)

    async def test_who_waits_for_the_whole_gets_the_origins(self, tmp_path: Path) -> None:
        async with both(tmp_path) as at:
            await self.start(at)
            at.server.behave = _first_part_only
            assert await at.rig.get("cache/a") == LARGE
            assert at.rig.counter("corrupt") == 0

    async def test_who_has_bytes_learns_to_ask_again(self, tmp_path: Path) -> None:
        async with both(tmp_path, timeout_s=SHORT_S) as at:
            await self.start(at)
            at.server.behave = _first_then(stalled_after(0))
            reading, received = await at.rig.store.read(C), bytearray()
            waiter = asyncio.create_task(at.rig.get("cache/a"))
            with pytest.raises(OriginUnavailable, match="broke off") as caught:
                await collect(reading, received)
            assert caught.value.retryable
            assert received == pattern(4 * MIB, 2)[:CHUNK_BYTES]
            reading.close()
            assert await waiter == LARGE  # in the same fill
            assert at.rig.counter("fills") == 1
            assert await at.rig.stream("cache/a") == LARGE
            del reading, caught, waiter

    async def test_who_was_told_of_it_but_has_no_bytes(self, tmp_path: Path) -> None:
        """Another version has another etag: whoever was told of the first one cannot be given the second."""
        async with both(tmp_path) as at:
            await self.start(at)
            at.server.behave = _first_then(broken_after(0))
            reading = await at.rig.store.read(C)
            assert reading.info.etag == "old"
            other = asyncio.create_task(at.rig.get("cache/a"))
            await other
            with pytest.raises(OriginUnavailable):
                await reading.entry()
            with pytest.raises(OriginUnavailable):
                await collect(reading, bytearray())
            reading.close()
            del reading


def _first_then(behave: Behaviour) -> Behaviour:
    async def first_then(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        return await (well if asked.span and asked.span[0] == 0 else behave)(cdn, asked, writer)

    return first_then


class TestLies:
    @pytest.mark.parametrize("data", [b"x", SMALL, pattern(INLINE_MAX_BYTES), LARGE])
    async def test_who_waits_for_the_whole_gets_the_right_bytes(self, tmp_path: Path, data: bytes) -> None:
        async with both(tmp_path) as at:
            key = await at.artifact(data)
            at.server.behave = flipped()
            assert await asyncio.gather(*(at.rig.get(key) for _ in range(3))) == [data] * 3
            assert (at.rig.counter("corrupt"), at.cdn["lies"], at.cdn["errors"]) == (1, 1, 1)
            assert (at.rig.counter("fills"), at.origin_opens) == (1, 1)
            asked = len(at.server.asked)
            at.rig.memory.discard(parse_key(key))
            at.rig.disk.entries.clear()
            assert await at.rig.get(key) == data
            assert (len(at.server.asked), at.cdn["skipped"]) == (asked, 1)

    async def test_a_reader_with_wrong_bytes_gets_an_error_in_place_of_the_last(self, tmp_path: Path) -> None:
        async with both(tmp_path) as at:
            await at.artifact(LARGE)
            at.server.behave = flipped(at=10)
            reading, received = await at.rig.store.read(KEY), bytearray()
            waiter = asyncio.create_task(at.rig.get(KEY))
            with pytest.raises(OriginUnavailable, match="a new read asks the origin") as caught:
                await collect(reading, received)
            assert caught.value.retryable
            assert caught.value.key == KEY
            assert 0 < len(received) < len(LARGE)
            reading.close()
            assert await waiter == LARGE
            assert await at.rig.stream(KEY) == LARGE
            assert at.rig.counter("fills") == 1
            del reading, caught, waiter

    async def test_a_reader_that_was_given_nothing_yet_notices_nothing(self, tmp_path: Path) -> None:
        async with both(tmp_path) as at:
            await at.artifact(LARGE)
            gate, at.server.behave = _gated(flipped())
            readings = [await at.rig.store.read(KEY) for _ in range(2)]
            await gate.reached.wait()
            late = asyncio.create_task(at.rig.store.read(KEY))
            gate.open.set()
            await at.rig.get(KEY)
            readings.append(await late)
            for reading in readings:
                received = bytearray()
                await collect(reading, received)
                assert received == LARGE
                assert (await reading.entry()).info.size == len(LARGE)
                reading.close()
            assert at.rig.counter("fills") == 1
            del readings, reading, late

    async def test_a_reader_that_comes_between_two_tries_waits_for_the_second(self, tmp_path: Path) -> None:
        async with both(tmp_path) as at:
            await at.artifact(LARGE)
            at.server.behave = flipped()
            gate = at.rig.origin.hold("open")
            first = asyncio.create_task(at.rig.get(KEY))
            await gate.reached.wait()
            second = asyncio.create_task(at.rig.stream(KEY))
            await settle()
            assert not second.done()
            gate.open()
            assert await first == await second == LARGE
            assert at.rig.counter("fills") == 1
            del first, second

    async def test_a_range_of_it_is_right_or_an_error(self, tmp_path: Path) -> None:
        async with both(tmp_path) as at:
            await at.artifact(LARGE)
            at.server.behave = flipped(at=10)
            with suppress(OriginUnavailable):
                assert await at.rig.stream(KEY, 5, 10) == LARGE[5:15]
            assert await at.rig.stream(KEY, 5, 10) == LARGE[5:15]

    @pytest.mark.parametrize("length", [len(LARGE) - 1, len(LARGE) + 1, 10])
    async def test_a_size_that_is_wrong(self, tmp_path: Path, length: int) -> None:
        async with both(tmp_path) as at:
            await at.artifact(LARGE)
            at.server.objects[NAME] = Served((LARGE + b"!")[:length])
            assert await at.rig.get(KEY) == LARGE
            assert at.cdn["lies"] == 1

    async def test_a_size_that_the_rest_contradicts(self, tmp_path: Path) -> None:
        async with both(tmp_path) as at:
            await at.artifact(LARGE)
            at.server.objects[NAME] = Served(LARGE[: 3 * MIB])
            at.server.behave = _first_part_only
            assert await at.rig.get(KEY) == LARGE
            assert (at.cdn["lies"], at.rig.counter("corrupt")) == (1, 1)

    async def test_a_size_for_which_there_is_no_room(self, tmp_path: Path) -> None:
        disk = FakeDisk(tmp_path)
        disk.room_bytes = 0
        async with both(tmp_path, disk=disk, spool_memory=5 * MIB) as at:
            await at.artifact(LARGE)
            at.server.behave = _boast
            assert await at.rig.get(KEY) == LARGE
            assert at.origin_opens == 1

    async def test_lies_of_both(self, tmp_path: Path) -> None:
        async with both(tmp_path) as at:
            await at.rig.there(NAME, LARGE[::-1])
            at.server.objects[NAME] = Served(LARGE[:10])
            with pytest.raises(IntegrityError) as caught:
                await at.rig.get(KEY)
            assert caught.value.source == "origin"
            assert at.rig.counter("corrupt") == 2

    async def test_a_lie_while_the_origin_is_down(self, tmp_path: Path) -> None:
        async with both(tmp_path) as at:
            await at.artifact(SMALL)
            at.server.behave = flipped()
            at.rig.origin.fail("open", lambda: OriginUnavailable("down"))
            with pytest.raises(OriginUnavailable, match="down"):
                await at.rig.get(artifact_of(SMALL))

    async def test_half_from_each_and_wrong(self, tmp_path: Path) -> None:
        """Nobody can say who lied; the next try, from the origin alone, is right."""
        async with both(tmp_path) as at:
            await at.artifact(LARGE)
            at.server.behave = _lie_then_break
            assert await at.rig.get(KEY) == LARGE
            assert (at.cdn["lies"], at.rig.counter("corrupt"), at.origin_opens) == (0, 1, 2)
            at.rig.memory.discard(KEY)
            at.rig.disk.entries.clear()
            await at.rig.get(KEY)
            assert at.cdn["skipped"] == 1

    @pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
    async def test_a_path_that_this_program_wrote_has_a_digest_too(self, tmp_path: Path, data: bytes) -> None:
        async with both(tmp_path) as at:
            await at.there("cache/a", data)
            digest = artifact_of(data).removeprefix("sha256:")
            at.server.objects["cache/a"].headers["x-amz-meta-tiered-store-sha256"] = digest
            at.server.behave = flipped()
            assert await at.rig.get("cache/a") == data
            assert at.cdn["lies"] == 1


@dataclass
class _Gate:
    reached: asyncio.Event
    open: asyncio.Event


def _gated(behave: Behaviour) -> tuple[_Gate, Behaviour]:
    """The body of the first request waits at a gate; its head does not."""
    gate = _Gate(asyncio.Event(), asyncio.Event())

    async def gated(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        if asked.span and asked.span[0] == 0:
            line, headers, body = answer_of(cdn, asked)
            writer.write(head_of(line, headers) + body[:1])
            await writer.drain()
            gate.reached.set()
            await gate.open.wait()
            writer.write(bytes([body[1] ^ 1]) + body[2:])
            return True
        return await behave(cdn, asked, writer)

    return gate, gated


async def _boast(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
    """Announces more than anybody has room for."""
    writer.write(head_of("200 OK", {"Content-Length": str(2**40), "ETag": '"1"'}) + b"x")
    await cdn.stall(asked)
    return False


async def _lie_then_break(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
    return await (flipped() if asked.span and asked.span[0] == 0 else broken_after(0))(cdn, asked, writer)


class TestOverwrittenAtTheOrigin:
    """An origin that reads in parts tells when the version goes away under a read."""

    def change_once(self, at: Both, operation: str, data: bytes, times: int = 1) -> None:
        left = [times]

        def fault(op: str, _: str) -> Exception | None:
            if op != operation or not left[0]:
                return None
            left[0] -= 1
            return ObjectChanged("overwritten")

        at.rig.origin.fault = fault

    @pytest.mark.parametrize("operation", ["chunk:0", "chunk:2"])
    async def test_who_waits_for_the_whole_gets_the_new_one(self, tmp_path: Path, operation: str) -> None:
        async with both(tmp_path) as at:
            await at.rig.there("sessions/a", LARGE)
            self.change_once(at, operation, LARGE)
            assert await asyncio.gather(*(at.rig.get("sessions/a") for _ in range(2))) == [LARGE] * 2
            assert (at.rig.counter("fills"), at.origin_opens) == (1, 2)

    async def test_not_for_ever(self, tmp_path: Path) -> None:
        async with both(tmp_path) as at:
            await at.rig.there("sessions/a", LARGE)
            self.change_once(at, "chunk:1", LARGE, times=9)
            with pytest.raises(ObjectChanged):
                await at.rig.get("sessions/a")
            assert at.origin_opens == 3

    async def test_who_has_bytes_gets_an_error(self, tmp_path: Path) -> None:
        async with both(tmp_path) as at:
            await at.rig.there("sessions/a", LARGE)
            gate = at.rig.origin.hold("chunk:1")
            reading = await at.rig.store.read(parse_key("sessions/a"))
            pieces = reading.chunks()
            assert await anext(pieces) == LARGE[:PIECE_BYTES]
            await gate.reached.wait()
            self.change_once(at, "chunk:2", LARGE)
            waiter = asyncio.create_task(at.rig.get("sessions/a"))
            gate.open()
            assert await waiter == LARGE
            with pytest.raises(ObjectChanged) as caught:
                async for _ in pieces:
                    pass
            assert caught.value.retryable
            reading.close()
            del reading, pieces, caught, waiter


@pytest.mark.parametrize("behave", [stalled_after(None), stalled_after(0), stalled_after(100_000)])
async def test_when_the_last_reader_has_gone_the_cdn_is_let_go(tmp_path: Path, behave: Behaviour) -> None:
    async with both(tmp_path) as at:
        key = await at.artifact(LARGE)
        at.server.behave = behave
        readers = [asyncio.create_task(at.rig.get(key)), asyncio.create_task(at.rig.stream(key))]
        await at.server.stalled.wait()
        await settle()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await until(lambda: at.server.connections == 0)
        assert at.rig.counter("fills_cancelled") == 1
        assert at.cdn["errors"] == 0
        at.server.behave = well
        assert await at.rig.get(key) == LARGE
        del reader, readers


@pytest.mark.parametrize("operation", ["open", "chunk:0", "chunk:1"])
async def test_cancelled_while_the_origin_goes_on(tmp_path: Path, operation: str) -> None:
    async with both(tmp_path) as at:
        key = await at.artifact(LARGE)
        at.server.behave = _first_part_only
        gate = at.rig.origin.hold(operation)
        reader = asyncio.create_task(at.rig.get(key))
        await gate.reached.wait()
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await until(lambda: at.rig.origin.open_reads == 0)
        gate.open()
        assert await at.rig.get(key) == LARGE
        del reader


async def test_cancelled_in_the_second_try(tmp_path: Path) -> None:
    async with both(tmp_path) as at:
        key = await at.artifact(LARGE)
        at.server.behave = flipped()
        gate = at.rig.origin.hold("chunk:1")
        reader = asyncio.create_task(at.rig.get(key))
        await gate.reached.wait()
        assert at.rig.disk.spools == 1  # the first try's is gone
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await until(lambda: at.rig.origin.open_reads == 0 and at.rig.disk.spools == 0)
        gate.open()
        assert await at.rig.get(key) == LARGE
        del reader


async def test_without_room_the_origin_is_read_through(tmp_path: Path) -> None:
    disk = FakeDisk(tmp_path)
    disk.room_bytes = 0
    async with both(tmp_path, disk=disk, spool_memory=MIB) as at:
        key = await at.artifact(LARGE)
        with pytest.raises(QuotaExceeded):
            await at.rig.get(key)
        assert await at.rig.stream(key) == LARGE


class TestWrites:
    async def test_a_put_purges_what_the_cdn_may_hold(self, tmp_path: Path) -> None:
        async with both(tmp_path, purge=True, policies=[Policy("public/", cdn=True)]) as at:
            for key in ("public/a", "cache/a", "sessions/a"):
                await at.rig.put(key, SMALL)
            await at.rig.put(None, SMALL)
            assert at.server.purged == ["public/a", "cache/a"]
            await at.rig.store.copy(parse_key("sessions/a"), parse_key("public/b"))
            await at.rig.store.copy(parse_key("public/b"), parse_key("sessions/b"))
            assert at.server.purged[2:] == ["public/b"]
            assert at.cdn["purges"] == 3

    async def test_a_delete_purges_whatever_it_is(self, tmp_path: Path) -> None:
        async with both(tmp_path, purge=True) as at:
            key = await at.artifact(SMALL)
            await at.rig.put("sessions/a", SMALL)
            assert await at.rig.store.delete(parse_key(key))
            assert await at.rig.store.delete(parse_key("sessions/a"))
            assert at.server.purged == [name_of_key(parse_key(key)), "sessions/a"]
            with pytest.raises(NotFound):  # although the cdn still has it
                await at.rig.get(key)

    async def test_a_prefix_is_purged_object_by_object(self, tmp_path: Path) -> None:
        async with both(tmp_path, purge=True) as at:
            for number in range(40):
                await at.rig.there(f"sessions/{number}", b"x")
            assert await at.rig.store.delete_prefix("sessions/") == 40
            assert sorted(at.server.purged) == sorted(f"sessions/{number}" for number in range(40))
            assert at.server.accepted <= 16

    @pytest.mark.parametrize("purge", [False, True])
    async def test_after_a_write_the_cdn_is_not_asked(self, tmp_path: Path, purge: bool) -> None:
        """What it has is of before the write, and a purge may not have reached all of it."""
        async with both(tmp_path, purge=purge) as at:
            await at.there("cache/a", b"old")
            await at.rig.put("cache/a", b"new")
            at.rig.memory.discard(C)
            at.rig.disk.entries.clear()
            assert await at.rig.get("cache/a") == b"new"
            assert [asked.method for asked in at.server.asked] == ["PURGE"] * purge

    async def test_a_write_whose_outcome_nobody_knows(self, tmp_path: Path) -> None:
        async with both(tmp_path) as at:
            await at.there("cache/a", b"old")
            at.rig.origin.fail("put_done", lambda: OriginUnavailable("no answer"))
            with pytest.raises(OriginUnavailable):
                await at.rig.put("cache/a", b"new")
            at.rig.origin.heal()
            assert await at.rig.get("cache/a") == b"new"

    @pytest.mark.parametrize("behave", [stalled_after(None), status("500 No"), status("405 No"), hung_up])
    async def test_a_purge_that_fails_fails_no_write(
        self, tmp_path: Path, behave: Behaviour, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with both(tmp_path, purge=True, timeout_s=SHORT_S) as at:
            at.server.behave = behave
            for number in range(8):
                await at.rig.put(f"cache/{number}", SMALL)
            assert (at.cdn["purges"], at.cdn["purge_errors"]) == (0, 8)
            assert len(at.server.asked) == 5  # then it is left alone
            lines = [vars(record) for record in caplog.records]
            assert [(line["msg"] % line["args"], line["requests"]) for line in lines] == [("the cdn fails", "purges")]
            assert "cache/0" in lines[0]["error"]

    async def test_a_prefix_is_not_held_up_by_purges_that_stall(self, tmp_path: Path) -> None:
        async with both(tmp_path, purge=True, timeout_s=SHORT_S) as at:
            for number in range(100):
                await at.rig.there(f"cache/{number}", b"x")
            at.server.behave = stalled_after(None)
            assert await at.rig.store.delete_prefix("cache/") == 100
            assert at.cdn["purge_errors"] == 100
            assert len(at.server.asked) <= 5 + 16

    async def test_a_client_that_goes_away_leaves_the_purge_to_the_store(self, tmp_path: Path) -> None:
        async with both(tmp_path, purge=True) as at:
            reached, go = asyncio.Event(), asyncio.Event()

            async def slow(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
                reached.set()
                await go.wait()
                return await well(cdn, asked, writer)

            at.server.behave = slow
            writer = asyncio.create_task(at.rig.put("cache/a", SMALL))
            await reached.wait()
            assert not writer.done()  # it is acknowledged only then
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            go.set()
            await until(lambda: at.cdn["purges"] == 1)
            del writer


async def test_ten_thousand_readers_are_one_request(tmp_path: Path) -> None:
    async with both(tmp_path) as at:
        key = await at.artifact(SMALL)
        entries = await asyncio.gather(*(at.rig.store.get(parse_key(key)) for _ in range(10_000)))
        assert len({id(entry) for entry in entries}) == 1
        assert len(at.server.asked) == 1
        del entries
