"""Every fault of an S3 server as an error that says what to do."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    SSLError,
)

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
from tiered_store.origins.s3errors import translated
from tiered_store.origins.s3settings import S3Settings

SETTINGS = S3Settings("bucket", endpoint_url="https://s3.example", region="here", secret_access_key="hidden")


def answer(code: str, status: int, operation: str = "GetObject", headers: dict[str, str] | None = None, **said: Any):
    about = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    return ClientError({"Error": {"Code": code, **said}, "ResponseMetadata": about}, operation)


@pytest.mark.parametrize(
    ("fault", "kind", "retryable", "words"),
    [
        (answer("NoSuchKey", 404), NotFound, False, "no such object"),
        (answer("404", 404, "HeadObject"), NotFound, False, "no such object"),
        (answer("NoSuchBucket", 404), OriginUnavailable, False, "bucket 'bucket' does not exist"),
        (answer("404", 404, "HeadBucket"), OriginUnavailable, False, "bucket 'bucket' does not exist"),
        (answer("AccessDenied", 403, "PutObject"), PermissionDenied, False, "s3:PutObject"),
        (answer("403", 403, "HeadObject"), PermissionDenied, False, "s3:ListBucket"),
        (answer("403", 403, "HeadObject"), PermissionDenied, False, "the credentials are wrong, or need s3:GetObject"),
        (answer("AccessDenied", 403, "ListObjectsV2"), PermissionDenied, False, "s3:ListBucket"),
        (answer("InvalidAccessKeyId", 403), PermissionDenied, False, "access_key_id"),
        (answer("SignatureDoesNotMatch", 403), PermissionDenied, False, "secret_access_key"),
        (answer("BadDigest", 400, "PutObject"), OriginUnavailable, True, "BadDigest"),
        (answer("InvalidObjectState", 403), OriginUnavailable, False, "restored"),
        (answer("XAdminUserNotFound", 404), PermissionDenied, False, "access_key_id"),
        (answer("ObjectParentIsFile", 409, "PutObject"), KeyConflict, False, "path prefix"),
        (answer("ExistingObjectIsDirectory", 409, "PutObject"), KeyConflict, False, "path prefix"),
        (answer("ExpiredToken", 400), OriginUnavailable, True, "expired"),
        (answer("RequestTimeTooSkewed", 403), OriginUnavailable, True, "clock"),
        (answer("PermanentRedirect", 301, headers={"x-amz-bucket-region": "eu"}), OriginUnavailable, False, "'eu'"),
        (answer("AuthorizationHeaderMalformed", 400, Region="eu"), OriginUnavailable, False, "'eu'"),
        (answer("301", 301), OriginUnavailable, False, "region"),
        (answer("EntityTooLarge", 400, "PutObject"), TooLarge, False, "size"),
        (answer("KeyTooLongError", 400, "PutObject"), InvalidKey, False, "1,024"),
        (answer("XMinioStorageFull", 507, "PutObject"), QuotaExceeded, False, "no room"),
        (answer("SlowDown", 503), OriginUnavailable, True, "fewer requests"),
        (answer("InternalError", 500), OriginUnavailable, True, "500"),
        (answer("NotImplemented", 501), OriginUnavailable, False, "NotImplemented"),
        (answer("TemporaryRedirect", 307), OriginUnavailable, True, "TemporaryRedirect"),
        (answer("InvalidRequest", 400, Message="what?"), OriginUnavailable, False, "what?"),
        (answer("400", 400, "HeadObject", {"x-amz-bucket-region": "eu"}), OriginUnavailable, False, "s3.region"),
        (answer("400", 400, "HeadObject", {"x-amz-bucket-region": "here"}), OriginUnavailable, False, "400"),
        (answer("AccessDenied", 403, "PutObject", Message="u is not authorized to perform: kms:GenerateDataKey on"
                " resource r"), PermissionDenied, False, "kms:GenerateDataKey"),
        (answer("InvalidStorageClass", 400, "PutObject"), OriginUnavailable, False, "s3.storage_classes"),
        (answer("KMS.NotFoundException", 400, "PutObject"), OriginUnavailable, False, "s3.sse_kms_key_id"),
        (SSLError(endpoint_url="x", error="certificate"), OriginUnavailable, False, "certificate"),
        (ConnectTimeoutError(endpoint_url="x"), OriginUnavailable, True, "in time"),
        (TimeoutError(), OriginUnavailable, True, "in time"),
        (EndpointConnectionError(endpoint_url="x"), OriginUnavailable, True, "https://s3.example"),
        (aiohttp.ClientPayloadError("cut"), OriginUnavailable, True, "cut"),
        (ConnectionResetError(), OriginUnavailable, True, "ConnectionResetError"),
        (EOFError("5 bytes early"), OriginUnavailable, True, "5 bytes early"),
    ],
)  # fmt: skip
def test_what_becomes_of_it(fault: Exception, kind: type[StoreError], retryable: bool, words: str) -> None:
    with pytest.raises(StoreError) as caught, translated(SETTINGS, "a/b"):
        raise fault
    assert (type(caught.value), caught.value.retryable, caught.value.key) == (kind, retryable, "a/b")
    assert words in caught.value.message
    assert "hidden" not in str(caught.value)


def test_an_error_of_the_store_keeps_its_words() -> None:
    with pytest.raises(OriginUnavailable, match=r"^closed") as caught, translated(SETTINGS, "a"):
        raise OriginUnavailable("closed")
    assert caught.value.key == "a"


def test_a_fault_of_ours_is_none_of_the_origins() -> None:
    with pytest.raises(KeyError), translated(SETTINGS, "a"):
        raise KeyError


def test_secrets_are_not_shown() -> None:
    assert "hidden" not in repr(SETTINGS)
