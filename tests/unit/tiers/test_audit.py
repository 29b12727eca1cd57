"""The audit, step by step, with things that change between its steps."""

from __future__ import annotations

import itertools
import time

import pytest

from tests.support.tiers import entry_of, memfd, object_files
from tiered_store.key import Key
from tiered_store.objects import Entry
from tiered_store.tiers import audit as audits
from tiered_store.tiers.directory import INDEX_NAME
from tiered_store.tiers.room import Room
from tiered_store.tiers.volume import Done, Volume

LARGE = 100_000
BOUND = 10**7


@pytest.fixture
def room(tmp_path):
    return Room(
        tmp_path / "cache",
        max_bytes=BOUND,
        min_free_bytes=0,
        min_free_inodes=0,
        clock=time.monotonic,
        on_starved=lambda: None,
    )


@pytest.fixture
def volume(tmp_path, room, monkeypatch):
    monkeypatch.setattr(audits, "_STEP", 1)
    volume = Volume(tmp_path / "cache", room)
    volume.open()
    yield volume
    volume.close(None)


def put(volume, *keys, epoch=1, size=LARGE):
    batch = [(Key(key), entry_of(key, memfd(bytes(size)) if size else b"small")) for key in keys]
    volume.apply(batch, epoch, Done())


def discard(volume, *keys):
    batch: list[tuple[Key, Entry | None]] = [(Key(key), None) for key in keys]
    volume.apply(batch, 1, Done())


def lose_index(volume, tmp_path):
    volume.close(None)
    for path in (tmp_path / "cache").glob(f"{INDEX_NAME}*"):
        path.unlink()
    assert volume.open().is_rebuilding


def finish(volume, audit):
    while (done := volume.step(audit)) is not None:
        entries = done.entries
    return entries


def test_what_goes_between_two_steps_is_no_fault(volume, tmp_path, monkeypatch):
    monkeypatch.setattr(audits, "_STEP", 2)
    (tmp_path / "cache" / "objects" / "00").mkdir(exist_ok=True)
    numbers = itertools.count()
    monkeypatch.setattr("tiered_store.tiers.directory.secrets.token_hex", lambda size: f"00{next(numbers):030x}")
    put(volume, "a", "b", "c", "d", "e")
    audit = volume.audit(rebuild=False, deny_epoch=0)
    assert volume.step(audit) is not None
    discard(volume, "a", "b", "c", "d", "e")
    assert finish(volume, audit) == 0
    assert object_files(tmp_path / "cache") == []


def test_a_rebuild_counts_as_it_finds(volume, room, tmp_path):
    put(volume, *(f"k{n}" for n in range(10)))
    lose_index(volume, tmp_path)
    audit = volume.audit(rebuild=True, deny_epoch=0)
    assert not room.reserve(BOUND // 10)
    assert finish(volume, audit) == 10
    assert room.reserve(BOUND // 10)


def test_denied_files_are_not_adopted(volume, tmp_path):
    put(volume, "old", epoch=4)
    put(volume, "new", epoch=5)
    lose_index(volume, tmp_path)
    assert finish(volume, volume.audit(rebuild=True, deny_epoch=5)) == 1
    found = volume.lookup(Key("new"))
    assert found is not None
    assert len(object_files(tmp_path / "cache")) == 1


def plant(volume, columns):
    volume._index._writer._sql(f"UPDATE Cache SET {columns}")


def test_rows_that_are_refused_are_dropped(volume):
    put(volume, "a", "b", size=0)
    plant(volume, "mode = 4")
    assert finish(volume, volume.audit(rebuild=False, deny_epoch=0)) == 0


def test_a_file_takes_the_place_of_a_refused_row(volume):
    put(volume, "a")
    plant(volume, "mode = 4")
    assert finish(volume, volume.audit(rebuild=False, deny_epoch=0)) == 1
    assert volume.lookup(Key("a")) is not None


@pytest.mark.parametrize("value", ["x'00'", "x'74536f01'"])
def test_a_file_takes_the_place_of_a_damaged_row_in_a_rebuild(volume, tmp_path, value):
    put(volume, "a")
    lose_index(volume, tmp_path)
    put(volume, "a", size=0)
    plant(volume, f"value = {value}")
    assert finish(volume, volume.audit(rebuild=True, deny_epoch=0)) == 1
    found = volume.lookup(Key("a"))
    assert found is not None
    assert found.entry.info.size == LARGE


def test_in_a_rebuild_the_newer_of_row_and_file_stays(volume, tmp_path):
    put(volume, "a", "b", epoch=5)
    lose_index(volume, tmp_path)
    put(volume, "a", size=0, epoch=6)
    put(volume, "b", size=0, epoch=4)
    assert finish(volume, volume.audit(rebuild=True, deny_epoch=0)) == 2
    sizes = [found.entry.info.size for key in ("a", "b") if (found := volume.lookup(Key(key)))]
    assert sizes == [5, LARGE]
    assert len(object_files(tmp_path / "cache")) == 1


def test_leftover_directories_are_removed_too(volume, tmp_path):
    broken = tmp_path / "cache" / "broken"
    (broken / "deep" / "er").mkdir(parents=True)
    (broken / "file").touch()
    finish(volume, volume.audit(rebuild=False, deny_epoch=0))
    assert list(broken.iterdir()) == []
