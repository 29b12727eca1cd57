"""A bucket of an S3 server as the origin.

Knows requests and what they answer; how they are signed and sent is the SDK's. What goes wrong is put into words in
``s3errors``. Nothing here relies on what only AWS does: that a range is answered with 206, that conditions are looked
at, that metadata survives (docs/decisions/0015).

Invariant: an ``etag`` names one version, bytes and headers together, and a read gives bytes of one version only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from tiered_store.aio.digests import HASH_HERE_BYTES, digest_body
from tiered_store.aio.offload import Offload
from tiered_store.aio.ranges import Tokens
from tiered_store.errors import NotFound, OriginUnavailable, StoreError
from tiered_store.key import ARTIFACT_DIRECTORY
from tiered_store.objects import Body, ObjectInfo, body_size
from tiered_store.origins.base import Listing, ObjectChanged, PutHeaders
from tiered_store.origins.s3client import S3Client
from tiered_store.origins.s3delete import S3Deleter
from tiered_store.origins.s3errors import code_of, needed, status_of, translated
from tiered_store.origins.s3headers import digest_in, etag_of, info_of, modified_ns, put_arguments, written_info
from tiered_store.origins.s3read import S3Read
from tiered_store.origins.s3settings import S3Settings
from tiered_store.origins.s3uploads import S3Uploads
from tiered_store.origins.s3write import COPY_MAX_BYTES, S3Writer

__all__ = ["S3Origin"]

_PAGE_MAX: Final = 1000
#: Headers that a copy would lose when it is given new metadata, by their names in requests and answers.
_KEPT: Final = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage")


class S3Origin:
    """Objects in a bucket; implements ``Origin``.

    Args:
        settings: the bucket, and how to reach it.
        offload: where bodies are read and hashed, and credentials looked for.
    """

    def __init__(self, settings: S3Settings, offload: Offload) -> None:
        self._settings = settings
        self._offload = offload
        self._client = S3Client(settings, offload)
        self._s3: Any = None
        self._writer: S3Writer
        self._deleter: S3Deleter
        self._ahead = Tokens(settings.parts_at_once)

    async def start(self) -> None:
        """Make the client. The server is not asked: one that is down must not keep the daemon from starting.

        Raises:
            OriginUnavailable: the settings contradict each other, or name a profile that does not exist.
        """
        await self._client.start()
        self._s3, self._settings = self._client.s3, self._client.settings
        self._deleter = S3Deleter(self._s3, self._settings)
        self._writer = S3Writer(self._s3, self._settings, self._offload)

    async def stat(self, name: str) -> ObjectInfo:
        """See ``Origin.stat``."""
        return info_of(name, await self._head(name))

    async def open(
        self, name: str, *, offset: int = 0, length: int | None = None, if_none_match: str | None = None
    ) -> S3Read | None:
        """See ``Origin.open``. The condition is a question of its own: 304 is of bytes, a version of headers too."""
        if if_none_match is not None:
            info = info_of(name, await self._head(name))
            if info.etag == if_none_match:
                return None
        if length == 0:
            return S3Read(info_of(name, await self._head(name)), None, 0, None, self._settings, self._offload)
        if not offset and length is None:
            return await self._whole(name)
        return await self._part(name, offset, length)

    async def _part(self, name: str, offset: int, length: int | None) -> S3Read:
        end = "" if length is None else str(offset + length - 1)
        span = f"bytes={offset}-{end}"
        answer = await self._get(name, Range=span)
        if answer is None:  # the range begins behind the end
            return S3Read(info_of(name, await self._head(name)), None, 0, None, self._settings, self._offload)
        if not _begins_at(answer, offset):
            answer["Body"].close()
            raise OriginUnavailable("the origin does not give parts of objects", key=name, retryable=False)
        return S3Read(
            info_of(name, answer, _whole_size(answer, offset)),
            answer["Body"],
            int(answer["ContentLength"]),
            None,
            self._settings,
            self._offload,
            offset=offset,
            fetch=partial(self._same, name, answer["ETag"]),
        )

    async def _whole(self, name: str) -> S3Read:
        """All of an object: its beginning is asked for, and what the answer says of its size decides what follows."""
        part_bytes = self._settings.part_bytes
        answer = await self._get(name, Range=f"bytes=0-{part_bytes - 1}")
        if answer is None:  # there is no first byte
            answer = await self._get(name)
            assert answer is not None
        here = int(answer["ContentLength"])
        info = info_of(name, answer, _whole_size(answer, 0))
        # The store hashes artifacts itself, against their names.
        digest = None if name.startswith(ARTIFACT_DIRECTORY) else digest_in(answer)
        fetch = partial(self._same, name, answer["ETag"])
        tokens = None if here == info.size else self._ahead
        return S3Read(info, answer["Body"], here, digest, self._settings, self._offload, fetch=fetch, tokens=tokens)

    async def _same(self, name: str, etag: str, offset: int, length: int) -> Any:
        """The stream of a range of one version, the one with this ETag of the server's."""
        try:
            answer = await self._get(name, Range=f"bytes={offset}-{offset + length - 1}", IfMatch=etag)
        except NotFound:
            answer = None
        is_same = answer is not None and answer["ETag"] == etag and int(answer["ContentLength"]) == length
        if answer is not None and is_same and _begins_at(answer, offset):
            return answer["Body"]
        if answer is not None:
            answer["Body"].close()
        raise ObjectChanged("the object was overwritten or deleted while it was read; a new read shows which", key=name)

    async def put(self, name: str, body: Body, headers: PutHeaders) -> ObjectInfo:
        """See ``Origin.put``."""
        await asyncio.sleep(0)
        with translated(self._settings, name):
            digest = await self._digest(name, body)
            arguments = put_arguments(headers, digest) | self._stored_as(name)
            etag = await self._writer.put(self._key(name), body, arguments)
        return await self._written(name, body_size(body), etag, arguments)

    async def _written(self, name: str, size: int, etag: str, arguments: Mapping[str, Any]) -> ObjectInfo:
        """What a write has made. Joining parts does not answer everywhere with the ETag of a HEAD: that is asked."""
        info = written_info(name, size, etag, arguments)
        if "-" in etag:
            try:
                found = info_of(name, await self._head(name))
            except StoreError:
                return info
            if found.modified_ns == info.modified_ns:  # else somebody has written another version since
                return found
        return info

    async def _digest(self, name: str, body: Body) -> str:
        if name.startswith(ARTIFACT_DIRECTORY):
            return name[name.rindex("/") + 1 :]
        if isinstance(body, bytes) and len(body) < HASH_HERE_BYTES:
            return digest_body(body)
        return await self._offload.run(digest_body, body)

    async def delete(self, names: Sequence[str]) -> int:
        """See ``Origin.delete``. S3 does not say what was there: one object is asked for before, of many all count."""
        await asyncio.sleep(0)
        if len(names) == 1:
            return await self._delete_one(names[0])
        unique = list(dict.fromkeys(names))
        await self._deleter.many(unique)
        return len(unique)

    async def _delete_one(self, name: str) -> int:
        try:
            await self._head(name)
        except NotFound:
            return 0
        await self._deleter.one(name)
        return 1

    async def list(self, prefix: str, *, after: str = "", limit: int = 1000) -> Listing:
        """See ``Origin.list``. S3 lists neither content types nor metadata; ``stat`` tells them."""
        await asyncio.sleep(0)
        items: list[ObjectInfo] = []
        more = True
        while more and len(items) < limit:
            start = {"StartAfter": self._key(after)} if after else {}
            with translated(self._settings):
                answer = await self._s3.list_objects_v2(
                    Bucket=self._settings.bucket,
                    Prefix=self._key(prefix),
                    MaxKeys=min(_PAGE_MAX, limit - len(items)),
                    **start,
                )
            for found in answer.get("Contents", []):
                name = str(found["Key"])[len(self._settings.prefix) :]
                modified = modified_ns(found.get("LastModified"))
                items.append(ObjectInfo(name, int(found["Size"]), etag_of(found, {}), None, {}, modified))
            more = bool(answer.get("IsTruncated")) and bool(answer.get("Contents"))
            after = items[-1].key if items else after
        return Listing(items, more)

    async def copy(self, source: str, target: str) -> ObjectInfo:
        """See ``Origin.copy``."""
        head = await self._head(source)
        info = info_of(source, head)
        arguments = put_arguments(PutHeaders(info.content_type, info.metadata), digest_in(head))
        arguments |= self._stored_as(target) | {kept: head[kept] for kept in _KEPT if head.get(kept)}
        origin = {
            "CopySource": {"Bucket": self._settings.bucket, "Key": self._key(source)},
            "CopySourceIfMatch": needed(head, "ETag"),
        }
        with translated(self._settings, source):
            if info.size > COPY_MAX_BYTES:
                etag = await self._writer.copy_in_parts(self._key(target), origin, info.size, arguments)
            else:
                answer = await self._s3.copy_object(
                    Bucket=self._settings.bucket,
                    Key=self._key(target),
                    **origin,
                    **arguments,
                    MetadataDirective="REPLACE",
                )
                etag = str(answer["CopyObjectResult"].get("ETag") or needed(head, "ETag"))
        return await self._written(target, info.size, etag, arguments)

    async def rehearse_parts(self, name: str) -> None:
        """Try an upload in parts that leaves nothing behind. Raises as :meth:`put`."""
        with translated(self._settings, name):
            await self._writer.rehearse(self._key(name), put_arguments(PutHeaders(), None) | self._stored_as(name))

    def unfinished(self) -> S3Uploads:
        """Uploads in parts that nobody finished."""
        return S3Uploads(self._s3, self._settings)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def _key(self, name: str) -> str:
        return self._settings.prefix + name

    def _stored_as(self, name: str) -> dict[str, str]:
        """Encryption and storage class of a new object."""
        settings, said = self._settings, {}
        if settings.sse:
            said["ServerSideEncryption"] = settings.sse
            if settings.sse_kms_key_id:
                said["SSEKMSKeyId"] = settings.sse_kms_key_id
        fitting = [prefix for prefix in settings.storage_classes if name.startswith(prefix)]
        if fitting:
            said["StorageClass"] = settings.storage_classes[max(fitting, key=len)]
        return said

    async def _head(self, name: str) -> Mapping[str, Any]:
        await asyncio.sleep(0)
        with translated(self._settings, name):
            answer: Mapping[str, Any] = await self._s3.head_object(Bucket=self._settings.bucket, Key=self._key(name))
        return answer

    async def _get(self, name: str, **arguments: str) -> Mapping[str, Any] | None:
        """The answer to a GET; None where there is no such range, or not of that version."""
        await asyncio.sleep(0)
        with translated(self._settings, name):
            try:
                answer: Mapping[str, Any] = await self._s3.get_object(
                    Bucket=self._settings.bucket, Key=self._key(name), **arguments
                )
            except Exception as error:
                # Behind the end; or another version than the one asked for, which may be shorter as well.
                if code_of(error) in {"InvalidRange", "PreconditionFailed"} or status_of(error) in {412, 416}:
                    return None
                raise
            if "ETag" not in answer or "ContentLength" not in answer:
                answer["Body"].close()
            needed(answer, "ETag")
            needed(answer, "ContentLength")
        return answer


def _begins_at(answer: Mapping[str, Any], offset: int) -> bool:
    """Whether an answer has the bytes from ``offset`` on. By its word, not its status: a 200 may have a range."""
    return str(answer.get("ContentRange", "")).startswith(f"bytes {offset}-")


def _whole_size(answer: Mapping[str, Any], offset: int) -> int:
    """The object's size, of an answer that has a range of it."""
    _, _, total = str(answer.get("ContentRange", "")).rpartition("/")
    return int(total) if total.isdigit() else offset + int(answer["ContentLength"])
