"""The sockets of [resp] and [crsh]: Redis' own client, ccache's protocol by hand, restarts, and what cannot be."""

from __future__ import annotations

import random
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.daemon import RunningDaemon
from tests.support.processes import MIB, until
from tests.support.tooldoors import CRSH_KEY, asked, crsh_put
from tiered_store.servers.crsh.codec import GREETING, Operation

Start = Callable[..., RunningDaemon]
VALUES = {f"key:{size}": random.Random(size).randbytes(size) for size in (0, 1, 1024, 65_536, 65_537, 3 * MIB)}


def sockets(home: Path, **more: Any) -> dict[str, dict[str, Any]]:
    return {"resp": {"socket": str(home / "r.sock"), **more}, "crsh": {"socket": str(home / "c.sock"), **more}}


@pytest.fixture
def daemon(daemon_factory: Start, short: Path) -> RunningDaemon:
    return daemon_factory(sockets(short))


@pytest.fixture
def short(daemon_factory: Start) -> Path:
    """A directory with a short name, gone with the daemons."""
    directory = Path(daemon_factory.__self__.directory) / "sockets"  # type: ignore[attr-defined]
    directory.mkdir()
    return directory


@pytest.fixture
def client(daemon: RunningDaemon, short: Path) -> Iterator[Any]:
    with redis.Redis(unix_socket_path=str(short / "r.sock")) as client:
        yield client


def crsh(path: Path) -> socket.socket:
    """A connection that has been greeted."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(path))
    assert exactly(sock, len(GREETING)) == GREETING
    return sock


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, f"the door closed after {len(data)} of {size} bytes"
        data += part
    return data


def crsh_get(sock: socket.socket, key: bytes = CRSH_KEY) -> bytes | None:
    sock.sendall(asked(Operation.GET, key))
    if exactly(sock, 1) != b"\x00":
        return None
    (size,) = struct.unpack("=Q", exactly(sock, 8))
    return exactly(sock, size)


def test_redis_client_as_it_comes(client: Any) -> None:
    for name, value in VALUES.items():
        assert client.set(name, value) is True
    for name, value in VALUES.items():
        assert client.get(name) == value
    assert client.mget([*VALUES, "no"]) == [*VALUES.values(), None]
    assert client.exists("key:1", "no") == 1
    assert client.set("brief", b"v", ex=100) is True
    assert client.set("brief", b"w", nx=True) is None
    assert client.delete("brief", "no") == 1
    assert client.get("brief") is None
    assert client.info()["redis_mode"] == "standalone"
    with pytest.raises(redis.ResponseError, match="unknown command"):
        client.flushall()


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_client_in_either_version(daemon: RunningDaemon, short: Path, protocol: int) -> None:
    path = str(short / "r.sock")
    with redis.Redis(unix_socket_path=path, protocol=protocol, db=3, client_name="test", password="any") as client:
        client.set("k", b"v")
        assert (client.get("k"), client.get("no")) == (b"v", None)
        assert client.client_getname() in {"test", b"test"}


def test_ten_thousand_commands_in_one_pipeline(client: Any) -> None:
    client.set("k", b"v" * 100)
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(10_000):
            pipeline.get("k")
        assert pipeline.execute() == [b"v" * 100] * 10_000


def test_everything_is_there_after_a_restart_and_after_a_kill(daemon_factory: Start, short: Path) -> None:
    directory = short.parent / "again"
    directory.mkdir()
    daemon = daemon_factory(sockets(short), directory=directory)
    large = VALUES[f"key:{3 * MIB}"]
    with redis.Redis(unix_socket_path=str(short / "r.sock")) as client, crsh(short / "c.sock") as sock:
        client.set("k", large)
        sock.sendall(crsh_put(large))
        assert exactly(sock, 1) == b"\x00"
    for is_orderly in (True, False):
        if is_orderly:
            daemon.stop()
        else:
            daemon.kill9()
        daemon = daemon_factory(sockets(short), directory=directory)
        with redis.Redis(unix_socket_path=str(short / "r.sock")) as client, crsh(short / "c.sock") as sock:
            assert client.get("k") == large
            assert crsh_get(sock) == large
    assert daemon.stop() == 0
    assert not [*short.glob("*.sock*")]


def test_what_is_counted(daemon: RunningDaemon, client: Any, short: Path) -> None:
    client.set("k", b"v")
    client.get("k")
    with crsh(short / "c.sock") as sock:
        assert crsh_get(sock) is None
        sock.sendall(b"\xff")
        assert sock.recv(1) == b"\x02"
    stats = daemon.client().stats()
    assert stats["build"]["resp"]["hits"] == 1
    assert stats["build"]["ccache"]["misses"] == 1
    assert stats["doors"]["resp"]["connections"] == 1
    assert stats["doors"]["crsh"]["malformed"] == 1
    until(lambda: daemon.client().stats()["doors"]["crsh"]["connections"] == 0, "the other has gone")


def test_a_drain_lets_idle_clients_go_at_once(daemon: RunningDaemon, short: Path) -> None:
    with crsh(short / "c.sock") as sock, redis.Redis(unix_socket_path=str(short / "r.sock")) as client:
        client.ping()
        assert daemon.stop(signal.SIGTERM) == 0
        assert sock.recv(1) == b""
    assert daemon.log()[-1]["clean"] is True


def test_a_client_may_stop_it_where_that_is_allowed(daemon_factory: Start, short: Path) -> None:
    config = sockets(short)
    config["crsh"]["allow_stop"] = True
    daemon = daemon_factory(config)
    with crsh(short / "c.sock") as sock:
        sock.sendall(b"\x03")
        assert exactly(sock, 1) == b"\x00"
    assert daemon.process.wait(30) == 0
    assert daemon.log()[-1]["clean"] is True


def test_a_socket_in_use_keeps_it_from_starting(daemon_factory: Start, daemon: RunningDaemon, short: Path) -> None:
    with pytest.raises(AssertionError, match=r"another daemon holds .*/r\.sock"):
        daemon_factory(sockets(short))
    with crsh(short / "c.sock") as sock:
        assert crsh_get(sock) is None
