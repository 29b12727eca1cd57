import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from tests.support.origins import file_body, memfd_body, open_descriptors, pattern
from tests.unit.store.test_spool import Rooms, rooms
from tiered_store.aio.digests import digest_body
from tiered_store.errors import DaemonUnavailable, ProtocolError, QuotaExceeded, TooLarge
from tiered_store.objects import INLINE_MAX_BYTES, Descriptor, FileBody, read_body
from tiered_store.store.memfd import MemoryRoom

__all__ = ["rooms"]  # the fixture

MIB = 1024 * 1024


def opened(path: Path, data: bytes) -> Descriptor:
    path.write_bytes(data)
    descriptor = Descriptor(os.open(path, os.O_RDONLY))
    path.unlink()
    return descriptor


@pytest.mark.parametrize("size", [0, 1, 300_000, 5 * MIB + 3])
def test_digests_of_bytes_memory_and_files(tmp_path: Path, size: int) -> None:
    data = pattern(size)
    expected = hashlib.sha256(data).hexdigest()
    assert digest_body(data) == expected
    assert digest_body(file_body(tmp_path / "f", data, offset=4096)) == expected
    if size:
        assert digest_body(memfd_body(data)) == expected


def test_a_body_that_is_too_short_has_no_digest(tmp_path: Path) -> None:
    for whole in (file_body(tmp_path / "f", b"abc"), memfd_body(b"abc")):
        with pytest.raises(EOFError):
            digest_body(FileBody(whole.descriptor, 0, 4, is_memory=whole.is_memory))


@pytest.mark.parametrize("size", [0, 1, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, 3 * MIB])
@pytest.mark.parametrize("hashed", [True, False])
async def test_a_sealed_memfd_is_adopted_without_a_copy(rooms: Rooms, size: int, hashed: bool) -> None:
    data = pattern(size)
    body = memfd_body(data)
    staged = await rooms.staging.adopt(body.descriptor, size, hashed=hashed)
    assert staged.digest == (hashlib.sha256(data).hexdigest() if hashed else None)
    if size <= INLINE_MAX_BYTES:
        assert staged.body == data
    else:
        assert isinstance(staged.body, FileBody)
        assert staged.body.descriptor is body.descriptor


async def test_a_memfd_shorter_than_announced_is_refused(rooms: Rooms) -> None:
    with pytest.raises(ProtocolError, match="fewer than the 11"):
        await rooms.staging.adopt(memfd_body(b"x" * 10).descriptor, 11, hashed=True)


@pytest.mark.parametrize("size", [0, 1, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, 2 * MIB, 7 * MIB + 5])
@pytest.mark.parametrize("hashed", [True, False])
async def test_anybodys_file_is_copied(rooms: Rooms, tmp_path: Path, size: int, hashed: bool) -> None:
    data = pattern(size)
    descriptor = opened(tmp_path / "theirs", data)
    staged = await rooms.staging.stage_file(descriptor, size, hashed=hashed)
    descriptor.close()
    assert read_body(staged.body) == data
    assert staged.digest == (hashlib.sha256(data).hexdigest() if hashed else None)


@pytest.mark.parametrize("size", [100, 5 * MIB])
async def test_a_file_that_ends_early_is_refused_and_leaves_nothing(rooms: Rooms, tmp_path: Path, size: int) -> None:
    descriptor = opened(tmp_path / "theirs", pattern(size - 1))
    with pytest.raises(ProtocolError, match=f"ends after {size - 1} bytes"):
        await rooms.staging.stage_file(descriptor, size, hashed=True)
    assert rooms.disk.spools == 0


@pytest.mark.parametrize("size", [100, 5 * MIB])
async def test_a_descriptor_that_cannot_be_read_is_refused(rooms: Rooms, tmp_path: Path, size: int) -> None:
    (tmp_path / "theirs").write_bytes(b"")
    descriptor = Descriptor(os.open(tmp_path / "theirs", os.O_WRONLY))
    (tmp_path / "theirs").unlink()
    with pytest.raises(ProtocolError, match="cannot be read"):
        await rooms.staging.stage_file(descriptor, size, hashed=True)


async def test_limits_hold_for_descriptors(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, most=10)
    with pytest.raises(TooLarge):
        await rooms.staging.adopt(memfd_body(b"x" * 11).descriptor, 11, hashed=True)
    with pytest.raises(TooLarge):
        await rooms.staging.stage_file(opened(tmp_path / "theirs", b"x" * 11), 11, hashed=True)
    await rooms.offload.close()


async def test_a_cancelled_copy_gives_back_room_and_budget(rooms: Rooms, tmp_path: Path) -> None:
    descriptor = opened(tmp_path / "theirs", pattern(64 * MIB))
    make_spool = rooms.staging.spool
    for written in (0, 1, 8 * MIB):
        spool = make_spool(64 * MIB, hashed=False)
        rooms.staging.spool = lambda *_, spool=spool, **__: spool  # type: ignore[method-assign]
        copying = asyncio.create_task(rooms.staging.stage_file(descriptor, 64 * MIB, hashed=True))
        while spool.written < written:
            await asyncio.sleep(0)
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
        assert rooms.disk.spools == 0
    assert rooms.staging._budget.used_bytes == 0


async def test_without_any_room_a_copy_is_refused(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, has_disk=False, memory_bytes=MIB)
    with pytest.raises(QuotaExceeded, match="no room"):
        await rooms.staging.stage_file(opened(tmp_path / "theirs", pattern(2 * MIB)), 2 * MIB, hashed=True)
    await rooms.offload.close()


async def test_without_descriptors_memory_is_no_room_either(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", no_more)
    rooms.disk.room_bytes = 0
    spool = rooms.spool(MIB)
    with pytest.raises(QuotaExceeded, match=r"Too many open files.*LimitNOFILE"):
        await spool.open()
    await spool.abort()


async def test_a_copy_counts_among_the_uploads(rooms: Rooms, tmp_path: Path) -> None:
    spools = [rooms.spool(None) for _ in range(4)]
    for size in (MIB, INLINE_MAX_BYTES):
        descriptor = opened(tmp_path / "theirs", pattern(size))
        if size > INLINE_MAX_BYTES:
            with pytest.raises(DaemonUnavailable, match="4 uploads"):
                await rooms.staging.stage_file(descriptor, size, hashed=True)
        else:
            assert (await rooms.staging.stage_file(descriptor, size, hashed=True)).size == size
    await spools.pop().abort()
    await rooms.staging.stage_file(opened(tmp_path / "theirs", pattern(MIB)), MIB, hashed=True)
    assert rooms.uploads.uploads == 3
    for spool in spools:
        await spool.abort()


async def test_a_file_of_the_disk_is_copied_into_sealed_memory(rooms: Rooms, tmp_path: Path) -> None:
    data = pattern(5 * MIB)
    rooms.staging._memory = MemoryRoom(8 * MIB)
    body = file_body(tmp_path / "cached", data, offset=4096)
    (tmp_path / "cached").unlink()
    copy = await rooms.staging.in_memory(body)
    assert copy.is_memory
    assert read_body(copy) == data
    assert open_descriptors() > 0
