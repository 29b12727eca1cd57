"""Open files answer while they are what was verified; recency keeps the latest keys."""

from __future__ import annotations

import os

import pytest

from tests.support.tiers import open_descriptors
from tiered_store.key import Key
from tiered_store.objects import Descriptor, Entry, FileBody, ObjectInfo
from tiered_store.tiers import openfiles
from tiered_store.tiers.openfiles import Found, OpenFiles, Recent


@pytest.fixture
def find(tmp_path):
    def find(key, data=b"data"):
        path = tmp_path / key
        if not path.exists():
            path.write_bytes(data)
        descriptor = Descriptor(os.open(path, os.O_RDONLY))
        status = os.fstat(descriptor.fd)
        body = FileBody(descriptor, 0, len(data), is_memory=False)
        entry = Entry(ObjectInfo(key, len(data), "e"), body, validated_at=0.0)
        return Found(entry, 1, key, status.st_size, status.st_mtime_ns)

    return find


def admit(files, find, *keys):
    for key in keys:
        files.admit(Key(key), find(key))


def test_the_least_recently_used_is_closed(find):
    before = open_descriptors()
    files = OpenFiles(2)
    admit(files, find, "a", "b")
    assert files.get(Key("a")) is not None
    admit(files, find, "c")
    assert files.get(Key("b")) is None
    assert files.get(Key("a")) is not None
    assert len(files) == 2
    assert open_descriptors() == before + 2
    files.clear()
    assert open_descriptors() == before


@pytest.mark.parametrize("change", ["append", "touch", "unlink", "truncate"])
def test_a_changed_file_does_not_answer(find, tmp_path, change):
    files = OpenFiles(2)
    admit(files, find, "a")
    path = tmp_path / "a"
    match change:
        case "append":
            path.write_bytes(b"data!")
        case "touch":
            os.utime(path, ns=(0, 0))
        case "unlink":
            path.unlink()
        case "truncate":
            os.truncate(path, 1)
    assert files.get(Key("a")) is None
    assert len(files) == 0
    if change != "unlink":
        assert not files.is_verified(find("a"))


def test_closed_is_still_verified(find):
    files = OpenFiles(1)
    admit(files, find, "a", "b")
    assert files.get(Key("a")) is None
    assert files.is_verified(find("a"))


def test_removed_files_are_let_go(find):
    files = OpenFiles(4)
    admit(files, find, "a", "b")
    files.removed("a")
    files.removed("unknown")
    assert files.get(Key("a")) is None
    assert not files.is_verified(find("a"))
    assert files.get(Key("b")) is not None


def test_a_key_has_one_open_file(find):
    files = OpenFiles(4)
    admit(files, find, "a")
    found = find("a2")
    files.admit(Key("a"), found)
    assert files.get(Key("a")) is found
    files.removed("a")
    assert files.get(Key("a")) is found
    files.drop(Key("a"))
    files.drop(Key("a"))
    assert len(files) == 0


def test_what_is_remembered_as_verified_is_bounded(find, monkeypatch):
    monkeypatch.setattr(openfiles, "_MAX_VERIFIED", 2)
    files = OpenFiles(4)
    for key in ("a", "b", "c"):
        files.verified(find(key))
    assert [files.is_verified(find(key)) for key in ("a", "b", "c")] == [False, True, True]


def test_recency_keeps_the_latest_keys_in_order():
    recent = Recent(3)
    for key in "abcad":
        recent.used(Key(key))
    assert len(recent) == 3
    assert recent.take(2) == ["c", "a"]
    assert recent.take(5) == ["d"]
    assert recent.take(5) == []
