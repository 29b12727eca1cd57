"""Bad peers and bad luck at the sockets of [resp] and [crsh]: one connection is lost, or one read is a miss."""

from __future__ import annotations

import random
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.daemon import Daemons, RunningDaemon
from tests.support.mounts import Mounts, fill_up
from tests.support.processes import MIB, descriptors, resident_bytes, until
from tests.support.tooldoors import CRSH_KEY, array, asked, crsh_put
from tiered_store.servers.crsh.codec import Operation

CONFIG: dict[str, Any] = {"server": {"stall_timeout_s": 2}, "build": {"max_entry_bytes": 4 * MIB}}
LARGE = random.Random(1).randbytes(3 * MIB)


class Sockets:
    """A daemon with both sockets."""

    def __init__(self, daemons: Daemons, directory: Path, config: dict[str, Any], **tool: Any) -> None:
        self.resp, self.crsh = directory / "r.sock", directory / "c.sock"
        tools = {name: {"socket": str(getattr(self, name)), **tool} for name in ("resp", "crsh")}
        self.daemon: RunningDaemon = daemons.start({**config, **tools})

    def redis(self) -> Any:
        return redis.Redis(unix_socket_path=str(self.resp))

    def connect(self, path: Path) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(str(path))
        if path == self.crsh:
            assert sock.recv(5) == b"\x01\x03\x00\x01\x02"
        return sock

    def connections(self) -> int:
        doors = self.daemon.client().stats()["doors"]
        return int(doors["resp"]["connections"] + doors["crsh"]["connections"])


@pytest.fixture(scope="module")
def daemons() -> Iterator[Daemons]:
    with closing(Daemons()) as daemons:
        yield daemons


@pytest.fixture(scope="module")
def shared(daemons: Daemons) -> Sockets:
    """A daemon that has to bear most of this module."""
    return Sockets(daemons, daemons.directory, CONFIG, max_connections=20)


@pytest.fixture
def it(shared: Sockets) -> Iterator[Sockets]:
    """The same; somebody who behaves sees nothing of what goes on, and nothing is left of it."""
    with shared.redis() as client:
        client.set("mine", b"untouched")
        yield shared
        assert client.get("mine") == b"untouched"
        until(lambda: shared.connections() == 1, "connections of bad peers are closed")
        spools = shared.daemon.data_dir / "cache" / "spool"
        until(lambda: not [*spools.iterdir()], "uploads that broke off leave no files")
    assert "unhandled error" not in shared.daemon.log_path.read_text()
    assert "connection failed" not in shared.daemon.log_path.read_text()


def rest(sock: socket.socket) -> bytes:
    """All until the end."""
    data = b""
    while part := sock.recv(65_536):
        data += part
    return data


def fill(sock: socket.socket, data: bytes) -> None:
    """Send it again and again, until no more is taken."""
    with suppress(BlockingIOError):
        while True:
            sock.send(data)


NONSENSE = {
    "a request over http": b"*GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a length that is none": b"*1\r\n$-5\r\n",
    "a huge array": b"*2000000000\r\n",
    "a huge argument": b"*2\r\n$3\r\nGET\r\n$2000000000\r\n",
    "a huge value": b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9000000000000000000\r\n",
    "an endless line": b"x" * 16_384,
    "an endless number": b"*" + b"1" * 100,
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_to_the_one(it: Sockets, name: str) -> None:
    with it.connect(it.resp) as sock:
        sock.sendall(NONSENSE[name])
        assert rest(sock).startswith(b"-ERR Protocol error: ")


@pytest.mark.parametrize("data", [b"\xff", b"\x06\x01x", b"\x01\x01k\x01" + struct.pack("=Q", 2**63)])
def test_nonsense_to_the_other(it: Sockets, data: bytes) -> None:
    with it.connect(it.crsh) as sock:
        sock.sendall(data)
        assert rest(sock)[:1] == b"\x02"


@pytest.mark.parametrize("data", [b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nhalf", array("SET", "k", LARGE)[:-9], b"GET"])
def test_half_a_command_and_silence(it: Sockets, data: bytes) -> None:
    with it.connect(it.resp) as sock:
        sock.sendall(data)
        assert rest(sock) == b"-ERR Protocol error: a command stalled for 2 s\r\n"


@pytest.mark.parametrize("data", [b"\x00", b"\x00\x14half", crsh_put(LARGE)[:-1]])
def test_half_a_request_and_silence(it: Sockets, data: bytes) -> None:
    with it.connect(it.crsh) as sock:
        sock.sendall(data)
        assert b"stalled" in rest(sock)


def test_peers_that_vanish_in_the_middle(it: Sockets) -> None:
    for _ in range(20):
        with it.connect(it.resp) as sock:
            sock.sendall(array("SET", "k", LARGE)[: 2 * MIB])
        with it.connect(it.crsh) as sock:
            sock.sendall(crsh_put(LARGE)[: 2 * MIB])
    with it.redis() as client:
        assert client.get("k") is None


def test_peers_that_never_read(it: Sockets) -> None:
    """Each could be owed gigabytes; what they cost is bounded, and they are shown the door."""
    with it.redis() as client, ExitStack() as stack:
        client.set("small", b"v" * 60_000)
        client.set("large", LARGE)
        before = resident_bytes(it.daemon.process.pid)
        for number in range(16):
            sock = stack.enter_context(it.connect(it.resp))
            sock.setblocking(False)
            key = "small" if number % 2 else "large"
            fill(sock, array("GET", key) * 100)
        assert client.get("small") == b"v" * 60_000
        assert resident_bytes(it.daemon.process.pid) - before < 40 * MIB
        until(lambda: it.connections() <= 2, "those that do not read are closed")


def test_a_peer_too_many(it: Sockets) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(it.connect(it.crsh))
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(it.crsh))
            assert rest(sock) == b"\x01\x00"  # no capabilities: ccache compiles


def test_what_is_too_large_is_said_after_it_came(it: Sockets) -> None:
    with it.redis() as client, pytest.raises(redis.ResponseError, match="max_entry_bytes"):
        client.set("k", b"x" * (4 * MIB + 1))


def test_nothing_stays_open(it: Sockets) -> None:
    with it.redis() as client:
        client.set("large", LARGE)
        client.get("large")
        before = len(descriptors(it.daemon.process.pid))
        for _ in range(50):
            with it.connect(it.resp) as sock:
                sock.sendall(array("GET", "large") * 3)
                assert sock.recv(100)
    until(lambda: len(descriptors(it.daemon.process.pid)) <= before, "descriptors are given back")


def test_damaged_content_is_a_miss_and_heals(daemons: Daemons) -> None:
    directory = daemons.directory / "damage"
    directory.mkdir()
    it = Sockets(daemons, directory, CONFIG)
    with it.redis() as client, it.connect(it.crsh) as sock:
        client.set("k", LARGE)
        sock.sendall(crsh_put(LARGE))
        assert sock.recv(1) == b"\x00"
        it.daemon.kill9()
    for path in (it.daemon.data_dir / "origin" / "artifacts").rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                file.seek(MIB)
                file.write(b"damage")
    shutil.rmtree(it.daemon.data_dir / "cache")
    it.daemon = daemons.start(
        {name: {"socket": str(getattr(it, name))} for name in ("resp", "crsh")}, directory=it.daemon.socket_path.parent
    )
    with it.redis() as client, it.connect(it.crsh) as sock:
        assert client.get("k") is None
        sock.sendall(asked(Operation.GET, CRSH_KEY))
        assert sock.recv(1) == b"\x01"
        client.set("k", LARGE)
        assert client.get("k") == LARGE


def test_a_full_disk_is_an_error_and_no_more(
    daemon_factory: Callable[..., RunningDaemon], mounts: Mounts, home: Path
) -> None:
    origin = mounts.tmpfs(home / "data" / "origin", size="8m")
    tools = {"resp": {"socket": str(home / "r.sock")}}
    daemon_factory(tools, directory=home)
    with redis.Redis(unix_socket_path=str(home / "r.sock")) as client:
        client.set("before", b"v")
        ballast = fill_up(origin)
        with pytest.raises(redis.ResponseError):
            client.set("k", LARGE)
        assert client.get("k") is None
        assert client.get("before") == b"v"
        ballast.unlink()
        client.set("k", LARGE)
        assert client.get("k") == LARGE
