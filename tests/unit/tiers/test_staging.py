"""Batches that fail leave nothing behind, and their spools can be tried again."""

from __future__ import annotations

import os
import time

import pytest

from tests.support.tiers import entry_of, memfd, object_files
from tiered_store.key import Key
from tiered_store.objects import Descriptor, Entry, FileBody, ObjectInfo, body_size
from tiered_store.tiers.directory import CacheDirectory
from tiered_store.tiers.index import Index
from tiered_store.tiers.rawdisk import StoredFile
from tiered_store.tiers.room import Room
from tiered_store.tiers.spoolfile import SpoolFile
from tiered_store.tiers.staging import Staging

LARGE = 100_000


@pytest.fixture
def directory(tmp_path):
    directory = CacheDirectory(tmp_path / "cache")
    directory.claim()
    directory.prepare_index()
    yield directory
    directory.release()


@pytest.fixture
def room(directory):
    return Room(
        directory.path,
        max_bytes=10**8,
        min_free_bytes=0,
        min_free_inodes=0,
        clock=time.monotonic,
        on_starved=lambda: None,
    )


@pytest.fixture
def index(directory):
    index = Index(directory.path, log_bytes=65536)
    yield index
    index.close()


@pytest.fixture
def stage(directory, room, index):
    return lambda: Staging(directory, room, index, epoch=7)


def spool_of(directory, room, data):
    room.reserve(len(data) + 8192)
    spool = SpoolFile(directory.new_spool(), room, len(data) + 8192, 4096)
    spool.write(data)
    return spool


def test_an_undone_batch_leaves_no_copies_and_its_spools_as_they_were(directory, room, stage):
    spool = spool_of(directory, room, bytes(LARGE))
    entries = [entry_of("a", memfd(bytes(LARGE))), entry_of("b", spool.body())]
    first = stage()
    for entry in entries:
        assert isinstance(first.value(Key(entry.info.key), entry), StoredFile)
    assert len(object_files(directory.path)) == 2
    first.undo()
    assert len(object_files(directory.path)) == 1
    again = stage()
    value = again.value(Key("b"), entries[1])
    assert isinstance(value, StoredFile)
    assert again.settle() >= LARGE
    assert object_files(directory.path) == [directory.path / value.name]


def test_a_copy_that_cannot_be_finished_is_removed(directory, stage, monkeypatch):
    entry = entry_of("a", memfd(bytes(LARGE)))

    def fail(*args):
        raise OSError

    monkeypatch.setattr("tiered_store.tiers.staging.write_all", fail)
    with pytest.raises(OSError):
        stage().value(Key("a"), entry)
    assert object_files(directory.path) == []


@pytest.mark.parametrize("body", [b"new", memfd(bytes(LARGE))], ids=["row", "file"])
@pytest.mark.parametrize(
    "said",
    [
        {"modified_ns": 2**63},
        {"modified_ns": None},
        {"content_type": 7},
        {"metadata": {"a": object()}},
        {"etag": "lone \ud800"},
        {"metadata": {"a": "lone \ud800"}},
    ],
    ids=["time too late", "no time", "type a number", "metadata an object", "etag no text", "metadata no text"],
)
def test_an_entry_that_cannot_be_encoded_is_declined_alone(directory, index, stage, body, said):
    index.apply([(Key("bad"), b"old"), (Key("good"), b"old")])
    info = ObjectInfo("bad", body_size(body), **{"etag": "v2", **said})
    batch = [(Key("bad"), Entry(info, body, validated_at=5.0)), (Key("good"), entry_of("good", b"new"))]
    staging = stage()
    index.apply([(key, staging.value(key, entry)) for key, entry in batch])
    assert index.get(Key("bad")) is None, "what is older must not be answered"
    assert index.get(Key("good")).endswith(b"new")
    assert object_files(directory.path) == []


@pytest.mark.parametrize("size", [0, 1, 1000, 1025, 4000, 5000, 30_000, 65_536])
def test_estimates_are_never_too_low(directory, index, stage, size):
    batch = [(Key(f"some/longer/key/{n}"), entry_of(f"some/longer/key/{n}", os.urandom(size))) for n in range(50)]
    staging = stage()
    _, before = index.measure()
    index.apply([(key, staging.value(key, entry)) for key, entry in batch])
    _, after = index.measure()
    assert after - before <= sum(staging.estimate(key, entry) for key, entry in batch)


def test_files_are_estimated_in_whole_and_spools_not_twice(directory, room, stage):
    spool = spool_of(directory, room, bytes(LARGE))
    assert stage().estimate(Key("a"), entry_of("a", memfd(bytes(LARGE)))) > LARGE
    assert stage().estimate(Key("a"), entry_of("a", spool.body())) < LARGE
    assert stage().estimate(Key("a"), None) < 4096


def test_a_file_that_is_kept_gets_a_new_record_and_no_new_charge(directory, index, stage):
    value = stage().value(Key("a"), entry_of("a", memfd(bytes(LARGE))))
    assert isinstance(value, StoredFile)
    index.apply([(Key("a"), value)])
    descriptor = Descriptor(os.open(directory.path / value.name, os.O_RDONLY))
    body = FileBody(descriptor, 4096, LARGE, is_memory=False)
    kept = stage().value(Key("a"), Entry(ObjectInfo("a", LARGE, "v2"), body, validated_at=5.0))
    assert isinstance(kept, StoredFile)
    assert (kept.name, kept.charged) == (value.name, value.charged)
    assert kept.record != value.record


def test_a_row_of_another_kind_is_no_file_to_keep(directory, index, stage):
    index.apply([(Key("a"), b"row")])
    index._writer._sql("UPDATE Cache SET mode = 4")
    value = stage().value(Key("a"), entry_of("a", memfd(bytes(LARGE))))
    assert isinstance(value, StoredFile)
