"""What goes wrong between us and an S3 server, as the errors of the store.

Each says what the operator can do: the setting to change, or the permission that is missing. Whether to try again is
``retryable``. The codes are those of the S3 reference ("Error responses"); servers that are not AWS use most of them.
"""

from __future__ import annotations

import re
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
    ReadTimeoutError,
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
from tiered_store.origins.s3settings import S3Settings

__all__ = ["REFUSED_CREDENTIALS", "code_of", "needed", "status_of", "translated"]

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
_NAMED_ACTION: Final = re.compile(r"\b(?:kms|s3):[A-Z][A-Za-z]+")
#: Settings that requests repeat to the server, by what it says of values it cannot use.
_SETTINGS: Final[Mapping[str, str]] = {
    "InvalidStorageClass": "s3.storage_classes",
    "InvalidEncryptionAlgorithmError": "s3.sse",
    "KMS.NotFoundException": "s3.sse_kms_key_id",
    "KMS.DisabledException": "s3.sse_kms_key_id",
    "KMS.KMSInvalidStateException": "s3.sse_kms_key_id",
}
_MISSING: Final = frozenset({"NoSuchKey", "NotFound", "404", "NoSuchVersion"})
_BAD_CREDENTIALS: Final = frozenset(
    {
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "UnrecognizedClientException"),
        "XAdminUserNotFound",  # versitygw, with 404
    }
)
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
#: After these other credentials may help.
REFUSED_CREDENTIALS: Final = _BAD_CREDENTIALS | _EXPIRED
_WRONG_REGION: Final = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "301", "IllegalLocationConstraintException"}
)
_TOO_LARGE: Final = frozenset(
    {"EntityTooLarge", "MetadataTooLarge", "MaxMessageLengthExceeded", "RequestHeaderSectionTooLarge"}
)
_NO_ROOM: Final = frozenset(
    {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "XMinioAdminBucketQuotaExceeded"}
)
#: Of servers that keep objects as files: versitygw's two, MinIO's.
_CONFLICT: Final = frozenset({"ObjectParentIsFile", "ExistingObjectIsDirectory", "XMinioParentIsObject"})
_BUSY: Final = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "429", "503"}
)
#: A bucket that was made just now is not known everywhere yet.
_SOON: Final = frozenset({"TemporaryRedirect", "307", "OperationAborted"})
#: What was sent came damaged, or too late: sent anew, it may arrive.
_LOST_ON_THE_WAY: Final = frozenset({"BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "RequestTimeout"})


def code_of(error: BaseException) -> str:
    """The server's code of an error; empty where it is none of the server's."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def status_of(error: BaseException) -> int:
    """The HTTP status of an error of the server's; 0 for any other."""
    if not isinstance(error, ClientError):
        return 0
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def needed(answer: Mapping[str, Any], field: str) -> Any:
    """A field of an answer that says yes, which every server gives. Raises OriginUnavailable: this one does not."""
    value = answer.get(field)
    if value is None:
        raise OriginUnavailable(f"the origin's answer has no {field}; is this an S3 server?", retryable=False)
    return value


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
    wanted = error.response.get("Error", {}).get("Region") or _header(error, "x-amz-bucket-region")
    if code in _WRONG_REGION or (code == "400" and wanted and wanted != settings.region):  # a HEAD has no text
        hint = f"it is in {wanted!r}" if wanted else "the origin does not say which one it is in"
        text = f"the bucket {settings.bucket!r} is not in the region {settings.region!r}: {hint}; see s3.region"
        return OriginUnavailable(text, key=name, retryable=False)
    if code in _TOO_LARGE:
        return TooLarge(f"the origin takes no object or metadata of this size ({message})", key=name)
    if code == "KeyTooLongError":
        return InvalidKey("the origin holds names of at most 1,024 bytes, its prefix included", key=name)
    if code in _CONFLICT:
        text = "the origin keeps objects as files: no key may be a path prefix of another"
        return KeyConflict(text, key=name)
    if code in _NO_ROOM:
        return QuotaExceeded(f"the origin has no room ({message})", key=name)
    if code == "InvalidObjectState":
        text = f"the object is in an archive, and has to be restored there before it can be read ({message})"
        return OriginUnavailable(text, key=name, retryable=False)
    if status == 403:
        named = _NAMED_ACTION.search(message)  # AWS says which, and it may be one of the key's that encrypts
        action = named[0] if named else _ACTIONS.get(operation, operation)
        lack = "are wrong, or need" if code == "403" else "need"  # the answer to a HEAD does not say which
        text = f"the origin forbids {operation}; the credentials {lack} {action} on the bucket {settings.bucket!r}"
        return PermissionDenied(text, key=name)
    if code in _BUSY:
        return OriginUnavailable(f"the origin asks for fewer requests ({code})", key=name)
    return _unknown(operation, code, status, message, name)


def _unknown(operation: str, code: str, status: int, message: str, name: str | None) -> OriginUnavailable:
    """An answer that has no meaning of its own here: what it says, and whether it may pass."""
    text = f"the origin answers {operation} with {status or 'an error'}: {code}" + (
        f" ({message})" if message != code else ""
    )
    if code in _SETTINGS:
        text += f"; see {_SETTINGS[code]}"
    is_passing = (
        (status >= 500 and status != 501) or status in {408, 429} or not status or code in _SOON | _LOST_ON_THE_WAY
    )
    return OriginUnavailable(text, key=name, retryable=is_passing)


def _of_connection(error: BaseException, settings: S3Settings, name: str | None) -> StoreError:
    """There was no whole answer."""
    where = settings.endpoint_url or f"AWS ({settings.region})"
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
