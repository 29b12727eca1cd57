"""Reading one object from the cdn: what its headers say of it, and its bytes, all of one version.

Knows names and headers, no keys. Which headers of S3 mean what is in ``s3fields``; a CDN before anything else tells
size, type and time at least. Invariant: the bytes of a read are one version's, by the ETag, or their digest is known
and whoever reads holds them against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final, Protocol

from tiered_store.aio.ranges import Ranges, Tokens
from tiered_store.key import digest_of, is_artifact, key_of_name
from tiered_store.objects import ObjectInfo, metadata_bytes
from tiered_store.s3fields import digest_in_fields, told
from tiered_store.tiers.base import ReadFault
from tiered_store.tiers.cdnrequests import Absent, Answer, NoRange, Requests

__all__ = ["CdnRead", "ReadOwner", "begin_read"]

_USER_FIELDS: Final = "x-amz-meta-"
#: What travels in the head of one message of the protocol, beside a key.
_DESCRIPTION_MAX_BYTES: Final = 32 * 1024


class ReadOwner(Protocol):
    """Whoever began a read, and wants to know what becomes of it."""

    def received(self, size: int) -> None:
        """So many bytes came."""
        ...

    def broke(self, error: ReadFault) -> None:
        """They do not come any more."""
        ...

    def ended(self, *, is_right: bool | None) -> None:
        """The read was closed; whether the bytes were right, or None where that is not known. Called once."""
        ...


class CdnRead:
    """An object being read; to be closed.

    Args:
        name: the object's.
        first: the answer to the first request.
        requests: for what comes behind it.
        part_bytes: size of a range.
        tokens: for the ranges that are read ahead.

    Attributes:
        info: the whole object's, under its name.
        digest: the sha256 that all the bytes must have, in hex; None where nobody knows. The reader judges.
        owner: set by whoever hands the read out, before its first use.

    Raises:
        ReadFault: the headers cannot be used. ``first`` is still the caller's then.
    """

    owner: ReadOwner

    def __init__(self, name: str, first: Answer, requests: Requests, part_bytes: int, tokens: Tokens) -> None:
        fields = _user_fields(first.headers)
        self.info = _described(name, first, fields)
        self.digest = _digest(name, fields)
        self._name = name
        self._first = first
        self._requests = requests
        self._left = self.info.size
        self._is_wrong = False
        self._is_closed = False
        self._ranges = Ranges(
            first, first.size, self.info.size, part_bytes=part_bytes, fetch=self._fetch, tokens=tokens
        )

    @property
    def is_one_version(self) -> bool:
        """Whether it can be proved, or will be, that further ranges are of the version that this one is of."""
        etag = self._first.etag
        is_strong = bool(etag) and not etag.startswith("W/")
        return self._first.size == self.info.size or is_strong or self.digest is not None

    async def next(self) -> bytes:
        """The next bytes, at most ``CHUNK_BYTES``; none at the end.

        Raises:
            ReadFault: they do not come, whatever the reason.
        """
        try:
            chunk = await self._ranges.next()
            if not chunk and self._left:
                raise ReadFault("the read was closed before its end")
        except Exception as error:
            fault = error if isinstance(error, ReadFault) else ReadFault(str(error) or type(error).__name__)
            self.owner.broke(fault)
            raise fault from None
        self._left -= len(chunk)
        self.owner.received(len(chunk))
        return chunk

    async def _fetch(self, offset: int, length: int) -> Answer:
        """A range of the same version."""
        try:
            answer = await self._requests.get(self._name, offset, length)
        except (Absent, NoRange):
            raise ReadFault("the object went away while it was read") from None
        first = self._first
        if answer.size != length or answer.total != first.total or answer.etag != first.etag:
            answer.close()
            raise ReadFault("the object changed while it was read")
        return answer

    def condemn(self) -> None:
        """The bytes, or their number, are not what they must be."""
        self._is_wrong = True

    async def close(self) -> None:
        """Give all connections back, or end them where bytes are still to come; more than once is fine."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self._ranges.close()
        finally:
            is_verified = self.digest is not None and not self._left
            self.owner.ended(is_right=False if self._is_wrong else True if is_verified else None)


async def begin_read(name: str, requests: Requests, part_bytes: int, tokens: Tokens) -> CdnRead:
    """Ask for an object's beginning; what the answer says of its size decides what follows.

    Raises:
        Absent, Shut: see there. ReadFault: anything else that is not the object.
    """
    try:
        first = await requests.get(name, 0, part_bytes)
    except NoRange:  # there is no first byte
        return await _one_stream(name, requests, part_bytes, tokens)
    try:
        read = CdnRead(name, first, requests, part_bytes, tokens)
    except BaseException:
        first.close()
        raise
    if read.is_one_version:
        return read
    first.close()
    return await _one_stream(name, requests, part_bytes, tokens)


async def _one_stream(name: str, requests: Requests, part_bytes: int, tokens: Tokens) -> CdnRead:
    """All of an object in one answer."""
    try:
        whole = await requests.get(name)
    except NoRange:
        raise ReadFault("the answer to a request for no range is about one") from None
    try:
        return CdnRead(name, whole, requests, part_bytes, tokens)
    except BaseException:
        whole.close()
        raise


def _user_fields(headers: Mapping[str, str]) -> dict[str, str]:
    """The metadata that S3 keeps in headers, by its names in lower case."""
    named = ((field.lower(), value) for field, value in headers.items())
    return {field[len(_USER_FIELDS) :]: value for field, value in named if field.startswith(_USER_FIELDS)}


def _described(name: str, answer: Answer, fields: Mapping[str, str]) -> ObjectInfo:
    """What an answer says of the whole object."""
    info = told(
        name,
        answer.total,
        etag=answer.etag,
        content_type=answer.headers.get("Content-Type"),
        fields=fields,
        modified_ns=_time_ns(answer.headers.get("Last-Modified")),
    )
    try:
        size = metadata_bytes(info.content_type, info.metadata) + len(info.etag.encode())
    except UnicodeEncodeError:
        raise ReadFault("the headers are not UTF-8") from None
    if size > _DESCRIPTION_MAX_BYTES:
        raise ReadFault(f"the headers have {size} bytes of metadata, more than {_DESCRIPTION_MAX_BYTES}")
    return info


def _time_ns(text: str | None) -> int:
    """Nanoseconds since the epoch, of what a header says; 0 where it says none."""
    try:
        return max(0, int(parsedate_to_datetime(text or "").timestamp())) * 1_000_000_000
    except (ValueError, OverflowError, IndexError, TypeError):
        return 0


def _digest(name: str, fields: Mapping[str, str]) -> str | None:
    key = key_of_name(name)
    return digest_of(key) if key is not None and is_artifact(key) else digest_in_fields(fields)
