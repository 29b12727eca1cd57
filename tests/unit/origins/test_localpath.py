from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.origins import descriptors_now, open_descriptors
from tiered_store.errors import InvalidKey
from tiered_store.origins.localpath import (
    FOR_LISTING,
    NewDirectories,
    directory,
    make_directories,
    open_directory,
    prune,
    remove_if_empty,
    split_name,
    sync_directories,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def root(base: Path) -> Iterator[int]:
    before = open_descriptors()
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)
    assert descriptors_now() == before


def names_in(fd: int) -> set[str]:
    return set(os.listdir(fd))


def test_split_name() -> None:
    assert split_name("a") == ([], "a")
    assert split_name("a/b/c.txt") == (["a", "b"], "c.txt")


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".", ".tiered_store/meta/x", "a\0b"]
)
def test_names_that_would_lead_elsewhere(name: str) -> None:
    with pytest.raises(InvalidKey):
        split_name(name)


def test_open_directory(base: Path, root: int) -> None:
    (base / "a/b").mkdir(parents=True)
    (base / "a/b/file").touch()
    with directory(root, ["a", "b"], FOR_LISTING) as fd:
        assert names_in(fd) == {"file"}
    with directory(root, [], FOR_LISTING) as fd:
        assert names_in(fd) == {"a"}


def test_two_listings_of_the_root_do_not_share_a_position(base: Path, root: int) -> None:
    for i in range(10):
        (base / str(i)).touch()
    with directory(root, [], FOR_LISTING) as one, directory(root, [], FOR_LISTING) as other, os.scandir(one) as entries:
        first = next(entries).name
        assert len(names_in(other)) == 10
        assert len({first, *(entry.name for entry in entries)}) == 10


@pytest.mark.parametrize("segments", [["missing"], ["a", "missing"], ["missing", "b"]])
def test_a_directory_that_is_not_there(base: Path, root: int, segments: list[str]) -> None:
    (base / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        open_directory(root, segments)


@pytest.mark.parametrize("segments", [["link"], ["link", "inner"], ["a", "link"], ["file"], ["file", "x"]])
def test_links_and_files_are_no_directories(base: Path, root: int, tmp_path: Path, segments: list[str]) -> None:
    (tmp_path / "outside/inner").mkdir(parents=True)
    (base / "a").mkdir()
    (base / "link").symlink_to(tmp_path / "outside")
    (base / "a/link").symlink_to("../../outside")
    (base / "file").touch()
    for opening in (open_directory, make_directories):
        with pytest.raises(NotADirectoryError):
            opening(root, segments)
    assert [entry.name for entry in (tmp_path / "outside").iterdir()] == ["inner"]


def test_a_directory_swapped_for_a_link_does_not_lead_outside(base: Path, root: int, tmp_path: Path) -> None:
    """While another process swaps a directory and a link back and forth, every answer is from inside."""
    (tmp_path / "outside/b").mkdir(parents=True)
    (tmp_path / "outside/b/secret").touch()
    (base / "a/b").mkdir(parents=True)
    (base / "link").symlink_to(tmp_path / "outside")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            (base / "a").rename(base / "real")
            (base / "link").rename(base / "a")
            (base / "a").rename(base / "link")
            (base / "real").rename(base / "a")

    swapping = threading.Thread(target=swap)
    swapping.start()
    answers = {"inside": 0, "refused": 0}
    try:
        while min(answers.values()) < 20 and sum(answers.values()) < 200_000:
            try:
                with directory(root, ["a", "b"], FOR_LISTING) as fd:
                    assert names_in(fd) == set()
                answers["inside"] += 1
            except (FileNotFoundError, NotADirectoryError):
                answers["refused"] += 1
    finally:
        done.set()
        swapping.join()
    assert min(answers.values()) > 0


def test_make_directories(base: Path, root: int) -> None:
    fd, found = make_directories(root, ["a", "b", "c"])
    os.close(fd)
    assert found == 0
    assert (base / "a/b/c").is_dir()
    fd, found = make_directories(root, ["a", "b", "d", "e"])
    os.close(fd)
    assert found == 2
    fd, found = make_directories(root, ["a", "b"])
    assert names_in(fd) == {"c", "d"}
    os.close(fd)
    assert found == 2
    fd, found = make_directories(root, [])
    assert names_in(fd) == {"a"}
    os.close(fd)
    assert found == 0


def test_another_writer_makes_the_same_directory(root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = os.mkdir

    def slower(segment: str, *, dir_fd: int) -> None:
        mkdir(segment, dir_fd=dir_fd)
        raise FileExistsError

    monkeypatch.setattr(os, "mkdir", slower)
    fd, found = make_directories(root, ["a", "b"])
    os.close(fd)
    assert found == 0


def test_a_directory_that_another_put_makes_is_new_for_both(root: int) -> None:
    """Until the one that made it has synced its parent, whoever finds it has to."""
    directories = NewDirectories()
    with directories.make(root, ["a"]):
        pass
    with directories.make(root, ["a", "b", "c"]) as (_, first):
        assert first == 1
        with directories.make(root, ["a", "b", "d"]) as (_, other):
            assert other == 1
        with directories.make(root, ["a", "b"]) as (_, other):
            assert other == 1
        with directories.make(root, ["a"]) as (_, other):
            assert other == 1  # nothing to sync: its own entry is durable
    with directories.make(root, ["a", "b", "c"]) as (_, first):
        assert first == 3


def test_sync_reaches_the_parents_of_what_was_made(base: Path, root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "a/b/c").mkdir(parents=True)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    sync_directories(root, ["a", "b", "c"], 1)
    assert synced == [(base / "a").stat().st_ino, (base / "a/b").stat().st_ino]
    synced.clear()
    sync_directories(root, ["a"], 0)
    assert synced == [base.stat().st_ino]
    sync_directories(root, ["a"], 1)
    sync_directories(root, [], 0)
    sync_directories(root, ["gone", "b"], 1)
    assert synced == [base.stat().st_ino]


def test_prune_stops_at_what_is_not_empty(base: Path, root: int) -> None:
    (base / "a/b/c/d").mkdir(parents=True)
    (base / "a/file").touch()
    prune(root, ["a", "b", "c", "d"])
    assert [entry.name for entry in (base / "a").iterdir()] == ["file"]
    prune(root, ["a"])
    prune(root, ["a", "gone", "too"])
    assert (base / "a/file").exists()
    (base / "a/file").unlink()
    prune(root, ["a"])
    prune(root, [])
    assert names_in(root) == set()
    assert base.is_dir()


class TestRemoveIfEmpty:
    def test_a_tree_of_empty_directories(self, base: Path, root: int) -> None:
        (base / "a/b/c").mkdir(parents=True)
        (base / "a/d").mkdir()
        assert remove_if_empty(root, "a")
        assert names_in(root) == set()

    @pytest.mark.parametrize("what", ["file", "link", "pipe"])
    def test_anything_else_stays(self, base: Path, root: int, what: str) -> None:
        (base / "a/b").mkdir(parents=True)
        inside = base / "a/b/x"
        make: dict[str, Callable[[], object]] = {
            "file": inside.touch,
            "link": lambda: inside.symlink_to("y"),
            "pipe": lambda: os.mkfifo(inside),
        }
        make[what]()
        assert not remove_if_empty(root, "a")
        assert stat.S_IFMT(inside.lstat().st_mode)

    def test_gone_already(self, root: int) -> None:
        assert remove_if_empty(root, "a")

    def test_too_deep(self, base: Path, root: int) -> None:
        deep = base / "a" / "/".join(["d"] * 40)
        deep.mkdir(parents=True)
        assert not remove_if_empty(root, "a")
        assert deep.is_dir()

    @pytest.mark.parametrize(("error", "free"), [(FileNotFoundError, True), (OSError(39, "not empty"), False)])
    def test_somebody_is_faster(
        self, base: Path, root: int, monkeypatch: pytest.MonkeyPatch, error: OSError, free: bool
    ) -> None:
        (base / "a").mkdir()

        def rmdir(*_: object, **__: object) -> None:
            raise FileNotFoundError(2, "gone") if free else error

        monkeypatch.setattr(os, "rmdir", rmdir)
        assert remove_if_empty(root, "a") is free

    def test_not_ours_to_remove(self, base: Path, root: int, monkeypatch: pytest.MonkeyPatch) -> None:
        (base / "a").mkdir()

        def rmdir(*_: object, **__: object) -> None:
            raise PermissionError(13, "no")

        monkeypatch.setattr(os, "rmdir", rmdir)
        with pytest.raises(PermissionError):
            remove_if_empty(root, "a")
