"""Reading one object from S3: one version, in chunks, verified where its writer left a digest.

A large object is asked for in ranges, some of them ahead of the reader (``aio/ranges.py``). Every range is of one
version: a server that looks at no conditions still tells its ETag.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

from tiered_store.aio.ranges import Fetch, Ranges, Tokens
from tiered_store.errors import IntegrityError, OriginUnavailable
from tiered_store.objects import ObjectInfo
from tiered_store.origins.s3errors import translated
from tiered_store.origins.s3settings import S3Settings

__all__ = ["S3Read"]


class S3Read:
    """An object being read; implements ``OriginRead``.

    Args:
        info: the whole object's.
        body: the SDK's stream of the first bytes, or None where there are none to come.
        size: bytes that this stream has.
        digest: what all the bytes have to hash to, or None.
        settings: the bucket's.
        fetch: for what comes behind the first stream, up to the object's end; None where nothing does.
        tokens: one for each range that may be read ahead, over all reads.
    """

    def __init__(
        self,
        info: ObjectInfo,
        body: Any,
        size: int,
        digest: str | None,
        settings: S3Settings,
        *,
        fetch: Fetch | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._info = info
        self._expected = digest
        self._settings = settings
        self._size = size if fetch is None else info.size
        self._ranges = Ranges(body, size, self._size, part_bytes=settings.part_bytes, fetch=fetch, tokens=tokens)

    @property
    def info(self) -> ObjectInfo:
        """The whole object's."""
        return self._info

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, in order, at most ``CHUNK_BYTES`` each.

        Raises:
            OriginUnavailable: the connection broke, the object changed, or the read was closed.
            IntegrityError: these are not the bytes that were written.
        """
        digest = None if self._expected is None else hashlib.sha256()
        missing = self._size
        held: bytes | None = None  # the last chunk is handed out only when all of them have been verified
        with translated(self._settings, self._info.key):
            while chunk := await self._ranges.next():
                if self._ranges.is_closed:
                    break
                missing -= len(chunk)
                if digest is not None:
                    digest.update(chunk)
                if held is not None:
                    yield held
                held = chunk
            if missing or self._ranges.is_closed:
                raise OriginUnavailable("the read was closed before its end")
            if digest is not None and digest.hexdigest() != self._expected:
                raise IntegrityError(
                    "the origin gives other bytes than were written",
                    expected=self._expected,
                    actual=digest.hexdigest(),
                    source="origin",
                )
        if held is not None:
            yield held

    async def close(self) -> None:
        """Give the connections back, or end them where bytes are still to come."""
        await self._ranges.close()
