import asyncio
import errno
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.faults import FakeDisk, FakeSpoolFile
from tests.support.origins import open_descriptors, pattern
from tests.support.store import until
from tiered_store.aio.limits import ByteBudget
from tiered_store.aio.offload import Offload
from tiered_store.errors import DaemonUnavailable, ProtocolError, QuotaExceeded, TooLarge
from tiered_store.objects import INLINE_MAX_BYTES, FileBody, read_body
from tiered_store.store.memfd import MemoryRoom
from tiered_store.store.spool import GATHER_BYTES, Spool, Staged
from tiered_store.store.staging import Staging
from tiered_store.store.uploads import UploadRoom

MIB = 1024 * 1024


class Rooms:
    def __init__(self, directory: Path, *, has_disk: bool = True, memory_bytes: int = 4 * MIB, most: int = 0) -> None:
        self.uploads = UploadRoom(64 * MIB, 4)
        self.disk = FakeDisk(directory)
        self.offload = Offload(2, "test")
        self.staging = Staging(
            self.disk if has_disk else None,
            MemoryRoom(memory_bytes),
            self.uploads,
            budget=ByteBudget(64 * MIB),
            offload=self.offload,
            max_object_bytes=most,
        )

    def spool(self, size: int | None, *, hashed: bool = False) -> Spool:
        return self.staging.spool(size, hashed=hashed)


@pytest.fixture
async def rooms(tmp_path: Path) -> AsyncIterator[Rooms]:
    before = open_descriptors()
    made = Rooms(tmp_path)
    yield made
    await made.offload.close()  # its threads let go of what they had
    assert made.disk.spools == 0
    assert list(tmp_path.iterdir()) == []
    assert open_descriptors() == before


async def fill(spool: Spool, data: bytes, piece: int) -> Staged:
    for start in range(0, len(data), piece):
        await spool.write(memoryview(data)[start : start + piece])
    return await spool.finish()


@pytest.mark.parametrize("size", [0, 1, INLINE_MAX_BYTES - 1, INLINE_MAX_BYTES])
@pytest.mark.parametrize("known", [True, False])
async def test_small_objects_stay_bytes(rooms: Rooms, size: int, known: bool) -> None:
    data = pattern(size)
    staged = await fill(rooms.spool(size if known else None, hashed=True), data, 1000)
    assert staged.body == data
    assert staged.size == size
    assert staged.digest == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [INLINE_MAX_BYTES + 1, GATHER_BYTES, GATHER_BYTES + 1, MIB - 1, MIB, MIB + 1])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("piece", [10_000, 300_000])
async def test_larger_ones_go_to_a_file_of_the_disk_tier(rooms: Rooms, size: int, known: bool, piece: int) -> None:
    data = pattern(size)
    staged = await fill(rooms.spool(size if known else None, hashed=True), data, piece)
    assert isinstance(staged.body, FileBody)
    assert not staged.body.is_memory
    assert read_body(staged.body) == data
    assert staged.digest == hashlib.sha256(data).hexdigest()
    assert rooms.disk.spools == 1  # until the upload is dropped


async def test_the_digest_is_only_there_if_it_was_asked_for(rooms: Rooms) -> None:
    assert (await fill(rooms.spool(5), b"hello", 5)).digest is None
    assert (await fill(rooms.spool(MIB), pattern(MIB), MIB)).digest is None


async def test_what_is_written_can_be_read_while_it_grows_and_after(rooms: Rooms) -> None:
    data = pattern(MIB)
    spool = rooms.spool(MIB)
    with pytest.raises(ValueError, match="nothing was written"):
        await spool.read(0, 1)
    await spool.write(data[:GATHER_BYTES])
    assert spool.written == GATHER_BYTES
    assert await spool.read(100, 1000) == data[100:1100]
    await spool.write(data[GATHER_BYTES:])
    await spool.finish()
    assert await spool.read(MIB - 10, 10) == data[-10:]


async def test_the_writer_may_reuse_its_buffer(rooms: Rooms) -> None:
    buffer = bytearray(pattern(GATHER_BYTES))
    expected = bytes(buffer) * 2
    spool = rooms.spool(None, hashed=True)
    await spool.write(memoryview(buffer)[:1000])
    await spool.write(memoryview(buffer)[1000:])
    await spool.write(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    staged = await spool.finish()
    assert read_body(staged.body) == expected
    assert staged.digest == hashlib.sha256(expected).hexdigest()


async def test_sizes_are_enforced_before_the_bytes_are_taken(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, most=1000)
    with pytest.raises(TooLarge, match="at most 1000 bytes, this one has 1001"):
        rooms.spool(1001)
    spool = rooms.spool(None)
    await spool.write(b"x" * 1000)
    with pytest.raises(TooLarge, match="at most 1000"):
        await spool.write(b"x")
    await spool.abort()
    spool = rooms.spool(10)
    with pytest.raises(TooLarge, match="10 announced"):
        await spool.write(b"x" * 11)
    await spool.abort()
    await rooms.offload.close()


async def test_an_upload_that_ends_early_is_refused(rooms: Rooms) -> None:
    spool = rooms.spool(10)
    await spool.write(b"x" * 9)
    with pytest.raises(ProtocolError, match="9 of 10"):
        await spool.finish()
    await spool.abort()


async def test_abort_frees_everything_and_may_come_twice(rooms: Rooms) -> None:
    spool = rooms.spool(2 * MIB)
    await spool.write(pattern(MIB))
    assert rooms.disk.spools == 1
    await asyncio.gather(spool.abort(), spool.abort())
    assert rooms.disk.spools == 0
    await spool.abort()
    with pytest.raises(ProtocolError, match="given up"):
        await spool.write(pattern(MIB))
    with pytest.raises(ProtocolError):
        await spool.finish()
    await spool.abort()


async def test_abort_after_finish_leaves_the_upload_alone(rooms: Rooms) -> None:
    spool = rooms.spool(MIB)
    staged = await fill(spool, pattern(MIB), MIB)
    await spool.abort()
    assert read_body(staged.body) == pattern(MIB)


async def test_a_writer_cancelled_in_mid_write_and_aborted(rooms: Rooms) -> None:
    spool = rooms.spool(64 * MIB, hashed=True)
    await spool.write(pattern(MIB))
    writer = asyncio.create_task(spool.write(pattern(16 * MIB)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    await spool.abort()
    assert rooms.disk.spools == 0


async def test_without_a_disk_tier_memory_is_used_within_its_bound(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, has_disk=False, memory_bytes=2 * MIB)
    staged = await fill(rooms.spool(MIB, hashed=True), pattern(MIB), 100_000)
    assert isinstance(staged.body, FileBody)
    assert staged.body.is_memory
    assert read_body(staged.body) == pattern(MIB)
    large = rooms.spool(2 * MIB)
    with pytest.raises(QuotaExceeded, match="no room to collect"):
        await large.open()
    descriptors = open_descriptors()
    del staged
    await until(lambda: open_descriptors() < descriptors)
    await large.open()
    await large.abort()
    await rooms.offload.close()


async def test_without_room_in_the_disk_tier_memory_is_used(rooms: Rooms) -> None:
    rooms.disk.room_bytes = 0
    staged = await fill(rooms.spool(MIB), pattern(MIB), MIB)
    assert isinstance(staged.body, FileBody)
    assert staged.body.is_memory


@pytest.mark.parametrize("piece", [MIB // 2, 100_000])
async def test_a_disk_that_fills_up_on_the_way_is_not_the_writers_trouble(rooms: Rooms, piece: int) -> None:
    data = pattern(3 * MIB)
    rooms.disk.room_bytes = 3 * MIB // 2
    staged = await fill(rooms.spool(len(data), hashed=True), data, piece)
    assert isinstance(staged.body, FileBody)
    assert staged.body.is_memory
    assert read_body(staged.body) == data
    assert staged.digest == hashlib.sha256(data).hexdigest()
    assert rooms.disk.spools == 0


async def test_when_the_refuge_is_too_small_as_well(rooms: Rooms) -> None:
    rooms.disk.room_bytes = MIB
    spool = rooms.spool(6 * MIB)
    await spool.write(pattern(MIB))
    with pytest.raises(QuotaExceeded, match="no room to collect"):
        await spool.write(pattern(MIB))
    await spool.abort()


async def test_a_spool_file_that_cannot_be_read_back(rooms: Rooms) -> None:
    rooms.disk.room_bytes = MIB
    rooms.disk.loses_everything = True
    spool = rooms.spool(2 * MIB, hashed=True)
    await spool.write(pattern(MIB))
    with pytest.raises(QuotaExceeded, match="collecting objects failed"):
        await spool.write(pattern(MIB))
    await spool.abort()


def test_only_small_bytes_are_staged_in_memory() -> None:
    with pytest.raises(ValueError, match="too many"):
        Staged.of_bytes(bytes(INLINE_MAX_BYTES + 1), hashed=False)


async def test_all_uploads_together_gather_no_more_than_they_may(rooms: Rooms) -> None:
    rooms.uploads = rooms.staging._uploads = UploadRoom(300_000, 4)
    data = pattern(500_000)
    spools = [rooms.spool(None, hashed=True) for _ in range(3)]
    for start in range(0, len(data), 50_000):
        for spool in spools:
            await spool.write(data[start : start + 50_000])
        assert sum(len(spool._gathered) for spool in spools) == rooms.uploads.used_bytes <= 300_000
    for spool in spools:
        staged = await spool.finish()
        assert read_body(staged.body) == data
        assert staged.digest == hashlib.sha256(data).hexdigest()
    assert (rooms.uploads.used_bytes, rooms.uploads.uploads) == (0, 0)


async def test_beyond_the_allowance_pieces_are_written_at_once(rooms: Rooms) -> None:
    rooms.uploads = rooms.staging._uploads = UploadRoom(1000, 4)
    first, second = rooms.spool(None), rooms.spool(None)
    await first.write(b"x" * 900)
    await second.write(b"y" * 200)
    assert (first.written, second.written) == (0, 200)
    await first.abort()
    assert rooms.uploads.used_bytes == 0
    await second.write(b"y" * 200)
    assert second.written == 200  # gathered again
    await second.abort()
    assert (rooms.uploads.used_bytes, rooms.uploads.uploads) == (0, 0)


@pytest.mark.parametrize("size", [1000, INLINE_MAX_BYTES])
async def test_a_small_upload_that_went_to_a_file_ends_as_bytes(rooms: Rooms, size: int) -> None:
    rooms.uploads = rooms.staging._uploads = UploadRoom(300, 4)
    data = pattern(size)
    staged = await fill(rooms.spool(None, hashed=True), data, 400)
    assert staged.body == data
    assert staged.digest == hashlib.sha256(data).hexdigest()
    assert rooms.disk.spools == 0


async def test_a_cancelled_write_gives_back_what_was_gathered(rooms: Rooms) -> None:
    spool = rooms.spool(None)
    await spool.write(pattern(100_000))
    assert rooms.uploads.used_bytes == 100_000
    writer = asyncio.create_task(spool.write(pattern(16 * MIB)))
    await asyncio.sleep(0)
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    await asyncio.gather(spool.abort(), spool.abort())
    await spool.abort()
    assert (rooms.uploads.used_bytes, rooms.uploads.uploads) == (0, 0)
    with pytest.raises(ProtocolError, match="given up"):
        await spool.write(b"too late")
    assert rooms.uploads.used_bytes == 0


async def test_too_many_uploads_at_once_are_refused(rooms: Rooms) -> None:
    spools = [rooms.spool(None) for _ in range(4)]
    with pytest.raises(DaemonUnavailable, match="4 uploads are under way") as caught:
        rooms.spool(None)
    assert caught.value.retryable
    fills = rooms.staging.spool(5, hashed=False, bounded=False)  # what the origin holds is no upload
    await fills.write(b"hello")
    assert rooms.uploads.used_bytes == 0
    await fills.abort()
    await spools.pop().finish()
    spools.append(rooms.spool(None))
    await spools.pop().abort()
    spools.append(rooms.spool(None))
    with pytest.raises(DaemonUnavailable):
        rooms.spool(None)
    for spool in spools:
        await spool.abort()
    assert rooms.uploads.uploads == 0


async def test_an_upload_that_is_refused_for_its_size_does_not_count(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, most=10)
    with pytest.raises(TooLarge):
        rooms.spool(11)
    assert rooms.uploads.uploads == 0
    await rooms.offload.close()


async def test_without_descriptors_an_upload_cannot_end_and_may_come_again(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more(_: object) -> FileBody:
        raise OSError(errno.EMFILE, "Too many open files")

    spool = rooms.spool(MIB)
    await spool.write(pattern(MIB))
    with monkeypatch.context() as patch:
        patch.setattr(FakeSpoolFile, "body", no_more)
        with pytest.raises(QuotaExceeded, match="limit of open files") as caught:
            await spool.finish()
    assert caught.value.retryable
    await spool.abort()
