"""Where objects are written, on real files, pipes and devices."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.devices import own_device
from tests.support.origins import open_descriptors, pattern
from tests.support.wire import as_received, by_file, info
from tiered_store.client.callers import CallersErrors
from tiered_store.client.operations import Received
from tiered_store.client.targets import FileTarget, PieceTarget, StreamTarget, target_of
from tiered_store.errors import DaemonUnavailable, ProtocolError
from tiered_store.objects import INLINE_MAX_BYTES, Descriptor, FileBody

pytestmark = pytest.mark.usefixtures("level")

LARGE = INLINE_MAX_BYTES + 1


class TestFileTarget:
    def target(self, tmp_path: Path, **options: Any) -> FileTarget:
        return FileTarget(tmp_path / "out", **options)

    def test_is_not_there_before_it_is_whole(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_bytes(b"old")
        target = self.target(tmp_path)
        write = target.sink(info("a", 6))
        write(b"abc")
        assert (tmp_path / "out").read_bytes() == b"old"
        write(b"def")
        target.take(as_received(info("a", 6), b"", None))
        target.commit()
        target.abandon()
        assert (tmp_path / "out").read_bytes() == b"abcdef"
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_abandoned(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_bytes(b"old")
        target = self.target(tmp_path)
        target.sink(info("a", 6))(b"abc")
        target.abandon()
        target.abandon()
        assert (tmp_path / "out").read_bytes() == b"old"
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_name_that_cannot_be_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        target = self.target(tmp_path)
        target.take(as_received(info("a", 3), b"abc", None))
        with pytest.raises(IsADirectoryError) as caught:
            target.commit()
        assert caught.value.filename == str(tmp_path / "out")
        target.abandon()
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_removed_by_somebody_else(self, tmp_path: Path) -> None:
        before = open_descriptors()
        target = self.target(tmp_path)
        (left,) = tmp_path.iterdir()
        left.unlink()
        target.abandon()
        assert list(tmp_path.iterdir()) == []
        assert open_descriptors() == before

    @pytest.mark.parametrize("size", [0, 1, LARGE])
    def test_inline_and_by_file(self, tmp_path: Path, size: int) -> None:
        data = pattern(size)
        for received in (as_received(info("a", size), data, None), by_file(data), by_file(data, offset=4096)):
            moved: list[tuple[int, int | None]] = []
            target = self.target(tmp_path, progress=lambda *seen, moved=moved: moved.append(seen))
            target.take(received)
            target.commit()
            assert (tmp_path / "out").read_bytes() == data
            assert size == 0 or moved[-1] == (size, size)

    @pytest.mark.parametrize("second", ["stream", "inline", "file", "empty"])
    def test_a_second_attempt_starts_anew(self, tmp_path: Path, second: str) -> None:
        """The first broke off in the middle of a stream; the object may be another one by now."""
        target = self.target(tmp_path)
        target.sink(info("a", 1000))(b"x" * 500)
        data = b"" if second == "empty" else b"new"
        if second == "stream":
            target.sink(info("a", 3))(data)
            target.take(as_received(info("a", 3), b"", None))
        else:
            target.take(by_file(data) if second == "file" else as_received(info("a", len(data)), data, None))
        target.commit()
        assert (tmp_path / "out").read_bytes() == data

    def test_a_stream_that_was_short(self, tmp_path: Path) -> None:
        target = self.target(tmp_path)
        target.sink(info("a", 1000))(b"x" * 500)
        with pytest.raises(ProtocolError, match="500 bytes of an object of 1000"):
            target.take(as_received(info("a", 1000), b"", None))
        target.abandon()

    def test_a_file_that_is_short(self, tmp_path: Path) -> None:
        target = self.target(tmp_path)
        with pytest.raises(ProtocolError, match="shorter"):
            target.take(by_file(b"abc", size=5))
        target.abandon()

    def test_across_file_systems(self, tmp_path: Path) -> None:
        """From the disk's file system into another: where the kernel copies for nobody, memory does."""
        source = tmp_path / "source"
        source.write_bytes(b"\xee" * 4096 + pattern(3_000_000))
        body = FileBody(Descriptor(os.open(source, os.O_RDONLY)), 4096, 3_000_000, is_memory=False)
        target = FileTarget("/dev/shm/tiered-store-test-out")
        try:
            target.take(as_received(info("a", 3_000_000), b"", body))
            target.commit()
            assert Path("/dev/shm/tiered-store-test-out").read_bytes() == pattern(3_000_000)
        finally:
            target.abandon()
            Path("/dev/shm/tiered-store-test-out").unlink(missing_ok=True)


class TestPieceTarget:
    def test_a_stream(self) -> None:
        taken: list[bytes] = []
        moved: list[tuple[int, int | None]] = []
        target = PieceTarget(taken.append, lambda *seen: moved.append(seen))
        write = target.sink(info("a", 6))
        write(b"abc")
        write(b"def")
        target.take(as_received(info("a", 6), b"", None))
        assert taken == [b"abc", b"def"]
        assert moved == [(3, 6), (6, 6)]

    @pytest.mark.parametrize("size", [0, 1, LARGE, 2_500_000])
    def test_inline_and_by_file(self, size: int) -> None:
        data = pattern(size)
        for received in (as_received(info("a", size), data, None), by_file(data, offset=100)):
            taken: list[bytes] = []
            PieceTarget(taken.append).take(received)
            assert b"".join(taken) == data

    @pytest.mark.parametrize("received", [as_received(info("a", 3), b"abc", None), by_file(b"abc")])
    def test_what_was_given_cannot_be_taken_back(self, received: Received) -> None:
        target = PieceTarget(lambda _: None)
        target.sink(info("a", 1000))(b"x")
        with pytest.raises(DaemonUnavailable, match="after 1 bytes"):
            target.sink(info("a", 1000))
        with pytest.raises(DaemonUnavailable, match="after 1 bytes"):
            target.take(received)

    def test_an_empty_object_behind_a_piece_of_another(self) -> None:
        target = PieceTarget(lambda _: None)
        target.sink(info("a", 1000))(b"x")
        with pytest.raises(ProtocolError, match="1 bytes of an object of 0"):
            target.take(as_received(info("a", 0), b"", None))


def write(path: Path, data: bytes = b"new") -> None:
    """What a client does with a target for this path."""
    target = target_of(path)
    try:
        target.take(as_received(info("a", len(data)), data, None))
        target.commit()
    finally:
        target.abandon()


class TestTargetOf:
    """What is there already decides."""

    @pytest.mark.parametrize("mode", [0o600, 0o400, 0o755, 0o666])
    def test_a_file_keeps_its_permissions(self, tmp_path: Path, mode: int) -> None:
        (tmp_path / "out").write_bytes(b"older and longer")
        (tmp_path / "out").chmod(mode)
        write(tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b"new"
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode

    def test_a_file_that_may_be_read_by_few_is_so_from_its_first_byte(self, tmp_path: Path) -> None:
        (tmp_path / "out").touch(0o600)
        target = target_of(tmp_path / "out")
        (part,) = tmp_path.glob("*.part")
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
        target.abandon()

    def test_what_makes_a_program_privileged_is_not_handed_to_other_bytes(self, tmp_path: Path) -> None:
        (tmp_path / "out").touch()
        (tmp_path / "out").chmod(0o4755)
        write(tmp_path / "out")
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755

    @pytest.mark.skipif(os.getuid() != 0, reason="only root may give files away")
    def test_root_leaves_it_to_its_owner(self, tmp_path: Path) -> None:
        (tmp_path / "out").touch(0o600)
        os.chown(tmp_path / "out", 12345, 23456)
        write(tmp_path / "out")
        found = (tmp_path / "out").stat()
        assert (found.st_uid, found.st_gid) == (12345, 23456)

    def test_nothing_becomes_a_new_file(self, tmp_path: Path) -> None:
        previous = os.umask(0o027)
        try:
            write(tmp_path / "out")
        finally:
            os.umask(previous)
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640

    @pytest.mark.parametrize("is_there", [True, False])
    def test_a_link_stays_and_what_it_points_at_is_written(self, tmp_path: Path, is_there: bool) -> None:
        (tmp_path / "elsewhere").mkdir()
        if is_there:
            (tmp_path / "elsewhere/file").write_bytes(b"old")
        (tmp_path / "out").symlink_to("elsewhere/file")
        write(tmp_path / "out")
        assert (tmp_path / "out").is_symlink()
        assert (tmp_path / "elsewhere/file").read_bytes() == b"new"
        assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["file"]

    def test_a_path_of_bytes(self, tmp_path: Path) -> None:
        path: Any = os.fsencode(tmp_path / "out")
        write(path)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    @pytest.mark.parametrize(
        ("name", "error"),
        [("", IsADirectoryError), ("none/x", FileNotFoundError), ("file/x", NotADirectoryError), ("new/", OSError)],
    )
    def test_what_cannot_be_written_is_refused_before_anything_is_read(
        self, tmp_path: Path, name: str, error: type[OSError]
    ) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(error) as caught:
            target_of(f"{tmp_path}/{name}")
        assert caught.value.filename == f"{tmp_path}/{name}"
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_no_name_is_no_file(self) -> None:
        with pytest.raises(FileNotFoundError):
            target_of("")

    def test_errors_in_writing_name_the_file(self, tmp_path: Path) -> None:
        target = FileTarget(tmp_path / "out")
        os.close(target._fd)
        target._fd = os.open("/dev/full", os.O_WRONLY)
        target._restart = lambda: None  # type: ignore[method-assign]  # a device has no length
        with pytest.raises(OSError, match="No space left") as caught, CallersErrors():
            target.sink(info("a", 3))(b"abc")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "out"))
        target.abandon()


class TestStreamTarget:
    """What is no regular file is written into."""

    @pytest.fixture
    def pipe(self, tmp_path: Path) -> Iterator[tuple[Path, int]]:
        """A named pipe, and a reader of it that waits for nothing."""
        os.mkfifo(tmp_path / "out")
        reader = os.open(tmp_path / "out", os.O_RDONLY | os.O_NONBLOCK)
        yield tmp_path / "out", reader
        os.close(reader)

    def test_a_pipe_gets_the_bytes_and_stays(self, pipe: tuple[Path, int]) -> None:
        path, reader = pipe
        write(path)
        assert os.read(reader, 100) == b"new"
        assert stat.S_ISFIFO(path.stat().st_mode)
        assert list(path.parent.iterdir()) == [path]

    def test_a_stream_is_written_where_waiting_hurts_nobody(self, pipe: tuple[Path, int]) -> None:
        path, reader = pipe
        target = target_of(path)
        assert isinstance(target, StreamTarget)
        piece = target.sink(info("a", 6))(b"abc")
        with pytest.raises(BlockingIOError):
            os.read(reader, 100)
        piece.run()
        assert os.read(reader, 100) == b"abc"
        target.abandon()

    def test_a_device_stays_one(self, tmp_path: Path) -> None:
        device = own_device(tmp_path, "null")
        (tmp_path / "link").symlink_to(device)
        for path in (device, tmp_path / "link"):
            write(path)
            assert stat.S_ISCHR(path.stat().st_mode)
        assert (tmp_path / "link").is_symlink()

    def test_an_error_in_writing_names_it(self, tmp_path: Path) -> None:
        target = target_of(own_device(tmp_path, "full"))
        with pytest.raises(OSError, match="No space left") as caught, CallersErrors():
            target.take(as_received(info("a", 3), b"abc", None))
        assert caught.value.filename == str(tmp_path / "full")
        target.abandon()

    def test_a_reader_that_has_gone_is_the_callers_affair(self, pipe: tuple[Path, int]) -> None:
        path, reader = pipe
        target = target_of(path)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, reader)
        os.close(nowhere)
        try:
            with pytest.raises(BrokenPipeError), CallersErrors():
                target.take(as_received(info("a", 3), b"abc", None))
        finally:
            target.abandon()
