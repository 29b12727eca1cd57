"""What goes wrong between us and an S3 server, as the errors of the store.

Each says what the operator can do: the setting to change, or the permission that is missing. Whether to try again is
``retryable``. The codes are those of the S3 reference ("Error responses"); servers that are not AWS use most of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSLError,
    TokenRetrievalError,
)

from tiered_store.errors import (
    InvalidKey,
    NotFound,
    OriginUnavailable,
    PermissionDenied,
    QuotaExceeded,
    StoreError,
    TooLarge,
)
from tiered_store.origins.s3settings import S3Settings

__all__ = ["code_of", "status_of", "translated"]

#: The permission that each operation needs, as IAM names it.
_ACTIONS: Final[Mapping[str, str]] = {
    "HeadObject": "s3:GetObject (and s3:ListBucket, or a missing object looks forbidden)",
    "GetObject": "s3:GetObject (and s3:ListBucket, or a missing object looks forbidden)",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject and s3:GetObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "CopyObject": "s3:PutObject and s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
    "DeleteObjects": "s3:DeleteObject",
    "ListObjectsV2": "s3:ListBucket",
    "HeadBucket": "s3:ListBucket",
}
_MISSING: Final = frozenset({"NoSuchKey", "NotFound", "404", "NoSuchVersion"})
_BAD_CREDENTIALS: Final = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "UnrecognizedClientException"}
)
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_WRONG_REGION: Final = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "301", "IllegalLocationConstraintException"}
)
_TOO_LARGE: Final = frozenset(
    {"EntityTooLarge", "MetadataTooLarge", "MaxMessageLengthExceeded", "RequestHeaderSectionTooLarge"}
)
_NO_ROOM: Final = frozenset(
    {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "XMinioAdminBucketQuotaExceeded"}
)
_BUSY: Final = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "429", "503"}
)


def code_of(error: BaseException) -> str:
    """The server's code of an error; empty where it is none of the server's."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def status_of(error: BaseException) -> int:
    """The HTTP status of an error of the server's; 0 for any other."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def translated(settings: S3Settings, name: str = "") -> Iterator[None]:
    """Turn what the SDK and its connections raise into errors of the store, about the object ``name``."""
    try:
        yield
    except StoreError as error:
        error.key = error.key or name or None
        raise
    except ClientError as error:
        raise _of_answer(error, settings, name or None) from None
    except (BotoCoreError, HTTPClientError, aiohttp.ClientError, TimeoutError, OSError, EOFError) as error:
        raise _of_connection(error, settings, name or None) from None


def _of_answer(error: ClientError, settings: S3Settings, name: str | None) -> StoreError:
    """The server answered, and not with what was asked for."""
    code, status = code_of(error), status_of(error)
    message = str(error.response.get("Error", {}).get("Message", "")) or code
    operation = str(error.operation_name)
    if code == "NoSuchBucket" or (operation in {"HeadBucket", "ListObjectsV2"} and status == 404):
        text = f"the bucket {settings.bucket!r} does not exist there; see s3.bucket, s3.endpoint_url and s3.region"
        return OriginUnavailable(text, key=name, retryable=False)
    if code in _MISSING:
        return NotFound("no such object", key=name)
    if code in _BAD_CREDENTIALS:
        text = f"the origin does not know these credentials ({code}); see s3.access_key_id and s3.secret_access_key"
        return PermissionDenied(text, key=name)
    if code in _EXPIRED:
        return OriginUnavailable(f"the session token has expired ({code}); new credentials are needed", key=name)
    if code == "RequestTimeTooSkewed":
        text = "this machine's clock is more than 15 minutes off by the origin's; set it (NTP)"
        return OriginUnavailable(text, key=name)
    if code in _WRONG_REGION:
        wanted = error.response.get("Error", {}).get("Region") or _header(error, "x-amz-bucket-region")
        hint = f"it is in {wanted!r}" if wanted else "the origin does not say which one it is in"
        text = f"the bucket {settings.bucket!r} is not in the region {settings.region!r}: {hint}; see s3.region"
        return OriginUnavailable(text, key=name, retryable=False)
    if code in _TOO_LARGE:
        return TooLarge(f"the origin takes no object or metadata of this size ({message})", key=name)
    if code == "KeyTooLongError":
        return InvalidKey("the origin holds names of at most 1,024 bytes, its prefix included", key=name)
    if code in _NO_ROOM:
        return QuotaExceeded(f"the origin has no room ({message})", key=name)
    if status == 403:
        action = _ACTIONS.get(operation, operation)
        text = f"the origin forbids {operation}; the credentials need {action} on the bucket {settings.bucket!r}"
        return PermissionDenied(text, key=name)
    if code in _BUSY:
        return OriginUnavailable(f"the origin asks for fewer requests ({code})", key=name)
    text = f"the origin answers {operation} with {status or 'an error'}: {code}" + (
        f" ({message})" if message != code else ""
    )
    return OriginUnavailable(text, key=name, retryable=status >= 500 or status in {408, 429} or not status)


def _of_connection(error: BaseException, settings: S3Settings, name: str | None) -> StoreError:
    """There was no whole answer."""
    where = settings.endpoint_url or f"AWS ({settings.region})"
    if isinstance(error, NoCredentialsError | PartialCredentialsError | TokenRetrievalError):
        text = (
            "no credentials for the origin: set s3.access_key_id and s3.secret_access_key, or AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY, or give this machine a profile or a role ({error})"
        )
        return PermissionDenied(text, key=name)
    if isinstance(error, SSLError):
        return OriginUnavailable(f"no safe connection to the origin at {where}: {error}", key=name, retryable=False)
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError | TimeoutError):
        return OriginUnavailable(f"the origin at {where} does not answer in time", key=name)
    if isinstance(error, EndpointConnectionError):
        return OriginUnavailable(f"no connection to the origin at {where}", key=name)
    return OriginUnavailable(
        f"the connection to the origin at {where} failed: {str(error) or type(error).__name__}", key=name
    )


def _header(error: ClientError, field: str) -> Any:
    return error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(field)
