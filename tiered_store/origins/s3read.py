"""Reading one object from S3: one version, in chunks, verified where its writer left a digest.

A large object is asked for in ranges, some of them ahead of the reader (``aio/ranges.py``). Every range is of one
version: a server that looks at no conditions still tells its ETag. A read that broke goes on with the same digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

from tiered_store.aio.digests import update_digest
from tiered_store.aio.offload import Offload
from tiered_store.aio.ranges import Fetch, Ranges, Tokens
from tiered_store.errors import IntegrityError, OriginUnavailable
from tiered_store.objects import ObjectInfo
from tiered_store.origins.s3errors import translated
from tiered_store.origins.s3settings import S3Settings

__all__ = ["S3Read"]


class S3Read:
    """An object being read; implements ``OriginRead`` and ``Resumable``.

    Args:
        info: the whole object's.
        body: the SDK's stream of the first bytes, or None where there are none to come.
        size: bytes that this stream has.
        digest: what all the bytes have to hash to, or None.
        settings: the bucket's.
        offload: where large chunks are hashed.
        offset: of the first byte.
        fetch: for what a stream that broke did not give, and for what comes behind the first one; None without a body.
        tokens: one for each range that may be read ahead, over all reads; None where nothing comes behind ``size``.
    """

    def __init__(
        self,
        info: ObjectInfo,
        body: Any,
        size: int,
        digest: str | None,
        settings: S3Settings,
        offload: Offload,
        *,
        offset: int = 0,
        fetch: Fetch | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._info = info
        self._expected = digest
        self._digest = None if digest is None else hashlib.sha256()
        self._held = b""  # the last chunk is handed out only when all of them have been verified
        self._settings = settings
        self._offload = offload
        self._missing = size if tokens is None else info.size
        self._ranges = Ranges(
            body, size, self._missing, offset=offset, part_bytes=settings.part_bytes, fetch=fetch, tokens=tokens
        )

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
        with translated(self._settings, self._info.key):
            while chunk := await self._ranges.next():
                if self._ranges.is_closed:
                    break
                self._missing -= len(chunk)
                if self._digest is not None:
                    await update_digest(self._digest, chunk, self._offload)
                if self._missing:
                    yield chunk
                else:
                    self._held = chunk
            if self._missing or self._ranges.is_closed:
                raise OriginUnavailable("the read was closed before its end")
            if self._digest is not None and self._digest.hexdigest() != self._expected:
                raise IntegrityError(
                    "the origin gives other bytes than were written",
                    expected=self._expected,
                    actual=self._digest.hexdigest(),
                    source="origin",
                )
        if self._held:
            yield self._held

    async def resume(self) -> None:
        """See ``Resumable``. The digest is of all that came, before and after."""
        with translated(self._settings, self._info.key):
            await self._ranges.resume()

    async def close(self) -> None:
        """Give the connections back, or end them where bytes are still to come."""
        await self._ranges.close()
