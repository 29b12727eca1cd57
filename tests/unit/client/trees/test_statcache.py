"""What is remembered of files between two saves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tiered_store.client.trees.statcache import RACY_NS, StatCache, default_stat_cache

DIGEST = "cd" * 32


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "below/cache"


def later(file: Path) -> int:
    """A moment at which the file has rested long enough."""
    status = file.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns) + RACY_NS


def remember(path: Path, file: Path, places: list[bytes], read_ns: int | None = None) -> None:
    with StatCache(path) as cache:
        for place in places:
            cache.remember(place, file.stat(), DIGEST, later(file) if read_ns is None else read_ns)


def known(path: Path | None, file: Path, places: list[bytes]) -> list[str | None]:
    with StatCache(path) as cache:
        return [cache.digest(place, file.stat()) for place in places]


def test_files_that_are_as_they_were_are_known(path: Path, file: Path) -> None:
    remember(path, file, [b"a\0b", b"a-b", b"c"])
    assert known(path, file, [b"a", b"a\0b", b"b", b"c", b"d"]) == [None, DIGEST, None, DIGEST, None]


def test_a_walk_in_between_forgets_what_it_has_not_seen(path: Path, file: Path) -> None:
    remember(path, file, [b"a", b"b"])
    remember(path, file, [b"b"])
    assert known(path, file, [b"a", b"b"]) == [None, DIGEST]


@pytest.mark.parametrize("change", ["size", "mtime", "ctime", "inode"])
def test_any_difference_makes_it_unknown(path: Path, file: Path, change: str) -> None:
    remember(path, file, [b"f"])
    before = file.stat()
    if change == "size":
        file.write_bytes(b"abcd")
    elif change == "mtime":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    elif change == "ctime":
        file.chmod(0o600)
        while file.stat().st_ctime_ns == before.st_ctime_ns:  # until the clock ticks
            file.chmod(0o600)
    else:
        twin = file.with_name("twin")
        twin.write_bytes(b"abc")
        os.utime(twin, ns=(before.st_atime_ns, before.st_mtime_ns))
        twin.replace(file)
    assert known(path, file, [b"f"]) == [None]


def test_a_file_that_was_changed_shortly_before_it_was_read_is_not_remembered(path: Path, file: Path) -> None:
    """Racily clean: it may be changed again within the same tick, and look the same."""
    remember(path, file, [b"f"], later(file) - 1)
    assert known(path, file, [b"f"]) == [None]
    remember(path, file, [b"f"], later(file))
    assert known(path, file, [b"f"]) == [DIGEST]


@pytest.mark.parametrize("at", range(-10, 0, 3))
def test_a_damaged_cache_is_none(path: Path, file: Path, at: int) -> None:
    remember(path, file, [b"f", b"g"])
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    assert known(path, file, [b"f", b"g"]) == [None, None]


@pytest.mark.parametrize("size", [0, 1, 26, 29, 40])
def test_a_cache_cut_short_is_none(path: Path, file: Path, size: int) -> None:
    remember(path, file, [b"f"])
    path.write_bytes(path.read_bytes()[:size])
    assert known(path, file, [b"f"]) == [None]


def test_a_save_that_fails_keeps_the_old_one(path: Path, file: Path) -> None:
    remember(path, file, [b"f"])
    cache = StatCache(path)
    cache.__enter__()
    cache.remember(b"g", file.stat(), DIGEST, later(file))
    cache.__exit__(KeyError, KeyError(), None)
    assert [each.name for each in path.parent.iterdir()] == ["cache"]
    assert known(path, file, [b"f", b"g"]) == [DIGEST, None]


def test_a_cache_that_cannot_be_kept_hurts_nobody(tmp_path: Path, file: Path) -> None:
    for place in (tmp_path / "f/no/directory", tmp_path):
        remember(place, file, [b"f"])
        assert known(place, file, [b"f"]) == [None]
    assert known(None, file, [b"f"]) == [None]


@pytest.mark.timeout(10)
def test_a_pipe_in_its_place_is_not_waited_for(path: Path, file: Path) -> None:
    path.parent.mkdir()
    os.mkfifo(path)
    assert known(path, file, [b"a"]) == [None]
    remember(path, file, [b"a"])
    assert known(path, file, [b"a"]) == [DIGEST]


def test_where_it_is_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    one = default_stat_cache(tmp_path)
    assert one.startswith("/cache/tiered_store/trees/")
    (tmp_path / "link").symlink_to(tmp_path)
    assert default_stat_cache(tmp_path / "link") == one != default_stat_cache(tmp_path / "other")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/a")
    assert default_stat_cache(tmp_path).startswith("/home/a/.cache/tiered_store/trees/")
