from __future__ import annotations

import logging

import pytest

from tests.support.faults import FaultyOrigin
from tests.support.store import NOTHING_SAID, store_rig
from tiered_store.aio.outages import Outages
from tiered_store.errors import (
    InvalidKey,
    KeyConflict,
    NotFound,
    OriginUnavailable,
    QuotaExceeded,
    StoreError,
    TooLarge,
)
from tiered_store.key import parse_key
from tiered_store.objects import ObjectInfo
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.stats import OriginStats
from tiered_store.store.upstream import Upstream, UpstreamRead

ARTIFACT = parse_key("sha256:" + "ab" * 32)
NAME = "artifacts/sha256/ab/" + "ab" * 32


class Asked:
    def __init__(self) -> None:
        self.origin = FaultyOrigin(MemoryOrigin())
        self.stats = OriginStats()
        self.upstream = Upstream(self.origin, self.stats)


async def test_objects_are_asked_for_by_name_and_answered_by_key() -> None:
    asked = Asked()
    info = await asked.upstream.put(ARTIFACT, b"x", NOTHING_SAID)
    assert info.key == ARTIFACT
    assert (await asked.origin.inner.stat(NAME)).size == 1
    assert (await asked.upstream.stat(ARTIFACT)).key == ARTIFACT
    read = await asked.upstream.open(ARTIFACT)
    assert read is not None
    assert read.info.key == ARTIFACT
    assert await read.next() == b"x"
    assert await read.next() == b""
    await read.close()
    assert (await asked.upstream.copy(ARTIFACT, parse_key("p"))).key == "p"
    assert await asked.upstream.delete([ARTIFACT]) == 1
    assert asked.stats == OriginStats(hits=2, puts=2, bytes_read=1, bytes_written=1)


class Dribble:
    """A read that is no generator, and comes in small pieces, some of them empty."""

    def __init__(self, data: bytes) -> None:
        self.info = ObjectInfo("k", len(data), "1")
        self.left = data
        self.turn = 0
        self.closed = 0

    def chunks(self) -> Dribble:
        return self

    def __aiter__(self) -> Dribble:
        return self

    async def __anext__(self) -> bytes:
        self.turn += 1
        if self.turn % 2:
            return b""
        if not self.left:
            raise StopAsyncIteration
        piece, self.left = self.left[:2], self.left[2:]
        return piece

    async def close(self) -> None:
        self.closed += 1


async def test_small_pieces_of_any_iterator_are_taken() -> None:
    dribble = Dribble(b"hello")
    read = UpstreamRead(parse_key("k"), dribble, OriginStats(), Outages().reads)
    assert [await read.next() for _ in range(4)] == [b"he", b"ll", b"o", b""]
    await read.close()
    assert dribble.closed == 1


async def test_a_small_object_may_come_in_pieces() -> None:
    class Origin(MemoryOrigin):
        async def open(self, name: str, **_: object) -> Dribble:
            return Dribble(b"hello")

    async with store_rig(origin=Origin()) as rig:
        assert await rig.get("k") == b"hello"


async def test_conditional_reads_are_counted() -> None:
    asked = Asked()
    info = await asked.upstream.put(parse_key("k"), b"x", NOTHING_SAID)
    assert await asked.upstream.open(parse_key("k"), if_none_match=info.etag) is None
    assert asked.stats.not_modified == 1
    assert asked.stats.hits == 0


async def test_errors_name_the_key_and_are_counted() -> None:
    asked = Asked()
    with pytest.raises(NotFound) as missing:
        await asked.upstream.stat(ARTIFACT)
    assert missing.value.key == ARTIFACT
    asked.origin.fail("open", lambda: OriginUnavailable("down", key=NAME))
    with pytest.raises(OriginUnavailable) as down:
        await asked.upstream.open(ARTIFACT)
    assert down.value.key == ARTIFACT
    asked.origin.fail("put", lambda: RuntimeError("a bug"))
    with pytest.raises(RuntimeError):
        await asked.upstream.put(ARTIFACT, b"", NOTHING_SAID)
    assert (asked.stats.misses, asked.stats.errors) == (1, 2)


async def test_an_error_of_two_names_is_about_the_one_it_says() -> None:
    asked = Asked()
    target = parse_key("target")
    with pytest.raises(NotFound) as missing:
        await asked.upstream.copy(ARTIFACT, target)
    assert missing.value.key == ARTIFACT
    asked.origin.fail("copy", lambda: StoreError("full", key="target"))
    with pytest.raises(StoreError) as full:
        await asked.upstream.copy(ARTIFACT, target)
    assert full.value.key == target
    asked.origin.fail("delete", lambda: StoreError("no", key=NAME))
    with pytest.raises(StoreError) as no:
        await asked.upstream.delete([target, ARTIFACT])
    assert no.value.key == ARTIFACT
    asked.origin.fail("list", lambda: StoreError("no"))
    with pytest.raises(StoreError) as nameless:
        await asked.upstream.list("", after="", limit=1)
    assert nameless.value.key is None


@pytest.mark.parametrize("mistake", [InvalidKey, KeyConflict, TooLarge])
async def test_what_the_caller_did_wrong_is_no_error_of_the_origin(
    mistake: type[StoreError], caplog: pytest.LogCaptureFixture
) -> None:
    asked = Asked()
    asked.origin.fail("put", lambda: mistake("no", key="k"))
    with pytest.raises(mistake):
        await asked.upstream.put(parse_key("k"), b"", NOTHING_SAID)
    assert asked.stats == OriginStats()
    assert caplog.records == []


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    lines = [(record.getMessage(), str(vars(record)["requests"])) for record in caplog.records]
    caplog.clear()
    return lines


async def test_an_origin_that_fails_and_answers_again_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asked, key = Asked(), parse_key("k")
    for operation in ("stat", "open", "list"):
        asked.origin.fail(operation, lambda: OriginUnavailable("down"))
    with pytest.raises(OriginUnavailable):
        await asked.upstream.open(key)
    with pytest.raises(OriginUnavailable):
        await asked.upstream.stat(key)
    with pytest.raises(OriginUnavailable):
        await asked.upstream.list("", after="", limit=1)
    assert told(caplog) == [("the origin fails", "reads")]
    await asked.upstream.put(key, b"x", NOTHING_SAID)
    assert told(caplog) == []
    asked.origin.heal()
    with pytest.raises(NotFound):
        await asked.upstream.stat(parse_key("none"))
    assert told(caplog) == [("the origin answers again", "reads")]


async def test_an_origin_that_refuses_writes_alone_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asked, key = Asked(), parse_key("k")
    await asked.upstream.put(key, b"x", NOTHING_SAID)
    for operation in ("put", "copy", "delete"):
        asked.origin.fail(operation, lambda: QuotaExceeded("full"))
    with pytest.raises(QuotaExceeded):
        await asked.upstream.put(key, b"x", NOTHING_SAID)
    with pytest.raises(QuotaExceeded):
        await asked.upstream.copy(key, parse_key("l"))
    with pytest.raises(QuotaExceeded):
        await asked.upstream.delete([key])
    await asked.upstream.stat(key)
    assert told(caplog) == [("the origin fails", "writes")]
    asked.origin.heal()
    await asked.upstream.delete([key])
    assert told(caplog) == [("the origin answers again", "writes")]
    assert asked.stats.errors == 3


async def test_a_read_that_breaks_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asked, key = Asked(), parse_key("k")
    await asked.upstream.put(key, b"x", NOTHING_SAID)
    asked.origin.fail("chunk:0", lambda: OriginUnavailable("I/O error"))
    read = await asked.upstream.open(key)
    assert read is not None
    with pytest.raises(OriginUnavailable):
        await read.next()
    await read.close()
    assert vars(caplog.records[0])["operation"] == "read"
    assert told(caplog) == [("the origin fails", "reads")]
