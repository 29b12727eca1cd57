"""Uploads in parts that were begun and neither finished nor taken back: what a crash leaves, and what S3 charges for.

S3 does not say who began one. Taken for ours are those whose name this origin could have given them; that they are not
under way any more, their age has to tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tiered_store.key import RESERVED_PREFIX, key_of_name
from tiered_store.origins.s3errors import translated
from tiered_store.origins.s3headers import modified_ns
from tiered_store.origins.s3settings import S3Settings

__all__ = ["S3Uploads", "Unfinished"]

_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An upload.

    Attributes:
        name: of the object that it would have become.
        upload_id: the server's name for it.
        begun_ns: nanoseconds since the epoch; 0 where the server does not say.
    """

    name: str
    upload_id: str
    begun_ns: int


class S3Uploads:
    """The unfinished uploads of one origin.

    Args:
        s3: the SDK's client.
        settings: the bucket's.
    """

    def __init__(self, s3: Any, settings: S3Settings) -> None:
        self._s3 = s3
        self._settings = settings

    async def pages(self) -> AsyncGenerator[list[Unfinished], None]:
        """All of them, page by page, in the order of the server.

        Raises:
            OriginUnavailable, PermissionDenied.
        """
        after: dict[str, str] = {}
        while True:
            with translated(self._settings):
                try:
                    answer = await self._s3.list_multipart_uploads(
                        Bucket=self._settings.bucket, Prefix=self._settings.prefix, **after
                    )
                except self._s3.exceptions.NoSuchUpload:  # rclone's word for a bucket that never had any
                    return
            yield [
                Unfinished(name, str(found["UploadId"]), modified_ns(found.get("Initiated")))
                for found in answer.get("Uploads", [])
                if _is_ours(name := str(found["Key"])[len(self._settings.prefix) :])
            ]
            if not answer.get("IsTruncated"):
                return
            after = {"KeyMarker": answer["NextKeyMarker"]}
            if answer.get("NextUploadIdMarker"):
                after["UploadIdMarker"] = answer["NextUploadIdMarker"]

    async def abort(self, uploads: Sequence[Unfinished]) -> int:
        """Have the server forget them, some side by side; gives how many were there still.

        Raises:
            OriginUnavailable, PermissionDenied: for one of them; the others are forgotten, if they can be.
        """
        rest = iter(uploads)

        async def work() -> int:
            count = 0
            for upload in rest:
                count += await self._abort(upload)
            return count

        results = await asyncio.gather(*(work() for _ in range(_AT_ONCE)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return sum(result for result in results if isinstance(result, int))

    async def _abort(self, upload: Unfinished) -> bool:
        where = {"Bucket": self._settings.bucket, "Key": self._settings.prefix + upload.name}
        with translated(self._settings, upload.name):
            try:
                await self._s3.abort_multipart_upload(**where, UploadId=upload.upload_id)
            except self._s3.exceptions.NoSuchUpload:
                return False
        return True


def _is_ours(name: str) -> bool:
    return key_of_name(name) is not None or name.rpartition("/")[0].rpartition("/")[2] == RESERVED_PREFIX
