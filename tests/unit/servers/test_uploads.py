"""PUT in its three forms, streams and batches, over a real door and a real store."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.doors import Peer, Served, eventually, served
from tests.support.origins import memfd_body, open_descriptors, pattern
from tests.support.store import settle
from tiered_store.errors import (
    DeadlineExceeded,
    IntegrityError,
    InvalidKey,
    OriginUnavailable,
    PermissionDenied,
    ProtocolError,
    TooLarge,
)
from tiered_store.objects import INLINE_MAX_BYTES, Descriptor
from tiered_store.origins.base import PutHeaders
from tiered_store.protocol.batches import decode_batch, decode_stored, encode_keys, encode_pairs, item_status
from tiered_store.protocol.frames import DATA_MAX_BYTES, STREAM_WINDOW_BYTES, Flag, Frame, Opcode, encode_frame
from tiered_store.protocol.messages import PutRequest, decode_info, decode_listing, encode_list_request, encode_put
from tiered_store.servers.limits import NativeLimits
from tiered_store.store.limits import StoreLimits

ID = 7


def put(size: int | None, flags: int, *, key: bytes = b"a/b", body: bytes = b"", **more: Any) -> bytes:
    request = PutRequest(key, size, more.get("content_type"), more.get("metadata", {}))
    return encode_put(ID, request, body=body, flags=flags)


def data(body: bytes) -> bytes:
    return encode_frame(Opcode.DATA, ID, body=body)


ALL_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def fallocate(fd: int, size: int) -> None:
    """Allocate ``size`` bytes without changing the file's length, which ``os.posix_fallocate`` cannot."""
    keep_size = 1
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.fallocate(fd, keep_size, ctypes.c_long(0), ctypes.c_long(size)) == 0


def held_inodes() -> set[int]:
    """Of all files that this process has open."""
    return {path.stat().st_ino for path in Path("/proc/self/fd").iterdir() if path.exists()}


END = encode_frame(Opcode.END, ID)
DESCRIPTOR = encode_frame(Opcode.DESCRIPTOR, ID)
CANCEL = encode_frame(Opcode.CANCEL, ID)


@asynccontextmanager
async def uploading(
    size: int | None, flags: int, limits: NativeLimits | None = None, **more: Any
) -> AsyncIterator[tuple[Served, Peer]]:
    """A peer whose upload has been granted."""
    async with served(limits) as it:
        peer = await it.connect()
        await peer.send(put(size, flags, **more))
        frame = await peer.receive()
        assert (frame.opcode, frame.request_id) == (Opcode.WINDOW, ID)
        assert frame.extra == (1 if flags == Flag.DESCRIPTOR else STREAM_WINDOW_BYTES)
        yield it, peer


async def stored(peer: Peer) -> Any:
    frame = await peer.answer()
    assert frame.opcode == Opcode.INFO, frame
    return decode_info(frame.head)[0]


async def ends(peer: Peer, it: Served, message: str) -> None:
    """The connection ends with this violation; nothing was stored, and the door is well."""
    error, number = await peer.error()
    assert type(error) is ProtocolError
    assert message in error.message
    assert number == 0
    assert await peer.rest() == []
    assert it.rig.origin.calls["put"] == 0
    assert await it.is_well()


class TestInline:
    @pytest.mark.parametrize("size", [0, 1, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, 1_000_000])
    @pytest.mark.parametrize("announced", [True, False])
    async def test_stored(self, size: int, announced: bool) -> None:
        async with served() as it:
            peer = await it.connect()
            await peer.send(put(size if announced else None, 0, body=pattern(size)))
            assert (await stored(peer)).size == size
            assert await it.rig.get("a/b") == pattern(size)

    @pytest.mark.parametrize(
        ("frame", "error"),
        [
            (put(3, 0, body=b"ab"), ProtocolError),
            (put(3, Flag.STREAM, body=b"abc"), ProtocolError),
            (put(3, Flag.DESCRIPTOR, body=b"abc"), ProtocolError),
            (put(None, Flag.DESCRIPTOR), ProtocolError),
            (put(1, 0, key=b"a//b", body=b"x"), InvalidKey),
            (put(1, 0, key=b"\xff", body=b"x"), InvalidKey),
            (put(1, 0, body=b"x", content_type="x" * 20_000), TooLarge),
            (put(1, 0, body=b"x", metadata={"a": "x" * 20_000}), TooLarge),
            (put(1, 0, body=b"x", metadata={"a": "x" * 65_000}), TooLarge),
            (put(1001, Flag.STREAM), TooLarge),
            (put(1001, Flag.DESCRIPTOR), TooLarge),
            (put(1001, 0, body=bytes(1001)), TooLarge),
            (put(2**63, Flag.STREAM), TooLarge),
            (put(1, 0, key=b"sha256:" + b"0" * 64, body=b"x"), IntegrityError),
            (encode_frame(Opcode.PUT, ID, head=b"\0" * 5), ProtocolError),
        ],
    )
    async def test_refused(self, frame: bytes, error: type[Exception]) -> None:
        async with served() as it:
            it.rig.store._staging._max_object_bytes = 1000
            peer = await it.connect()
            await peer.send(frame)
            raised, number = await peer.error()
            assert (type(raised), number) == (error, ID)
            assert it.rig.origin.calls["put"] == 0
            assert await peer.is_well()

    async def test_as_much_metadata_as_a_head_can_say(self) -> None:
        """With a limit that allows it, 60 KiB are taken, told and listed; more is refused before it is stored."""
        limits = NativeLimits(max_metadata_bytes=1 << 20)
        async with served(limits) as it:
            it.rig.store._writes._max_metadata_bytes = 1 << 20
            peer = await it.connect()
            await peer.send(put(1, 0, body=b"x", metadata={"a": "x" * (60 * 1024 - 30)}))
            assert len((await stored(peer)).metadata["a"]) == 60 * 1024 - 30
            await peer.send(put(1, 0, body=b"x", metadata={"a": "x" * (60 * 1024)}))
            error, _ = await peer.error()
            assert isinstance(error, TooLarge)


class TestStream:
    @pytest.mark.parametrize("size", [0, 1, INLINE_MAX_BYTES + 1, 3 * STREAM_WINDOW_BYTES + 5])
    @pytest.mark.parametrize("announced", [True, False])
    async def test_stored(self, size: int, announced: bool) -> None:
        async with uploading(size if announced else None, Flag.STREAM, key=b"sha256:") as (it, peer):
            content, credit = pattern(size), STREAM_WINDOW_BYTES
            for start in range(0, size, DATA_MAX_BYTES):
                piece = content[start : start + DATA_MAX_BYTES]
                while credit < len(piece):
                    credit += (await peer.receive()).extra
                await peer.send(data(piece))
                credit -= len(piece)
            await peer.send(END)
            info = await stored(peer)
            assert info.key == "sha256:" + hashlib.sha256(content).hexdigest()
            assert await it.rig.get(info.key) == content

    async def test_beyond_the_window(self) -> None:
        async with uploading(None, Flag.STREAM) as (it, peer):
            connection = peer.connection
            upload = connection.transfers[ID]
            upload.feed(Frame(Opcode.DATA, 0, 0, ID, 0, bytes(STREAM_WINDOW_BYTES)), None)
            await peer.send(data(b"x"))
            await ends(peer, it, "exceeds what was granted by 1 bytes")

    async def test_empty_data(self) -> None:
        """Costs nothing of the window, so it could come without end."""
        async with uploading(None, Flag.STREAM) as (it, peer):
            await peer.send(data(b""))
            await ends(peer, it, "without data")

    @pytest.mark.parametrize("behind", [data(b"x"), END])
    async def test_more_behind_the_end(self, behind: bytes) -> None:
        async with uploading(None, Flag.STREAM) as (it, peer):
            await peer.send(END + behind)
            await ends(peer, it, "after the end of its upload")

    @pytest.mark.parametrize("frame", [encode_frame(Opcode.WINDOW, ID, extra=5), DESCRIPTOR])
    async def test_parts_of_another_form(self, frame: bytes) -> None:
        """DESCRIPTOR without one ends the connection too: a stream must not be taken for complete."""
        async with uploading(None, Flag.STREAM) as (it, peer):
            await peer.send(data(b"half") + frame)
            await ends(peer, it, "")

    async def test_a_descriptor_is_no_end(self) -> None:
        async with uploading(None, Flag.STREAM) as (it, peer):
            peer.connection.expect_descriptors(+1)
            file = memfd_body(b"x")
            await peer.send(data(b"half"))
            await peer.send(DESCRIPTOR, file.descriptor.fd)
            await ends(peer, it, "is not part of this upload")
            file.descriptor.close()

    @pytest.mark.parametrize(("announced", "sent", "error"), [(10, 9, ProtocolError), (10, 11, TooLarge)])
    async def test_another_size_than_announced(self, announced: int, sent: int, error: type[Exception]) -> None:
        async with uploading(announced, Flag.STREAM) as (it, peer):
            await peer.send(data(bytes(sent)) + END)
            raised, number = await peer.error()
            assert (type(raised), number) == (error, ID)
            assert it.rig.origin.calls["put"] == 0
            assert await peer.is_well()

    async def test_cancelled_in_the_middle(self) -> None:
        async with uploading(None, Flag.STREAM) as (it, peer):
            before = open_descriptors()
            for _ in range(3):
                await peer.send(data(bytes(DATA_MAX_BYTES)))
            await peer.send(CANCEL + data(b"late") + END + encode_frame(Opcode.WINDOW, ID, extra=7))
            await eventually(lambda: not peer.connection.in_flight)
            assert not peer.connection.transfers
            assert await peer.is_well()
            await eventually(lambda: open_descriptors() <= before)
            assert it.rig.origin.calls["put"] == 0

    async def test_late_parts_of_one_that_was_refused(self) -> None:
        async with uploading(10, Flag.STREAM) as (_, peer):
            await peer.send(data(bytes(11)))
            await peer.error()
            await eventually(lambda: not peer.connection.transfers)
            await peer.send(data(b"more") * 100 + END + END + data(b""))
            assert await peer.is_well()

    async def test_silence(self) -> None:
        async with uploading(None, Flag.STREAM, NativeLimits(stall_timeout_s=0.02)) as (it, peer):
            await peer.send(data(b"x"))
            error, number = await peer.error()
            assert (type(error), number) == (DeadlineExceeded, ID)
            assert await it.is_well()

    async def test_signs_of_life(self) -> None:
        """The origin takes its time, and the client hears that it does."""
        async with uploading(None, Flag.STREAM, NativeLimits(progress_interval_s=0.005)) as (it, peer):
            gate = it.rig.origin.hold("put")
            await peer.send(data(b"x") + END)
            frames = [await peer.receive() for _ in range(4)]
            assert {(frame.opcode, frame.request_id) for frame in frames} == {(Opcode.WINDOW, ID)}
            assert [frame.extra for frame in frames][1:] == [0, 0, 0]
            gate.open()
            await stored(peer)
            await settle()
            assert await peer.is_well()


class TestDescriptor:
    async def test_a_sealed_memfd_is_adopted(self) -> None:
        async with uploading(100_000, Flag.DESCRIPTOR, key=b"sha256:") as (it, peer):
            file = memfd_body(pattern(100_000))
            await peer.send(DESCRIPTOR, file.descriptor.fd)
            file.descriptor.close()
            assert await it.rig.get((await stored(peer)).key) == pattern(100_000)

    @pytest.mark.parametrize("cut", [1, 8, 15])
    async def test_split_over_reads(self, cut: int) -> None:
        """The descriptor comes with the first byte, the frame is complete only later."""
        async with uploading(5, Flag.DESCRIPTOR) as (it, peer):
            file = memfd_body(b"hello")
            await peer.send(DESCRIPTOR[:cut], file.descriptor.fd)
            file.descriptor.close()
            await eventually(lambda: peer.connection._reader.is_midway)
            assert len(peer.connection._descriptors) == 1
            await peer.send(DESCRIPTOR[cut:] + encode_frame(Opcode.PING, 1))
            assert {(await peer.answer()).opcode for _ in range(2)} == {Opcode.INFO, Opcode.PONG}
            assert await it.rig.get("a/b") == b"hello"

    async def test_behind_other_frames_in_the_same_read(self) -> None:
        async with uploading(5, Flag.DESCRIPTOR) as (_, peer):
            file = memfd_body(b"hello")
            await peer.send(encode_frame(Opcode.PING, 1) * 3)
            await peer.send(DESCRIPTOR, file.descriptor.fd)
            file.descriptor.close()
            assert [(await peer.answer()).opcode for _ in range(4)] == [Opcode.PONG] * 3 + [Opcode.INFO]

    @pytest.mark.parametrize("count", [1, 3])
    async def test_unasked_ones_are_closed(self, count: int) -> None:
        async with uploading(5, Flag.DESCRIPTOR) as (_, peer):
            file = memfd_body(b"hello")
            before = open_descriptors()
            for _ in range(10):
                await peer.send(encode_frame(Opcode.PING, 1), *[file.descriptor.fd] * count)
                await peer.answer()
            assert open_descriptors() == before
            await peer.send(DESCRIPTOR, *[file.descriptor.fd] * count)
            file.descriptor.close()
            await stored(peer)

    async def test_too_many_waiting(self) -> None:
        async with uploading(5, Flag.DESCRIPTOR) as (it, peer):
            file = memfd_body(b"hello")
            before = open_descriptors()
            for byte in DESCRIPTOR[:5]:
                with contextlib.suppress(ConnectionError):
                    await peer.send(bytes([byte]), file.descriptor.fd)
                await settle(5)
            await ends(peer, it, "more descriptors than anybody asked for")
            assert open_descriptors() < before
            file.descriptor.close()

    async def test_without_one(self) -> None:
        async with uploading(5, Flag.DESCRIPTOR) as (it, peer):
            await peer.send(DESCRIPTOR)
            await ends(peer, it, "came without a descriptor")

    @pytest.mark.parametrize("frame", [data(b"x"), END])
    async def test_parts_of_another_form(self, frame: bytes) -> None:
        async with uploading(5, Flag.DESCRIPTOR) as (it, peer):
            await peer.send(frame)
            await ends(peer, it, "is not part of this upload")

    async def test_one_that_comes_too_late(self) -> None:
        """Its upload was cancelled: the frame is ignored and the descriptor closed, by us or by the kernel."""
        async with uploading(5, Flag.DESCRIPTOR) as (_, peer):
            file = memfd_body(b"hello")
            before = open_descriptors()
            await peer.send(CANCEL)
            await eventually(lambda: not peer.connection.in_flight)
            for expecting in (0, 1):
                peer.connection.expect_descriptors(expecting)
                await peer.send(DESCRIPTOR, file.descriptor.fd)
                assert await peer.is_well()
            assert open_descriptors() == before
            file.descriptor.close()

    async def test_what_is_no_file(self, tmp_path: Any) -> None:
        reader, writer = os.pipe()
        directory = os.open(tmp_path, os.O_RDONLY)
        (tmp_path / "f").write_bytes(b"hello")
        for_writing = os.open(tmp_path / "f", os.O_WRONLY)
        locked = memfd_body(b"hello").descriptor
        for number, error in ((reader, ProtocolError), (directory, ProtocolError), (for_writing, PermissionDenied)):
            async with uploading(5, Flag.DESCRIPTOR) as (_, peer):
                await peer.send(DESCRIPTOR, number)
                raised, whose = await peer.error()
                assert (type(raised), whose) == (error, ID)
                assert await peer.is_well()
        for number in (reader, writer, directory, for_writing):
            os.close(number)
        locked.close()

    async def test_another_size(self) -> None:
        async with uploading(6, Flag.DESCRIPTOR) as (_, peer):
            file = memfd_body(b"hello")
            await peer.send(DESCRIPTOR, file.descriptor.fd)
            file.descriptor.close()
            error, _ = await peer.error()
            assert "has 5 bytes, 6 were announced" in error.message

    @pytest.mark.parametrize("seals", [0, fcntl.F_SEAL_WRITE, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK])
    async def test_what_could_still_change_is_copied(self, seals: int) -> None:
        async with uploading(100_000, Flag.DESCRIPTOR) as (it, peer):
            file = Descriptor(os.memfd_create("test", os.MFD_ALLOW_SEALING))
            os.write(file.fd, pattern(100_000))
            fcntl.fcntl(file.fd, fcntl.F_ADD_SEALS, seals)
            await peer.send(DESCRIPTOR, file.fd)
            await stored(peer)
            if not seals:
                os.pwrite(file.fd, b"changed", 0)
            file.close()
            assert await it.rig.get("a/b") == pattern(100_000)

    @pytest.mark.parametrize("kind", ["hole", "hidden room"])
    async def test_a_memfd_that_is_not_what_it_says_is_copied(self, kind: str) -> None:
        """A hole is filled by whoever reads it, room behind the end is kept unseen: neither would be counted."""
        async with uploading(1_000_000, Flag.DESCRIPTOR) as (it, peer):
            file = Descriptor(os.memfd_create("test", os.MFD_ALLOW_SEALING))
            if kind == "hole":
                os.ftruncate(file.fd, 1_000_000)
                content = bytes(1_000_000)
            else:
                content = pattern(1_000_000)
                os.write(file.fd, content)
                fallocate(file.fd, 5_000_000)
            fcntl.fcntl(file.fd, fcntl.F_ADD_SEALS, ALL_SEALS)
            inode = os.fstat(file.fd).st_ino
            await peer.send(DESCRIPTOR, file.fd)
            await stored(peer)
            file.close()
            assert await it.rig.get("a/b") == content
            assert inode not in held_inodes()

    async def test_silence(self) -> None:
        async with uploading(5, Flag.DESCRIPTOR, NativeLimits(stall_timeout_s=0.02)) as (_, peer):
            error, number = await peer.error()
            assert (type(error), number) == (DeadlineExceeded, ID)


class TestDownloads:
    SIZE = 5 * STREAM_WINDOW_BYTES

    async def test_no_more_than_was_granted(self) -> None:
        async with served() as it:
            content = pattern(self.SIZE)
            await it.rig.there("a", content)
            peer = await it.connect()
            await peer.send(encode_frame(Opcode.GET, ID, body=b"a", flags=Flag.STREAM))
            assert (await peer.receive()).opcode == Opcode.OBJECT_STREAM
            got, credit = b"", STREAM_WINDOW_BYTES
            while True:
                while len(got) < min(credit, self.SIZE):
                    frame = await peer.receive()
                    assert len(frame.payload) <= DATA_MAX_BYTES
                    got += frame.payload
                    assert len(got) <= credit
                if len(got) == self.SIZE:
                    break
                await settle(20)
                peer.read()
                assert peer.frames == []  # all that was granted has been sent, and nothing more comes
                credit += 300_000
                await peer.send(encode_frame(Opcode.WINDOW, ID, extra=300_000))
            assert (await peer.receive()).opcode == Opcode.END
            assert got == content

    async def test_grants_without_end(self) -> None:
        async with served() as it:
            await it.rig.there("a", pattern(self.SIZE))
            peer = await it.connect()
            flood = encode_frame(Opcode.WINDOW, ID, extra=0xFFFFFFFF)
            await peer.send(encode_frame(Opcode.GET, ID, body=b"a", flags=Flag.STREAM))
            assert (await peer.receive()).opcode == Opcode.OBJECT_STREAM
            await peer.send(flood * 1000)
            got = 0
            while (frame := await peer.receive()).opcode != Opcode.END:
                got += len(frame.payload) if frame.opcode == Opcode.DATA else 0
            assert got == self.SIZE

    async def test_a_reader_that_grants_nothing(self) -> None:
        async with served(NativeLimits(stall_timeout_s=0.02)) as it:
            await it.rig.there("a", pattern(self.SIZE))
            peer = await it.connect()
            await peer.send(encode_frame(Opcode.GET, ID, body=b"a", flags=Flag.STREAM))
            frames = []
            while (frame := await peer.receive()).opcode != Opcode.ERROR:
                frames.append(frame)
            assert sum(len(frame.payload) for frame in frames[1:]) == STREAM_WINDOW_BYTES
            assert frame.extra == 22
            assert await peer.is_well()

    @pytest.mark.parametrize("part", [data(b"x"), END, DESCRIPTOR])
    async def test_parts_of_an_upload(self, part: bytes) -> None:
        async with served() as it:
            await it.rig.there("a", pattern(self.SIZE))
            peer = await it.connect()
            await peer.send(encode_frame(Opcode.GET, ID, body=b"a", flags=Flag.STREAM))
            await peer.receive()
            await peer.send(part)
            frames = await peer.rest()
            assert frames[-1].opcode == Opcode.ERROR
            assert frames[-1].request_id == 0

    async def test_an_origin_that_breaks_in_the_middle(self) -> None:
        async with served() as it:
            await it.rig.there("a", pattern(self.SIZE))
            it.rig.origin.fail("chunk:2", lambda: OriginUnavailable("broken"))
            peer = await it.connect()
            await peer.send(encode_frame(Opcode.GET, ID, body=b"a", flags=Flag.STREAM))
            while (frame := await peer.receive()).opcode != Opcode.ERROR:
                assert frame.opcode != Opcode.END
                if frame.opcode == Opcode.DATA:
                    await peer.send(encode_frame(Opcode.WINDOW, ID, extra=len(frame.payload)))
            assert frame.request_id == ID
            assert await peer.is_well()


class TestBatches:
    async def test_as_many_keys_as_allowed(self) -> None:
        """Names of four-byte characters, some cold, some not there."""
        async with served() as it:
            keys = [f"🎉{number:04}" for number in range(1024)]
            for number, key in enumerate(keys):
                if number % 3:
                    await it.rig.there(key, key.encode())
                    if number % 3 == 1:
                        await it.rig.get(key)
            peer = await it.connect()
            body = encode_keys([key.encode() for key in keys])
            await peer.send(encode_frame(Opcode.GET_MANY, ID, body=body))
            found: dict[int, Any] = {}
            while True:
                frame = await peer.receive()
                for index, size, part in zip(*decode_batch(frame), strict=True):
                    assert index not in found
                    found[index] = part if size < 0xFFFFFF00 else size
                if frame.flags & Flag.FINAL:
                    break
            missing = 0xFFFFFF01
            assert found == {n: key.encode() if n % 3 else missing for n, key in enumerate(keys)}

    @pytest.mark.parametrize("opcode", [Opcode.GET_MANY, Opcode.EXISTS, Opcode.PUT_MANY])
    async def test_one_more(self, opcode: Opcode) -> None:
        async with served() as it:
            peer = await it.connect()
            keys = [b"%d" % number for number in range(1025)]
            body = encode_pairs((key, b"") for key in keys) if opcode == Opcode.PUT_MANY else encode_keys(keys)
            await peer.send(encode_frame(opcode, ID, body=body))
            error, number = await peer.error()
            assert (type(error), number) == (ProtocolError, ID)
            assert it.rig.origin.calls["put"] == 0
            assert await peer.is_well()

    async def test_puts_one_by_one(self) -> None:
        async with served() as it:
            items = [("🎉" * 250 + f"{n}", b"%d" % n) for n in range(400)]
            items += [("a//b", b"x"), ("large", bytes(INLINE_MAX_BYTES + 1)), ("sha256:" + "0" * 64, b"x")]
            peer = await it.connect()
            body = encode_pairs((key.encode(), part) for key, part in items)
            await peer.send(encode_frame(Opcode.PUT_MANY, ID, body=body))
            results = decode_stored((await peer.receive()).body, [key for key, _ in items])
            assert [type(result) for result in results[400:]] == [InvalidKey, TooLarge, IntegrityError]
            for (key, part), result in zip(items[:400], results, strict=False):
                assert result.key == key
                assert await it.rig.get(key) == part

    async def test_an_object_too_large_for_a_batch(self) -> None:
        async with served() as it:
            await it.rig.there("a", bytes(INLINE_MAX_BYTES + 1))
            peer = await it.connect()
            await peer.send(encode_frame(Opcode.GET_MANY, ID, body=encode_keys([b"a", b"\xff"])))
            indexes, sizes, _ = decode_batch(await peer.receive())
            assert dict(zip(indexes, sizes, strict=True)) == {0: 0xFFFFFFFF, 1: item_status(InvalidKey(""))}


class TestListing:
    async def test_a_page_fits_its_frame_whatever_the_metadata(self) -> None:
        async with served() as it:
            metadata = {"x": "🎉" * 4000}
            for number in range(120):
                await it.rig.origin.inner.put(f"{number:03}", b"", PutHeaders("x/y", metadata))
            peer = await it.connect()
            names: list[str] = []
            cursor, pages = b"", 0
            while True:
                await peer.send(encode_list_request(ID, b"", cursor, 1000))
                items, cursor = decode_listing(await peer.receive())
                names += [item.key for item in items]
                assert all(item.metadata == metadata for item in items)
                pages += 1
                if not cursor:
                    break
            assert names == [f"{number:03}" for number in range(120)]
            assert pages > 1


def test_limits_of_the_store_are_the_stores() -> None:
    assert StoreLimits().max_metadata_bytes == NativeLimits().max_metadata_bytes
