"""Unfinished uploads: found page by page, judged by name, aborted side by side. Pages are faked."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.s3 import S3Server, shared_server
from tiered_store.aio.offload import Offload
from tiered_store.errors import PermissionDenied
from tiered_store.origins.s3 import S3Origin
from tiered_store.origins.s3settings import S3Settings
from tiered_store.origins.s3uploads import S3Uploads, Unfinished

BEGUN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS = S3Settings("bucket", prefix="team/", region="here")


class NoSuchUpload(ClientError):
    def __init__(self) -> None:
        super().__init__({"Error": {"Code": "NoSuchUpload"}}, "AbortMultipartUpload")


class Bucket:
    """A server that lists two uploads at a time."""

    exceptions = type("Exceptions", (), {"NoSuchUpload": NoSuchUpload})

    def __init__(self, names: list[str], *, by_id: bool = True) -> None:
        self.names = names
        self.by_id = by_id
        self.asked: list[dict[str, Any]] = []
        self.aborted: list[tuple[str, str]] = []
        self.fails: set[str] = set()

    async def list_multipart_uploads(self, **said: Any) -> dict[str, Any]:
        self.asked.append(said)
        start = int(said["UploadIdMarker"]) if self.by_id and "UploadIdMarker" in said else 0
        if not self.by_id and "KeyMarker" in said:
            start = self.names.index(said["KeyMarker"]) + 1
        page = [
            {"Key": name, "UploadId": str(start + number + 1), "Initiated": BEGUN}
            for number, name in enumerate(self.names[start : start + 2])
        ]
        more = start + 2 < len(self.names)
        answer: dict[str, Any] = {"Uploads": page, "IsTruncated": more}
        if more:
            answer["NextKeyMarker"] = page[-1]["Key"]
            answer |= {"NextUploadIdMarker": page[-1]["UploadId"]} if self.by_id else {}
        return answer

    async def abort_multipart_upload(self, *, Bucket: str, Key: str, UploadId: str) -> None:  # noqa: N803 - the SDK's
        if Key in self.fails:
            response = {"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
            raise ClientError(response, "AbortMultipartUpload")  # type: ignore[arg-type]
        if (Key, UploadId) in self.aborted:
            raise NoSuchUpload
        self.aborted.append((Key, UploadId))


async def all_of(uploads: S3Uploads) -> list[Unfinished]:
    return [upload async for page in uploads.pages() for upload in page]


@pytest.mark.parametrize("by_id", [True, False])
async def test_every_page(by_id: bool) -> None:
    """Some servers go on behind a name, others behind an upload of that name."""
    bucket = Bucket([f"team/{letter}" for letter in "abcde"], by_id=by_id)
    found = await all_of(S3Uploads(bucket, SETTINGS))
    assert [upload.name for upload in found] == [*"abcde"]
    assert found[0] == Unfinished("a", "1", int(BEGUN.timestamp()) * 10**9)
    assert [asked["Prefix"] for asked in bucket.asked] == ["team/"] * 3


async def test_names_that_this_program_does_not_write_are_left_alone() -> None:
    names = ["a/b", "artifacts/sha256/ab/" + "ab" * 32, ".tiered_store/probe-1", "b/.tiered_store/probe-1"]
    odd = ["a//b", "/a", ".tiered_store", "a/.tiered_store_x/b", "a\\b", ""]
    found = await all_of(S3Uploads(Bucket([f"team/{name}" for name in names + odd]), SETTINGS))
    assert [upload.name for upload in found] == names


async def test_aborting() -> None:
    bucket = Bucket([])
    uploads = [Unfinished(f"n/{number}", str(number), 1) for number in range(40)]
    assert await S3Uploads(bucket, SETTINGS).abort(uploads) == 40
    assert sorted(bucket.aborted) == sorted((f"team/{upload.name}", upload.upload_id) for upload in uploads)
    assert await S3Uploads(bucket, SETTINGS).abort(uploads) == 0  # they are gone: somebody else was quicker


async def test_one_that_cannot_be_aborted() -> None:
    bucket = Bucket([])
    bucket.fails = {"team/n/7"}
    uploads = [Unfinished(f"n/{number}", str(number), 1) for number in range(40)]
    with pytest.raises(PermissionDenied, match="s3:AbortMultipartUpload") as caught:
        await S3Uploads(bucket, SETTINGS).abort(uploads)
    assert caught.value.key == "n/7"
    assert len(bucket.aborted) >= 24  # the others went on


@pytest.fixture
def server() -> S3Server:
    return shared_server()


async def test_on_a_server(server: S3Server) -> None:
    settings = server.settings()
    offload = Offload(1, "origin")
    origin = S3Origin(replace(settings, prefix="team/"), offload)
    await origin.start()
    try:
        assert await all_of(origin.unfinished()) == []
        for key in ("team/b", "team/a", "other/c"):
            server.client.create_multipart_upload(Bucket=settings.bucket, Key=key)
        found = await all_of(origin.unfinished())
        assert sorted(upload.name for upload in found) == ["a", "b"]
        assert await origin.unfinished().abort(found) == 2
        left = server.client.list_multipart_uploads(Bucket=settings.bucket)["Uploads"]
        assert [upload["Key"] for upload in left] == ["other/c"]
        await origin.rehearse_parts("x")
        assert await all_of(origin.unfinished()) == []
    finally:
        await origin.close()
        await offload.close()
