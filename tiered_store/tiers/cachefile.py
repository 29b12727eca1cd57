"""The self-describing form of a stored object: one record, then its bytes.

The record says everything that the index knows, so that a lost index can be rebuilt from files, and
carries its own checksum and the body's. Two layouts use it:

* a *row* is the record followed at once by the body;
* a *file* has the record in its first page, the body from ``BODY_OFFSET`` (so that a client can map it),
  and after the body the rest of a record that is longer than a page.

This module packs and unpacks; it reads files but never writes, names or removes one. The invariant:
what :func:`decode` accepts is, bit for bit, what :func:`encode` made.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import zlib
from dataclasses import dataclass

from tiered_store.objects import ObjectInfo
from tiered_store.tiers.faults import Damaged

__all__ = [
    "BLOCK_BYTES",
    "BODY_OFFSET",
    "MAX_RECORD_BYTES",
    "Record",
    "body_crc",
    "charge",
    "decode",
    "decode_row",
    "encode",
    "read_header",
    "split",
]

#: What a file system hands out at the least; files are charged in whole blocks.
BLOCK_BYTES = 4096
BODY_OFFSET = 4096
#: Keys have 1 KiB; the rest is user metadata, whose configured limit is far below this.
MAX_RECORD_BYTES = 256 * 1024
FORMAT_VERSION = 1

_MAGIC = b"tSo\x01"
_CHUNK = 1024 * 1024
# magic, version, flags, length and checksum of the record; then what the checksum covers:
_PREFIX = struct.Struct("<4sHHII")
# checksum and size of the body, epoch, modified_ns, validated_at, lengths of the four texts.
_FIXED = struct.Struct("<IQQqdHHHI")
_HEAD = struct.Struct(_PREFIX.format + _FIXED.format[1:])
_HAS_TYPE = 1  # flag: there is a content type, which may be empty


@dataclass(frozen=True, slots=True)
class Record:
    """What is stored of an object besides its bytes.

    Attributes:
        info: the object's information, its key included.
        crc: zlib.crc32 of the body.
        validated_at: when the origin last vouched for it, seconds since the epoch.
        epoch: the tier's counter when it was written; tells entries of one run, or from before a mark,
            from others, whatever the wall clock did meanwhile.
    """

    info: ObjectInfo
    crc: int
    validated_at: float
    epoch: int


def encode(record: Record) -> bytes:
    """Pack a record.

    Raises:
        ValueError: if a text is too long to be stored.
    """
    info = record.info
    key, etag = info.key.encode(), info.etag.encode()
    content_type = b"" if info.content_type is None else info.content_type.encode()
    metadata = json.dumps(info.metadata, ensure_ascii=False).encode() if info.metadata else b""
    lengths = (len(key), len(etag), len(content_type), len(metadata))
    size = _HEAD.size + sum(lengths)
    if size > MAX_RECORD_BYTES or max(lengths[:3]) > 0xFFFF:
        raise ValueError(f"a record of {size} bytes is too long")
    fixed = _FIXED.pack(record.crc, info.size, record.epoch, info.modified_ns, record.validated_at, *lengths)
    rest = b"".join((fixed, key, etag, content_type, metadata))
    flags = 0 if info.content_type is None else _HAS_TYPE
    return _PREFIX.pack(_MAGIC, FORMAT_VERSION, flags, size, zlib.crc32(rest, flags)) + rest


def _record_size(head: bytes) -> int:
    """The length of the record that begins here, by its own word."""
    if len(head) < _HEAD.size:
        raise Damaged("shorter than a record")
    magic, version, _, size, _ = _PREFIX.unpack_from(head)
    if magic != _MAGIC or version != FORMAT_VERSION:
        raise Damaged("not a record of this version")
    if not _HEAD.size <= size <= MAX_RECORD_BYTES:
        raise Damaged("impossible record length")
    return int(size)


def decode(data: bytes) -> tuple[Record, int]:
    """Unpack the record at the start of ``data``; gives it and its length.

    Raises:
        Damaged: if it is not exactly what :func:`encode` made.
    """
    size = _record_size(data)
    # One call for all fields: this is on the path of every small read.
    (_, _, flags, _, checksum, crc, body_size, epoch, modified_ns, validated_at, key, etag, content_type, _) = (
        _HEAD.unpack_from(data)
    )
    record = data[:size]
    if len(record) < size or zlib.crc32(record[_PREFIX.size :], flags) != checksum:
        raise Damaged("record does not match its checksum")
    etag_at = _HEAD.size + key
    type_at = etag_at + etag
    metadata_at = type_at + content_type
    info = ObjectInfo(
        record[_HEAD.size : etag_at].decode(),
        body_size,
        record[etag_at:type_at].decode(),
        record[type_at:metadata_at].decode() if flags & _HAS_TYPE else None,
        json.loads(record[metadata_at:]) if metadata_at < size else {},
        modified_ns,
    )
    return Record(info, crc, validated_at, epoch), size


def decode_row(data: bytes, key: str) -> tuple[Record, bytes]:
    """Unpack a row and verify its body.

    Raises:
        Damaged: if it is not the whole, unchanged row of this key.
    """
    record, start = decode(data)
    body = data[start:]
    if record.info.key != key or len(body) != record.info.size or zlib.crc32(body) != record.crc:
        raise Damaged("row does not match its record")
    return record, body


def split(record: bytes) -> tuple[bytes, bytes]:
    """A record as a file holds it: the first page, and what comes after the body (mostly nothing)."""
    return record[:BODY_OFFSET].ljust(BODY_OFFSET, b"\0"), record[BODY_OFFSET:]


def charge(size: int, record_size: int = 0) -> int:
    """What a file with a body of ``size`` bytes takes, in whole blocks."""
    total = BODY_OFFSET + size + max(0, record_size - BODY_OFFSET)
    return -(-total // BLOCK_BYTES) * BLOCK_BYTES


def read_header(fd: int) -> tuple[Record, os.stat_result]:
    """Read a file's record and check the file's length against it; blocking.

    Raises:
        Damaged: if this is no whole cache file.
        OSError: if it cannot be read.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise Damaged("not a file")
    head = os.pread(fd, BODY_OFFSET, 0)
    size = _record_size(head)
    if size > BODY_OFFSET:
        tail = size - BODY_OFFSET
        if status.st_size < BODY_OFFSET + tail:
            raise Damaged("file does not have the length it claims")
        head += os.pread(fd, tail, status.st_size - tail)
    record, _ = decode(head)
    if head.count(0, size) != len(head) - size:
        raise Damaged("header does not end in zeros")
    if status.st_size != BODY_OFFSET + record.info.size + max(0, size - BODY_OFFSET):
        raise Damaged("file does not have the length it claims")
    return record, status


def body_crc(fd: int, size: int, offset: int = BODY_OFFSET) -> int:
    """zlib.crc32 of a body, read in bounded pieces; blocking.

    Raises:
        Damaged: if the file ends early.
        OSError: if it cannot be read.
    """
    crc, at, end = 0, offset, offset + size
    while at < end:
        data = os.pread(fd, min(_CHUNK, end - at), at)
        if not data:
            raise Damaged("file ends early")
        crc = zlib.crc32(data, crc)
        at += len(data)
    return crc
