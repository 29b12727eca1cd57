from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.origins import descriptors_now, open_descriptors
from tiered_store.key import key_of_name
from tiered_store.origins.walk import Windows, ordered_names

LATER_NS = 10_000_000_000


def later() -> int:
    """A clock by which everything on disk was written long ago."""
    return time.time_ns() + LATER_NS


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    before = open_descriptors()
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)
    assert descriptors_now() == before


def names(root: int, prefix: str = "", after: str = "", windows: Windows | None = None) -> list[str]:
    return [name for _, _, name in ordered_names(root, windows or Windows(), prefix, after)]


def fill(tmp_path: Path, *paths: str) -> None:
    made: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        if parent not in made:
            (tmp_path / parent).mkdir(parents=True, exist_ok=True)
            made.add(parent)
        os.mknod(tmp_path / path)


def count_scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From here on, the paths of the directories that are read."""
    scanned: list[str] = []
    scandir = os.scandir

    def counting(fd: int) -> object:
        scanned.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        return scandir(fd)

    monkeypatch.setattr(os, "scandir", counting)
    return scanned


def test_what_cannot_be_an_object_is_left_out(tmp_path: Path, root: int) -> None:
    fill(tmp_path, "a/file", ".tiered_store/meta/x", "a/.tiered_store-tmp", "b\\c", "bell\a", "sha256:x", "sha256:d/x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("a/file")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "directory-link").symlink_to("a")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe")
    with open(os.fsencode(tmp_path) + b"/not-utf8-\xff", "wb"):  # noqa: PTH123
        pass
    (tmp_path / "a" / os.fsdecode(b"\xff")).mkdir()
    fill(tmp_path / "a" / os.fsdecode(b"\xff"), "x")
    assert names(root) == ["a/file"]
    assert names(root, "link") == names(root, "loop/a") == names(root, "directory-link/") == []


@pytest.mark.parametrize("prefix", ["../", "a/../", "./a", "/", "//", "a//", ".tiered_store/", "n" * 300 + "/"])
def test_prefixes_of_no_key(tmp_path: Path, prefix: str) -> None:
    fill(tmp_path, "inner/a/b", "outside", ".tiered_store/x")
    root = os.open(tmp_path / "inner", os.O_RDONLY)
    try:
        assert names(root, prefix) == []
    except OSError as error:
        assert error.errno == 36, error  # too long a name, which the caller takes for a missing one  # noqa: PT017
    finally:
        os.close(root)


def test_only_what_lies_in_the_prefix_and_behind_the_cursor_is_read(
    tmp_path: Path, root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a/1/x", "a/2/x", "a/3/x", "b/x", "c/x")
    scanned = count_scans(monkeypatch)
    assert names(root, "a/2") == ["a/2/x"]
    assert scanned == [f"{tmp_path}/a", f"{tmp_path}/a/2"]
    scanned.clear()
    assert names(root, "", "a/3/w") == ["a/3/x", "b/x", "c/x"]
    assert scanned == [str(tmp_path), *(f"{tmp_path}/{name}" for name in ("a", "a/3", "b", "c"))]
    scanned.clear()
    assert names(root, "a/", "b") == names(root, "a/1", "a/2") == []
    assert scanned == []


def test_nothing_is_read_ahead(tmp_path: Path, root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "a/1", "a/2", "b/1")
    scanned = count_scans(monkeypatch)
    walk = ordered_names(root, Windows(), "", "")
    assert next(walk)[2] == "a/1"
    assert next(walk)[2] == "a/2"
    assert scanned == [str(tmp_path), f"{tmp_path}/a"]
    walk.close()


def test_the_descriptor_is_that_of_the_files_directory(tmp_path: Path, root: int) -> None:
    fill(tmp_path, "a/b/x", "a/c", "a/d/x", "e")
    for parent, leaf, name in ordered_names(root, Windows(), "", ""):
        assert os.stat(leaf, dir_fd=parent).st_ino == (tmp_path / name).stat().st_ino


def test_a_deep_tree_holds_one_descriptor(tmp_path: Path, root: int) -> None:
    deep = "/".join(["d"] * 400)
    fill(tmp_path, deep + "/x")
    walk = ordered_names(root, Windows(), "", "")
    before = open_descriptors()
    assert next(walk)[2] == deep + "/x"
    assert descriptors_now() == before + 1
    walk.close()


def test_directories_that_vanish_are_over(tmp_path: Path, root: int) -> None:
    fill(tmp_path, "a/1", "b/1", "b/2", "c/1", "d", "e/1")
    walk = ordered_names(root, Windows(), "", "")
    assert next(walk)[2] == "a/1"
    shutil.rmtree(tmp_path / "b")
    (tmp_path / "c").rename(tmp_path / "elsewhere")
    (tmp_path / "c").touch()
    assert [name for _, _, name in walk] == ["d", "e/1"]


def test_a_directory_that_may_not_be_read_is_an_error(
    tmp_path: Path, root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a/1")

    def scandir(fd: int) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError):
        names(root)


class TestWindows:
    def test_a_flat_directory_is_read_once_for_each_window(
        self, tmp_path: Path, root: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for i in range(20_000):
            os.mknod(f"{i * 7919 % 20_000:05}", dir_fd=root)
        scanned = count_scans(monkeypatch)
        windows = Windows(later)
        found: list[str] = []
        while True:
            page = []
            for _, _, name in ordered_names(root, windows, "", found[-1] if found else ""):
                page.append(name)
                if len(page) == 1000:
                    break
            if not page:
                break
            found += page
        assert found == [f"{i:05}" for i in range(20_000)]
        assert len(scanned) == 2

    def test_a_window_in_the_middle_of_a_tree(self, tmp_path: Path, root: int, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(tmp_path, *(f"d{i:04}/x" for i in range(1500)), "a", "z")
        scanned = count_scans(monkeypatch)
        windows = Windows(later)
        everything = names(root, windows=windows)
        for i in range(0, 1500, 100):
            assert next(ordered_names(root, windows, "", everything[i]))[2] == everything[i + 1]
        assert scanned.count(str(tmp_path)) == 1

    @pytest.mark.parametrize("entries", [1, 2, 3, 10, 49, 50, 51])
    def test_windows_of_any_size_give_the_same(self, tmp_path: Path, root: int, entries: int) -> None:
        fill(tmp_path, *(f"{i * 37 % 50:02}" + ("/x" if i % 3 == 0 else "") for i in range(50)))
        expected = sorted(f"{i * 37 % 50:02}" + ("/x" if i % 3 == 0 else "") for i in range(50))
        windows = Windows(later, entries=entries)
        assert names(root, windows=windows) == expected
        for i, name in enumerate(expected):
            assert names(root, after=name, windows=windows) == expected[i + 1 :]

    def test_a_change_is_seen(self, tmp_path: Path, root: int, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(tmp_path, *(f"{i:04}" for i in range(1200)))
        os.utime(tmp_path, (1000, 1000))  # so that the change shows however coarse the clock of files is
        windows = Windows(later)
        names(root, windows=windows)
        scanned = count_scans(monkeypatch)
        names(root, windows=windows)
        assert scanned == []
        (tmp_path / "0000").unlink()
        fill(tmp_path, "0000x")
        assert names(root, windows=windows)[0] == "0000x"

    def test_a_directory_that_just_changed_is_not_trusted(
        self, tmp_path: Path, root: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill(tmp_path, *(f"{i:04}" for i in range(1200)))
        scanned = count_scans(monkeypatch)
        windows = Windows()
        names(root, windows=windows)
        names(root, windows=windows)
        assert len(scanned) == 2

    def test_only_a_few_are_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tiered_store.origins.walk._MIN_KEPT_ENTRIES", 10)
        windows = Windows(later)
        scanned = count_scans(monkeypatch)
        for i in range(12):
            fill(tmp_path / str(i), *(f"{j:04}" for j in range(10)))
        roots = [os.open(tmp_path / str(i), os.O_RDONLY) for i in range(12)]
        for root in [*roots, roots[0], *roots[-5:]]:
            names(root, windows=windows)
        assert len(scanned) == 13
        assert len(windows._kept) <= 8
        for root in roots:
            os.close(root)


SEGMENT = st.text(alphabet="ab./-é0\N{GRINNING FACE} ", min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    paths=st.lists(SEGMENT | st.builds("{}/{}".format, SEGMENT, SEGMENT), max_size=25),
    prefix=st.text(alphabet="ab./é", max_size=3),
    after=st.text(alphabet="ab./-é0", max_size=4),
    entries=st.integers(1, 6),
)
def test_any_tree_is_listed_as_sorted_names(paths: list[str], prefix: str, after: str, entries: int) -> None:
    stored: set[str] = set()
    with tempfile.TemporaryDirectory() as directory:
        for path in paths:
            if key_of_name(path) is None:
                continue
            try:
                fill(Path(directory), path)
            except (FileExistsError, NotADirectoryError):  # below a file
                continue
            if (Path(directory) / path).is_file():
                stored.add(path)
        root = os.open(directory, os.O_RDONLY)
        try:
            expected = sorted(
                (name for name in stored if name.startswith(prefix) and name.encode() > after.encode()), key=str.encode
            )
            assert names(root, prefix, after, Windows(later, entries=entries)) == expected
        finally:
            os.close(root)
