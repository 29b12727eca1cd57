"""The HTTP door of a real daemon, over a unix socket and TCP, beside the native door."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from tests.support.daemon import Daemons, RunningDaemon
from tests.support.processes import descriptors, until
from tests.support.servers import free_port

MIB = 1024 * 1024
LARGE = bytes(range(256)) * 40_960  # 10 MiB


class UnixConnection(http.client.HTTPConnection):
    """The standard library's client on a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


@pytest.fixture
def daemons() -> Iterator[Daemons]:
    with closing(Daemons()) as found:
        yield found


@pytest.fixture
def daemon(daemons: Daemons) -> RunningDaemon:
    return daemons.start({"http": {"socket": str(daemons.directory / "h")}})


@pytest.fixture
def client(daemon: RunningDaemon, daemons: Daemons) -> Iterator[UnixConnection]:
    with closing(UnixConnection(daemons.directory / "h")) as connection:
        yield connection


def ask(client: http.client.HTTPConnection, method: str, target: str, body: bytes | None = None, **headers: str):
    client.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = client.getresponse()
    return response.status, response.headers, response.read()


def open_files(daemon: RunningDaemon) -> Counter[str]:
    """Descriptors by what they are, but for those that the disk tier keeps: files it has read, and its index."""
    found = [target.partition(":")[0] for target in descriptors(daemon.process.pid)]
    return Counter(name for name in found if "/cache/objects/" not in name and "/cache/cache.db" not in name)


def open_connections(client: http.client.HTTPConnection) -> int:
    """How many the daemon has, this one included."""
    return json.loads(ask(client, "GET", "/v1/stats")[2])["http"]["connections"]


@pytest.mark.parametrize("size", [0, 1000, 64 * 1024, 64 * 1024 + 1, 10 * MIB])
def test_both_doors_see_the_same_objects(daemon: RunningDaemon, client: UnixConnection, size: int) -> None:
    data, native = LARGE[:size], daemon.client()
    status, headers, _ = ask(client, "PUT", "/v1/objects/a/http", data, Content_Type="text/x", x_meta_user="7")
    assert status == 200
    info = native.stat("a/http")
    assert (info.size, info.content_type, info.metadata) == (size, "text/x", {"user": "7"})
    assert headers["ETag"] == f'"{info.etag}"'
    assert native.get("a/http") == data
    native.put("a/native", data, content_type="text/y", metadata={"user": "8"})
    for _ in range(3):
        status, headers, got = ask(client, "GET", "/v1/objects/a/native")
        assert (status, got == data, headers["Content-Type"], headers["x-meta-user"]) == (200, True, "text/y", "8")
        assert headers["X-Tier"] in {"memory", "disk"}
    status, headers, got = ask(client, "GET", "/v1/objects/a/native", If_None_Match=headers["ETag"])
    assert (status, got) == (304, b"")


def test_a_cold_object_of_a_new_daemon(daemons: Daemons) -> None:
    path = daemons.directory / "h"
    first = daemons.start({"http": {"socket": str(path)}, "disk": {"enabled": False}})
    first.client().put("big", LARGE)
    assert first.stop() == 0
    directory = first.socket_path.parent
    daemons.start({"http": {"socket": str(path)}, "disk": {"enabled": False}}, directory=directory)
    with closing(UnixConnection(path)) as client:
        status, headers, got = ask(client, "GET", "/v1/objects/big", Range="bytes=5000000-5000009")
        assert (status, headers["X-Tier"], got) == (206, "origin", LARGE[5_000_000:5_000_010])
        assert ask(client, "GET", "/v1/objects/big")[2] == LARGE


def test_a_file_on_disk_that_is_damaged_is_no_answer(daemons: Daemons) -> None:
    settings = {"http": {"socket": str(daemons.directory / "h")}, "memory": {"max_object_share": 1e-9}}
    daemon = daemons.start(settings)
    key = daemon.client().put_artifact(LARGE)
    with closing(UnixConnection(daemons.directory / "h")) as client:
        status, headers, got = ask(client, "GET", f"/v1/objects/{key}")
        assert (status, headers["X-Tier"], got == LARGE) == (200, "disk", True)
        cache = daemon.data_dir / "cache" / "objects"
        until(lambda: any(file.stat().st_size > len(LARGE) for file in cache.rglob("*")), "the file is whole")
        (large,) = (file for file in cache.rglob("*") if file.is_file())
        os.truncate(large, MIB)
        answers = []
        for _ in range(3):
            try:
                answers.append(ask(client, "GET", f"/v1/objects/{key}")[::2])
            except (http.client.IncompleteRead, ConnectionError):
                client.close()  # cut short, and the connection with it: that is seen
        assert all(status != 200 or body == LARGE for status, body in answers)
        assert (200, LARGE) in answers


async def test_many_at_once_and_streams_both_ways(daemon: RunningDaemon, daemons: Daemons) -> None:
    async def pieces():
        for start in range(0, len(LARGE), 100_000):
            yield LARGE[start : start + 100_000]

    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(daemons.directory / "h"))) as session:
        async with session.put("http://h/v1/artifacts", data=pieces()) as response:  # chunked
            key = (await response.json())["key"]
        assert key == f"sha256:{hashlib.sha256(LARGE).hexdigest()}"

        async def read(number: int) -> bool:
            span = {"Range": f"bytes={number}-"}
            async with session.get(f"http://h/v1/objects/{key}", headers=span if number % 2 else {}) as response:
                return await response.read() == (LARGE[number:] if number % 2 else LARGE)

        assert all(await asyncio.gather(*(read(number) for number in range(20))))


def test_over_tcp_for_programs_of_this_machine(daemons: Daemons) -> None:
    port = free_port()
    daemon = daemons.start({"http": {"port": port, "open": True}})
    daemon.client().put("a", LARGE)
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as client:
        assert ask(client, "PUT", "/v1/objects/a", b"other")[0] == 401
        assert ask(client, "GET", "/v1/objects/a")[2] == LARGE
        assert ask(client, "GET", "/v1/stats")[0] == 401
    assert daemon.client().get("a") == LARGE
    (started,) = (line for line in daemon.log() if line["event"] == "started")
    assert started["http"] == f"127.0.0.1:{port}"


def test_without_its_settings_there_is_no_door(daemons: Daemons) -> None:
    daemon = daemons.start()
    modules = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert "aiohttp/_http_parser" not in modules
    (started,) = (line for line in daemon.log() if line["event"] == "started")
    assert started["http"] == "off"


def test_a_port_that_is_taken_is_said(daemons: Daemons) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1 port {port}"):
            daemons.start({"http": {"port": port, "open": True}})


def test_a_stop_lets_an_upload_finish(daemon: RunningDaemon, client: UnixConnection, daemons: Daemons) -> None:
    client.putrequest("PUT", "/v1/objects/late")
    client.putheader("Content-Length", str(len(LARGE)))
    client.endheaders()
    client.send(LARGE[:MIB])
    with closing(UnixConnection(daemons.directory / "h")) as other:
        until(lambda: open_connections(other) == 2, "both are there")
    daemon.process.send_signal(signal.SIGTERM)
    client.send(LARGE[MIB:])
    response = client.getresponse()
    assert (response.status, response.headers["Connection"]) == (200, "close")
    assert daemon.process.wait(30) == 0
    assert "requests were cut off" not in daemon.events()


def test_a_daemon_that_is_killed_leaves_no_half_of_an_upload(daemon: RunningDaemon, client: UnixConnection) -> None:
    client.putrequest("PUT", "/v1/objects/late")
    client.putheader("Content-Length", str(len(LARGE)))
    client.endheaders()
    client.send(LARGE[:MIB])
    daemon.kill9()
    assert not list((daemon.data_dir / "origin").rglob("late"))


def test_readers_that_go_away_give_everything_back(
    daemon: RunningDaemon, client: UnixConnection, daemons: Daemons
) -> None:
    daemon.client().put("big", LARGE)
    assert ask(client, "GET", "/v1/objects/big")[2] == LARGE
    before = open_files(daemon)

    def leave() -> None:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(daemons.directory / "h"))
            peer.send(b"GET /v1/objects/big HTTP/1.1\r\nHost: h\r\n\r\n")
            peer.recv(1000)
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(daemons.directory / "h"))
            peer.send(b"PUT /v1/objects/no HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n" + LARGE[:300_000])

    threads = [threading.Thread(target=leave) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: open_connections(client) == 1, "the others are gone")
    until(lambda: not open_files(daemon) - before, "their descriptors are")
    assert ask(client, "GET", "/v1/objects/no")[0] == 404
    assert "request failed" not in daemon.events(), daemon.log()
