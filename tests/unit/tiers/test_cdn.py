"""The cdn tier against a server that answers well, badly, falsely or not at all: it has the object, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.support.cdn import (
    Asked,
    Behaviour,
    FakeCdn,
    Served,
    answer_of,
    broken_after,
    changed,
    fake_cdn,
    flipped,
    head_of,
    stalled_after,
    status,
    well,
)
from tests.support.faults import ManualClock
from tests.support.origins import pattern
from tests.support.store import settle, until
from tiered_store.aio.ranges import CHUNK_BYTES
from tiered_store.objects import ObjectInfo
from tiered_store.tiers.base import ReadFault
from tiered_store.tiers.cdn import CdnTier

MIB = 1024 * 1024
PART = CHUNK_BYTES
LARGE = pattern(5 * PART + 7)
#: Long enough that only a test that means to waits for it.
SHORT_S = 0.25


@pytest.fixture
async def cdn() -> AsyncIterator[FakeCdn]:
    async with fake_cdn() as server:
        yield server


@pytest.fixture
async def tier(cdn: FakeCdn) -> AsyncIterator[Callable[..., Any]]:
    """Opens tiers, and sees to it that they leave nothing behind."""
    opened: list[CdnTier] = []

    async def make(**settings: Any) -> CdnTier:
        clock = settings.pop("clock", None)
        said = {"part_bytes": PART, "parts_at_once": 3, "max_connections": 8} | settings
        made = CdnTier(cdn.settings(**said), **({} if clock is None else {"clock": clock}))
        await made.start()
        opened.append(made)
        return made

    yield make
    for one in opened:
        assert one._tokens._left == one._settings.parts_at_once
        assert one._places._value == one._settings.max_connections - one._settings.parts_at_once
        await one.close()
    await until(lambda: cdn.connections == 0)


async def read_all(tier: CdnTier, name: str) -> tuple[ObjectInfo, bytes] | None:
    read = await tier.open(name)
    if read is None:
        return None
    try:
        data = b""
        while chunk := await read.next():
            assert len(chunk) <= CHUNK_BYTES
            data += chunk
        return read.info, data
    finally:
        await read.close()


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, len(LARGE)])
async def test_objects_of_all_sizes(cdn: FakeCdn, tier: Any, size: int) -> None:
    cdn.objects["a/b c%ü"] = Served(LARGE[:size], '"v"', {"Last-Modified": "Fri, 01 May 2026 00:00:00 GMT"})
    one = await tier()
    info = ObjectInfo("a/b c%ü", size, "v", "text/x", {}, 1_777_593_600 * 10**9)
    assert await read_all(one, "a/b c%ü") == (info, LARGE[:size])
    assert (one.stats.hits, one.stats.misses, one.stats.errors, one.stats.bytes_read) == (1, 0, 0, size)


async def test_what_it_has_not(cdn: FakeCdn, tier: Any) -> None:
    one = await tier()
    for _ in range(7):
        assert await one.open("none") is None
    cdn.behave = status("410 Gone")
    assert await one.open("none") is None
    assert (one.stats.misses, one.stats.errors, one.stats.breaker_opened) == (8, 0, 0)


async def test_connections_are_used_again(cdn: FakeCdn, tier: Any) -> None:
    cdn.objects["a"] = Served(LARGE[:1000])
    one = await tier()
    for number in range(10):
        assert (await read_all(one, "a") is None) is False
        assert await one.open(f"none{number}") is None
    assert cdn.accepted == 1


async def test_nothing_of_this_machine_goes_along(
    cdn: FakeCdn, tier: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for variable in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    cdn.objects["a"] = Served(b"x", headers={"Set-Cookie": "id=7"})
    one = await tier(headers={"X-Token": "t"})
    for _ in range(2):
        assert await read_all(one, "a") is not None
    for asked in cdn.asked:
        assert set(asked.headers) == {"host", "user-agent", "accept", "accept-encoding", "range", "x-token"}
        assert asked.headers["accept-encoding"] == "identity"
        assert asked.headers["user-agent"] == "tiered_store"


async def test_headers_of_a_bucket_are_understood(cdn: FakeCdn, tier: Any) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    version = f"{1_777_593_600_000_000_001:016x}01020304"
    fields = {
        "x-amz-meta-tiered-store-version": version,
        "X-Amz-Meta-Tiered-Store-Sha256": digest,
        "x-amz-meta-tiered-store-json": json.dumps({"type": None, "metadata": {"Name": "ü"}}),
    }
    cdn.objects["a"] = Served(b"x", '"e"', fields)
    read = await (await tier()).open("a")
    assert read.info == ObjectInfo("a", 1, f"e.{version}", None, {"Name": "ü"}, 1_777_593_600_000_000_001)
    assert read.digest == digest
    await read.close()


async def test_an_artifacts_digest_is_its_name(cdn: FakeCdn, tier: Any) -> None:
    digest = "ab" * 32
    cdn.objects[f"artifacts/sha256/ab/{digest}"] = Served(b"x")
    read = await (await tier()).open(f"artifacts/sha256/ab/{digest}")
    assert read.digest == digest
    await read.close()


class TestRanges:
    async def test_parts_are_asked_for_ahead(self, cdn: FakeCdn, tier: Any) -> None:
        cdn.objects["a"] = Served(LARGE)
        one = await tier()
        read = await one.open("a")
        chunks = [await read.next(), await read.next()]
        assert b"".join(chunks) == LARGE[:PART]  # the first is smaller
        await until(lambda: len(cdn.asked) == 2)
        while chunks[-1]:
            chunks.append(await read.next())
        assert b"".join(chunks) == LARGE
        await read.close()
        assert sorted(asked.span[0] for asked in cdn.asked if asked.span) == [PART * n for n in range(6)]

    async def test_a_server_that_gives_all_of_it(self, cdn: FakeCdn, tier: Any) -> None:
        cdn.objects["a"] = Served(LARGE)
        cdn.behave = changed(lambda _line, headers, _body: ("200 OK", _whole(headers), LARGE))
        one = await tier()
        found = await read_all(one, "a")
        assert found is not None
        assert found[1] == LARGE
        assert len(cdn.asked) == 1

    async def test_a_part_that_is_called_whole(self, cdn: FakeCdn, tier: Any) -> None:
        """Some servers answer ranges with 200; the Content-Range tells."""
        cdn.objects["a"] = Served(LARGE)
        cdn.behave = changed(lambda line, headers, body: ("200 OK", headers, body))
        found = await read_all(await tier(), "a")
        assert found is not None
        assert found[1] == LARGE

    @pytest.mark.parametrize("etag", ['W/"1"', ""])
    async def test_without_a_version_it_is_one_stream(self, cdn: FakeCdn, tier: Any, etag: str) -> None:
        cdn.objects["a"] = Served(LARGE, etag)
        found = await read_all(await tier(), "a")
        assert found is not None
        assert found[1] == LARGE
        assert [asked.span for asked in cdn.asked] == [(0, PART - 1), None]

    async def test_an_etag_that_changes(self, cdn: FakeCdn, tier: Any) -> None:
        cdn.objects["a"] = Served(LARGE, '"1"')
        one = await tier()
        read = await one.open("a")
        cdn.objects["a"] = Served(LARGE[::-1], '"2"')
        with pytest.raises(ReadFault, match="changed"):
            await _drained(read)
        await read.close()
        assert one.stats.errors == 1

    async def test_an_object_that_goes_away(self, cdn: FakeCdn, tier: Any) -> None:
        cdn.objects["a"] = Served(LARGE)
        one = await tier()
        read = await one.open("a")
        del cdn.objects["a"]
        with pytest.raises(ReadFault, match="went away"):
            await _drained(read)
        await read.close()


async def _drained(read: Any) -> None:
    while await read.next():
        pass


def _whole(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "Content-Range"} | {
        "Content-Length": str(len(LARGE))
    }


async def _chunked(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
    writer.write(head_of("200 OK", {"Transfer-Encoding": "chunked"}) + b"1\r\nx\r\n0\r\n\r\n")
    return True


async def _to_the_end(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
    writer.write(head_of("200 OK", {}) + b"x")
    return False


async def _noise(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"\x00\xff this is no HTTP\r\n\r\n")
    return False


async def _endless(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(100_000):
        writer.write(f"X-{number}: {'y' * 1000}\r\n".encode())
        await writer.drain()
    return False


BAD_ANSWERS: dict[str, Behaviour] = {
    "500": status("500 Internal Server Error"),
    "503": status("503 Busy"),
    "429": status("429 Too Many Requests"),
    "closed": broken_after(0),
    "noise": _noise,
    "chunked": _chunked,
    "no length": _to_the_end,
    "gzip": changed(lambda line, headers, body: (line, headers | {"Content-Encoding": "gzip"}, body)),
    "long header": changed(lambda line, headers, body: (line, headers | {"X": "y" * 100_000}, body)),
    "many headers": _endless,
    "206 without a range": changed(
        lambda line, headers, body: (line, {k: v for k, v in headers.items() if k != "Content-Range"}, body)
    ),
    "another range": changed(lambda line, headers, body: (line, headers | {"Content-Range": "bytes 1-4/9"}, body)),
    "a range of unknown": changed(lambda line, headers, body: (line, headers | {"Content-Range": "bytes 0-3/*"}, body)),
}
#: The server is well, but what it says cannot be used.
REFUSALS: dict[str, Behaviour] = {
    "redirect": status("302 Found", Location="http://127.0.0.1:1/secret"),
    "403": status("403 Forbidden"),
    "401": status("401 Unauthorized", WWW_Authenticate="Basic realm=x"),
    "much metadata": changed(
        lambda line, headers, body: (line, headers | {f"x-amz-meta-{n}": "y" * 4000 for n in range(10)}, body)
    ),
    "no text": changed(lambda line, headers, body: (line, headers | {"Content-Type": "\udcff"}, body)),
    "204": changed(lambda *_: ("204 No Content", {}, b"")),
}


@pytest.mark.parametrize("behave", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_an_answer_that_cannot_be_used_is_none(cdn: FakeCdn, tier: Any, behave: Behaviour) -> None:
    cdn.objects["a"] = Served(b"data")
    cdn.behave = _encodable(behave)
    one = await tier()
    assert await one.open("a") is None
    assert (one.stats.hits, one.stats.misses, one.stats.errors) == (0, 1, 1)
    for _ in range(4):
        assert await one.open("a") is None
    assert one.stats.breaker_open
    asked = len(cdn.asked)
    assert await one.open("a") is None
    assert (len(cdn.asked), one.stats.skipped) == (asked, 1)


def _encodable(behave: Behaviour) -> Behaviour:
    """A header that is no UTF-8 is written byte by byte."""

    class Writer:
        def __init__(self, writer: asyncio.StreamWriter) -> None:
            self.inner = writer

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    async def through(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        try:
            return await behave(cdn, asked, writer)
        except UnicodeEncodeError:
            line, headers, body = answer_of(cdn, asked)
            writer.write(head_of(line, headers).replace(b"text/x", b"\xff\xfe") + body)
            return True

    return through


@pytest.mark.parametrize("behave", REFUSALS.values(), ids=REFUSALS.keys())
async def test_a_refusal_is_an_error_but_no_sign_of_failing(cdn: FakeCdn, tier: Any, behave: Behaviour) -> None:
    cdn.objects["a"] = Served(b"data")
    cdn.behave = _encodable(behave)
    one = await tier()
    for _ in range(6):
        assert await one.open("a") is None
    assert (one.stats.misses, one.stats.errors, one.stats.breaker_opened) == (6, 6, 0)
    assert len(cdn.asked) == 6


async def test_nobody_listens(cdn: FakeCdn, tier: Any, caplog: pytest.LogCaptureFixture) -> None:
    one = await tier(base_url="http://127.0.0.1:1/x", headers={"X-Token": "ToKeN"})
    with caplog.at_level(logging.DEBUG):
        for _ in range(10):
            assert await one.open("a") is None
    assert (one.stats.errors, one.stats.skipped, one.stats.breaker_opened) == (5, 5, 1)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO] == ["the cdn fails"]
    assert "ToKeN" not in "".join(str(vars(record)) for record in caplog.records)


class TestSlow:
    @pytest.mark.parametrize("count", [None, 0])
    async def test_no_first_byte(self, cdn: FakeCdn, tier: Any, count: int | None) -> None:
        cdn.objects["a"] = Served(b"data")
        cdn.behave = stalled_after(count)
        one = await tier(timeout_s=SHORT_S)
        assert await one.open("a") is None
        assert (one.stats.misses, one.stats.errors) == (1, 1)
        await until(lambda: cdn.connections == 0)

    @pytest.mark.parametrize("behave", [stalled_after(3), broken_after(3)], ids=["stalls", "ends"])
    async def test_a_body_that_does_not_go_on(self, cdn: FakeCdn, tier: Any, behave: Behaviour) -> None:
        cdn.objects["a"] = Served(b"data")
        cdn.behave = behave
        one = await tier(timeout_s=SHORT_S)
        read = await one.open("a")
        with pytest.raises(ReadFault):
            await read.next()
        await read.close()
        assert (one.stats.hits, one.stats.errors) == (1, 1)
        await until(lambda: cdn.connections == 0)

    async def test_a_body_that_trickles(self, cdn: FakeCdn, tier: Any) -> None:
        async def trickle(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
            line, headers, body = answer_of(cdn, asked)
            writer.write(head_of(line, headers))
            for byte in body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.02)
            return True

        cdn.objects["a"] = Served(bytes(10_000))
        cdn.behave = trickle
        one = await tier(timeout_s=SHORT_S)
        read = await one.open("a")
        with pytest.raises(ReadFault, match="too slowly"):
            await read.next()
        await read.close()

    async def test_half_open_is_one_request(self, cdn: FakeCdn, tier: Any) -> None:
        clock = ManualClock()
        one = await tier(clock=clock)
        cdn.objects["a"] = Served(LARGE)
        cdn.behave = status("500 No")
        for _ in range(5):
            assert await one.open("a") is None
        clock.advance(60)
        cdn.behave = well
        probe = await one.open("a")
        assert await one.open("a") is None  # the first has not ended yet
        assert one.stats.breaker_open
        while await probe.next():
            pass
        await probe.close()
        assert not one.stats.breaker_open
        assert await read_all(one, "a") is not None


class TestLies:
    async def test_a_condemned_read_is_a_lie(self, cdn: FakeCdn, tier: Any, caplog: pytest.LogCaptureFixture) -> None:
        clock = ManualClock()
        one = await tier(clock=clock)
        cdn.objects["a"] = Served(b"data")
        read = await one.open("a")
        await read.next()
        read.condemn()
        await read.close()
        await read.close()
        assert (one.stats.lies, one.stats.errors) == (1, 1)
        assert "the cdn fails" in caplog.text
        assert await one.open("a") is None
        assert (one.stats.skipped, len(cdn.asked)) == (1, 1)
        clock.advance(601)
        assert await read_all(one, "a") is not None

    async def test_a_liar_is_left_alone(self, cdn: FakeCdn, tier: Any) -> None:
        one = await tier()
        for number in range(5):
            cdn.objects[f"{number}"] = Served(b"data")
            read = await one.open(f"{number}")
            await read.next()
            read.condemn()
            await read.close()
        cdn.objects["a"] = Served(b"data")
        assert await one.open("a") is None
        assert one.stats.breaker_open
        assert len(cdn.asked) == 5

    async def test_one_that_is_tried_again_is_not_given_up_when_that_reader_goes(self, cdn: FakeCdn, tier: Any) -> None:
        """The pass of the only reader who tries it is not lost while that one waits for a connection."""
        clock = ManualClock()
        one = await tier(clock=clock, max_connections=4, parts_at_once=3)
        cdn.objects["slow"] = Served(LARGE)
        holder = await one.open("slow")
        for number in range(5):
            one.ended(f"{number}", one._honesty.enter(), is_right=False)
            await one._places.acquire()  # what `ended` gave back
        clock.advance(31)
        cdn.objects["a"] = Served(b"data")
        waiting = asyncio.create_task(one.open("a"))
        await settle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await holder.close()
        assert await read_all(one, "a") is not None


class TestBounds:
    async def test_reads_wait_for_a_connection_and_go_without(self, cdn: FakeCdn, tier: Any) -> None:
        cdn.objects["a"] = Served(LARGE)
        one = await tier(max_connections=4, parts_at_once=3, timeout_s=SHORT_S)
        holder = await one.open("a")
        assert await one.open("a") is None
        assert (one.stats.skipped, one.stats.errors, one.stats.misses) == (1, 0, 0)
        waiting = asyncio.create_task(one.open("a"))
        await settle()
        await holder.close()
        second = await waiting
        assert second is not None
        await second.close()

    async def test_no_more_connections_than_configured(self, cdn: FakeCdn, tier: Any) -> None:
        for number in range(20):
            cdn.objects[f"{number}"] = Served(LARGE)
        one = await tier(max_connections=5, parts_at_once=3)
        most = 0

        async def watched(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
            nonlocal most
            most = max(most, cdn.connections)
            return await well(cdn, asked, writer)

        cdn.behave = watched
        found = await asyncio.gather(*(read_all(one, f"{number}") for number in range(20)))
        assert all(item is not None and item[1] == LARGE for item in found)
        assert most <= 5


@pytest.mark.parametrize("count", [None, 0, PART // 2])
async def test_a_reader_that_is_cancelled(cdn: FakeCdn, tier: Any, count: int | None) -> None:
    cdn.objects["a"] = Served(LARGE)
    cdn.behave = stalled_after(count)
    one = await tier()
    reader = asyncio.create_task(read_all(one, "a"))
    await cdn.stalled.wait()
    await settle()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await until(lambda: cdn.connections == 0)
    assert one.stats.errors == 0


async def test_a_reader_that_is_cancelled_while_parts_are_ahead(cdn: FakeCdn, tier: Any) -> None:
    cdn.objects["a"] = Served(LARGE)
    one = await tier()
    read = await one.open("a")
    cdn.behave = stalled_after(0)
    assert await read.next() + await read.next() == LARGE[:PART]
    waiting = asyncio.create_task(read.next())
    await cdn.stalled.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await read.close()
    with pytest.raises(ReadFault, match="closed"):
        await read.next()
    assert one.stats.breaker_opened == 0


async def test_flipped_bytes_are_for_the_reader_to_find(cdn: FakeCdn, tier: Any) -> None:
    """The tier has no digest of what others wrote; whoever has one condemns."""
    cdn.objects["a"] = Served(b"data")
    cdn.behave = flipped(at=1)
    found = await read_all(await tier(), "a")
    assert found is not None
    assert found[1] == b"d`ta"
