"""The blocking half: what opening proves, and what happens at the bound and to a disk that lies."""

from __future__ import annotations

import errno
import os
import time

import pytest

from tests.support.tiers import entry_of, memfd, object_files
from tiered_store.key import Key
from tiered_store.tiers import volume as volumes
from tiered_store.tiers.directory import Marks
from tiered_store.tiers.faults import Damaged, Gone, Kind, TierFault
from tiered_store.tiers.room import Room
from tiered_store.tiers.volume import Done, Volume

LARGE = 100_000
BOUND = 4 * 1024 * 1024


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
def volume(tmp_path, room):
    volume = Volume(tmp_path / "cache", room)
    yield volume
    volume.close(None)


def put(volume, *keys, size=LARGE):
    done = Done()
    volume.apply([(Key(key), entry_of(key, memfd(bytes(size)))) for key in keys], 1, done)
    return done


def test_opening_tells_how_it_was_left(volume):
    first = volume.open()
    assert (first.marks, first.was_empty, first.is_rebuilding, first.entries) == (None, True, False, 0)
    put(volume, "a")
    volume.close(Marks(epoch=3))
    second = volume.open()
    assert (second.marks, second.was_empty, second.entries) == (Marks(epoch=3), False, 1)
    assert second.run > first.run
    volume.close(None)
    assert volume.open().marks is None


def test_a_closed_volume_says_so(volume):
    with pytest.raises(TierFault, match="closed"):
        volume.lookup(Key("a"))


def test_a_disk_that_gives_back_something_else_is_faulty(volume, monkeypatch):
    monkeypatch.setattr(volumes.os, "pread", lambda fd, size, at: bytes(size))
    with pytest.raises(TierFault, match="does not give back") as caught:
        volume.open()
    assert caught.value.kind is Kind.FAULTY


def test_an_index_that_gives_back_something_else_is_replaced_once(volume, monkeypatch):
    monkeypatch.setattr(volumes.Index, "get", lambda index, key: b"other")
    with pytest.raises(TierFault, match="does not give back") as caught:
        volume.open()
    assert caught.value.kind is Kind.CORRUPT


def test_a_full_disk_is_no_reason_to_throw_the_index_away(volume, monkeypatch, tmp_path):
    volume.open()
    put(volume, "a")
    volume.close(None)
    with monkeypatch.context() as patch:
        patch.setattr(volumes.Index, "apply", lambda index, changes: (_ for _ in ()).throw(TierFault(Kind.FULL, "x")))
        with pytest.raises(TierFault):
            volume.open()
    assert volume.open().entries == 1


def test_a_batch_makes_its_own_room(volume, room):
    volume.open()
    evicted = 0
    for number in range(60):
        done = put(volume, f"k{number}")
        evicted += done.evicted
        assert room.used <= BOUND
        assert len(done.removed) == done.evicted
        assert done.entries == len(object_files(volume._path)) == number + 1 - evicted
    assert evicted > 0


def test_a_batch_over_the_bound_is_refused(volume, room):
    volume.open()
    used = room.used
    with pytest.raises(TierFault, match="within the bound") as caught:
        put(volume, "a", size=BOUND)
    assert caught.value.kind is Kind.FULL
    assert room.used == used


def test_a_batch_without_room_culls_all_it_can_and_is_refused(volume, room):
    volume.open()
    put(volume, "a")
    assert room.reserve(BOUND - room.used - 1000)  # spools
    done = Done()
    with pytest.raises(TierFault, match="no room"):
        volume.apply([(Key("b"), entry_of("b", memfd(bytes(2 * LARGE))))], 1, done)
    assert done.evicted == 1
    assert done.entries == 0


def test_a_failed_batch_changes_nothing(volume, room, monkeypatch):
    volume.open()
    put(volume, "a")
    used, files = room.used, object_files(volume._path)

    def fail(index, changes):
        raise TierFault(Kind.FAULTY, "test")

    with monkeypatch.context() as patch:
        patch.setattr(volumes.Index, "apply", fail)
        with pytest.raises(TierFault):
            put(volume, "a", "b")
    assert room.used == used
    assert object_files(volume._path) == files
    assert volume.lookup(Key("b")) is None


def test_errors_of_the_system_are_faults(volume, monkeypatch):
    volume.open()
    put(volume, "a")

    def fail(*args):
        raise OSError(errno.EIO, "test")

    found = volume.lookup(Key("a"))
    assert found is not None
    monkeypatch.setattr(volumes, "body_crc", fail)
    with pytest.raises(TierFault) as caught:
        volume.verify(found)
    assert caught.value.kind is Kind.FAULTY


def test_a_missing_and_a_damaged_file_are_told_apart(volume):
    volume.open()
    put(volume, "a", "b")
    for key in ("a", "b"):
        found = volume.lookup(Key(key))
        assert found is not None
        path = volume._path / found.name
        if key == "a":
            path.unlink()
        else:
            os.truncate(path, 10)
    with pytest.raises(Gone):
        volume.lookup(Key("a"))
    with pytest.raises(Damaged):
        volume.lookup(Key("b"))


def test_without_excess_nothing_is_culled(volume):
    volume.open()
    put(volume, "a")
    done = Done()
    volume.cull(done)
    assert (done.evicted, done.entries) == (0, None)
