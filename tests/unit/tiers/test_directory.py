"""The directory: who may use it, how runs are counted, what an orderly stop leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tiered_store.tiers.directory import INDEX_NAME, CacheDirectory, Marks, forget_marks
from tiered_store.tiers.faults import TierFault
from tiered_store.tiers.rawdisk import is_object_name


@pytest.fixture
def directory(tmp_path):
    directory = CacheDirectory(tmp_path / "cache")
    directory.claim()
    yield directory
    directory.release()


MARKS = Marks(epoch=5, suspect_epoch=3, suspect_before=1.5, deny_epoch=2, audit_due=True)


def test_marks_are_read_once(directory):
    assert directory.take_marks() is None
    directory.leave_marks(MARKS)
    assert directory.take_marks() == MARKS
    assert directory.take_marks() is None
    assert sorted(path.name for path in directory.path.iterdir()) == ["lock", "objects", "spool"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"epoch": 1, "unknown": 2}'])
def test_marks_that_cannot_be_read_are_none(directory, text):
    (directory.path / "clean").write_text(text)
    assert directory.take_marks() is None
    assert not (directory.path / "clean").exists()


def test_what_is_no_plain_file_is_no_mark(directory, tmp_path):
    """A pipe must not be waited for, nor a link be followed, whoever left them there."""
    (tmp_path / "precious").write_text("precious")
    mark = directory.path / "clean"
    os.mkfifo(mark)
    assert directory.take_marks() is None
    assert not mark.exists()
    mark.symlink_to(tmp_path / "precious")
    assert directory.take_marks() is None
    assert not mark.is_symlink()
    (directory.path / "clean.new").symlink_to(tmp_path / "precious")
    directory.leave_marks(MARKS)
    assert directory.take_marks() == MARKS
    (directory.path / "rebuild").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        directory.abandon_index()
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_run_that_does_not_use_the_directory_removes_the_mark(directory):
    directory.leave_marks(MARKS)
    directory.release()
    assert forget_marks(directory.path) is True
    assert forget_marks(directory.path) is False
    directory.claim()
    assert directory.take_marks() is None


def test_a_directory_that_is_not_there_has_no_mark(tmp_path):
    (tmp_path / "file").touch()
    assert forget_marks(tmp_path / "none") is False
    assert forget_marks(tmp_path / "file") is False


@pytest.mark.parametrize("text", ["", "my own notes", '{"epoch": "x"}'])
def test_a_file_of_somebody_else_is_left_alone(tmp_path, text):
    (tmp_path / "clean").write_text(text)
    assert forget_marks(tmp_path) is False
    assert (tmp_path / "clean").read_text() == text


def test_runs_are_counted_across_restarts(directory):
    assert [directory.begin_run(), directory.begin_run()] == [1, 2]
    directory.release()
    directory.claim()
    assert directory.begin_run() == 3
    (directory.path / "lock").write_text("?")
    assert directory.begin_run() > 1_000_000


def test_one_at_a_time(directory):
    other = CacheDirectory(directory.path)
    with pytest.raises(TierFault, match=rf"in use by another daemon \(pid {os.getpid()}\)"):
        other.claim()
    directory.claim()  # again is fine
    directory.release()
    other.claim()
    other.release()
    other.release()


@pytest.mark.parametrize(
    "table", ["", "1: -> FLOCK ADVISORY WRITE 7 fe:00:9 0 EOF\n1: POSIX ADVISORY READ 8 fe:00:9 0 EOF\n", None]
)
def test_who_holds_it_may_be_out_of_sight(directory, monkeypatch, table):
    """The holder is in another process namespace, or there is no table at all."""

    def read_text(self, **_):
        if table is None:
            raise FileNotFoundError(str(self))
        return table

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(TierFault, match=r"in use by another daemon$"):
        CacheDirectory(directory.path).claim()


@pytest.mark.parametrize("how", ["lock removed", "directory replaced"])
def test_a_lock_on_what_is_gone_is_taken_anew(directory, tmp_path, how):
    if how == "lock removed":
        (directory.path / "lock").unlink()
    else:
        directory.path.rename(tmp_path / "old")
    directory.claim()
    with pytest.raises(TierFault, match="in use"):
        CacheDirectory(directory.path).claim()


def test_a_link_in_its_place_is_refused(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "cache").symlink_to(tmp_path / "real")
    with pytest.raises(TierFault, match="not a directory"):
        CacheDirectory(tmp_path / "cache").claim()


def test_an_index_is_made_and_a_lost_one_noticed(directory):
    assert directory.prepare_index() is False
    assert (directory.path / INDEX_NAME).stat().st_mode & 0o777 == 0o600
    directory.new_object()
    assert directory.prepare_index() is True
    (directory.path / INDEX_NAME).write_bytes(b"index")
    assert directory.prepare_index() is True  # until it is rebuilt
    directory.rebuilt()
    assert directory.prepare_index() is False


def test_a_broken_index_is_moved_away_with_its_log(directory):
    for suffix in ("", "-wal", "-shm"):
        (directory.path / (INDEX_NAME + suffix)).write_bytes(b"x")
    directory.abandon_index()
    assert list(directory.path.glob(f"{INDEX_NAME}*")) == []
    assert len(directory.leftovers()) == 3
    assert directory.prepare_index() is True


def test_a_dangling_link_in_place_of_the_index_is_moved_away(directory, tmp_path):
    (directory.path / INDEX_NAME).symlink_to(tmp_path / "elsewhere")
    directory.prepare_index()
    assert not (tmp_path / "elsewhere").exists()
    assert (directory.path / INDEX_NAME).is_file()


def test_spools_of_this_run_are_no_leftovers(directory):
    mine = directory.new_spool()
    mine.touch()
    assert directory.new_spool() != mine
    other = directory.path / "spool" / "other"
    other.touch()
    assert directory.leftovers() == [other]


def test_object_names_are_fanned_out(directory):
    names = {directory.new_object() for _ in range(20)}
    assert len(names) == 20
    assert all(is_object_name(name) for name in names)
    assert {path.name for path in directory.object_directories()} == {name.split("/")[1] for name in names}
