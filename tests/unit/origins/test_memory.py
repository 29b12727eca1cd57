from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import pytest

from tests.support.origins import (
    NOTHING_SAID,
    descriptors_now,
    file_body,
    list_all,
    memfd_body,
    open_descriptors,
    pattern,
    read_all,
)
from tiered_store.errors import IntegrityError, OriginUnavailable, QuotaExceeded
from tiered_store.objects import Descriptor, FileBody
from tiered_store.origins.memory import MemoryOrigin


async def test_the_quota_counts_bodies() -> None:
    origin = MemoryOrigin(quota_bytes=10)
    await origin.put("a", b"12345", NOTHING_SAID)
    await origin.put("b", b"12345", NOTHING_SAID)
    with pytest.raises(QuotaExceeded) as caught:
        await origin.put("c", b"1", NOTHING_SAID)
    assert caught.value.key == "c"
    assert not caught.value.retryable
    assert await list_all(origin) == ["a", "b"]
    await origin.put("c", b"", NOTHING_SAID)
    await origin.delete(["a"])
    await origin.put("c", b"54321", NOTHING_SAID)
    assert origin.used_bytes == 10


async def test_what_is_replaced_makes_room() -> None:
    origin = MemoryOrigin(quota_bytes=10)
    await origin.put("a", b"1234567890", NOTHING_SAID)
    await origin.put("a", b"0987654321", NOTHING_SAID)
    assert await read_all(origin, "a") == b"0987654321"
    with pytest.raises(QuotaExceeded):
        await origin.put("a", b"12345678901", NOTHING_SAID)
    assert await read_all(origin, "a") == b"0987654321"
    assert origin.used_bytes == 10


async def test_copies_count_too() -> None:
    origin = MemoryOrigin(quota_bytes=10)
    await origin.put("a", b"123456", NOTHING_SAID)
    with pytest.raises(QuotaExceeded):
        await origin.copy("a", "b")
    assert await list_all(origin) == ["a"]


async def test_room_taken_while_a_body_is_copied(tmp_path: Path) -> None:
    origin = MemoryOrigin(quota_bytes=100)
    put = asyncio.create_task(origin.put("slow", file_body(tmp_path / "f", pattern(60)), NOTHING_SAID))
    await asyncio.sleep(0)  # it has found room, and waits for its thread
    await origin.put("quick", pattern(60), NOTHING_SAID)
    with pytest.raises(QuotaExceeded):
        await put
    assert await list_all(origin) == ["quick"]
    assert origin.used_bytes == 60


async def test_a_sealed_memfd_is_adopted_without_a_copy() -> None:
    origin = MemoryOrigin()
    body = memfd_body(pattern(100_000))
    before = open_descriptors()
    await origin.put("a", body, NOTHING_SAID)
    assert descriptors_now() == before
    kept = origin._objects["a"][1]
    assert isinstance(kept, FileBody)
    assert kept.descriptor is body.descriptor


async def test_a_file_is_copied_and_sealed(tmp_path: Path) -> None:
    origin = MemoryOrigin()
    data = pattern(100_000)
    await origin.put("a", file_body(tmp_path / "f", data), NOTHING_SAID)
    (tmp_path / "f").write_bytes(b"changed")
    assert await read_all(origin, "a") == data
    kept = origin._objects["a"][1]
    assert isinstance(kept, FileBody)
    assert kept.is_memory
    assert fcntl.fcntl(kept.descriptor.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE


async def test_a_file_shorter_than_announced(tmp_path: Path) -> None:
    origin = MemoryOrigin()
    body = file_body(tmp_path / "f", pattern(1000))
    (tmp_path / "f").write_bytes(b"short")
    before = open_descriptors()
    with pytest.raises(IntegrityError):
        await origin.put("a", body, NOTHING_SAID)
    assert descriptors_now() == before
    assert await list_all(origin) == []


async def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    body = FileBody(Descriptor(os.open(tmp_path / "f", os.O_WRONLY)), 0, 1000, is_memory=False)
    with pytest.raises(OriginUnavailable):
        await MemoryOrigin().put("a", body, NOTHING_SAID)


async def test_a_name_and_names_below_it() -> None:
    origin = MemoryOrigin()
    for name in ("a", "a/b", "a.txt"):
        await origin.put(name, b"", NOTHING_SAID)
    assert await list_all(origin) == ["a", "a.txt", "a/b"]


async def test_etags_of_two_lives_differ() -> None:
    etags = {(await MemoryOrigin().put("a", b"x", NOTHING_SAID)).etag for _ in range(10)}
    assert len(etags) == 10


async def test_the_clock_gives_the_time() -> None:
    origin = MemoryOrigin(clock=lambda: 1_700_000_000_000_000_005)
    assert (await origin.put("a", b"x", NOTHING_SAID)).modified_ns == 1_700_000_000_000_000_005


@pytest.mark.parametrize("changes", [10, 500])
async def test_the_listing_follows_few_and_many_changes(changes: int) -> None:
    origin = MemoryOrigin()
    names = {f"{i * 7919 % 1000:04}" for i in range(1000)}
    for name in names:
        await origin.put(name, b"", NOTHING_SAID)
    assert await list_all(origin, page=300) == sorted(names)
    gone = {f"{i:04}" for i in range(0, changes * 2, 2)}
    await origin.delete(sorted(gone))
    back = {f"{i:04}" for i in range(0, changes, 4)}
    new = {f"{i:04}x" for i in range(changes)}
    for name in back | new:
        await origin.put(name, b"", NOTHING_SAID)
    await origin.delete(["0001x"])
    assert await list_all(origin, page=300) == sorted((names - gone) | back | (new - {"0001x"}))


async def test_closing_forgets() -> None:
    origin = MemoryOrigin()
    before = open_descriptors()
    await origin.put("a", memfd_body(b"x" * 70_000), NOTHING_SAID)
    await origin.close()
    assert descriptors_now() == before
    assert origin.used_bytes == 0
    assert await list_all(origin) == []
