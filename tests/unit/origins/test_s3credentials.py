"""Credentials from AWS's chain: who is asked, how often, and what is said when nobody has any."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import botocore.utils
import pytest
from aiohttp import web

from tests.support.answers import answering
from tiered_store.aio.offload import Offload
from tiered_store.errors import OriginUnavailable, PermissionDenied
from tiered_store.origins import s3credentials
from tiered_store.origins.s3credentials import ChainCredentials

VARIABLES = ["ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "ROLE_ARN", "WEB_IDENTITY_TOKEN_FILE"]
VARIABLES += ["CONTAINER_CREDENTIALS_FULL_URI", "CONTAINER_CREDENTIALS_RELATIVE_URI", "REGION", "DEFAULT_REGION"]
LONG, SHORT, OVER_SOON = 6 * 3600, 300, 20


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Source:
    """A container's endpoint. Each answer is a new pair, valid for the seconds that stand in ``lives`` or for long."""

    def __init__(self) -> None:
        self.asked = 0
        self.lives: list[int] = []
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, request: web.Request) -> web.Response:
        self.asked += 1
        number = self.asked
        await self.gate.wait()
        if self.fails:
            return web.Response(status=500, text="not today")
        ends = datetime.now(UTC) + timedelta(seconds=self.lives.pop(0) if self.lives else LONG)
        said = {"AccessKeyId": f"key-{number}", "SecretAccessKey": "sEcReT", "Token": "t"}
        return web.json_response({**said, "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ")})


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No place of the chain has any, and none waits between two tries."""
    for name in VARIABLES:
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(botocore.utils.ContainerMetadataFetcher, "SLEEP_TIME", 0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def chain(clock: Clock) -> AsyncIterator[ChainCredentials]:
    offload = Offload(1, "origin")
    chain = ChainCredentials("eu-west-1", offload, clock=clock)
    yield chain
    await chain.close()
    await offload.close()


@pytest.fixture
async def container(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Source]:
    source = Source()
    async with answering(source) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/role")
        yield source
        source.gate.set()


async def key_of(chain: ChainCredentials) -> str:
    return str((await chain.get_frozen_credentials()).access_key)


async def end_of_walk(chain: ChainCredentials) -> None:
    if chain._task is not None:
        await asyncio.wait([chain._task])


async def test_many_requests_ask_once(chain: ChainCredentials, container: Source) -> None:
    assert set(await asyncio.gather(*(key_of(chain) for _ in range(20)))) == {"key-1"}
    assert await key_of(chain) == "key-1"
    assert container.asked == 1


async def test_nobody_waits_for_others_while_there_are_some_that_hold(
    chain: ChainCredentials, container: Source, clock: Clock
) -> None:
    """Shortly before they expire new ones are looked for, not more often than once a minute."""
    container.lives = [SHORT, SHORT]
    assert await key_of(chain) == "key-1"
    clock.now += 59
    assert await key_of(chain) == "key-1"
    assert container.asked == 1
    clock.now += 1
    container.gate.clear()
    assert await key_of(chain) == "key-1"
    container.gate.set()
    await end_of_walk(chain)
    assert await key_of(chain) == "key-2"


async def test_those_about_to_expire_are_not_used(chain: ChainCredentials, container: Source, clock: Clock) -> None:
    container.lives = [OVER_SOON]
    assert await key_of(chain) == "key-1"  # nobody has better ones
    clock.now += 10
    assert await key_of(chain) == "key-2"
    clock.now += 1000
    assert await key_of(chain) == "key-2"
    assert container.asked == 2


async def test_a_source_that_fails_while_there_are_some(
    chain: ChainCredentials, container: Source, clock: Clock
) -> None:
    container.lives = [SHORT]
    assert await key_of(chain) == "key-1"
    container.fails = True
    clock.now += 60
    assert await key_of(chain) == "key-1"
    await end_of_walk(chain)
    assert await key_of(chain) == "key-1"
    container.fails = False
    clock.now += 60
    await key_of(chain)
    await end_of_walk(chain)
    assert (await key_of(chain)).startswith("key-")
    assert await key_of(chain) != "key-1"


async def test_expired_and_no_others(chain: ChainCredentials, container: Source, clock: Clock) -> None:
    container.lives = [-1, -1]
    with pytest.raises(OriginUnavailable, match=r"container .* still expired") as caught:
        await key_of(chain)
    assert caught.value.retryable
    clock.now += 10
    container.lives = [2]
    assert (await key_of(chain)).startswith("key-")
    chain._found.source._expiry_time = datetime.now(UTC)
    container.fails = True
    clock.now += 10
    with pytest.raises(OriginUnavailable, match=r"have expired, and there are no others: .*not today") as caught:
        await key_of(chain)
    assert caught.value.retryable


async def test_a_source_that_is_there_later(
    chain: ChainCredentials, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{port}/role")
        with pytest.raises(OriginUnavailable, match=r"the container .*fails") as caught:
            await key_of(chain)
        assert caught.value.retryable
    source = Source()
    async with answering(source, port):
        with pytest.raises(OriginUnavailable):
            await key_of(chain)  # it is too early to ask again
        assert source.asked == 0
        clock.now += 10
        assert await key_of(chain) == "key-1"
    assert [record.message for record in caplog.records if record.name == s3credentials.__name__] == [
        "no new credentials for the origin"
    ]


async def test_a_profile_in_a_file(
    chain: ChainCredentials, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its credentials do not expire; where the server refuses them the file is read again."""
    monkeypatch.setenv("AWS_PROFILE", "build")
    file = tmp_path / "credentials"
    file.write_text("[build]\naws_access_key_id = one\naws_secret_access_key = sEcReT\n")
    assert await key_of(chain) == "one"
    file.write_text("[build]\naws_access_key_id = two\naws_secret_access_key = sEcReT\n")
    clock.now += 1e6
    assert await key_of(chain) == "one"
    chain.doubt()
    assert await key_of(chain) == "two"
    file.write_text("[build]\naws_access_key_id = three\naws_secret_access_key = sEcReT\n")
    chain.doubt()
    assert await key_of(chain) == "two"  # the last look was just now
    clock.now += 10
    assert await key_of(chain) == "three"
    file.unlink()
    chain.doubt()
    clock.now += 10
    assert await key_of(chain) == "three"  # doubtful ones are better than none


async def test_the_environment_comes_first(
    chain: ChainCredentials, container: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-variables")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sEcReT")
    assert await key_of(chain) == "from-variables"
    assert container.asked == 0


async def test_the_role_of_a_machine(chain: ChainCredentials, monkeypatch: pytest.MonkeyPatch) -> None:
    async def metadata(request: web.Request) -> web.Response:
        if request.path.endswith("/api/token"):
            return web.Response(text="token")
        if request.path.endswith("/security-credentials/"):
            return web.Response(text="role")
        said = {"Code": "Success", "AccessKeyId": "machine", "SecretAccessKey": "sEcReT", "Token": "t"}
        return web.json_response({**said, "Expiration": "2999-01-01T00:00:00Z"})

    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    async with answering(metadata) as url:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        assert await key_of(chain) == "machine"


async def test_nobody_has_any(chain: ChainCredentials, clock: Clock, tmp_path: Path) -> None:
    with pytest.raises(PermissionDenied) as caught:
        await key_of(chain)
    for words in ("s3.access_key_id", "AWS_SECRET_ACCESS_KEY", "profile 'default'", "AWS_EC2_METADATA_DISABLED is set"):
        assert words in caught.value.message
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = one\naws_secret_access_key = sEcReT\n")
    clock.now += 10
    assert await key_of(chain) == "one"


async def test_a_token_file_that_is_missing(chain: ChainCredentials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent/token")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r")
    with pytest.raises(OriginUnavailable, match=r"AWS_WEB_IDENTITY_TOKEN_FILE\) fails: .*/nonexistent/token"):
        await key_of(chain)


async def test_a_profile_that_is_missing(chain: ChainCredentials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises((OriginUnavailable, PermissionDenied), match="nobody"):
        await key_of(chain)


async def test_a_source_that_does_not_answer(
    chain: ChainCredentials, container: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3credentials, "_WALK_TIMEOUT_S", 0.05)
    container.gate.clear()
    with pytest.raises(OriginUnavailable, match="nobody gave credentials"):
        await key_of(chain)


@pytest.mark.parametrize("act", ["close", "cancel"])
async def test_going_away_meanwhile(
    chain: ChainCredentials, container: Source, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing ends the walk; a request that goes away does not."""
    monkeypatch.setattr(botocore.utils.ContainerMetadataFetcher, "TIMEOUT_SECONDS", 600)
    monkeypatch.setattr(s3credentials, "_WALK_TIMEOUT_S", 600)  # longer than this test may take
    container.gate.clear()
    waiting = asyncio.create_task(key_of(chain))
    while not container.asked:
        await asyncio.sleep(0)
    if act == "close":
        await chain.close()
        with pytest.raises(OriginUnavailable):
            await waiting
        return
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    container.gate.set()
    assert await key_of(chain) == "key-1"
    assert container.asked == 1


async def test_no_message_holds_a_secret(
    chain: ChainCredentials, container: Source, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    container.lives = [OVER_SOON]
    await key_of(chain)
    container.fails = True
    clock.now += 10
    await key_of(chain)
    assert "credentials for the origin were found" in caplog.text
    assert "sEcReT" not in caplog.text
