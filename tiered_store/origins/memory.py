"""An origin in memory: for tests, and for an embedded store whose objects need not outlive the process.

Knows no tier and no file system. It is used on the event loop's thread only.

The invariant: ``used_bytes`` is the sum of the bodies' sizes and never above the quota. Bodies are kept as they
come: ``bytes`` as they are, a sealed memfd by its descriptor, anything else copied into a sealed memfd.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Callable, Sequence

from tiered_store.errors import IntegrityError, NotFound, OriginUnavailable, QuotaExceeded
from tiered_store.objects import Body, Descriptor, FileBody, ObjectInfo, body_size, read_body
from tiered_store.origins.base import CHUNK_BYTES, Listing, OriginRead, PutHeaders
from tiered_store.origins.transfer import copy_range

__all__ = ["MemoryOrigin"]

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
#: Up to so many new names are put into the sorted list one by one; more are merged in by sorting.
_FEW_NAMES = 64


class _MemoryRead:
    """An object being read; implements ``OriginRead``."""

    def __init__(self, info: ObjectInfo, body: Body, start: int, end: int) -> None:
        self._info = info
        self._body: Body | None = body
        self._start = start
        self._end = end

    @property
    def info(self) -> ObjectInfo:
        return self._info

    async def chunks(self) -> AsyncIterator[bytes]:
        position = self._start
        while position < self._end:
            if self._body is None:
                raise OriginUnavailable("the read was closed before its end", key=self._info.key)
            if position > self._start:
                await asyncio.sleep(0)  # a large object is copied a chunk at a time, with room for others between
            chunk = read_body(self._body, position, min(CHUNK_BYTES, self._end - position))
            position += len(chunk)
            yield chunk

    async def close(self) -> None:
        self._body = None


def _sealed_copy(body: FileBody) -> FileBody:
    """Copy a body into a sealed memfd; blocking."""
    descriptor = Descriptor(os.memfd_create("tiered_store:origin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    try:
        copy_range(body.descriptor.fd, body.offset, body.size, descriptor.fd)
        fcntl.fcntl(descriptor.fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        descriptor.close()
        raise
    return FileBody(descriptor, 0, body.size, is_memory=True)


class _SortedNames:
    """The names in order, brought up to date when somebody asks: a put or delete only notes its name."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._added: set[str] = set()
        self._removed: set[str] = set()

    def add(self, name: str) -> None:
        """Note a name that is new."""
        if name in self._removed:
            self._removed.remove(name)
        else:
            self._added.add(name)

    def remove(self, name: str) -> None:
        """Note that a name is gone."""
        if name in self._added:
            self._added.remove(name)
        else:
            self._removed.add(name)

    def in_order(self) -> list[str]:
        """All names, in byte order of their UTF-8 (which is Python's order of text)."""
        if len(self._added) + len(self._removed) <= _FEW_NAMES:
            for name in self._removed:
                del self._names[bisect_left(self._names, name)]
            for name in self._added:
                insort(self._names, name)
        else:
            self._names = [name for name in self._names if name not in self._removed]
            self._names += sorted(self._added)
            self._names.sort()  # two runs in order: one merge
        self._added.clear()
        self._removed.clear()
        return self._names


class MemoryOrigin:
    """Objects in memory; implements ``Origin``. Names may be prefixes of each other, as on S3.

    Each object that is not ``bytes`` holds a descriptor, so their number is bounded by RLIMIT_NOFILE.

    Args:
        quota_bytes: the most that all bodies together may have, or None for no bound.
        clock: nanoseconds since the epoch, for ``modified_ns``.
    """

    def __init__(self, quota_bytes: int | None = None, clock: Callable[[], int] = time.time_ns) -> None:
        self.quota_bytes = quota_bytes
        self.used_bytes = 0
        self._clock = clock
        self._objects: dict[str, tuple[ObjectInfo, Body]] = {}
        self._names = _SortedNames()
        # A disk tier outlives this origin. Without the random part, the etags of the next one would vouch
        # for what the tier remembers of this one.
        self._life = secrets.token_hex(6)
        self._versions = 0

    async def stat(self, name: str) -> ObjectInfo:
        """See ``Origin.stat``."""
        return self._find(name)[0]

    async def open(
        self, name: str, *, offset: int = 0, length: int | None = None, if_none_match: str | None = None
    ) -> OriginRead | None:
        """See ``Origin.open``."""
        info, body = self._find(name)
        if if_none_match is not None and info.etag == if_none_match:
            return None
        start = min(offset, info.size)
        end = info.size if length is None else min(info.size, start + length)
        return _MemoryRead(info, body, start, end)

    async def put(self, name: str, body: Body, headers: PutHeaders) -> ObjectInfo:
        """See ``Origin.put``."""
        self._check_room(name, body_size(body))
        if isinstance(body, FileBody) and not body.is_memory:
            try:
                body = await asyncio.to_thread(_sealed_copy, body)
            except EOFError as error:
                raise IntegrityError(f"the body is shorter than announced: {error}", key=name) from error
            except OSError as error:
                raise OriginUnavailable(f"the body cannot be copied into memory: {error}", key=name) from error
            self._check_room(name, body.size)  # others may have taken the room meanwhile
        return self._keep(name, body, headers.content_type, dict(headers.metadata))

    async def delete(self, names: Sequence[str]) -> int:
        """See ``Origin.delete``."""
        removed = 0
        for name in names:
            found = self._objects.pop(name, None)
            if found is not None:
                self.used_bytes -= found[0].size
                self._names.remove(name)
                removed += 1
        return removed

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Listing:
        """See ``Origin.list``."""
        names = self._names.in_order()
        first = bisect_left(names, prefix)
        if after >= prefix:
            first = max(first, bisect_right(names, after))
        # One more than the page, to know whether there is more; a name without the prefix ends it.
        found = names[first : first + limit + 1]
        while found and not found[-1].startswith(prefix):
            found.pop()
        return Listing([self._objects[name][0] for name in found[:limit]], more=len(found) > limit)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        """See ``Origin.copy``. The two share their bytes, and each counts against the quota."""
        info, body = self._find(source)
        self._check_room(target, info.size)
        return self._keep(target, body, info.content_type, dict(info.metadata))

    async def close(self) -> None:
        """Forget everything."""
        self._objects.clear()
        self._names = _SortedNames()
        self.used_bytes = 0

    def _find(self, name: str) -> tuple[ObjectInfo, Body]:
        found = self._objects.get(name)
        if found is None:
            raise NotFound("no such object", key=name)
        return found

    def _check_room(self, name: str, size: int) -> None:
        if self.quota_bytes is None:
            return
        replaced = self._objects.get(name)
        used = self.used_bytes - (replaced[0].size if replaced is not None else 0)
        if used + size > self.quota_bytes:
            raise QuotaExceeded(
                f"{size} bytes do not fit: the origin in memory holds {used} of at most {self.quota_bytes}", key=name
            )

    def _keep(self, name: str, body: Body, content_type: str | None, metadata: dict[str, str]) -> ObjectInfo:
        size = body_size(body)
        self._versions += 1
        info = ObjectInfo(name, size, f"{self._life}-{self._versions:x}", content_type, metadata, self._clock())
        replaced = self._objects.get(name)
        if replaced is None:
            self._names.add(name)
        else:
            self.used_bytes -= replaced[0].size
        self._objects[name] = (info, body)
        self.used_bytes += size
        return info
