"""Objects read in ranges: in order, whole or not at all, with no more ahead than tokens allow."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.origins import pattern
from tests.support.store import settle
from tiered_store.aio.ranges import CHUNK_BYTES, FIRST_CHUNK_BYTES, Ranges, Tokens

PART = CHUNK_BYTES
DATA = pattern(6 * PART + 5)


class Source:
    """Answers to requests for ranges, each of which may be held back, cut short or refused."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.open = 0
        self.short: set[int] = set()
        self.held: set[int] = set()
        self.go = asyncio.Event()

    async def fetch(self, offset: int, length: int) -> Body:
        self.asked.append(offset)
        if offset in self.held:
            await self.go.wait()
        return Body(self, DATA[offset : offset + length][: 10 if offset in self.short else None])

    def ranges(self, tokens: Tokens | None, *, first_bytes: int = PART) -> Ranges:
        first = Body(self, DATA[:first_bytes])
        return Ranges(first, first_bytes, len(DATA), part_bytes=PART, fetch=self.fetch, tokens=tokens)


class Body:
    """One answer, in pieces of odd sizes."""

    def __init__(self, source: Source, data: bytes) -> None:
        self._source = source
        self._data = data
        self._is_closed = False
        source.open += 1

    async def read(self, size: int, /) -> bytes:
        await asyncio.sleep(0)
        piece, self._data = self._data[: min(size, 300_001)], self._data[min(size, 300_001) :]
        return piece

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._source.open -= 1


async def read_all(ranges: Ranges) -> bytes:
    data = b""
    while chunk := await ranges.next():
        assert len(chunk) <= CHUNK_BYTES
        data += chunk
    return data


async def begin(ranges: Ranges) -> bytes:
    """The first range, in two chunks: behind the first of them the next range is asked for, and so on."""
    return await ranges.next() + await ranges.next()


@pytest.mark.parametrize("tokens", [None, 0, 1, 3, 100])
@pytest.mark.parametrize("first_bytes", [1, PART, 2 * PART + 3])
async def test_all_of_it_in_order(tokens: int | None, first_bytes: int) -> None:
    source, there = Source(), None if tokens is None else Tokens(tokens)
    ranges = source.ranges(there, first_bytes=first_bytes)
    assert await read_all(ranges) == DATA
    assert await ranges.next() == b""
    await ranges.close()
    if there is not None and tokens is not None:
        assert [there.take() for _ in range(tokens + 1)] == [True] * tokens + [False]


async def test_the_first_chunk_is_small_and_waits_for_no_other_range() -> None:
    source = Source()
    ranges = source.ranges(Tokens(4))
    assert await ranges.next() == DATA[:FIRST_CHUNK_BYTES]
    await settle(50)
    assert source.asked == []
    assert await ranges.next() == DATA[FIRST_CHUNK_BYTES:PART]
    await settle(50)
    assert source.asked == [PART]
    await ranges.close()


async def test_no_more_ahead_than_tokens_allow() -> None:
    source = Source()
    ranges = source.ranges(Tokens(2), first_bytes=3 * PART)
    source.held = {3 * PART}
    received = await begin(ranges) + await ranges.next() + await ranges.next()
    await settle(50)
    assert source.asked == [3 * PART, 4 * PART]
    source.go.set()
    assert received + await read_all(ranges) == DATA
    await ranges.close()


async def test_two_reads_share_the_tokens() -> None:
    source, tokens = Source(), Tokens(3)
    source.held = set(range(0, len(DATA), PART))
    one, two = source.ranges(tokens), source.ranges(tokens)
    assert await begin(one) == await begin(two) == DATA[:PART]
    rest = [asyncio.create_task(read_all(ranges)) for ranges in (one, two)]
    await settle(50)
    assert len(source.asked) == 3
    source.go.set()
    assert await asyncio.gather(*rest) == [DATA[PART:]] * 2
    await one.close()
    await two.close()


@pytest.mark.parametrize("tokens", [0, 2])
async def test_an_answer_that_ends_early(tokens: int) -> None:
    source, there = Source(), Tokens(tokens)
    source.short = {2 * PART}
    ranges = source.ranges(there)
    with pytest.raises(EOFError, match="early"):
        await read_all(ranges)
    await ranges.close()
    assert source.open == 0 or tokens == 0
    assert [there.take() for _ in range(tokens)] == [True] * tokens


async def test_closing_ends_what_is_ahead() -> None:
    source, tokens = Source(), Tokens(3)
    source.held = {2 * PART}
    ranges = source.ranges(tokens)
    await begin(ranges)
    await ranges.next()
    await settle(50)
    assert source.asked == [PART, 2 * PART, 3 * PART]
    await ranges.close()
    await ranges.close()
    assert await ranges.next() == b""
    assert source.open == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [tokens.take() for _ in range(4)] == [True, True, True, False]


async def test_a_reader_that_is_cancelled_waiting_for_a_range() -> None:
    source, tokens = Source(), Tokens(1)
    source.held = {PART}
    ranges = source.ranges(tokens)
    await begin(ranges)
    waiting = asyncio.create_task(ranges.next())
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await ranges.close()
    assert tokens.take()


async def test_what_broke_is_gone_on_with() -> None:
    source = Source()
    source.short = {3 * PART}
    ranges = source.ranges(Tokens(2))
    received = b"".join([await ranges.next() for _ in range(4)])
    with pytest.raises(EOFError):
        await ranges.next()
    source.short = set()
    await ranges.resume()
    assert received + await read_all(ranges) == DATA
    await ranges.close()
