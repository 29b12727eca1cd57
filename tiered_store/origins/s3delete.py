"""Deleting objects of a bucket: one, or many in one request as far as that can name them.

``DeleteObjects`` names objects in XML, which cannot hold every character that a key may, and some servers that speak
S3 do not have it. What it cannot take goes one by one, side by side within a bound.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from botocore.exceptions import ClientError

from tiered_store.origins.s3errors import code_of, status_of, translated
from tiered_store.origins.s3settings import S3Settings

__all__ = ["S3Deleter"]

#: S3's bound for one request.
_BATCH: Final = 1000
_AT_ONCE: Final = 16
#: What no XML document may hold, escaped or not (XML 1.0, "Char"), of what a key may: keys have no control characters.
_NOT_IN_XML: Final = re.compile("[\ufffe\uffff]")
_UNKNOWN: Final = frozenset({"NotImplemented", "MethodNotAllowed", "405", "501"})
#: HTTP statuses of what one object's code in the answer for many says.
_STATUS: Final = {"AccessDenied": 403, "SlowDown": 503, "ServiceUnavailable": 503, "InternalError": 500}


class S3Deleter:
    """Deletes of one origin.

    Args:
        s3: the SDK's client.
        settings: the bucket's.
    """

    def __init__(self, s3: Any, settings: S3Settings) -> None:
        self._s3 = s3
        self._settings = settings

    async def one(self, name: str) -> None:
        """Delete one object, which need not be there."""
        with translated(self._settings, name):
            await self._s3.delete_object(Bucket=self._settings.bucket, Key=self._settings.prefix + name)

    async def many(self, names: Sequence[str]) -> None:
        """Delete objects, which need not be there; after an error some of them are."""
        nameable = [name for name in names if not _NOT_IN_XML.search(self._settings.prefix + name)]
        for start in range(0, len(nameable), _BATCH):
            batch = nameable[start : start + _BATCH]
            if not await self._batch(batch):
                await self._one_by_one(batch)
        if len(nameable) < len(names):
            await self._one_by_one(name for name in names if _NOT_IN_XML.search(self._settings.prefix + name))

    async def _batch(self, names: Sequence[str]) -> bool:
        """Delete at most ``_BATCH`` in one request; tells whether the server has such a request."""
        prefix, bucket = self._settings.prefix, self._settings.bucket
        with translated(self._settings):
            try:
                answer = await self._s3.delete_objects(
                    Bucket=bucket, Delete={"Objects": [{"Key": prefix + name} for name in names], "Quiet": True}
                )
            except ClientError as error:
                if code_of(error) in _UNKNOWN or status_of(error) in {405, 501}:
                    return False
                raise
        for failed in answer.get("Errors", []):
            code = str(failed.get("Code") or "InternalError")
            if code == "NoSuchKey":
                continue
            with translated(self._settings, str(failed.get("Key", ""))[len(prefix) :]):
                said = {"Code": code, "Message": str(failed.get("Message") or "")}
                answered = {"HTTPStatusCode": _STATUS.get(code, 400)}
                raise ClientError({"Error": said, "ResponseMetadata": answered}, "DeleteObjects")
        return True

    async def _one_by_one(self, names: Iterable[str]) -> None:
        rest = iter(names)

        async def work() -> None:
            for name in rest:
                await self.one(name)

        results = await asyncio.gather(*(work() for _ in range(_AT_ONCE)), return_exceptions=True)
        for result in results:
            if result is not None:
                raise result
