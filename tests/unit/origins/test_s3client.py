"""How the SDK's client is set up: which endpoint, whose credentials, and what a start waits for. Servers are faked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.utils
import pytest
from aiohttp import web

from tests.support.answers import answering
from tiered_store.errors import OriginUnavailable, PermissionDenied
from tiered_store.origins.base import PutHeaders
from tiered_store.origins.s3settings import S3Settings

SAID = S3Settings("builds", region="eu-west-1", access_key_id="said", secret_access_key="sEcReT")
CHAIN = S3Settings("builds", region="eu-west-1", path_style=True)


class FakeS3:
    """Says yes to every HEAD, and notes who asked for what; ``refuses`` by key id is a code."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.refuses: dict[str, str] = {}

    async def __call__(self, request: web.Request) -> web.Response:
        who = request.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
        self.asked.append((who, request.path))
        if code := self.refuses.get(who):
            text = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
            return web.Response(status=400, text="" if request.method == "HEAD" else text)
        if request.method in {"GET", "POST"}:
            return web.Response(text="<Result/>")
        await request.read()
        headers = {"ETag": '"e"', "Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
        return web.Response(headers=headers | ({"Content-Length": "1"} if request.method == "HEAD" else {}))


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "ENDPOINT_URL", "ENDPOINT_URL_S3"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(botocore.utils.ContainerMetadataFetcher, "SLEEP_TIME", 0)


@pytest.fixture
async def fake() -> AsyncIterator[tuple[FakeS3, str]]:
    server = FakeS3()
    async with answering(server) as url:
        yield server, url


class TestEndpoints:
    """What is said wins; then the SDK's own variables and profiles, which are then what messages name."""

    @pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
    async def test_from_a_variable(
        self, opened: Any, fake: tuple[FakeS3, str], monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        server, url = fake
        monkeypatch.setenv(variable, url)
        origin = await opened(SAID)
        assert (await origin.stat("a")).etag == "e"
        assert server.asked == [("said", "/builds/a")]
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
        with pytest.raises(OriginUnavailable, match=r"no connection to the origin at http://127\.0\.0\.1:9"):
            await (await opened(SAID)).stat("a")

    async def test_from_a_profile(
        self, opened: Any, fake: tuple[FakeS3, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        server, url = fake
        (tmp_path / "config").write_text(
            f"[profile build]\nendpoint_url = {url}\naws_access_key_id = one\naws_secret_access_key = sEcReT\n"
        )
        monkeypatch.setenv("AWS_PROFILE", "build")
        await (await opened(CHAIN)).stat("a")
        assert server.asked == [("one", "/builds/a")]

    async def test_what_is_said_wins(
        self, opened: Any, fake: tuple[FakeS3, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server, url = fake
        for variable in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.setenv(variable, "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-variables")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sEcReT")
        settings = S3Settings("builds", endpoint_url=url, region="x", access_key_id="said", secret_access_key="sEcReT")
        await (await opened(settings)).stat("a")
        assert server.asked == [("said", "/builds/a")]

    @pytest.mark.parametrize(("url", "levels"), [("http://h.example", ["WARNING"]), ("https://h.example", ["INFO"])])
    async def test_it_is_logged(
        self,
        opened: Any,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        url: str,
        levels: list[str],
    ) -> None:
        caplog.set_level("INFO", "tiered_store")
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        await opened(SAID)
        assert [
            record.levelname for record in caplog.records if "names the origin's endpoint" in record.message
        ] == levels
        assert caplog.records[-1].endpoint == url  # type: ignore[attr-defined]
        caplog.clear()
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        await opened(SAID)
        assert not caplog.records


class TestCredentials:
    async def test_a_start_does_not_wait_for_them(self, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        gate, asked = asyncio.Event(), asyncio.Event()

        async def silent(_: web.Request) -> web.Response:
            asked.set()
            await gate.wait()
            return web.Response(status=500)

        async with answering(silent) as url:
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/role")
            await opened(CHAIN)
            await asked.wait()  # but looks for them at once
            gate.set()

    async def test_a_start_without_any(self, opened: Any, caplog: pytest.LogCaptureFixture) -> None:
        origin = await opened(CHAIN)
        for ask in (origin.stat("a"), origin.list(""), origin.put("a", b"x", PutHeaders())):
            with pytest.raises(PermissionDenied, match="no credentials for the origin"):
                await ask
        assert [record.message for record in caplog.records] == ["no new credentials for the origin"]

    async def test_those_that_are_refused_are_replaced(
        self, opened: Any, fake: tuple[FakeS3, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By what the profile says then. A HEAD has no text, and its status is enough."""
        server, url = fake
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        file = tmp_path / "credentials"
        for number, ask in enumerate([lambda origin: origin.stat("a"), lambda origin: origin.list("")]):
            file.write_text(f"[default]\naws_access_key_id = old{number}\naws_secret_access_key = sEcReT\n")
            server.refuses = {f"old{number}": "ExpiredToken"}
            origin = await opened(CHAIN)
            with pytest.raises(OriginUnavailable):
                await ask(origin)
            file.write_text("[default]\naws_access_key_id = new\naws_secret_access_key = sEcReT\n")
            origin._client._credentials._next_walk = 0  # as if some time had passed
            await origin.stat("a")
            assert server.asked[-1] == ("new", "/builds/a")

    async def test_expiring_ones_are_renewed_between_requests(
        self, opened: Any, fake: tuple[FakeS3, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server, url = fake
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        given = 0

        async def role(_: web.Request) -> web.Response:
            nonlocal given
            given += 1
            ends = datetime.now(UTC) + timedelta(seconds=20 if given == 1 else 3600)
            said = {"AccessKeyId": f"key-{given}", "SecretAccessKey": "sEcReT", "Token": "t"}
            return web.json_response({**said, "Expiration": ends.isoformat()})

        async with answering(role) as source:
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{source}/role")
            origin = await opened(CHAIN)
            await origin.stat("a")
            origin._client._credentials._next_walk = 0
            await asyncio.gather(*(origin.stat("a") for _ in range(5)))
        assert [who for who, _ in server.asked] == ["key-1"] + 5 * ["key-2"]
        assert given == 2


async def test_what_is_no_s3_server(opened: Any) -> None:
    """It answers, and what it answers has nothing that it should: an error, and the connection is given back."""

    over = asyncio.Event()

    async def page(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        if request.method != "HEAD":
            await answer.write(b"<html>")
            await over.wait()
        return answer

    bodies: list[Any] = []
    async with answering(page) as url:
        origin = await opened(S3Settings("b", endpoint_url=url, region="x", access_key_id="a", secret_access_key="b"))
        origin._s3.meta.events.register("after-call.s3.GetObject", lambda parsed, **_: bodies.append(parsed["Body"]))
        for ask in (origin.stat, origin.open):
            with pytest.raises(OriginUnavailable, match="is this an S3 server") as caught:
                await ask("a")
            assert not caught.value.retryable
        assert [body.closed for body in bodies] == [True]
        over.set()


async def test_small_bodies_are_sent_at_once(opened: Any, fake: tuple[FakeS3, str]) -> None:
    """The faked server never says that a body may come: whoever waited for that would wait for long."""
    server, url = fake
    settings = replace(SAID, endpoint_url=url)
    origin = await opened(settings)
    sent: list[bool] = []
    origin._s3.meta.events.register("before-send.s3", lambda request, **_: sent.append("Expect" in request.headers))
    await origin.put("a", b"x" * 1024 * 1024, PutHeaders())
    assert sent == [False]
    assert server.asked == [("said", "/builds/a")]


async def test_what_is_to_be_deleted_is_vouched_for(opened: Any, fake: tuple[FakeS3, str]) -> None:
    origin = await opened(replace(SAID, endpoint_url=fake[1]))
    sent: list[set[str]] = []
    origin._s3.meta.events.register("before-send.s3", lambda request, **_: sent.append({*request.headers}))
    await origin.delete(["a", "b"])
    (fields,) = sent
    assert "Content-MD5" in fields
    assert not {field for field in fields if "checksum" in field.lower()}


class TestRegions:
    @pytest.mark.parametrize("status", [301, 400])
    async def test_a_bucket_somewhere_else(self, opened: Any, status: int) -> None:
        """A HEAD is told so in a header alone."""

        async def elsewhere(_: web.Request) -> web.Response:
            return web.Response(status=status, headers={"x-amz-bucket-region": "us-west-2"})

        async with answering(elsewhere) as url:
            settings = S3Settings("b", endpoint_url=url, region="eu-west-1", access_key_id="a", secret_access_key="b")
            origin = await opened(settings)
            with pytest.raises(OriginUnavailable, match=r"region 'eu-west-1': it is in 'us-west-2'; see s3\.region"):
                await origin.stat("a")
