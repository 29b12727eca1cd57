"""What is removed from Go's directory, and what a running go command keeps there."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from tests.unit.gocache.test_local import files, install
from tiered_store.gocache.local import LocalCache, mark_of
from tiered_store.gocache.running import Gate, Running, oldest_start
from tiered_store.gocache.trim import trim

HOUR_S, DAY_S = 3600.0, 86400.0
MIB = 2**20


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return f"{tmp_path}/go"


def fill(cache: LocalCache, ages_s: list[float], size: int = MIB) -> list[str]:
    """Outputs that were used so long ago, with their actions; the names of both, one after the other."""
    names = []
    for number, age_s in enumerate(ages_s):
        action = f"{number:02x}" * 32
        path = install(cache, action, bytes([number]) * size)
        used = time.time_ns() - int(age_s * 1e9)
        os.utime(path, ns=(used, mark_of(path.name[:64])))
        os.utime(cache._action_path(action), ns=(used, used))
        names.append(path.name)
    return names


def left_of(cache: LocalCache, names: list[str]) -> list[int]:
    """Which of the outputs are there."""
    there = files(cache)
    return [number for number, name in enumerate(names) if name in there]


def closed(directory: str, ages_s: list[float]) -> tuple[LocalCache, list[str]]:
    """A directory in which a go command that has ended has left this."""
    cache = LocalCache(directory)
    names = fill(cache, ages_s)
    cache.running.close()
    return cache, names


def test_what_was_not_used_for_long_goes(directory: str) -> None:
    cache, names = closed(directory, [3 * DAY_S, 6 * DAY_S, HOUR_S, 9 * DAY_S])
    assert trim(directory, 10**12, 5 * DAY_S, has_written=True) == 4  # two outputs and their actions
    assert left_of(cache, names) == [0, 2]


def test_what_is_too_much_goes_the_longest_unused_first(directory: str) -> None:
    cache, names = closed(directory, [4 * HOUR_S, 2 * HOUR_S, 3 * HOUR_S, HOUR_S])
    trim(directory, int(2.5 * MIB), 5 * DAY_S, has_written=True)
    assert left_of(cache, names) == [1, 3]


def test_what_was_used_a_moment_ago_stays_however_much_it_is(directory: str) -> None:
    cache, names = closed(directory, [2 * HOUR_S, 60.0, 0.0])
    assert trim(directory, 0, 0.0, has_written=True) == 2
    assert left_of(cache, names) == [1, 2]


def test_a_running_go_command_keeps_what_it_was_given(directory: str) -> None:
    """Given an hour ago, and not touched since; what is older nobody running has been given."""
    cache, names = closed(directory, [5 * HOUR_S, HOUR_S])
    running = Running(directory)
    started = time.time_ns() - int(2 * HOUR_S * 1e9)
    Path(running._path).rename(Path(running._path).with_name(f"{started}-1"))
    trim(directory, 0, 0.0, has_written=True)
    assert left_of(cache, names) == [1]
    running.close()


def test_one_that_was_killed_keeps_nothing(directory: str) -> None:
    cache, names = closed(directory, [HOUR_S])
    Path(directory, "running", "1000-77").touch()
    trim(directory, 0, 0.0, has_written=True)
    assert left_of(cache, names) == []
    assert not Path(directory, "running", "1000-77").exists()


def test_a_file_taken_up_again_stays(directory: str) -> None:
    """It was in the list of those to go when a go command asked for it."""
    cache, names = closed(directory, [HOUR_S, HOUR_S])
    again = LocalCache(directory)
    assert again.find("00" * 32) is not None
    again.running.close()
    trim(directory, 0, 0.0, has_written=True)
    assert left_of(cache, names) == [0]


def test_while_files_are_removed_none_is_taken_up(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, _ = closed(directory, [HOUR_S, 0.0])
    user = LocalCache(directory)
    monkeypatch.setattr("tiered_store.gocache.running._PATIENCE_S", 0.0)
    gate = Gate(directory, fcntl.LOCK_EX)
    with gate as is_held:
        assert is_held
        assert user.find("00" * 32) is None
        assert user.find("01" * 32) is not None  # nobody would remove this one
        with pytest.raises(TimeoutError):
            Running(directory)
    gate.close()
    assert user.find("00" * 32) is not None
    user.running.close()
    assert cache.directory == user.directory


def test_nothing_is_removed_while_somebody_announces_itself(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, names = closed(directory, [HOUR_S])
    monkeypatch.setattr("tiered_store.gocache.running._PATIENCE_S", 0.0)
    gate = Gate(directory, fcntl.LOCK_SH)
    with gate:
        assert trim(directory, 0, 0.0, has_written=True) == 0
    gate.close()
    assert left_of(cache, names) == [0]


@pytest.mark.parametrize(
    ("has_written", "age_s", "looks"), [(True, 60, 0), (True, 700, 1), (False, 700, 0), (False, 90_000, 1)]
)
def test_it_looks_once_in_a_while(directory: str, has_written: bool, age_s: int, looks: int) -> None:
    cache, names = closed(directory, [HOUR_S])
    Path(directory, "trimmed").write_bytes(b"looked\n")
    os.utime(f"{directory}/trimmed", (time.time() - age_s,) * 2)
    trim(directory, 0, 0.0, has_written=has_written)
    assert left_of(cache, names) == [0][looks:]


def test_two_do_not_look_at_once(directory: str) -> None:
    cache, names = closed(directory, [HOUR_S])
    with Path(directory, "trimmed").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert trim(directory, 0, 0.0, has_written=True) == 0
    assert left_of(cache, names) == [0]


def test_what_writers_left_goes_after_a_day(directory: str) -> None:
    closed(directory, [])
    old, new = Path(directory, "incoming", "old"), Path(directory, "incoming", "new")
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    trim(directory, 10**9, DAY_S, has_written=True)
    assert (old.exists(), new.exists()) == (False, True)


def test_the_oldest_of_the_running(directory: str) -> None:
    closed(directory, [])
    before = time.time()
    assert oldest_start(directory) >= before
    first, second = Running(directory), Running(directory)
    Path(directory, "running", "notes.txt").touch()
    assert oldest_start(directory) == pytest.approx(int(Path(first._path).name.split("-")[0]) / 1e9)
    first.left()
    assert oldest_start(directory) == pytest.approx(int(Path(second._path).name.split("-")[0]) / 1e9)
    first.close()
    second.close()
    assert oldest_start(directory) >= before
