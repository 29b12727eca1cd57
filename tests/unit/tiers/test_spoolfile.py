"""Spools: reserved before written, read-only for everybody else, gone with the last reference."""

from __future__ import annotations

import errno
import gc
import os
import time

import pytest

from tests.support.tiers import open_descriptors
from tiered_store.objects import ObjectInfo, read_body
from tiered_store.tiers import spoolfile
from tiered_store.tiers.cachefile import BODY_OFFSET, Record, encode, read_header
from tiered_store.tiers.room import Room
from tiered_store.tiers.spoolfile import SpoolDescriptor, SpoolFile

STEP = 16 * 1024


@pytest.fixture
def room(tmp_path):
    return Room(
        tmp_path,
        max_bytes=200_000,
        min_free_bytes=0,
        min_free_inodes=0,
        clock=time.monotonic,
        on_starved=lambda: None,
    )


@pytest.fixture
def make(tmp_path, room):
    def make(reserved=8192):
        assert room.reserve(reserved)
        return SpoolFile(tmp_path / "spool", room, reserved, STEP)

    return make


def test_what_is_written_is_there(make):
    spool = make()
    spool.write(b"hello ")
    spool.write(memoryview(b"world"))
    spool.write(memoryview(bytes(8)).cast("Q"))
    assert spool.size == 19
    assert read_body(spool.body()) == b"hello world" + bytes(8)
    assert spool.body_offset == BODY_OFFSET == spool.body().offset


def test_a_body_is_what_was_written_until_then(make):
    spool = make()
    spool.write(b"one")
    body = spool.body()
    spool.write(b"two")
    assert read_body(body) == b"one"
    assert read_body(spool.body()) == b"onetwo"


def test_nobody_can_write_through_a_body(make):
    spool = make()
    spool.write(b"data")
    body = spool.body()
    assert isinstance(body.descriptor, SpoolDescriptor)
    assert not body.is_memory
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(body.descriptor.fd, b"x", BODY_OFFSET)


def test_room_grows_in_steps(make, room):
    spool = make(reserved=8192)
    spool.write(bytes(4096))
    assert room.used == 8192
    spool.write(b"x")
    assert room.used == 8192 + STEP
    spool.write(bytes(50_000))
    assert room.used >= BODY_OFFSET + spool.size


def test_without_room_nothing_is_written(make, room, monkeypatch):
    monkeypatch.setattr(spoolfile, "_WAIT_S", 0.01)
    spool = make()
    spool.write(b"start")
    with pytest.raises(OSError, match="no room") as caught:
        spool.write(bytes(300_000))
    assert caught.value.errno == errno.ENOSPC
    assert spool.size == 5
    assert os.fstat(spool.descriptor.fd).st_size == BODY_OFFSET + 5


@pytest.mark.parametrize("how", ["discard", "twice", "forget"])
def test_a_spool_that_nobody_wants_leaves_nothing(make, room, tmp_path, how):
    gc.collect()
    before = open_descriptors()
    spool = make()
    spool.write(b"data")
    body = spool.body()
    if how != "forget":
        spool.discard()
        assert not (tmp_path / "spool").exists()
        assert room.used == 0
        assert read_body(body) == b"data"
    if how == "twice":
        spool.discard()
    del spool
    assert (tmp_path / "spool").exists() is (how == "forget")  # the body still holds it
    del body
    gc.collect()
    assert not (tmp_path / "spool").exists()
    assert room.used == 0
    assert open_descriptors() == before


def test_a_file_that_cannot_be_made_gives_its_room_back(tmp_path, room):
    assert room.reserve(8192)
    with pytest.raises(FileNotFoundError):
        SpoolFile(tmp_path / "missing" / "spool", room, 8192, STEP)
    gc.collect()
    assert room.used == 0


def test_a_file_that_cannot_be_removed_is_left(make, room, tmp_path):
    spool = make()
    (tmp_path / "spool").unlink()
    (tmp_path / "spool").mkdir()
    spool.discard()
    assert room.used == 0


RECORD = encode(Record(ObjectInfo("k", 4, "e", metadata={"m": "x" * 5000}), 1, 0.0, 1))


def test_moved_it_is_a_cache_file(make, room, tmp_path):
    spool = make()
    spool.write(b"data")
    body = spool.body()
    mtime_ns = spool.move(tmp_path / "object", RECORD)
    assert spool.is_open
    assert spool.settle() == 8192
    assert not spool.is_open
    header, status = read_header(body.descriptor.fd)
    assert header.info.key == "k"
    assert status.st_mtime_ns == mtime_ns
    spool.discard()
    del spool, body
    assert (tmp_path / "object").exists()
    assert not (tmp_path / "spool").exists()


def test_moved_but_not_settled_it_still_goes(make, room, tmp_path):
    spool = make()
    spool.write(b"data")
    spool.move(tmp_path / "object", RECORD)
    del spool
    assert list(tmp_path.iterdir()) == []
    assert room.used == 0


def test_discarded_it_cannot_be_moved(make, tmp_path):
    spool = make()
    spool.discard()
    with pytest.raises(FileNotFoundError):
        spool.move(tmp_path / "object", RECORD)


def test_handed_over_it_is_not_the_writers_to_discard(make, tmp_path):
    spool = make()
    body = spool.body()
    assert isinstance(body.descriptor, SpoolDescriptor)
    body.descriptor.hand_over()
    spool.discard()
    assert (tmp_path / "spool").exists()
    body.descriptor.spool = None
    body.descriptor.hand_over()
    del spool
    assert not (tmp_path / "spool").exists()


def test_a_spool_knows_its_room(make, room, tmp_path):
    other = Room(tmp_path, max_bytes=1, min_free_bytes=0, min_free_inodes=0, clock=time.monotonic, on_starved=list)
    spool = make()
    assert spool.draws_from(room)
    assert not spool.draws_from(other)
