from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.origins import descriptors_now, open_descriptors
from tiered_store.errors import OriginUnavailable, PermissionDenied
from tiered_store.origins.removal import remove_files

Remove = Callable[..., int]


@pytest.fixture
def forgotten() -> list[str]:
    return []


@pytest.fixture
def remove(tmp_path: Path, forgotten: list[str]) -> Iterator[Remove]:
    root = os.open(tmp_path, os.O_RDONLY)
    before = open_descriptors()
    lock = threading.Lock()

    def forget(name: str, version: str) -> None:
        assert version.count("-") == 2
        forgotten.append(name)

    def remove(*names: str, fsync: bool = True) -> int:
        return remove_files(root, tmp_path, names, lock_of=lambda _: lock, forget=forget, fsync=fsync)

    yield remove
    assert descriptors_now() == before
    os.close(root)


def fill(tmp_path: Path, *paths: str) -> None:
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()


def left(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))


def test_files_sidecars_and_empty_directories_go(tmp_path: Path, remove: Remove, forgotten: list[str]) -> None:
    fill(tmp_path, "a", "b/c/d/e", "b/c/f", "b/g", "h/i")
    assert remove("a", "b/c/d/e", "b/c/f", "h/i", "h/nothing", "no/where") == 4
    assert left(tmp_path) == ["b", "b/g"]
    assert sorted(forgotten) == ["a", "b/c/d/e", "b/c/f", "h/i"]


def test_what_is_no_object_stays(tmp_path: Path, remove: Remove, forgotten: list[str]) -> None:
    fill(tmp_path, "d/file", "outside")
    (tmp_path / "link").symlink_to("outside")
    (tmp_path / "directory-link").symlink_to("d")
    os.mkfifo(tmp_path / "pipe")
    before = left(tmp_path)
    assert remove("d", "link", "pipe", "directory-link/file", "../x", "/outside", "", "d/file/x", "n" * 300) == 0
    assert left(tmp_path) == before
    assert forgotten == []


def test_one_fsync_for_each_directory_after_all_files(
    tmp_path: Path, remove: Remove, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a/1", "a/2", "b/1", "b/2", "stays/x")
    synced: list[list[str]] = []
    monkeypatch.setattr(
        os, "fsync", lambda fd: synced.append([p for p in left(tmp_path) if not (tmp_path / p).is_dir()])
    )
    assert remove("a/1", "b/1", "a/2", "b/2") == 4
    assert synced == [["stays/x"], ["stays/x"]]
    synced.clear()
    assert remove("stays/x", fsync=False) == 1
    assert synced == []


def test_many_directories(tmp_path: Path, remove: Remove) -> None:
    names = [f"d{i}/{j}" for i in range(150) for j in range(2)]
    fill(tmp_path, *names)
    assert remove(*names) == 300
    assert left(tmp_path) == []


def test_another_process_is_faster(tmp_path: Path, remove: Remove, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "d/a", "d/b")
    unlink = os.unlink

    def slow(leaf: str, *, dir_fd: int) -> None:
        unlink(leaf, dir_fd=dir_fd)
        if leaf == "a":
            raise FileNotFoundError(2, "gone")

    monkeypatch.setattr(os, "unlink", slow)
    assert remove("d/a", "d/b") == 1


def test_a_failure_leaves_what_was_done_durable(
    tmp_path: Path, remove: Remove, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a/1", "b/1", "b/2")
    synced: list[int] = []
    unlink = os.unlink

    def refuses(leaf: str, *, dir_fd: int) -> None:
        if leaf == "2":
            raise PermissionError(13, "Permission denied")
        unlink(leaf, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuses)
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    with pytest.raises(PermissionDenied) as caught:
        remove("a/1", "b/1", "b/2")
    assert caught.value.key == "b/2"
    assert left(tmp_path) == ["a", "b", "b/2"]
    assert set(synced) == {(tmp_path / "a").stat().st_ino, (tmp_path / "b").stat().st_ino}


def test_a_directory_that_cannot_be_opened(tmp_path: Path, remove: Remove, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/1")
    real = os.open

    def refuses(path: str, flags: int, *, dir_fd: int) -> int:
        if path == "a":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refuses)
    with pytest.raises(PermissionDenied):
        remove("a/1")


def test_a_failed_fsync_is_told(
    tmp_path: Path, remove: Remove, forgotten: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a/1", "b/1")

    def fails(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OriginUnavailable):
        remove("a/1", "b/1")
    assert forgotten == []  # the files may come back, and then want their sidecars
