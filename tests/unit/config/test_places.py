from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tiered_store.config import places
from tiered_store.config.places import obstacle


def tree(root: Path) -> list[tuple[str, int]]:
    return [(str(path), path.lstat().st_mtime_ns) for path in sorted(root.rglob("*"))] + [("", root.stat().st_mtime_ns)]


@pytest.mark.parametrize("below", ["", "a", "a/b/c"])
def test_nothing_is_in_the_way_and_nothing_is_touched(tmp_path: Path, below: str) -> None:
    before = tree(tmp_path)
    assert obstacle(tmp_path / below) is None
    assert tree(tmp_path) == before


@pytest.mark.parametrize("path", ["/proc", "/proc/x/y", "/sys/x"])
def test_views_of_the_kernel(path: str) -> None:
    found = obstacle(Path(path))
    assert found is not None
    assert "is a view of the kernel" in found.reason
    assert not found.is_passing


@pytest.mark.parametrize("table", [None, "", "1 0 0:0 / / rw shared:1 - proc proc rw\n"])
def test_without_a_word_of_the_kernel_permissions_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str | None
) -> None:
    if table is not None:
        (tmp_path / "mountinfo").write_text(table)
    monkeypatch.setattr(places, "_MOUNTS", tmp_path / "mountinfo")
    assert obstacle(tmp_path / "x") is None


def refused(monkeypatch: pytest.MonkeyPatch, flags: int | OSError) -> None:
    """``access`` says no, as it does to users without the right, and to everybody on a read-only file system."""

    def statvfs(_: object) -> object:
        if isinstance(flags, OSError):
            raise flags
        return SimpleNamespace(f_flag=flags)

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "statvfs", statvfs)


def test_no_permission_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(monkeypatch, 0)
    found = obstacle(tmp_path / "x")
    assert found is not None
    assert found.reason == f"{tmp_path} is not writable for this user; change its owner or choose another path"
    assert not found.is_passing


def test_a_read_only_file_system_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(monkeypatch, os.ST_RDONLY)
    found = obstacle(tmp_path / "x")
    assert found is not None
    assert found.reason == f"{tmp_path} is on a file system that is mounted read-only"
    assert found.is_passing


def test_a_file_system_that_fails_may_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(monkeypatch, OSError(errno.EIO, "Input/output error"))
    found = obstacle(tmp_path / "x")
    assert found is not None
    assert (found.reason, found.is_passing) == (f"{tmp_path}: Input/output error", True)


@pytest.mark.parametrize(
    ("number", "passing"), [(errno.EIO, True), (errno.ESTALE, True), (errno.EACCES, False), (errno.ELOOP, False)]
)
def test_a_place_that_cannot_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, passing: bool
) -> None:
    real = Path.stat

    def stat(self: Path, **options: bool) -> os.stat_result:
        if self == tmp_path / "x":
            raise OSError(number, os.strerror(number))
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", stat)
    found = obstacle(tmp_path / "x")
    assert found is not None
    assert (found.reason, found.is_passing) == (f"{tmp_path}/x: {os.strerror(number)}", passing)


@pytest.mark.parametrize("below", ["", "/below/it"])
def test_a_file_in_the_way(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    found = obstacle(Path(f"{tmp_path}/file{below}"))
    assert found is not None
    assert (found.reason, found.is_passing) == (f"{tmp_path}/file is not a directory", False)


def test_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    found = obstacle(tmp_path / "link/x")
    assert found is not None
    assert (found.reason, found.is_passing) == (f"{tmp_path}/link is a symbolic link that leads nowhere", False)
