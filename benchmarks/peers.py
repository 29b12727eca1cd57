"""The servers to be compared with: Redis, memcached and nginx, each with the usual Python client.

Each is one unprivileged child on a unix socket in a temporary directory, configured as its users would for
speed: nothing is logged or saved. One that is not installed is reported, not an error.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import pwd
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from benchmarks.children import Child, NotStarted, find_program
from benchmarks.nginx import start_nginx

__all__ = ["HTTP", "MEMCACHE", "REDIS", "Peer", "server_versions", "start_peers"]

REDIS = "redis-py"
MEMCACHE = "pymemcache"
HTTP = "http.client"

#: Enough for everything that is stored at the same time; memory is taken only when it is used.
_ROOM_MIB = 2048
_LARGEST_MIB = 128


class Peer(Protocol):
    """A server with a synchronous client connected to it."""

    child: Child

    def get(self, key: str) -> bytes: ...

    def put(self, key: str, data: bytes) -> None: ...

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes]: ...

    def close(self) -> None:
        """Disconnect and stop the server."""
        ...


class Redis:
    """Redis and redis-py, with hiredis when it is installed."""

    def __init__(self, directory: Path) -> None:
        import redis

        path = directory / "redis.sock"
        options = ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
        self.child = Child([find_program("redis-server"), *options], path, directory)
        self.child.wait_until_listening()
        self._client = cast("Any", redis.Redis(unix_socket_path=str(path)))
        # The client's own methods, so that no call of ours is measured with them.
        self.get: Callable[[str], bytes] = self._client.get
        self.put: Callable[[str, bytes], None] = self._client.set
        self.get_many: Callable[[Sequence[str]], Sequence[bytes]] = self._client.mget

    def close(self) -> None:
        self._client.close()
        self.child.stop()


class Memcached:
    """memcached and pymemcache; every set waits for its answer."""

    def __init__(self, directory: Path) -> None:
        import pymemcache

        path = directory / "memcached.sock"
        options = ["-s", str(path), "-m", str(_ROOM_MIB), "-I", f"{_LARGEST_MIB}m"]
        if os.getuid() == 0:  # it refuses to run as root unless told so
            options += ["-u", pwd.getpwuid(0).pw_name]
        self.child = Child([find_program("memcached"), *options], path, directory)
        self.child.wait_until_listening()
        self._client = cast("Any", pymemcache.Client(str(path), default_noreply=False))
        self.get: Callable[[str], bytes] = self._client.get
        self.put: Callable[[str, bytes], None] = self._client.set

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes]:
        return list(self._client.get_many(keys).values())

    def close(self) -> None:
        self._client.close()
        self.child.stop()


#: Connections stay, and files stay open.
_TUNING = "keepalive_timeout 1h; keepalive_requests 1000000000; open_file_cache max=1000 inactive=1h;"


class Nginx:
    """nginx serving files by sendfile, and the standard library's http.client. It reads only."""

    def __init__(self, directory: Path) -> None:
        self.child = start_nginx(directory, tuning=_TUNING)
        self._files = directory / "files"
        self._connection = _UnixHTTPConnection(self.child.socket_path)

    def put(self, key: str, data: bytes) -> None:
        """Place the file where nginx finds it: a server of files has no put of its own."""
        target = self._files / key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def get(self, key: str) -> bytes:
        self._connection.request("GET", "/" + key)
        response = self._connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise KeyError(key)
        return data

    def get_many(self, keys: Sequence[str]) -> Sequence[bytes]:
        return [self.get(key) for key in keys]

    def close(self) -> None:
        self._connection.close()
        self.child.stop()


class _UnixHTTPConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def server_versions() -> dict[str, str]:
    """What each installed server says of its own version, on one line."""
    found = {}
    for name, option in (("redis-server", "--version"), ("memcached", "--version"), ("nginx", "-v")):
        with contextlib.suppress(NotStarted):
            said = subprocess.run([find_program(name), option], check=False, capture_output=True, text=True)
            found[name] = (said.stdout + said.stderr).strip().splitlines()[0]
    return found


_PEERS: dict[str, tuple[Callable[[Path], Peer], str | None]] = {
    REDIS: (Redis, "redis"),
    MEMCACHE: (Memcached, "pymemcache"),
    HTTP: (Nginx, None),
}


def start_peers(directory: Path) -> tuple[dict[str, Peer], dict[str, str]]:
    """Start all that are there.

    Returns:
        the running peers by the name of their client, and for each of the others the reason.
    """
    running: dict[str, Peer] = {}
    absent: dict[str, str] = {}
    for name, (start, module) in _PEERS.items():
        if module and importlib.util.find_spec(module) is None:
            absent[name] = f"the Python package {module} is not installed"
            continue
        try:
            running[name] = start(directory)
        except NotStarted as error:
            absent[name] = str(error)
    return running, absent
