"""The self-describing format: golden bytes, round trips, and every kind of damage."""

from __future__ import annotations

import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_store.objects import ObjectInfo
from tiered_store.tiers import cachefile
from tiered_store.tiers.cachefile import (
    BODY_OFFSET,
    MAX_RECORD_BYTES,
    Record,
    body_crc,
    charge,
    decode,
    decode_row,
    encode,
    read_header,
    split,
)
from tiered_store.tiers.faults import Damaged

RECORD = Record(
    ObjectInfo("a/b", 5, '"e1"', "text/plain", {"user": "7"}, 1_700_000_000_000_000_000), 0x12345678, 1.5, 9
)
#: Changing this means that caches written by earlier versions are not read any more: raise FORMAT_VERSION.
GOLDEN = bytes.fromhex(
    "74536f01" "0100" "0100" "5c000000" "564c0a04"
    "78563412" "0500000000000000" "0900000000000000" "00002a36fe9c9717" "000000000000f83f"
    "0300" "0400" "0a00" "0d000000"
) + b'a/b"e1"text/plain{"user": "7"}'  # fmt: skip


def test_the_bytes_of_the_format_are_these():
    assert encode(RECORD) == GOLDEN
    assert decode(GOLDEN + b"body") == (RECORD, len(GOLDEN))


text = st.text(st.characters(codec="utf-8"), max_size=300)


@given(
    key=text,
    etag=text,
    content_type=st.none() | text,
    metadata=st.dictionaries(text, text, max_size=5),
    size=st.integers(0, 2**64 - 1),
    modified_ns=st.integers(-(2**63), 2**63 - 1),
    crc=st.integers(0, 2**32 - 1),
    validated_at=st.floats(allow_nan=False),
    epoch=st.integers(0, 2**64 - 1),
)
def test_every_record_comes_back(key, etag, content_type, metadata, size, modified_ns, crc, validated_at, epoch):
    record = Record(ObjectInfo(key, size, etag, content_type, metadata, modified_ns), crc, validated_at, epoch)
    packed = encode(record)
    assert decode(packed) == (record, len(packed))
    assert decode(packed + b"anything") == (record, len(packed))


@pytest.mark.parametrize("at", range(len(GOLDEN)))
def test_no_flipped_bit_is_accepted(at):
    for bit in (1, 128):
        damaged = bytearray(GOLDEN)
        damaged[at] ^= bit
        with pytest.raises(Damaged):
            decode(bytes(damaged))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 60, len(GOLDEN) - 1])
def test_no_part_of_a_record_is_accepted(size):
    with pytest.raises(Damaged):
        decode(GOLDEN[:size])


@given(st.binary(max_size=200))
def test_garbage_is_damage_and_no_other_error(data):
    with pytest.raises(Damaged):
        decode(data)
    with pytest.raises(Damaged):
        decode(cachefile._MAGIC + b"\x01\0" + data)


@pytest.mark.parametrize(
    "info",
    [ObjectInfo("k", 1, "e" * 70_000), ObjectInfo("k", 1, "e", metadata={"m": "x" * MAX_RECORD_BYTES})],
    ids=["etag", "metadata"],
)
def test_a_record_that_would_be_too_long_is_refused(info):
    with pytest.raises(ValueError, match="too long"):
        encode(Record(info, 0, 0.0, 1))


def row(data, key="a/b"):
    return encode(Record(ObjectInfo(key, len(data), "e"), zlib.crc32(data), 0.0, 1)) + data


def test_a_row_is_the_record_and_the_body():
    record, body = decode_row(row(b"hello"), "a/b")
    assert (record.info.key, body) == ("a/b", b"hello")


@pytest.mark.parametrize(
    "data",
    [row(b"hello", key="other"), row(b"hello")[:-1], row(b"hello") + b"x", row(b"hello")[:-1] + b"O"],
    ids=["other key", "short", "long", "flipped"],
)
def test_a_row_that_does_not_fit_its_record_is_damage(data):
    with pytest.raises(Damaged):
        decode_row(data, "a/b")


def write(path, record, body):
    page, tail = split(encode(record))
    path.write_bytes(page + body + tail)
    return os.open(path, os.O_RDONLY)


@pytest.fixture
def opened(tmp_path):
    opened = []

    def open_file(record, body, cut=0, more=b""):
        path = tmp_path / f"{len(opened)}"
        os.close(write(path, record, body))
        data = path.read_bytes()
        path.write_bytes(data[: len(data) - cut] + more)
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    yield open_file
    for fd in opened:
        os.close(fd)


@pytest.mark.parametrize("metadata", [{}, {"m": "x" * 3000}, {"m": "x" * 4500}, {"m": "x" * 60_000}])
def test_a_file_has_its_body_on_a_page_boundary_however_long_its_record(opened, metadata):
    body = b"b" * 10_000
    record = Record(ObjectInfo("k", len(body), "e", metadata=metadata), zlib.crc32(body), 2.0, 3)
    fd = opened(record, body)
    header, status = read_header(fd)
    assert header == record
    assert os.pread(fd, len(body), BODY_OFFSET) == body
    assert charge(len(body), len(encode(record))) - status.st_size in range(4096)


@pytest.mark.parametrize("metadata", [{}, {"m": "x" * 4500}])
@pytest.mark.parametrize(("cut", "more"), [(1, b""), (0, b"x"), (9_000, b""), (10_000, b"")])
def test_a_file_of_another_length_is_damage(opened, metadata, cut, more):
    body = b"b" * 10_000
    fd = opened(Record(ObjectInfo("k", len(body), "e", metadata=metadata), zlib.crc32(body), 2.0, 3), body, cut, more)
    with pytest.raises(Damaged):
        read_header(fd)


def test_the_checksum_of_a_body_is_read_in_pieces(opened, monkeypatch):
    monkeypatch.setattr(cachefile, "_CHUNK", 1000)
    body = os.urandom(4321)
    fd = opened(Record(ObjectInfo("k", len(body), "e"), 0, 0.0, 1), body)
    assert body_crc(fd, len(body)) == zlib.crc32(body)
    assert body_crc(fd, 0) == 0
    with pytest.raises(Damaged, match="ends early"):
        body_crc(fd, len(body) + 1)


@pytest.mark.parametrize(("size", "expected"), [(0, 4096), (1, 8192), (4096, 8192), (4097, 12288)])
def test_files_are_charged_in_whole_blocks(size, expected):
    assert charge(size) == expected
