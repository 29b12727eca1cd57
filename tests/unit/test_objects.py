import copy
import gc
import os
import pickle
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.origins import file_body, memfd_body, pattern
from tiered_store.objects import Descriptor, Entry, FileBody, ObjectInfo, body_size, read_body


def test_information_under_another_key() -> None:
    info = ObjectInfo("a", 3, "1", "text/plain", {"user": "7"}, 1_700_000_000_500_000_000)
    assert info.renamed("a") is info
    assert info.renamed("b") == ObjectInfo("b", 3, "1", "text/plain", {"user": "7"}, 1_700_000_000_500_000_000)
    assert info.modified == datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC)


def test_information_is_a_value() -> None:
    info = ObjectInfo("a", 3, "1", "text/plain", {"user": "7"}, 5)
    assert info == ObjectInfo(
        key="a", size=3, etag="1", content_type="text/plain", metadata={"user": "7"}, modified_ns=5
    )
    for other in (
        ObjectInfo("b", 3, "1", "text/plain", {"user": "7"}, 5),
        ObjectInfo("a", 4, "1", "text/plain", {"user": "7"}, 5),
        ObjectInfo("a", 3, "2", "text/plain", {"user": "7"}, 5),
        ObjectInfo("a", 3, "1", None, {"user": "7"}, 5),
        ObjectInfo("a", 3, "1", "text/plain", {}, 5),
        ObjectInfo("a", 3, "1", "text/plain", {"user": "7"}, 6),
        "a",
    ):
        assert info != other
    assert eval(repr(info)) == info
    assert pickle.loads(pickle.dumps(info)) == copy.copy(info) == info
    with pytest.raises(TypeError, match="unhashable"):
        hash(info)


def test_information_without_metadata_shares_none() -> None:
    one, other = ObjectInfo("a", 0, "1"), ObjectInfo("b", 0, "1")
    one.metadata["k"] = "v"
    assert other.metadata == {}


def test_a_body_in_a_file_says_what_it_is() -> None:
    assert repr(FileBody(Descriptor(-1), 4096, 10, is_memory=True)) == (
        "FileBody(Descriptor(-1), 4096, 10, is_memory=True)"
    )


def test_a_descriptor_is_closed_once_and_with_its_last_reference() -> None:
    read_end, write_end = os.pipe()
    descriptor = Descriptor(read_end)
    assert repr(descriptor) == f"Descriptor({read_end})"
    descriptor.close()
    descriptor.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(read_end)
    dropped = Descriptor(write_end)
    del dropped
    gc.collect()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(write_end)


def test_bodies_are_read_whole_and_in_part(tmp_path: Path) -> None:
    data = pattern(10_000)
    for body in (data, memfd_body(data), file_body(tmp_path / "f", data, offset=4096)):
        assert body_size(body) == len(data)
        assert read_body(body) == data
        assert read_body(body, 100) == data[100:]
        assert read_body(body, 100, 50) == data[100:150]
        assert read_body(body, 9_990, 50) == data[-10:]
        assert read_body(body, 20_000, 5) == b""
    assert read_body(data) is data


def test_a_file_that_is_too_short_is_an_error_not_a_short_body(tmp_path: Path) -> None:
    whole = file_body(tmp_path / "f", b"12345")
    with pytest.raises(EOFError, match="2 bytes early"):
        read_body(FileBody(whole.descriptor, 0, 7, is_memory=False))


def test_short_reads_of_the_system_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    body = memfd_body(pattern(1000))
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: pread(fd, min(size, 300), offset))
    assert read_body(body) == pattern(1000)


def test_an_entry_says_what_it_is() -> None:
    entry = Entry(ObjectInfo("k", 2, "1"), b"ab", validated_at=5.0)
    assert repr(entry) == "Entry('k', 2 bytes, origin)"
    assert (entry.fresh_until, entry.crc, entry.wire) == (0.0, None, b"")
