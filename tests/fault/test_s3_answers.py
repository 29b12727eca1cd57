"""What an S3 server can answer besides what was asked for, as real HTTP answers: the error, and what to do about it.

No server for tests gives most of these when asked to: the fault proxy says them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from tests.support.faultproxy import Answer, Fault, FaultProxy
from tests.support.matrix import direct
from tests.support.origins import NOTHING_SAID, read_all
from tests.support.s3 import shared_server
from tiered_store.errors import (
    InvalidKey,
    KeyConflict,
    NotFound,
    OriginUnavailable,
    PermissionDenied,
    QuotaExceeded,
    StoreError,
    TooLarge,
)
from tiered_store.origins.s3 import S3Origin

REQUESTS: dict[str, Callable[[S3Origin], Awaitable[object]]] = {
    "GetObject": lambda origin: read_all(origin, "a"),
    "HeadObject": lambda origin: origin.stat("a"),
    "PutObject": lambda origin: origin.put("b", b"new", NOTHING_SAID),
    "ListObjectsV2": lambda origin: origin.list(""),
    "DeleteObjects": lambda origin: origin.delete(["a", "b"]),
}
ELSEWHERE = (("x-amz-bucket-region", "eu-west-1"),)


@dataclass(frozen=True)
class Case:
    """An answer, the error that it becomes, whether the error may pass by itself, and words of its message."""

    answer: Answer
    kind: type[StoreError]
    retryable: bool
    words: str
    requests: tuple[str, ...] = ("GetObject", "PutObject", "ListObjectsV2", "DeleteObjects")


CASES = [
    Case(Answer(503, "SlowDown"), OriginUnavailable, True, "fewer requests"),
    Case(Answer(503, "ServiceUnavailable"), OriginUnavailable, True, "503"),
    Case(Answer(429, "TooManyRequests"), OriginUnavailable, True, "fewer requests"),
    Case(Answer(400, "ThrottlingException"), OriginUnavailable, True, "fewer requests"),
    Case(Answer(503, "RequestLimitExceeded"), OriginUnavailable, True, "fewer requests"),
    Case(Answer(500, "InternalError"), OriginUnavailable, True, "500"),
    Case(Answer(502, "BadGateway"), OriginUnavailable, True, "502"),
    Case(Answer(501, "NotImplemented"), OriginUnavailable, False, "NotImplemented"),
    Case(Answer(503, ""), OriginUnavailable, True, "503", ("HeadObject",)),
    Case(Answer(400, "ExpiredToken"), OriginUnavailable, True, "new credentials"),
    Case(Answer(400, "TokenRefreshRequired"), OriginUnavailable, True, "new credentials"),
    Case(Answer(400, "InvalidToken"), PermissionDenied, False, "s3.access_key_id"),
    Case(Answer(403, "InvalidAccessKeyId"), PermissionDenied, False, "s3.access_key_id"),
    Case(Answer(403, "SignatureDoesNotMatch"), PermissionDenied, False, "s3.secret_access_key"),
    Case(Answer(403, "RequestTimeTooSkewed"), OriginUnavailable, True, "clock"),
    Case(Answer(403, "AccessDenied"), PermissionDenied, False, "s3:GetObject", ("GetObject", "HeadObject")),
    Case(Answer(403, "AccessDenied"), PermissionDenied, False, "s3:PutObject", ("PutObject",)),
    Case(Answer(403, "AccessDenied"), PermissionDenied, False, "s3:ListBucket", ("ListObjectsV2",)),
    Case(Answer(403, "AccessDenied"), PermissionDenied, False, "s3:DeleteObject", ("DeleteObjects",)),
    Case(Answer(404, "NoSuchBucket"), OriginUnavailable, False, "s3.bucket"),
    Case(Answer(404, "NoSuchKey"), NotFound, False, "no such object", ("GetObject", "HeadObject")),
    Case(Answer(301, "PermanentRedirect", fields=ELSEWHERE), OriginUnavailable, False, "'eu-west-1'; see s3.region"),
    Case(Answer(301, "PermanentRedirect"), OriginUnavailable, False, "s3.region"),
    Case(Answer(301, "", fields=ELSEWHERE), OriginUnavailable, False, "'eu-west-1'; see s3.region", ("HeadObject",)),
    Case(
        Answer(400, "AuthorizationHeaderMalformed", more="<Region>eu-west-1</Region>"),
        *(OriginUnavailable, False, "'eu-west-1'; see s3.region"),
    ),
    Case(Answer(400, "EntityTooLarge"), TooLarge, False, "size", ("PutObject",)),
    Case(Answer(400, "MetadataTooLarge"), TooLarge, False, "size", ("PutObject",)),
    Case(Answer(400, "KeyTooLongError"), InvalidKey, False, "1,024", ("GetObject", "PutObject")),
    Case(Answer(507, "XMinioStorageFull"), QuotaExceeded, False, "no room", ("PutObject",)),
    Case(Answer(409, "ObjectParentIsFile"), KeyConflict, False, "path prefix", ("PutObject",)),
    Case(Answer(409, "OperationAborted"), OriginUnavailable, True, "OperationAborted", ("PutObject",)),
    # What was sent was damaged or late on its way: another try may arrive.
    Case(Answer(400, "BadDigest"), OriginUnavailable, True, "BadDigest", ("PutObject", "DeleteObjects")),
    Case(Answer(400, "XAmzContentSHA256Mismatch"), OriginUnavailable, True, "SHA256", ("PutObject",)),
    Case(Answer(400, "IncompleteBody"), OriginUnavailable, True, "IncompleteBody", ("PutObject",)),
    Case(Answer(400, "RequestTimeout"), OriginUnavailable, True, "RequestTimeout", ("PutObject",)),
    Case(Answer(403, "InvalidObjectState"), OriginUnavailable, False, "restore", ("GetObject",)),
]


@asynccontextmanager
async def an_origin() -> AsyncIterator[tuple[S3Origin, FaultProxy]]:
    """With an object in it, behind a proxy."""
    server = shared_server()
    settings, proxy = server.settings(), FaultProxy(server.port)
    try:
        async with direct(replace(settings, endpoint_url=proxy.url, read_timeout_s=5.0)) as origin:
            await origin.put("a", b"old", NOTHING_SAID)
            yield origin, proxy
    finally:
        proxy.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.answer.status} {case.answer.code} {case.words}")
async def test_an_answer_is_an_error_that_says_what_to_do(case: Case) -> None:
    async with an_origin() as (origin, proxy), asyncio.timeout(60):
        for request in case.requests:
            proxy.set(Fault(answer=case.answer))
            with pytest.raises(StoreError) as caught:
                await REQUESTS[request](origin)
            error = caught.value
            assert (type(error), error.retryable) == (case.kind, case.retryable), f"{request}: {error!r}"
            assert case.words in error.message, request
        proxy.set()
        assert await read_all(origin, "a") == b"old"


async def test_an_error_that_begins_like_a_success() -> None:
    """S3 may send 200 before it knows how a copy, or the joining of parts, will end."""
    async with an_origin() as (origin, proxy):
        proxy.set(Fault(answer=Answer(200, "InternalError"), only=lambda request: request.method != "HEAD"))
        with pytest.raises(OriginUnavailable, match="InternalError") as caught:
            await origin.copy("a", "c")
        assert caught.value.retryable
        proxy.set()
        with pytest.raises(NotFound):
            await origin.stat("c")
