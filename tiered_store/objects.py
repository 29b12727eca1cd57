"""Objects as values: what is known of one, and where its bytes are.

Floor 0: no asyncio, no sockets, no tier. The only system call here closes a descriptor.

The values are written out by hand: every client loads this module, and importing ``dataclasses``, with the
``inspect`` it needs, takes about as long as importing all the client's own modules together. That nobody
changes one is for the type checker to see (``Final``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "INLINE_MAX_BYTES",
    "Body",
    "Descriptor",
    "Entry",
    "FileBody",
    "ObjectInfo",
    "body_size",
    "metadata_bytes",
    "read_body",
]

#: Bodies up to this size are ``bytes`` everywhere (tiers, fills, replies); larger ones are a ``FileBody``.
#: Up to here a copy through the socket is as fast as passing a descriptor (docs/performance.md).
INLINE_MAX_BYTES = 64 * 1024


class ObjectInfo:
    """What the store knows of an object, besides its bytes. A value: equal by its fields, and never changed.

    Attributes:
        key: the object's key. (An origin fills in its own name for it; the store puts the key there.)
        size: bytes.
        etag: the origin's opaque version; two versions of one key never share it.
        content_type: a MIME type, or None where nobody said one.
        metadata: user metadata; small, see the configured limit.
        modified_ns: nanoseconds since the epoch, by the origin's clock.
    """

    __slots__ = ("content_type", "etag", "key", "metadata", "modified_ns", "size")

    def __init__(
        self,
        key: str,
        size: int,
        etag: str,
        content_type: str | None = None,
        metadata: dict[str, str] | None = None,
        modified_ns: int = 0,
    ) -> None:
        self.key: Final = key
        self.size: Final = size
        self.etag: Final = etag
        self.content_type: Final = content_type
        self.metadata: Final = {} if metadata is None else metadata
        self.modified_ns: Final = modified_ns

    def _fields(self) -> tuple[object, ...]:
        return self.key, self.size, self.etag, self.content_type, self.metadata, self.modified_ns

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, ObjectInfo) else NotImplemented

    def __repr__(self) -> str:
        return (
            f"ObjectInfo(key={self.key!r}, size={self.size!r}, etag={self.etag!r}, content_type={self.content_type!r}, "
            f"metadata={self.metadata!r}, modified_ns={self.modified_ns!r})"
        )

    @property
    def modified(self) -> datetime:
        """When the object was written, in UTC."""
        from datetime import UTC, datetime  # 2 ms to import, and few clients ever ask

        return datetime.fromtimestamp(self.modified_ns / 1e9, tz=UTC)

    def renamed(self, key: str) -> ObjectInfo:
        """The same information under another key."""
        if key == self.key:
            return self
        return ObjectInfo(key, self.size, self.etag, self.content_type, self.metadata, self.modified_ns)


def metadata_bytes(content_type: str | None, metadata: dict[str, str]) -> int:
    """What content type and user metadata take together, as UTF-8: what limits are about, and what travels."""
    size = 0 if content_type is None else len(content_type.encode())
    for name, value in metadata.items():
        size += len(name.encode()) + len(value.encode())
    return size


class Descriptor:
    """One owned file descriptor, closed when the last reference to it goes.

    Eviction must not hurt a reader: a tier drops its reference, a reply that is still being sent keeps
    its own, and CPython's reference count is exactly the pin count that is needed.
    """

    __slots__ = ("__weakref__", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close now; further calls do nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Descriptor({self.fd})"


class FileBody:
    """Bytes ``[offset, offset + size)`` of a file that nobody will change any more.

    Attributes:
        descriptor: open for reading; a sealed memfd, or a file that only the store can write.
        offset: a multiple of the page size, so that a client can map it.
        size: bytes.
        is_memory: whether the file is a sealed memfd (anonymous memory) and not a file on disk.
    """

    __slots__ = ("descriptor", "is_memory", "offset", "size")

    def __init__(self, descriptor: Descriptor, offset: int, size: int, *, is_memory: bool) -> None:
        self.descriptor: Final = descriptor
        self.offset: Final = offset
        self.size: Final = size
        self.is_memory: Final = is_memory

    def __repr__(self) -> str:
        return f"FileBody({self.descriptor!r}, {self.offset}, {self.size}, is_memory={self.is_memory})"


#: ``bytes`` up to ``INLINE_MAX_BYTES``; larger ones stay in a file and travel by descriptor.
Body: TypeAlias = bytes | FileBody


def body_size(body: Body) -> int:
    """The size of a body in bytes."""
    return len(body) if isinstance(body, bytes) else body.size


def read_body(body: Body, offset: int = 0, length: int | None = None) -> bytes:
    """Copy (part of) a body into bytes; blocking, so for threads or for bodies in memory.

    Raises:
        OSError: if the file cannot be read.
        EOFError: if the file is shorter than the body should be.
    """
    size = body_size(body)
    end = size if length is None else min(size, offset + length)
    if isinstance(body, bytes):
        return body if offset == 0 and end == size else body[offset:end]
    wanted = max(0, end - offset)
    data = os.pread(body.descriptor.fd, wanted, body.offset + offset)
    if len(data) == wanted:
        return data
    parts = [data]
    got = len(data)
    while got < wanted:  # Linux reads at most 0x7ffff000 bytes at once
        part = os.pread(body.descriptor.fd, wanted - got, body.offset + offset + got)
        if not part:
            raise EOFError(f"file ends {wanted - got} bytes early")
        parts.append(part)
        got += len(part)
    return b"".join(parts)


class Entry:
    """An object as a tier keeps it.

    Attributes:
        info: what is known of it.
        body: its bytes.
        validated_at: when the origin last vouched for it, seconds since the epoch (wall clock, because
            it is kept across restarts).
        fresh_until: until when the store may answer with it unasked, on the store's monotonic clock;
            0.0 until the store has judged it by its policy.
        tier: the place that answered: ``"memory"``, ``"disk"``, ``"cdn"`` or ``"origin"``.
        crc: zlib.crc32 of the body, or None where it was not computed yet.
        wire: room for a door to keep its encoding of ``info``; tiers ignore it.
        is_verified: whether a body in memory, which nobody can change, was seen to have its artifact's digest; of a
            file on disk it says nothing.
    """

    __slots__ = ("body", "crc", "fresh_until", "info", "is_verified", "tier", "validated_at", "wire")

    def __init__(
        self,
        info: ObjectInfo,
        body: Body,
        *,
        validated_at: float,
        fresh_until: float = 0.0,
        tier: str = "origin",
        crc: int | None = None,
    ) -> None:
        self.info = info
        self.body = body
        self.validated_at = validated_at
        self.fresh_until = fresh_until
        self.tier = tier
        self.crc = crc
        self.wire: bytes = b""
        self.is_verified = False

    def __repr__(self) -> str:
        return f"Entry({self.info.key!r}, {self.info.size} bytes, {self.tier})"
