"""What an operator does with a bucket: credentials that come later, uploads that a kill cut off, trying it out."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.answers import answering
from tests.support.clients import some_bytes
from tests.support.daemon import RunningDaemon, clean_environment, toml_of, unmeasured
from tests.support.processes import MIB
from tests.support.s3 import KEY_ID, SECRET, S3Server, shared_server
from tiered_store import OriginUnavailable, StoreError

COMMAND = [sys.executable, "-m", "tiered_store"]
ATTEMPTS = 10


@pytest.fixture
def server() -> S3Server:
    return shared_server()


def config_of(server: S3Server, bucket: str, **settings: object) -> dict[str, Any]:
    said = {"bucket": bucket, "endpoint_url": server.url, "region": "us-east-1"}
    said |= {"access_key_id": KEY_ID, "secret_access_key": SECRET}
    return {"origin": {"backend": "s3"}, "s3": {**said, **settings}}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=clean_environment(), capture_output=True, text=True, check=False, timeout=60
    )


def test_a_role_that_cannot_be_had_at_the_start(
    daemon_factory: Callable[..., RunningDaemon], server: S3Server, tmp_path: Path
) -> None:
    """The daemon starts, and says whom it asked in vain."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/role"
        config = config_of(server, server.settings().bucket, access_key_id="", secret_access_key="")
        environment = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "HOME": str(tmp_path)}
        daemon = daemon_factory(config, env=environment)
        with daemon.client() as store:
            for ask in (lambda: store.get("a"), lambda: store.put("a", b"1")):
                with pytest.raises(OriginUnavailable, match="AWS_CONTAINER_CREDENTIALS_FULL_URI") as caught:
                    ask()
                assert caught.value.retryable
    assert "no new credentials for the origin" in daemon.events()
    assert daemon.stop() == 0


def test_a_kill_in_the_middle_of_an_upload(
    daemon_factory: Callable[..., RunningDaemon], server: S3Server, tmp_path: Path
) -> None:
    """leaves parts that nobody sees, until they are cleared away; what is under way elsewhere is left alone."""
    bucket = server.settings().bucket
    config = config_of(server, bucket, prefix="team", part_bytes="5MiB", parts_at_once=1)
    (tmp_path / "c.toml").write_text(toml_of(config))

    def unfinished() -> list[str]:
        try:
            found = server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        except server.client.exceptions.NoSuchUpload:
            return []
        return [upload["Key"] for upload in found]

    data = some_bytes(96 * MIB)
    for _ in range(ATTEMPTS):
        daemon = daemon_factory(config)
        source = tmp_path / "source"
        source.write_bytes(data)
        environment = {**clean_environment(), "TIERED_STORE_SOCKET": str(daemon.socket_path)}
        putting = subprocess.Popen([*COMMAND, "put", "big", str(source)], env=environment, stderr=subprocess.PIPE)
        while not unfinished() and putting.poll() is None:
            time.sleep(0.005)
        daemon.kill9()
        putting.communicate(timeout=60)
        if unfinished():
            break
    assert unfinished() == ["team/big"]
    assert run("abort-uploads", f"{tmp_path}/c.toml").stdout == "0 aborted, 1 younger ones left alone\n"
    found = json.loads(run("abort-uploads", f"{tmp_path}/c.toml", "--older-than", "0", "--json").stdout)
    assert ([upload["name"] for upload in found["uploads"]], found["aborted"]) == (["big"], 1)
    assert unfinished() == []
    with daemon_factory(config).client() as store:
        with pytest.raises(StoreError):
            store.get("big")
        store.put("big", data)
        assert store.get("big") == data


def test_trying_out_a_bucket(server: S3Server, tmp_path: Path) -> None:
    bucket = server.settings().bucket
    (tmp_path / "c.toml").write_text(toml_of(config_of(server, bucket)))
    result = run("check-config", f"{tmp_path}/c.toml", "--connect", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["ok"]
    assert "Contents" not in server.client.list_objects_v2(Bucket=bucket)
    (tmp_path / "c.toml").write_text(toml_of(config_of(server, "no-such-bucket")))
    result = run("check-config", f"{tmp_path}/c.toml", "--connect")
    assert (result.returncode, result.stderr) == (1, "")
    assert "bucket 'no-such-bucket' does not exist there; see s3.bucket" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_trying_out_a_bucket_is_stopped(tmp_path: Path, number: int) -> None:
    """What it has put is removed nevertheless."""
    objects: set[str] = set()
    listing, removed = asyncio.Event(), asyncio.Event()

    async def bucket(request: web.Request) -> web.Response:
        if request.method == "PUT":
            await request.read()
            objects.add(request.path)
        elif request.method == "DELETE":
            objects.discard(request.path)
            removed.set()
        elif "list-type" in request.query:
            listing.set()
            await removed.wait()
        headers = {"Content-Length": "1000"} if request.method == "HEAD" else {}
        return web.Response(headers={"ETag": '"e"', **headers})

    nowhere = asyncio.subprocess.DEVNULL
    async with answering(bucket) as url:
        said = {"bucket": "builds", "endpoint_url": url, "region": "x", "access_key_id": "a", "secret_access_key": "b"}
        (tmp_path / "c.toml").write_text(toml_of({"origin": {"backend": "s3"}, "s3": said}))
        command = [*COMMAND, "check-config", f"{tmp_path}/c.toml", "--connect"]
        process = await asyncio.create_subprocess_exec(
            *command, env=unmeasured(clean_environment()), stdout=nowhere, stderr=nowhere
        )  # coverage has a use of its own for SIGTERM
        ended = asyncio.ensure_future(process.wait())
        asked = asyncio.ensure_future(listing.wait())
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        is_listing, names = not ended.done(), len(objects)
        if is_listing:
            process.send_signal(number)
        code = await ended
        removed.set()  # whatever has become of the process: nobody waits for it any more
    assert (is_listing, names, code) == (True, 1, 128 + number)
    assert objects == set()
