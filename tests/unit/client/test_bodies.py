"""From what a caller has to what travels, and back, on real files, memfds and maps."""

from __future__ import annotations

import fcntl
import gc
import io
import mmap
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.origins import open_descriptors, pattern
from tests.support.wire import as_received, by_file, info
from tiered_store.client.bodies import View, bytes_of, upload_of_bytes, uploads_of_source
from tiered_store.client.callers import CallersErrors
from tiered_store.client.operations import Received, Upload
from tiered_store.errors import DaemonUnavailable, ProtocolError
from tiered_store.objects import INLINE_MAX_BYTES, FileBody

pytestmark = pytest.mark.usefixtures("level")

LARGE = INLINE_MAX_BYTES + 1


class TestUploadOfBytes:
    @pytest.mark.parametrize("size", [0, 1, INLINE_MAX_BYTES])
    def test_small_ones_as_they_are(self, size: int) -> None:
        upload = upload_of_bytes(bytes(size))
        assert upload == Upload(size, inline=bytes(size))

    @pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
    def test_large_ones_in_a_sealed_memfd(self, make: Any) -> None:
        data = pattern(LARGE)
        upload = upload_of_bytes(make(data))
        assert upload.size == LARGE
        assert upload.descriptor is not None
        fd = upload.descriptor.fd
        assert os.pread(fd, LARGE + 1, 0) == data
        assert not os.get_inheritable(fd)
        for attempt in (
            lambda: os.pwrite(fd, b"x", 0),
            lambda: os.ftruncate(fd, 0),
            lambda: os.ftruncate(fd, LARGE + 1),
            lambda: mmap.mmap(fd, LARGE, mmap.MAP_SHARED, mmap.PROT_WRITE),
            lambda: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0),
        ):
            with pytest.raises(PermissionError):
                attempt()

    @pytest.mark.parametrize("count", [100, LARGE])
    def test_views_of_other_shapes(self, count: int) -> None:
        wide = memoryview(pattern(count * 8)).cast("Q")
        assert upload_of_bytes(wide).size == count * 8
        every_other = memoryview(pattern(count * 2))[::2]
        upload = upload_of_bytes(every_other)
        assert upload.size == count
        sent = upload.inline if upload.descriptor is None else os.pread(upload.descriptor.fd, count, 0)
        assert sent == pattern(count * 2)[::2]

    def test_without_memfds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the platform has none, the bytes are streamed."""
        monkeypatch.delattr(os, "memfd_create")
        upload = upload_of_bytes(pattern(LARGE))
        assert upload.descriptor is None
        assert upload.read is not None
        assert upload.read(LARGE + 5) == pattern(LARGE)


class TestUploadsOfSource:
    def test_bytes_can_be_sent_again(self) -> None:
        make = uploads_of_source(b"abc")
        assert make() == make() == Upload(3, inline=b"abc")

    def test_a_small_file(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"abc")
        for source in (tmp_path / "f", str(tmp_path / "f")):
            assert uploads_of_source(source)() == Upload(3, inline=b"abc")

    def test_a_large_file(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(pattern(LARGE))
        upload = uploads_of_source(tmp_path / "f")()
        assert upload.size == LARGE
        assert upload.descriptor is not None
        assert os.pread(upload.descriptor.fd, LARGE, 0) == pattern(LARGE)

    def test_a_pipe_is_streamed(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "p")
        writing = threading.Thread(target=lambda: (tmp_path / "p").write_bytes(b"abc"))
        writing.start()
        moved: list[tuple[int, int | None]] = []
        upload = uploads_of_source(tmp_path / "p", lambda *seen: moved.append(seen))()
        assert upload.read is not None
        assert upload.size is None
        assert upload.read(100) == b"abc"
        assert upload.read(100) == b""
        assert moved == [(3, None), (3, None)]
        writing.join()

    def test_a_file_object_can_be_read_once(self) -> None:
        make = uploads_of_source(io.BytesIO(b"abc"))
        upload = make()
        assert upload.read is not None
        assert upload.read(2) == b"ab"
        with pytest.raises(DaemonUnavailable, match="cannot be sent again"):
            make()

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(IsADirectoryError), CallersErrors():
            uploads_of_source(tmp_path)()
        with pytest.raises(FileNotFoundError), CallersErrors():
            uploads_of_source(tmp_path / "none")()


class TestBytesOf:
    @pytest.mark.parametrize("offset", [0, 1, 4096, 5000])
    def test_from_a_file(self, offset: int) -> None:
        assert bytes_of(by_file(pattern(LARGE), offset=offset)) == pattern(LARGE)

    def test_inline(self) -> None:
        assert bytes_of(as_received(info(), b"abc", None)) == b"abc"

    @pytest.mark.parametrize("take", [bytes_of, View])
    @pytest.mark.parametrize(("offset", "size"), [(0, 101), (1, 101), (2**63, 1), (2**64 - 1, 2**64 - 1)])
    def test_a_file_too_short_is_no_object(self, take: Any, offset: int, size: int) -> None:
        received = by_file(bytes(100))
        assert received.file is not None
        received.file = FileBody(received.file.descriptor, offset, size, is_memory=False)
        with pytest.raises(ProtocolError, match="shorter than"):
            take(received)


class TestView:
    @pytest.mark.parametrize("offset", [0, 1, 4096, 5000])
    def test_without_a_copy(self, offset: int) -> None:
        with View(by_file(pattern(LARGE), offset=offset)) as view:
            assert view.readonly
            assert view == pattern(LARGE)

    @pytest.mark.parametrize("received", [as_received(info("a", 3), b"abc", None), by_file(b"", offset=0)])
    def test_small_and_empty(self, received: Received) -> None:
        with View(received) as view:
            assert bytes(view) == received.data
            assert view.readonly
        assert View(received).info == received.info

    def test_closed_at_the_end_of_the_block(self) -> None:
        before = open_descriptors()
        with View(by_file(pattern(LARGE))) as view:
            assert open_descriptors() > before
        assert open_descriptors() == before
        with pytest.raises(ValueError, match="released"):
            view[0]

    def test_slices_outlive_it(self) -> None:
        """The map lives as long as a slice does, and no longer."""
        before = open_descriptors()
        shown = View(by_file(pattern(LARGE)))
        with shown as view:
            piece = view[1000:2000]
        shown.close()
        del shown, view
        gc.collect()
        assert piece == pattern(LARGE)[1000:2000]
        del piece
        gc.collect()
        assert open_descriptors() == before


class TestFileObjects:
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "object"
        path.write_bytes(pattern(LARGE))
        return path

    @pytest.mark.parametrize("buffering", [0, -1])
    def test_at_its_beginning_it_travels_as_its_descriptor(self, tmp_path: Path, buffering: int) -> None:
        with self.path(tmp_path).open("rb", buffering=buffering) as file:
            upload = uploads_of_source(file)()
        assert upload.size == LARGE
        assert upload.descriptor is not None
        assert os.pread(upload.descriptor.fd, LARGE, 0) == pattern(LARGE)

    def test_in_the_middle_it_is_read(self, tmp_path: Path) -> None:
        with self.path(tmp_path).open("rb") as file:
            file.seek(7)
            upload = uploads_of_source(file)()
            assert upload.descriptor is None
            assert upload.read is not None
            assert upload.read(LARGE) == pattern(LARGE)[7:]

    def test_whoever_wants_to_see_the_progress_has_it_read(self, tmp_path: Path) -> None:
        seen: list[int] = []
        with self.path(tmp_path).open("rb") as file:
            upload = uploads_of_source(file, lambda done, total: seen.append(done))()
            assert upload.read is not None
            upload.read(10)
        assert seen == [10]


class TestRead:
    """What a file object's ``read`` may give."""

    def reading(self, *pieces: Any) -> Any:
        """The reading of an object that gives these, one after the other."""
        left = list(pieces)

        class Source:
            def read(self, size: int) -> Any:
                return left.pop(0)

        source: Any = Source()
        upload = uploads_of_source(source)()
        assert upload.read is not None
        return upload.read

    def test_pieces_of_any_binary_kind(self) -> None:
        read = self.reading(b"ab", bytearray(b"cd"), memoryview(b"ef"), b"")
        assert [read(9) for _ in range(4)] == [b"ab", b"cd", b"ef", b""]

    def test_nothing_yet_is_not_the_end(self) -> None:
        with pytest.raises(BlockingIOError, match="non-blocking and has no bytes now"), CallersErrors():
            self.reading(None)(9)

    def test_text_is_refused(self) -> None:
        with pytest.raises(TypeError, match="must be binary: its read\\(\\) gives str"), CallersErrors():
            self.reading("ab")(9)
