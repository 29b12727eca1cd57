from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.origins import descriptors_now, open_descriptors
from tiered_store.objects import Descriptor
from tiered_store.origins.ownfiles import OwnFiles


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    before = open_descriptors()
    yield tmp_path
    assert descriptors_now() == before


def own_files(root: Path) -> OwnFiles:
    return OwnFiles(Descriptor(os.open(root, os.O_RDONLY)))


def sessions(root: Path) -> list[Path]:
    return sorted((root / ".tiered_store/tmp").iterdir())


def test_nothing_is_made_before_something_is_written(root: Path) -> None:
    own = own_files(root)
    assert own.meta() is None
    assert list(own.sweep()) == []
    own.end()
    assert list(root.iterdir()) == []


def test_a_file_takes_its_place(root: Path) -> None:
    own = own_files(root)
    parent = os.open(root, os.O_RDONLY)
    with own.temporary_file() as temporary:
        os.write(temporary.fd, b"new")
        (root / "target").write_bytes(b"old")
        temporary.move_to(parent, "target")
        assert temporary.moved
    os.close(parent)
    assert (root / "target").read_bytes() == b"new"
    assert (root / "target").stat().st_mode & 0o777 == 0o666 & ~_umask()
    own.end()
    assert sessions(root) == []


def _umask() -> int:
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


def test_a_file_that_does_not_move_is_gone(root: Path) -> None:
    own = own_files(root)

    def write_and_fail() -> None:
        with own.temporary_file() as temporary:
            os.write(temporary.fd, b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with own.temporary_file():
        (session,) = sessions(root)
        assert len(list(session.iterdir())) == 1
        next(session.iterdir()).unlink()  # somebody else did
    assert list(session.iterdir()) == []


def test_writers_never_share_a_name(root: Path) -> None:
    one, other = own_files(root), own_files(root)
    with one.temporary_file(), one.temporary_file(), other.temporary_file(), other.temporary_file():
        assert [len(list(session.iterdir())) for session in sessions(root)] == [2, 2]


def test_a_corner_that_was_cleared_away_is_made_again(root: Path) -> None:
    own = own_files(root)
    with own.temporary_file():
        assert own.meta(make=True) is not None
    (root / ".tiered_store").rename(root / "away")
    for path in sorted((root / "away").rglob("*"), reverse=True):
        path.rmdir()
    with own.temporary_file():
        assert len(sessions(root)) == 1
    assert own.meta(make=True) is not None
    assert (root / ".tiered_store/meta").is_dir()


def test_a_corner_that_was_cleared_away_between_a_read_and_the_first_write(root: Path) -> None:
    (root / ".tiered_store/meta").mkdir(parents=True)
    own = own_files(root)
    assert own.meta() is not None
    (root / ".tiered_store/meta").rmdir()
    (root / ".tiered_store").rmdir()
    with own.temporary_file() as temporary:
        meta = own.meta(make=True)
        assert meta is not None
        temporary.move_to(meta.fd, "x")
    assert (root / ".tiered_store/meta/x").exists()


def test_leaving_with_a_writer_at_work(root: Path) -> None:
    own = own_files(root)
    with own.temporary_file():
        own.end()
        (session,) = sessions(root)
        list(own_files(root).sweep())
        assert len(list(session.iterdir())) == 1  # the writer still holds the lock
    list(own_files(root).sweep())
    assert sessions(root) == []


class TestSweep:
    def test_spares_the_living(self, root: Path) -> None:
        one, other = own_files(root), own_files(root)
        with one.temporary_file(), other.temporary_file():
            assert sum(one.sweep()) == 0
            assert sum(own_files(root).sweep()) == 0
            assert [len(list(session.iterdir())) for session in sessions(root)] == [1, 1]

    def test_removes_what_a_killed_process_left(self, root: Path) -> None:
        script = (
            "import os, sys; from tiered_store.objects import Descriptor; "
            "from tiered_store.origins.ownfiles import OwnFiles; "
            "own = OwnFiles(Descriptor(os.open(sys.argv[1], os.O_RDONLY))); "
            "files = [own.temporary_file() for _ in range(3)]; print('ready', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            own = own_files(root)
            assert sum(own.sweep()) == 0
            assert len(sessions(root)) == 1
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert list(own.sweep()) == [3]
        assert sessions(root) == []

    def test_leaves_what_it_does_not_know(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        odd = root / ".tiered_store/tmp/odd/directory"
        odd.mkdir(parents=True)
        (root / ".tiered_store/tmp/file").touch()
        assert sum(own_files(root).sweep()) == 0
        assert odd.is_dir()
        assert (root / ".tiered_store/tmp/file").exists()
        assert [record.levelno for record in caplog.records] == [logging.WARNING]

    def test_of_a_directory_that_goes_meanwhile(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / ".tiered_store/tmp/one").mkdir(parents=True)

        def flock(fd: int, operation: int) -> None:
            (root / ".tiered_store/tmp/one").rmdir()

        monkeypatch.setattr(fcntl, "flock", flock)
        assert sum(own_files(root).sweep()) == 0
        assert sessions(root) == []


class TestLosingTheRaceAgainstASweep:
    def test_before_the_lock(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []

        def flock(fd: int, operation: int) -> None:
            calls.append(fd)
            if len(calls) == 1:
                raise BlockingIOError(errno.EWOULDBLOCK, "locked")

        monkeypatch.setattr(fcntl, "flock", flock)
        with own_files(root).temporary_file():
            assert [len(list(session.iterdir())) for session in sessions(root)].count(1) == 1

    def test_after_it(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[int] = []

        def flock(fd: int, operation: int) -> None:
            calls.append(fd)
            if len(calls) == 1:
                sessions(root)[0].rmdir()

        monkeypatch.setattr(fcntl, "flock", flock)
        with own_files(root).temporary_file():
            assert [len(list(session.iterdir())) for session in sessions(root)] == [1]
        assert len(calls) == 2

    def test_always(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def flock(fd: int, operation: int) -> None:
            for session in sessions(root):
                session.rmdir()

        monkeypatch.setattr(fcntl, "flock", flock)
        with pytest.raises(OSError, match="being swept"):
            own_files(root).temporary_file()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_without_locks_writing_works_and_nobody_sweeps(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with own_files(root).temporary_file():
        assert sum(own_files(root).sweep()) == 0
        assert [len(list(session.iterdir())) for session in sessions(root)] == [1]


def test_locks_that_fail_are_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"):
        own_files(root).temporary_file()


def test_a_corner_that_is_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / ".tiered_store").symlink_to(tmp_path / "outside")
    with pytest.raises(NotADirectoryError):
        own_files(root).temporary_file()
    assert list((tmp_path / "outside").iterdir()) == []
