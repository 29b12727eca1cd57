"""Writing one object to S3: in one request, or in parts that go side by side.

A part is read into memory, where it is signed and sent from. How many are there at once, over all uploads, is bounded,
so memory does not depend on sizes. Invariant: an upload in parts that fails is aborted, also when its writer is
cancelled, so that nothing is left that would be paid for and never seen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from tiered_store.aio.offload import Offload
from tiered_store.errors import OriginUnavailable
from tiered_store.objects import Body, body_size, read_body
from tiered_store.origins.s3errors import needed
from tiered_store.origins.s3settings import S3Settings

__all__ = ["COPY_MAX_BYTES", "S3Writer"]

_log = logging.getLogger(__name__)

#: S3's bounds: parts of an upload, and the largest object that one request copies.
_MAX_PARTS: Final = 10_000
COPY_MAX_BYTES: Final = 5 * 1024**3
#: Parts of a copy are moved inside the origin, so they may be large.
_COPY_PART_BYTES: Final = 512 * 1024**2
_ABORT_TIMEOUT_S: Final = 10.0


class S3Writer:
    """Uploads of one origin.

    Args:
        s3: the SDK's client.
        settings: the bucket's.
        offload: where bodies are read.
    """

    def __init__(self, s3: Any, settings: S3Settings, offload: Offload) -> None:
        self._s3 = s3
        self._settings = settings
        self._offload = offload
        self._parts = asyncio.Semaphore(settings.parts_at_once)

    async def put(self, key: str, body: Body, arguments: Mapping[str, Any]) -> str:
        """Store a body; gives the server's ETag."""
        size = body_size(body)
        where = {"Bucket": self._settings.bucket, "Key": key}
        if size > self._settings.part_bytes:
            return await self._in_parts(where, arguments, size, body)
        async with self._parts:
            data = await self._read(body, 0, size)
            answer = await self._s3.put_object(**where, **arguments, Body=data)
        return str(needed(answer, "ETag"))

    async def copy_in_parts(self, key: str, source: Mapping[str, Any], size: int, arguments: Mapping[str, Any]) -> str:
        """Copy what is too large for one request; gives the server's ETag."""
        return await self._in_parts({"Bucket": self._settings.bucket, "Key": key}, arguments, size, source)

    async def rehearse(self, key: str, arguments: Mapping[str, Any]) -> None:
        """Begin an upload in parts, send one, and take all of it back: what needs permissions of its own."""
        created = await self._s3.create_multipart_upload(Bucket=self._settings.bucket, Key=key, **arguments)
        upload = {"Bucket": self._settings.bucket, "Key": key, "UploadId": needed(created, "UploadId")}
        try:
            await self._s3.upload_part(**upload, PartNumber=1, Body=b"x")
        except BaseException:
            await self._abort(upload)
            raise
        await self._s3.abort_multipart_upload(**upload)

    async def _in_parts(
        self, where: Mapping[str, str], arguments: Mapping[str, Any], size: int, source: Body | Mapping[str, Any]
    ) -> str:
        created = await self._s3.create_multipart_upload(**where, **arguments)
        upload = {**where, "UploadId": needed(created, "UploadId")}
        usual = _COPY_PART_BYTES if isinstance(source, Mapping) else self._settings.part_bytes
        part_bytes = max(usual, -(-size // _MAX_PARTS))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = []
                for number, offset in enumerate(range(0, size, part_bytes), 1):
                    await self._parts.acquire()  # here and not in the task: no more tasks than places
                    length = min(part_bytes, size - offset)
                    task = group.create_task(self._part(upload, number, source, offset, length))
                    task.add_done_callback(lambda _: self._parts.release())
                    tasks.append(task)
            parts = [{"PartNumber": number, "ETag": task.result()} for number, task in enumerate(tasks, 1)]
            answer = await self._s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except BaseExceptionGroup as group_of_errors:
            await self._abort(upload)
            raise group_of_errors.exceptions[0] from None
        except BaseException:
            await self._abort(upload)
            raise
        return str(needed(answer, "ETag"))

    async def _part(
        self, upload: Mapping[str, str], number: int, source: Body | Mapping[str, Any], offset: int, length: int
    ) -> str:
        if isinstance(source, Mapping):
            span = f"bytes={offset}-{offset + length - 1}"
            answer = await self._s3.upload_part_copy(**upload, **source, PartNumber=number, CopySourceRange=span)
            etag = answer.get("CopyPartResult", {}).get("ETag")
            if etag is None:
                raise OriginUnavailable(
                    "the origin has no UploadPartCopy, so it copies no large objects", retryable=False
                )
            return str(etag)
        data = await self._read(source, offset, length)
        answer = await self._s3.upload_part(**upload, PartNumber=number, Body=data)
        return str(needed(answer, "ETag"))

    async def _read(self, body: Body, offset: int, length: int) -> bytes:
        if isinstance(body, bytes):
            return body if length == len(body) else body[offset : offset + length]
        return await self._offload.run(read_body, body, offset, length)

    async def _abort(self, upload: Mapping[str, str]) -> None:
        """Let the server forget the parts. It may be the server that fails: then they stay, for a lifecycle rule."""
        work = asyncio.ensure_future(self._abort_in_time(upload))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    async def _abort_in_time(self, upload: Mapping[str, str]) -> None:
        try:
            async with asyncio.timeout(_ABORT_TIMEOUT_S):
                await self._s3.abort_multipart_upload(**upload)
        except Exception as error:
            fields = {"object": upload["Key"], "upload": upload["UploadId"], "error": str(error)}
            _log.warning("parts of a failed upload may be left at the origin", extra=fields)
