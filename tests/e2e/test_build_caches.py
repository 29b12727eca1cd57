"""Build tools' dialects of a real daemon, in plain HTTP: over both kinds of sockets, across restarts, in outages."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_s3 import config_of
from tests.support.clients import some_bytes
from tests.support.daemon import RunningDaemon
from tests.support.reapi import action_result
from tests.support.s3 import s3_server
from tests.support.servers import kept_port
from tiered_store.servers.credentials import hash_of

Start = Callable[..., RunningDaemon]
DATA = some_bytes(300_000)
NAME = hashlib.sha256(DATA).hexdigest()
HEX = "0123456789abcdef" * 4
PATHS = {
    f"/ccache/main/ab/{HEX[:38]}": 200,
    f"/sccache/main/9/b/e/{HEX}": 200,
    f"/s3/main/scc/9/b/e/{HEX}": 200,
    f"/bazel/main/cas/{NAME}": 200,
    f"/bazel/main/ac/{HEX}": 200,
    f"/turbo/main/v8/artifacts/{HEX[:16]}?slug=team": 202,
    "/nx/main//v1/cache/14088252405902956419": 200,
    f"/gradle/main/cache/{HEX[:32]}": 200,
}


class Door:
    """A daemon's HTTP door; one connection for each request, as most of these tools do."""

    def __init__(self, path: Path, port: int) -> None:
        self.path = path
        self.port = port
        self.over_tcp = False
        self.headers: dict[str, str] = {}

    def ask(self, method: str, target: str, body: bytes | None = None) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        if not self.over_tcp:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(30)
            connection.sock.connect(str(self.path))
        try:
            connection.request(method, target, body, self.headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def put(self, target: str, body: bytes = DATA) -> int:
        return self.ask("PUT", target, body)[0]

    def get(self, target: str) -> tuple[int, bytes]:
        return self.ask("GET", target)


@pytest.fixture
def door() -> Iterator[Door]:
    directory = Path(tempfile.mkdtemp(prefix="ts-"))
    with kept_port() as port:
        yield Door(directory / "h.sock", port)
    shutil.rmtree(directory)


def config(door: Door, **sections: Any) -> dict[str, Any]:
    """A door at both, which lets everybody on this machine write."""
    anybody = {"instances": [{"name": "*", "anonymous": "write"}]}
    listening = {"socket": str(door.path), "port": door.port, "open": True}
    return {"http": listening, "build": anybody, **sections}


@pytest.mark.parametrize("over_tcp", [False, True], ids=["unix", "tcp"])
def test_what_was_stored_is_there_after_a_restart(daemon_factory: Start, door: Door, over_tcp: bool) -> None:
    door.over_tcp = over_tcp
    daemon = daemon_factory(config(door))
    for path, stored in PATHS.items():
        assert door.get(path) == (404, b"")
        assert door.put(path) == stored
        assert door.get(path) == (200, DATA)
    daemon.kill9()
    daemon = daemon_factory(config(door), directory=daemon.socket_path.parent)
    for path in PATHS:
        assert door.get(path) == (200, DATA)
    build = daemon.client().stats()["build"]
    assert {dialect: counters["hits"] for dialect, counters in build.items()} == {
        "ccache": 1, "sccache": 2, "bazel-cas": 1, "bazel-ac": 1, "turbo": 1, "nx": 1, "gradle": 1,
    }  # fmt: skip
    assert daemon.stop() == 0


def test_what_is_damaged_is_not_there_and_can_be_stored_again(daemon_factory: Start, door: Door) -> None:
    """In the cache directory: the origin's is given. At the origin, too: nothing is."""
    daemon = daemon_factory(config(door))
    for path, stored in PATHS.items():
        assert door.put(path) == stored
    assert daemon.stop() == 0
    cached = [
        path for path in (daemon.data_dir / "cache").rglob("*") if path.is_file() and path.stat().st_size > len(DATA)
    ]
    assert cached
    for path in cached:
        flip(path, path.stat().st_size - 1000)
    daemon = daemon_factory(config(door), directory=daemon.socket_path.parent)
    for path in PATHS:
        assert door.get(path) == (200, DATA)
    assert daemon.stop() == 0
    shutil.rmtree(daemon.data_dir / "cache")
    flip(daemon.data_dir / "origin/artifacts/sha256" / NAME[:2] / NAME, 1000)
    daemon = daemon_factory(config(door), directory=daemon.socket_path.parent)
    for path in PATHS:
        assert door.get(path) == (404, b"")
    for path, stored in PATHS.items():
        assert door.put(path) in {stored, 409}  # the first put has repaired what all of them share
        assert door.get(path) == (200, DATA)


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 0xFF]))


def test_an_action_result_is_given_while_its_files_are_there(daemon_factory: Start, door: Door) -> None:
    daemon = daemon_factory(config(door))
    result = action_result({"out": NAME})
    assert door.put(f"/bazel/main/ac/{HEX}", result) == 200
    assert door.get(f"/bazel/main/ac/{HEX}") == (404, b"")
    assert door.put(f"/bazel/main/cas/{NAME}") == 200
    assert door.get(f"/bazel/main/ac/{HEX}") == (200, result)
    daemon.client().delete(f"sha256:{NAME}")
    assert door.get(f"/bazel/main/ac/{HEX}") == (404, b"")


def test_over_tcp_a_token_decides(daemon_factory: Start, door: Door) -> None:
    tokens = [
        {"name": "ci", "role": "write", "hash": f"sha256:{hash_of('tst_w')}"},
        {"name": "dev", "role": "read", "hash": f"sha256:{hash_of('tst_r')}"},
    ]
    listening = {"socket": str(door.path), "port": door.port}
    daemon_factory({"http": listening, "access": {"tokens": tokens}})
    door.over_tcp = True
    for path, stored in PATHS.items():
        for token, status, found in (
            ("no", 403, 404),
            ("tst_r", 403, 404),
            ("tst_w", stored, 200),
            ("tst_r", 403, 200),
        ):
            door.headers = {"Authorization": f"Bearer {token}"}
            assert door.put(path) in {status, 409 if found == 200 else status}
            assert door.get(path)[0] == found
        door.headers = {}
        assert door.get(path) == (404, b"")


def test_a_bucket_that_is_down_is_a_miss_and_writes_wait_for_it(daemon_factory: Start, door: Door) -> None:
    with s3_server() as server:
        port = server.port
        server.client.create_bucket(Bucket="builds")
        with_bucket = config(door) | config_of(server.url, "builds")
        daemon = daemon_factory(with_bucket)
        assert door.put(f"/ccache/main/{HEX[:40]}", b"other content") == 200
        assert daemon.client().flush(timeout_s=60) >= 0
    for path, stored in PATHS.items():
        assert door.get(path.replace("/main/", "/other/", 1)) == (404, b"")
        assert door.put(path) == stored
        assert door.get(path) == (200, DATA)
    assert daemon.client().stats()["write_back"]["entries"] > 0
    daemon.kill9()
    daemon = daemon_factory(with_bucket, directory=daemon.socket_path.parent)
    for path in PATHS:
        assert door.get(path) == (200, DATA)
    with s3_server(port) as server:
        server.client.create_bucket(Bucket="builds")
        daemon.client().flush(timeout_s=120)
        assert daemon.stop() == 0
        other = daemon_factory(config(door) | config_of(server.url, "builds"))
        for path in PATHS:
            assert door.get(path) == (200, DATA)
        assert other.stop() == 0
