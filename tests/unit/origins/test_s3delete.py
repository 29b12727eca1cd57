"""Many deletes: what one request can name, what it cannot, and servers that have no such request."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tiered_store.errors import OriginUnavailable, PermissionDenied, StoreError
from tiered_store.origins.s3client import _with_md5
from tiered_store.origins.s3delete import S3Deleter
from tiered_store.origins.s3settings import S3Settings

SETTINGS = S3Settings("bucket", prefix="team/", region="here")


class Bucket:
    """Counts requests; ``batches`` is what the answer to one of many is, or the error."""

    def __init__(self, batches: Mapping[str, Any] | Exception | None = None) -> None:
        self.batches = batches
        self.sizes: list[int] = []
        self.single: set[str] = set()
        self.fails: set[str] = set()

    async def delete_objects(self, *, Bucket: str, Delete: Any) -> Mapping[str, Any]:  # noqa: N803 - the SDK's names
        self.sizes.append(len(Delete["Objects"]))
        if isinstance(self.batches, Exception):
            raise self.batches
        return self.batches or {}

    async def delete_object(self, *, Bucket: str, Key: str) -> None:  # noqa: N803 - as above
        if Key in self.fails:
            raise refusal("AccessDenied", 403, "DeleteObject")
        self.single.add(Key)


def refusal(code: str, status: int, operation: str = "DeleteObjects") -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)


async def test_batches_of_a_thousand() -> None:
    bucket = Bucket()
    await S3Deleter(bucket, SETTINGS).many([f"n/{number}" for number in range(2500)])
    assert bucket.sizes == [1000, 1000, 500]
    assert bucket.single == set()


async def test_names_that_xml_cannot_hold_go_one_by_one() -> None:
    """One of them would make the whole request one that no server can read."""
    bucket = Bucket()
    await S3Deleter(bucket, SETTINGS).many(["a", "b\ufffe", "\uffffc", "d\U0001ffff"])
    assert bucket.sizes == [2]
    assert bucket.single == {"team/b\ufffe", "team/\uffffc"}


@pytest.mark.parametrize(("code", "status"), [("NotImplemented", 501), ("MethodNotAllowed", 405), ("405", 405)])
async def test_a_server_that_does_not_know_the_request(code: str, status: int) -> None:
    bucket = Bucket(refusal(code, status))
    names = [f"n/{number}" for number in range(40)]
    await S3Deleter(bucket, SETTINGS).many(names)
    assert bucket.single == {f"team/{name}" for name in names}
    bucket.fails = {"team/n/7"}
    with pytest.raises(PermissionDenied, match="s3:DeleteObject") as caught:
        await S3Deleter(bucket, SETTINGS).many(names)
    assert caught.value.key == "n/7"


@pytest.mark.parametrize(
    ("code", "kind", "retryable", "words"),
    [
        ("AccessDenied", PermissionDenied, False, "s3:DeleteObject"),
        ("SlowDown", OriginUnavailable, True, "fewer requests"),
        ("InternalError", OriginUnavailable, True, "DeleteObjects"),
        ("InvalidRequest", OriginUnavailable, False, "why not"),
    ],
)
async def test_one_that_was_not_deleted(code: str, kind: type[StoreError], retryable: bool, words: str) -> None:
    failed = {"Key": "team/a", "Code": code, "Message": "why not"}
    bucket = Bucket({"Errors": [{"Key": "team/gone", "Code": "NoSuchKey"}, failed]})
    with pytest.raises(StoreError, match=words) as caught:
        await S3Deleter(bucket, SETTINGS).many(["gone", "a"])
    assert (type(caught.value), caught.value.retryable, caught.value.key) == (kind, retryable, "a")


async def test_a_request_that_fails() -> None:
    with pytest.raises(PermissionDenied, match="s3:DeleteObject"):
        await S3Deleter(Bucket(refusal("AccessDenied", 403)), SETTINGS).many(["a", "b"])


def test_the_checksum_is_the_one_that_every_server_knows() -> None:
    headers = {"x-amz-checksum-crc32": "x", "x-amz-sdk-checksum-algorithm": "CRC32", "Other": "y"}
    request = SimpleNamespace(body=b"<Delete/>", headers=headers)
    _with_md5(request)
    md5 = base64.b64encode(hashlib.md5(request.body).digest()).decode()
    assert request.headers == {"Other": "y", "Content-MD5": md5}
