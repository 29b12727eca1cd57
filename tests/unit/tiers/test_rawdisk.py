"""Nothing but text keys, bytes and our own files: pickle is refused when writing and when reading."""

from __future__ import annotations

import pickle

import diskcache
import pytest
from diskcache.core import MODE_BINARY, MODE_NONE, MODE_PICKLE, MODE_RAW, MODE_TEXT

from tiered_store.tiers.rawdisk import RawDisk, Refused, StoredFile, is_object_name

NAME = "objects/ab/" + "0" * 30
FILE = StoredFile(NAME, 8192, b"record")


@pytest.fixture
def disk(tmp_path):
    return RawDisk(str(tmp_path))


class Unpickled(Exception):
    """Raised by a payload that was unpickled."""


class Payload:
    def __reduce__(self):
        return exec, ("raise __import__('tests.unit.tiers.test_rawdisk', fromlist=['x']).Unpickled",)


def test_the_payload_would_work():
    with pytest.raises(Unpickled):
        pickle.loads(pickle.dumps(Payload()))


def test_bytes_and_files_come_back(disk):
    assert disk.store(b"data", False) == (0, MODE_RAW, None, b"data")
    assert disk.fetch(MODE_RAW, None, b"data", False) == b"data"
    assert disk.store(FILE, False) == (8192, MODE_BINARY, NAME, b"record")
    assert disk.fetch(MODE_BINARY, NAME, b"record", False) == StoredFile(NAME, 0, b"record")
    assert disk.get(*disk.put("key")) == "key"


@pytest.mark.parametrize(
    "value",
    [None, 1, 1.5, "text", bytearray(b"x"), memoryview(b"x"), [], Payload(), StoredFile("../x", 1, b"")],
    ids=lambda value: type(value).__name__,
)
def test_other_values_are_refused_when_writing(disk, value):
    with pytest.raises(Refused):
        disk.store(value, False)


def test_file_objects_are_refused(disk):
    with pytest.raises(Refused):
        disk.store(b"data", True)


@pytest.mark.parametrize("key", [b"k", 1, 1.5, None, ("a",), Payload()], ids=lambda key: type(key).__name__)
def test_other_keys_are_refused_when_writing(disk, key):
    with pytest.raises(Refused):
        disk.put(key)


@pytest.mark.parametrize(("key", "raw"), [(pickle.dumps(Payload()), 0), (b"k", 1), ("k", 0), (1, 1)])
def test_other_keys_are_refused_when_reading(disk, key, raw):
    with pytest.raises(Refused):
        disk.get(key, raw)


@pytest.mark.parametrize(
    ("mode", "filename", "value"),
    [
        (MODE_PICKLE, None, pickle.dumps(Payload())),
        (MODE_PICKLE, NAME, None),
        (MODE_PICKLE, NAME, b"record"),
        (MODE_TEXT, NAME, b"record"),
        (MODE_NONE, None, b"x"),
        (MODE_RAW, None, "text"),
        (MODE_RAW, None, 5),
        (MODE_RAW, NAME, b"x"),
        (MODE_BINARY, "../../etc/passwd", b"record"),
        (MODE_BINARY, NAME, None),
        (99, None, b"x"),
    ],
)
def test_other_rows_are_refused_when_reading(disk, mode, filename, value):
    with pytest.raises(Refused):
        disk.fetch(mode, filename, value, False)


def test_a_cache_on_it_neither_pickles_nor_unpickles(tmp_path):
    with diskcache.Cache(tmp_path, disk=RawDisk) as cache:
        with pytest.raises(Refused):
            cache.set("k", {"a": 1})
        with pytest.raises(Refused):
            cache.set(("k",), b"x")
        cache.set("k", b"x")
        with cache.transact():
            cache._sql("UPDATE Cache SET mode = ?, value = ?", (MODE_PICKLE, pickle.dumps(Payload())))
        with pytest.raises(Refused):
            cache.get("k")


def test_diskcache_neither_names_nor_removes_files(disk, tmp_path):
    (tmp_path / "objects" / "ab").mkdir(parents=True)
    (tmp_path / NAME).write_bytes(b"x")
    disk.remove(NAME)
    disk.remove("../outside")
    assert disk.removed == [NAME]
    assert (tmp_path / NAME).exists()
    with pytest.raises(Refused):
        disk.filename()


@pytest.mark.parametrize(
    "name",
    [None, "", "objects", "objects/ab/x", "objects/../" + "0" * 30, "/" + NAME, NAME + "\n", NAME.upper(), NAME + "0"],
)
def test_what_is_no_object_name(name):
    assert not is_object_name(name)
    assert is_object_name(NAME)
