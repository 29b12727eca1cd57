"""What is S3's own: prefixes, parts, versions, digests, servers that fail. Against rclone's server."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.origins import NOTHING_SAID, list_all, memfd_body, pattern, put_all, read_all, read_object
from tests.support.s3 import S3Server, s3_server, shared_server
from tiered_store.errors import IntegrityError, NotFound, OriginUnavailable, PermissionDenied
from tiered_store.key import key_of_name
from tiered_store.origins import s3write
from tiered_store.origins.base import CHUNK_BYTES, PutHeaders
from tiered_store.origins.s3 import S3Origin
from tiered_store.origins.s3settings import S3Settings

PART = CHUNK_BYTES // 2


@pytest.fixture
def server() -> S3Server:
    return shared_server()


def uploads(server: S3Server, bucket: str) -> list[Any]:
    """Unfinished ones. rclone's server does not know a bucket in which none was ever begun."""
    try:
        return server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    except server.client.exceptions.NoSuchUpload:
        return []


async def test_a_prefix_is_not_seen(server: S3Server, opened: Any) -> None:
    whole = server.settings()
    origin, all_of_it = await opened(replace(whole, prefix="team/a/")), await opened(whole)
    for name in ("x", "d/y"):
        await origin.put(name, name.encode(), PutHeaders("text/plain"))
    await all_of_it.put("team/other", b"", NOTHING_SAID)
    assert await list_all(origin) == ["d/y", "x"]
    assert [name async for name in _pages(origin, "d/")] == ["d/y"]
    assert await list_all(all_of_it) == ["team/a/d/y", "team/a/x", "team/other"]
    assert (await origin.copy("x", "d/z")).key == "d/z"
    assert await read_all(all_of_it, "team/a/d/z") == b"x"
    assert await origin.delete(["x", "d/y", "d/z"]) == 3
    assert await list_all(all_of_it) == ["team/other"]


async def _pages(origin: S3Origin, prefix: str) -> AsyncIterator[str]:
    for info in (await origin.list(prefix, limit=1)).items:
        yield info.key


async def test_more_than_one_page(server: S3Server, opened: Any) -> None:
    settings = server.settings()
    origin = await opened(settings)
    names = [f"n/{number:04}" for number in range(1100)]
    await put_all(origin, names)
    listing = await origin.list("n/", limit=1050)
    assert ([info.key for info in listing.items], listing.more) == (names[:1050], True)
    assert await list_all(origin, page=1001) == names
    assert await origin.delete(names) == 1100
    assert await list_all(origin) == []


@pytest.mark.parametrize("size", [PART - 1, PART, PART + 1, 5 * PART, 12 * PART + 7])
async def test_parts_make_the_whole(server: S3Server, opened: Any, size: int) -> None:
    settings = server.settings(part_bytes=PART, parts_at_once=2)
    origin = await opened(settings)
    data = pattern(size)
    put = await origin.put("big", memfd_body(data), PutHeaders("text/plain", {"a": "1"}))
    info, read = await read_object(origin, "big")
    assert (info, read) == (put, data)
    said = server.client.head_object(Bucket=settings.bucket, Key="big")["Metadata"]
    assert hashlib.sha256(data).hexdigest() in said.values()
    assert uploads(server, settings.bucket) == []


async def test_many_reads_side_by_side_share_what_may_be_ahead(server: S3Server, opened: Any) -> None:
    origin = await opened(server.settings(part_bytes=PART, parts_at_once=3))
    data = pattern(9 * PART)
    await origin.put("big", data, NOTHING_SAID)
    assert set(await asyncio.gather(*(read_all(origin, "big") for _ in range(12)))) == {data}
    read = await origin.open("big")
    await anext(read.chunks())
    await read.close()
    assert origin._ahead._left == 3


async def test_an_object_overwritten_while_it_is_read(server: S3Server, opened: Any) -> None:
    """Each of its ranges is asked for by version, and a server that ignores conditions is found out by its answer."""
    origin = await opened(server.settings(part_bytes=PART, parts_at_once=1))
    await origin.put("big", pattern(6 * PART, 1), NOTHING_SAID)
    read = await origin.open("big")
    await origin.put("big", pattern(6 * PART, 2), NOTHING_SAID)
    with pytest.raises(OriginUnavailable, match="overwritten") as caught:
        [chunk async for chunk in read.chunks()]
    assert caught.value.retryable
    await read.close()
    assert await read_all(origin, "big") == pattern(6 * PART, 2)


async def test_other_bytes_than_were_written(server: S3Server, opened: Any) -> None:
    """The last of them is not handed out."""
    settings = server.settings(part_bytes=2 * CHUNK_BYTES)
    origin = await opened(settings)
    data = pattern(3 * CHUNK_BYTES)
    await origin.put("a", data, PutHeaders("text/plain"))
    said = server.client.head_object(Bucket=settings.bucket, Key="a")["Metadata"]
    wrong = data[:-1] + b"\0"
    server.client.put_object(Bucket=settings.bucket, Key="a", Body=wrong, Metadata=said)
    read = await origin.open("a")
    got: list[bytes] = []
    with pytest.raises(IntegrityError) as caught:
        got.extend([chunk async for chunk in read.chunks()])
    assert (caught.value.source, caught.value.actual) == ("origin", hashlib.sha256(wrong).hexdigest())
    assert got == []
    await read.close()
    assert await read_all(origin, "a", offset=5, length=10) == data[5:15]  # a part cannot be verified


async def test_a_server_that_does_not_look_at_ranges(server: S3Server, opened: Any) -> None:
    """It gives all of an object from the beginning, which is no part of it; whole reads go on."""
    origin = await opened(server.settings(part_bytes=PART))
    data = pattern(3 * PART)
    await origin.put("a", data, NOTHING_SAID)
    get_object = origin._s3.get_object

    async def deaf(**said: Any) -> Any:
        said.pop("Range", None)
        return await get_object(**said)

    origin._s3.get_object = deaf
    assert await read_all(origin, "a") == data
    with pytest.raises(OriginUnavailable, match="parts of objects"):
        await read_all(origin, "a", offset=5, length=10)
    with pytest.raises(OriginUnavailable):
        await origin._same("a", '"x"', PART, PART)


async def test_what_others_put_there(server: S3Server, opened: Any) -> None:
    settings = server.settings()
    origin = await opened(settings)
    server.client.put_object(Bucket=settings.bucket, Key="dir/page.html", Body=b"<p>", ContentType="text/html")
    info, data = await read_object(origin, "dir/page.html")
    assert (data, info.content_type, info.metadata) == (b"<p>", "text/html", {})
    assert await origin.open("dir/page.html", if_none_match=info.etag) is None


@pytest.mark.parametrize("name", ["a b+c%20&d=?#e/é ü/\N{GRINNING FACE}", "..x/'\"<>", "a/~!*()[]{}|^`\\"])
async def test_odd_names(server: S3Server, opened: Any, name: str) -> None:
    origin = await opened(server.settings())
    await origin.put(name, b"x", PutHeaders(None, {"a": "1"}))
    assert await list_all(origin) == [name]
    assert (await origin.copy(name, "copy")).metadata == {"a": "1"}
    assert await read_all(origin, name) == await read_all(origin, "copy") == b"x"
    assert await origin.delete([name, "copy"]) == 2
    assert await list_all(origin) == []


SEGMENTS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\\u2028\u2029"), min_size=1)
#: As the doors let them through; rclone's server cannot hold a name that is another's directory, hence the beginnings.
KEYS = (
    st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join).filter(lambda text: key_of_name(f"1/{text}") is not None)
)


async def test_any_key_in_every_operation(server: S3Server, opened: Any) -> None:
    """Names of whatever characters: written, read, listed, begun after, copied, deleted alone and with others."""
    origin = await opened(server.settings(prefix="team ä+/"))
    loop = asyncio.get_running_loop()

    async def work(text: str) -> None:
        one, two = f"1/{text}", f"2/{text}"
        await origin.put(one, b"x", NOTHING_SAID)
        assert [info.key for info in (await origin.list(one)).items] == [one]
        assert await read_all(origin, one) == b"x"
        assert (await origin.copy(one, two)).key == two
        assert [info.key for info in (await origin.list("", after=one)).items] == [two]
        assert await origin.delete([one, two]) == 2
        assert await list_all(origin) == []
        await origin.put(one, b"", NOTHING_SAID)
        assert await origin.delete([one]) == 1
        with pytest.raises(NotFound):
            await origin.stat(one)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
    @example("\ufffe/\uffff")
    @example("a+b%20c%/ d /&amp;<>'\"")
    @example("~/\ufeff\U0010ffff")
    @given(KEYS)
    def each(text: str) -> None:
        asyncio.run_coroutine_threadsafe(work(text), loop).result(60)

    await asyncio.to_thread(each)


async def test_a_copy_in_parts(server: S3Server, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiered_store.origins.s3.COPY_MAX_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(s3write, "_COPY_PART_BYTES", CHUNK_BYTES)
    settings = server.settings()
    origin = await opened(settings)

    async def upload_part_copy(**said: Any) -> Any:
        """As S3 does it; rclone's server answers without having copied anything."""
        span = said.pop("CopySourceRange")
        where, etag = said.pop("CopySource"), said.pop("CopySourceIfMatch")
        part = server.client.get_object(**where, Range=span)
        assert part["ETag"] == etag
        return {"CopyPartResult": await origin._s3.upload_part(**said, Body=part["Body"].read())}

    origin._s3.upload_part_copy = upload_part_copy
    data = pattern(3 * CHUNK_BYTES + 5)
    source = await origin.put("a", data, PutHeaders("text/x-é", {"a": "1"}))
    copied = await origin.copy("a", "b")
    assert copied.etag != source.etag
    info, read = await read_object(origin, "b")
    assert (info, read) == (copied, data)


async def test_a_server_that_cannot_copy_in_parts(
    server: S3Server, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rclone's is one: it says yes, and has copied nothing. What was there before stays."""
    monkeypatch.setattr("tiered_store.origins.s3.COPY_MAX_BYTES", CHUNK_BYTES)
    origin = await opened(server.settings())
    await origin.put("a", pattern(CHUNK_BYTES + 1), NOTHING_SAID)
    await origin.put("b", b"before", NOTHING_SAID)
    with pytest.raises(OriginUnavailable, match="UploadPartCopy") as caught:
        await origin.copy("a", "b")
    assert not caught.value.retryable
    assert await read_all(origin, "b") == b"before"


class TestFailedUploads:
    """Nothing is left of an upload in parts that fails, or whose writer goes away."""

    async def test_a_part_that_fails(self, server: S3Server, opened: Any) -> None:
        settings = server.settings(part_bytes=PART)
        origin = await opened(settings)
        upload_part = origin._s3.upload_part

        async def failing(**arguments: Any) -> Any:
            if arguments["PartNumber"] == 3:
                raise ConnectionResetError("cut")
            return await upload_part(**arguments)

        origin._s3.upload_part = failing
        with pytest.raises(OriginUnavailable, match="cut"):
            await origin.put("big", pattern(6 * PART), NOTHING_SAID)
        assert uploads(server, settings.bucket) == []
        with pytest.raises(NotFound):
            await origin.stat("big")
        origin._s3.upload_part = upload_part
        await origin.put("big", pattern(6 * PART), NOTHING_SAID)
        assert await read_all(origin, "big") == pattern(6 * PART)

    async def test_a_writer_that_is_cancelled(self, server: S3Server, opened: Any) -> None:
        settings = server.settings(part_bytes=PART, parts_at_once=2)
        origin = await opened(settings)
        upload_part, reached = origin._s3.upload_part, asyncio.Event()

        async def hanging(**arguments: Any) -> Any:
            if arguments["PartNumber"] == 2:
                reached.set()
                await asyncio.get_running_loop().create_future()
            return await upload_part(**arguments)

        origin._s3.upload_part = hanging
        putting = asyncio.create_task(origin.put("big", pattern(9 * PART), NOTHING_SAID))
        await reached.wait()
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert uploads(server, settings.bucket) == []
        origin._s3.upload_part = upload_part
        await origin.put("big", pattern(9 * PART), NOTHING_SAID)  # its places are free again


class TestFaults:
    async def test_a_bucket_that_is_not_there(self, server: S3Server, opened: Any) -> None:
        origin = await opened(replace(server.settings(), bucket="b-none"))
        for asked in (origin.list(""), origin.put("a", b"x", NOTHING_SAID), origin.open("a")):
            with pytest.raises(OriginUnavailable, match="bucket 'b-none' does not exist"):
                await asked

    async def test_a_wrong_secret(self, server: S3Server, opened: Any) -> None:
        origin = await opened(replace(server.settings(), secret_access_key="wrong"))
        with pytest.raises(PermissionDenied, match="secret_access_key"):
            await origin.list("")

    async def test_nobody_listens(self, opened: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        origin = await opened(S3Settings("b", endpoint_url=url, access_key_id="a", secret_access_key="b", region="x"))
        with pytest.raises(OriginUnavailable, match=url) as caught:
            await origin.stat("a")
        assert caught.value.retryable
        assert caught.value.key == "a"

    async def test_a_server_that_goes_away_and_comes_back(self, opened: Any) -> None:
        with s3_server() as own:
            settings = own.settings()
            origin = await opened(settings)
            await origin.put("a", b"x", NOTHING_SAID)
            own.close()
            with pytest.raises(OriginUnavailable):
                await origin.stat("a")

    async def test_a_server_that_says_nothing(self, opened: Any) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            settings = S3Settings("b", endpoint_url=url, access_key_id="a", secret_access_key="b", region="x")
            origin = await opened(replace(settings, read_timeout_s=0.05))
            with pytest.raises(OriginUnavailable, match="does not answer in time"):
                await origin.stat("a")

    async def test_settings_that_do_not_fit(self, opened: Any) -> None:
        with pytest.raises(OriginUnavailable, match="settings do not fit"):
            await opened(S3Settings("b", endpoint_url="no url", region="x"))

    async def test_a_profile_that_does_not_exist(self, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(OriginUnavailable, match=r"nobody.*; see AWS_PROFILE"):
            await opened(S3Settings("b", access_key_id="a", secret_access_key="b", region="x"))
