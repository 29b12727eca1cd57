"""What every origin promises. An origin must not forget: faults here are errors.

Origins speak in *names* (see ``key.name_of_key``), not keys, and know neither tiers nor policies. They
raise the errors of ``errors.py``; ``key`` in those is the name, and the store puts the key there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from tiered_store.aio.ranges import CHUNK_BYTES
from tiered_store.errors import OriginUnavailable, StoreError
from tiered_store.objects import Body, ObjectInfo

__all__ = [
    "CHUNK_BYTES",
    "LISTING_METADATA_BYTES",
    "Listing",
    "ObjectChanged",
    "Origin",
    "OriginRead",
    "PutHeaders",
    "Resumable",
    "StatsMany",
]

#: A page of a listing ends where the content types and metadata in it exceed this: a thousand objects may have 16 MiB.
LISTING_METADATA_BYTES = 1024 * 1024


class ObjectChanged(OriginUnavailable):
    """The version that was being read is no longer there; a new read finds another one, or none.

    Going on with the same read cannot help, and waiting need not come before a new one.
    """


@dataclass(frozen=True, slots=True)
class PutHeaders:
    """What a writer says of an object besides its bytes."""

    content_type: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """One page. ``more`` tells whether names after the last one exist."""

    items: list[ObjectInfo]
    more: bool


class OriginRead(Protocol):
    """An object being read. All of it is one version, the one that ``info`` describes."""

    @property
    def info(self) -> ObjectInfo:
        """The whole object's information, also when only a range is read."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, in order, at most ``CHUNK_BYTES`` at a time.

        Raises:
            OriginUnavailable: if the read breaks, or the object ends early under it. ObjectChanged: if it changes.
        """
        ...

    async def close(self) -> None:
        """Give back the file or connection; safe at any time, more than once."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A read that can be gone on with after it broke."""

    async def resume(self) -> None:
        """Ask again for what was not given yet; ``chunks``, called anew, goes on there.

        What the whole is held against (its digest, its size) it still is.

        Raises:
            ObjectChanged: that version is not there any more. Others as ``Origin.open``; it may be called again then.
        """
        ...


class Origin(Protocol):
    """The place that must not forget."""

    async def stat(self, name: str) -> ObjectInfo:
        """Raises NotFound, OriginUnavailable, PermissionDenied."""
        ...

    async def open(
        self, name: str, *, offset: int = 0, length: int | None = None, if_none_match: str | None = None
    ) -> OriginRead | None:
        """Start to read an object, or a range of it (clipped to the object's end).

        Returns:
            the read, or None when the object still has the etag ``if_none_match``.

        Raises:
            NotFound, OriginUnavailable, PermissionDenied.
        """
        ...

    async def put(self, name: str, body: Body, headers: PutHeaders) -> ObjectInfo:
        """Store an object; returns when it is durable. The body is complete and does not change.

        Raises:
            InvalidKey: this origin cannot hold such a name. KeyConflict: see errors.py.
            QuotaExceeded: no room. OriginUnavailable, PermissionDenied. On every error what was there
            before is still there, whole.
        """
        ...

    async def delete(self, names: Sequence[str]) -> int:
        """Remove objects durably; names without an object are fine. Returns how many there were."""
        ...

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Listing:
        """Names that start with ``prefix`` and sort after ``after``, in byte order of the UTF-8 name.

        At most ``limit``; fewer, with ``more``, where their metadata exceeds ``LISTING_METADATA_BYTES``.
        """
        ...

    async def copy(self, source: str, target: str) -> ObjectInfo:
        """Copy an object, with its content type and metadata, inside the origin. Errors as for put, and NotFound."""
        ...

    async def close(self) -> None:
        """Let go of files, threads and connections."""
        ...


@runtime_checkable
class StatsMany(Protocol):
    """An origin for which a question about many names costs little more than one about one."""

    async def stat_many(self, names: Sequence[str]) -> list[ObjectInfo | StoreError]:
        """What ``Origin.stat`` gives or raises for each of the names, in their order.

        Raises:
            OriginUnavailable, PermissionDenied: nothing can be said of any.
        """
        ...
