"""Reads of a bucket that break and go on: at the right byte, of one version, against the digest of the whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.origins import NOTHING_SAID, pattern
from tests.support.s3 import shared_server
from tiered_store.aio.offload import Offload
from tiered_store.aio.ranges import FIRST_CHUNK_BYTES
from tiered_store.errors import IntegrityError, OriginUnavailable
from tiered_store.origins.base import CHUNK_BYTES, ObjectChanged
from tiered_store.origins.guard import GuardedOrigin
from tiered_store.origins.s3 import S3Origin
from tiered_store.origins.s3read import S3Read
from tiered_store.stats import OriginStats

PART = 2 * CHUNK_BYTES


class Cut:
    """The SDK's stream, which ends after so many bytes; as when a connection is lost."""

    def __init__(self, body: Any, after: int) -> None:
        self._body = body
        self._left = after

    async def read(self, size: int) -> bytes:
        if not self._left:
            raise ConnectionResetError("cut off")
        data: bytes = await self._body.read(min(size, self._left))
        self._left -= len(data)
        return data

    def close(self) -> None:
        self._body.close()


class Bucket:
    """An origin whose answers to GET are cut off after so many bytes, by the range asked for."""

    def __init__(self, origin: S3Origin) -> None:
        self.origin = origin
        self.cuts: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self._get_object = origin._s3.get_object
        origin._s3.get_object = self._get

    async def _get(self, **said: Any) -> Any:
        span = said["Range"].removeprefix("bytes=")
        self.asked.append(span)
        answer = await self._get_object(**said)
        cuts = self.cuts.get(span)
        if cuts:
            answer["Body"] = Cut(answer["Body"], cuts.pop(0))
        return answer


@pytest.fixture
async def bucket() -> AsyncIterator[Bucket]:
    offload = Offload(2, "origin")
    origin = S3Origin(shared_server().settings(part_bytes=PART, parts_at_once=2), offload)
    await origin.start()
    yield Bucket(origin)
    assert origin._ahead._left == 2
    await origin.close()
    await offload.close()


async def opened(bucket: Bucket, **span: int) -> S3Read:
    read = await bucket.origin.open("a", **span)
    assert read is not None
    return read


async def broken(read: S3Read, into: bytearray) -> None:
    with pytest.raises(OriginUnavailable, match="cut off") as caught:
        await rest(read, into)
    assert caught.value.retryable


async def rest(read: S3Read, into: bytearray) -> None:
    async for chunk in read.chunks():
        into += chunk


async def test_an_object_of_one_part(bucket: Bucket) -> None:
    """What came of the chunk that broke is asked for again; the one before it is not."""
    data = pattern(PART - 5)
    await bucket.origin.put("a", data, NOTHING_SAID)
    bucket.cuts = {f"0-{PART - 1}": [CHUNK_BYTES + 7]}
    read, got = await opened(bucket), bytearray()
    await broken(read, got)
    assert got == data[:FIRST_CHUNK_BYTES]
    await read.resume()
    await rest(read, got)
    await read.close()
    assert got == data
    assert bucket.asked == [f"0-{PART - 1}", f"{FIRST_CHUNK_BYTES}-{PART - 6}"]


async def test_a_stream_that_breaks_before_its_first_byte(bucket: Bucket) -> None:
    data = pattern(100)
    await bucket.origin.put("a", data, NOTHING_SAID)
    bucket.cuts = {f"0-{PART - 1}": [0], "0-99": [0]}
    read, got = await opened(bucket), bytearray()
    for _ in range(2):
        await broken(read, got)
        await read.resume()
    await rest(read, got)
    await read.close()
    assert got == data


async def test_only_the_part_that_broke_is_asked_for_again(bucket: Bucket) -> None:
    data = pattern(5 * PART + 5)
    await bucket.origin.put("a", data, NOTHING_SAID)
    spans = [f"{start}-{min(start + PART, len(data)) - 1}" for start in range(0, len(data), PART)]
    spans[0] = f"0-{PART - 1}"
    bucket.cuts = {spans[0]: [CHUNK_BYTES], spans[1]: [3], spans[3]: [CHUNK_BYTES + 1], spans[5]: [1, 1]}
    read, got = await opened(bucket), bytearray()
    breaks = 0
    while len(got) < len(data):
        try:
            await rest(read, got)
        except OriginUnavailable:
            breaks += 1
            assert breaks < 10
            await read.resume()
    await read.close()
    assert got == data
    assert bucket.asked.count(spans[2]) == bucket.asked.count(spans[4]) == 1
    assert not any(cuts for cuts in bucket.cuts.values())


async def test_a_range_goes_on(bucket: Bucket) -> None:
    data = pattern(4 * CHUNK_BYTES)
    await bucket.origin.put("a", data, NOTHING_SAID)
    start, length = 10, 3 * CHUNK_BYTES
    bucket.cuts = {f"10-{start + length - 1}": [CHUNK_BYTES + 5]}
    read, got = await opened(bucket, offset=start, length=length), bytearray()
    await broken(read, got)
    await read.resume()
    await rest(read, got)
    await read.close()
    assert got == data[start : start + length]
    assert bucket.asked[1] == f"{start + FIRST_CHUNK_BYTES}-{start + length - 1}"


@pytest.mark.parametrize("change", ["overwritten", "deleted"])
async def test_another_version_does_not_go_on(bucket: Bucket, change: str) -> None:
    await bucket.origin.put("a", pattern(PART, 1), NOTHING_SAID)
    bucket.cuts = {f"0-{PART - 1}": [CHUNK_BYTES]}
    read, got = await opened(bucket), bytearray()
    await broken(read, got)
    if change == "deleted":
        await bucket.origin.delete(["a"])
    else:
        await bucket.origin.put("a", pattern(PART, 2), NOTHING_SAID)
    with pytest.raises(ObjectChanged, match="overwritten or deleted while it was read") as caught:
        await read.resume()
    assert caught.value.retryable
    await read.close()


@pytest.mark.parametrize("parts", [1, 3])
async def test_the_digest_is_of_the_whole(bucket: Bucket, parts: int) -> None:
    """Bytes that are wrong before the break, and right behind it, are not handed out to the end."""
    data = pattern(parts * PART)
    await bucket.origin.put("a", data, NOTHING_SAID)
    said = shared_server().client.head_object(Bucket=bucket.origin._settings.bucket, Key="a")["Metadata"]
    wrong = b"\0" + data[1:]
    shared_server().client.put_object(Bucket=bucket.origin._settings.bucket, Key="a", Body=wrong, Metadata=said)
    bucket.cuts = {f"0-{PART - 1}": [CHUNK_BYTES]}
    read, got = await opened(bucket), bytearray()
    await broken(read, got)
    await read.resume()
    with pytest.raises(IntegrityError) as caught:
        await rest(read, got)
    assert caught.value.source == "origin"
    assert len(got) < len(data)
    await read.close()


async def test_a_guard_goes_on_by_itself(bucket: Bucket) -> None:
    data = pattern(3 * PART)
    await bucket.origin.put("a", data, NOTHING_SAID)
    bucket.cuts = {f"0-{PART - 1}": [CHUNK_BYTES], f"{PART}-{2 * PART - 1}": [5, 7]}
    stats = OriginStats()
    guarded = GuardedOrigin(bucket.origin, stats, retry_for_s=30.0)
    read = await guarded.open("a")
    assert read is not None
    assert b"".join([chunk async for chunk in read.chunks()]) == data
    await read.close()
    assert not any(bucket.cuts.values())
    assert 2 <= stats.retries <= 3  # what failed ahead of the reader meanwhile is asked for again without one
