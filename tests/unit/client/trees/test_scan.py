"""The walk in the order of a manifest, and files that do not hold still."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.support.trees import make
from tiered_store.client.trees.manifest import Enter, Leave, Link
from tiered_store.client.trees.scan import FileSeen, read_content, walk
from tiered_store.client.trees.steps import Stop, Stopped
from tiered_store.errors import IntegrityError
from tiered_store.objects import INLINE_MAX_BYTES

SMALL = b"small"
LARGE = b"x" * (INLINE_MAX_BYTES + 1)


class Meanwhile(Stop):
    """Does something between two pieces of a file, as often as it has something to do."""

    def __init__(self, *steps: object) -> None:
        super().__init__()
        self.steps = list(steps)

    def check(self) -> None:
        if self.steps:
            self.steps.pop(0)()  # type: ignore[operator]
        super().check()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_order_is_that_of_names_and_not_of_paths(tmp_path: Path) -> None:
    make(tmp_path / "in", {b"a": {b"z": (b"", False)}, b"a-b": (b"", False), b"a.b": b"target", b"B": {}})
    os.mkfifo(tmp_path / "in/pipe")
    left_out: list[bytes] = []
    seen = list(walk(os.fsencode(tmp_path / "in"), left_out.append))
    assert [each.name if isinstance(each, FileSeen) else each for each in seen] == [
        Enter(b"B"),
        Leave(),
        Enter(b"a"),
        b"z",
        Leave(),
        b"a-b",
        Link(b"a.b", b"target"),
    ]
    places = [each.place for each in seen if isinstance(each, FileSeen)]
    assert places == sorted(places) == [b"a\0z", b"a-b"]
    assert left_out == [os.fsencode(tmp_path / "in/pipe")]


def test_what_goes_during_the_walk_was_not_there(tmp_path: Path) -> None:
    make(tmp_path / "in", {b"a": (b"", False), b"b": (b"", False), b"c": {}})
    steps = walk(os.fsencode(tmp_path / "in"), lambda _: None)
    next(steps)
    (tmp_path / "in/b").unlink()
    (tmp_path / "in/c").rmdir()
    assert list(steps) == []


@pytest.mark.parametrize("data", [b"", SMALL, LARGE])
def test_what_a_file_holds(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(data)
    content = read_content(os.fsencode(path), Stop())
    assert (content.digest, content.status.st_size) == (digest(data), len(data))
    assert content.data == (data if len(data) <= INLINE_MAX_BYTES else None)


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(LARGE)
    other = b"y" * len(LARGE)

    def change() -> None:
        path.write_bytes(other)
        os.utime(path, ns=(1, 1))  # a clock too coarse to tell would hide it

    assert read_content(os.fsencode(path), Meanwhile(change)).digest == digest(other)


def test_a_file_that_never_holds_still(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(LARGE)

    def grow() -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(IntegrityError, match="changed in each of 3 attempts"):
        read_content(os.fsencode(path), Meanwhile(*[grow] * 50))


@pytest.mark.parametrize("kind", ["gone", "link", "pipe", "directory"])
def test_a_file_that_has_become_something_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(SMALL)
    path.unlink()
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    with pytest.raises(IntegrityError, match="while its tree was saved"):
        read_content(os.fsencode(path), Stop())


def test_reading_a_large_file_ends_when_nobody_wants_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(LARGE)
    stop = Stop()
    stop.set()
    with pytest.raises(Stopped):
        read_content(os.fsencode(path), stop)
