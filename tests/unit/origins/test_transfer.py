from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.origins import memfd_body, pattern
from tiered_store.origins import transfer
from tiered_store.origins.transfer import copy_range, write_all

SIZE = 3 * 1024 * 1024 + 11
WAYS = ["_clone", "_copy_file_range", "_sendfile"]


@pytest.fixture
def source(tmp_path: Path) -> int:
    (tmp_path / "source").write_bytes(pattern(SIZE))
    return os.open(tmp_path / "source", os.O_RDONLY)


def copied(source: int, offset: int, size: int, tmp_path: Path) -> bytes:
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        copy_range(source, offset, size, target)
        return os.pread(target, SIZE + 1, 0)
    finally:
        os.close(target)
        os.close(source)


def refuses(number: int) -> Callable[[int, int, int, int], int]:
    def way(*_: int) -> int:
        raise OSError(number, os.strerror(number))

    return way


@pytest.mark.parametrize("unsupported", range(4))
@pytest.mark.parametrize(("offset", "size"), [(0, SIZE), (4096, SIZE - 4096), (4096, 10_000), (7, 1), (0, 0)])
def test_each_way_moves_the_same_bytes(
    source: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unsupported: int, offset: int, size: int
) -> None:
    for way in WAYS[:unsupported]:
        monkeypatch.setattr(transfer, way, refuses(errno.EOPNOTSUPP))
    assert copied(source, offset, size, tmp_path) == pattern(SIZE)[offset : offset + size]


def test_from_memory(tmp_path: Path) -> None:
    body = memfd_body(pattern(SIZE))
    assert copied(os.dup(body.descriptor.fd), 4096, SIZE - 4096, tmp_path) == pattern(SIZE)[4096:]


def test_a_way_that_ends_in_the_middle_is_taken_over(
    source: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def gives_up(source: int, offset: int, count: int, target: int) -> int:
        calls.append(offset)
        if len(calls) == 3:
            return 0  # as some kernels do for what they cannot copy
        return os.copy_file_range(source, target, min(count, 1000), offset)

    monkeypatch.setattr(transfer, "_clone", refuses(errno.EXDEV))
    monkeypatch.setattr(transfer, "_copy_file_range", gives_up)
    assert copied(source, 5, SIZE - 5, tmp_path) == pattern(SIZE)[5:]
    assert calls == [5, 1005, 2005]


def test_a_failure_is_not_taken_for_a_missing_way(source: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_clone", refuses(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        copied(source, 0, SIZE, tmp_path)


def test_a_target_that_cannot_be_written(source: int, tmp_path: Path) -> None:
    (tmp_path / "t").touch()
    target = os.open(tmp_path / "t", os.O_RDONLY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        copy_range(source, 0, SIZE, target)
    os.close(target)
    os.close(source)


@pytest.mark.parametrize("size", [SIZE + 1, 2 * SIZE])
def test_a_source_that_ends_early(source: int, tmp_path: Path, size: int) -> None:
    with pytest.raises(EOFError, match=f"{size - SIZE} bytes early"):
        copied(source, 0, size, tmp_path)


def test_write_all_goes_on_after_a_short_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    target = os.open(tmp_path / "t", os.O_WRONLY | os.O_CREAT)
    write_all(target, pattern(100))
    os.close(target)
    assert (tmp_path / "t").read_bytes() == pattern(100)
