"""Every way in which build tools speak to a daemon, in one form: keep this, give that back."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import redis

from tests.support.gocache import GoCommand
from tests.support.tooldoors import asked, crsh_put
from tiered_store.servers.crsh.codec import GREETING, Operation

__all__ = ["Way", "ways"]

_LIMIT_S = 30.0
#: A request's target, given the sha256 of what is to be kept: so each content is under a key of its own.
_TARGETS: dict[str, Callable[[str], str]] = {
    "ccache": lambda name: f"/ccache/main/{name[:2]}/{name[2:40]}",
    "sccache": lambda name: f"/sccache/main/{name[0]}/{name[1]}/{name[2]}/{name}",
    "s3": lambda name: f"/s3/main/scc/{name[0]}/{name[1]}/{name[2]}/{name}",
    "bazel-cas": lambda name: f"/bazel/main/cas/{name}",
    "bazel-ac": lambda name: f"/bazel/main/ac/{name}",
    "turbo": lambda name: f"/turbo/main/v8/artifacts/{name[:16]}?slug=team",
    "nx": lambda name: f"/nx/main/v1/cache/{int(name[:15], 16)}",
    "gradle": lambda name: f"/gradle/main/cache/{name[:32]}",
}


class Way(ABC):
    """One tool's way to a daemon."""

    @abstractmethod
    def put(self, data: bytes) -> bool:
        """Have it kept; whether the daemon says that it is."""

    @abstractmethod
    def get(self, data: bytes) -> bytes | None:
        """What is under the key of this content. Anything but whole content or a clean miss fails the test."""


class _Http(Way):
    def __init__(self, socket_path: Path, target: Callable[[str], str]) -> None:
        self._path, self._target = socket_path, target

    def _ask(self, method: str, data: bytes, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("localhost", timeout=_LIMIT_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(_LIMIT_S)
        connection.sock.connect(str(self._path))
        try:
            connection.request(method, self._target(hashlib.sha256(data).hexdigest()), body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def put(self, data: bytes) -> bool:
        status, _ = self._ask("PUT", data, data)
        return status in {200, 202}

    def get(self, data: bytes) -> bytes | None:
        status, body = self._ask("GET", data)
        if status == 404:
            assert body == b""
            return None
        assert status == 200
        return body


class _Crsh(Way):
    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path

    def _ask(self, request: bytes) -> Any:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_LIMIT_S)
        sock.connect(str(self._path))
        sock.sendall(request)
        return sock

    def put(self, data: bytes) -> bool:
        with self._ask(crsh_put(data, _crsh_key(data))) as sock, sock.makefile("rb") as said:
            assert said.read(len(GREETING)) == GREETING
            return bool(said.read(1) == b"\x00")

    def get(self, data: bytes) -> bytes | None:
        with self._ask(asked(Operation.GET, _crsh_key(data))) as sock, sock.makefile("rb") as said:
            assert said.read(len(GREETING)) == GREETING
            status = said.read(1)
            if status == b"\x01":
                return None
            assert status == b"\x00"
            (size,) = struct.unpack("=Q", said.read(8))
            return bytes(said.read(size))


def _crsh_key(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:20]


class _Resp(Way):
    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path

    def _client(self) -> Any:
        return redis.Redis(unix_socket_path=str(self._path), socket_timeout=_LIMIT_S)

    def put(self, data: bytes) -> bool:
        with self._client() as client:
            try:
                return client.set(hashlib.sha256(data).hexdigest(), data) is True
            except redis.ResponseError:
                return False

    def get(self, data: bytes) -> bytes | None:
        with self._client() as client:
            found: bytes | None = client.get(hashlib.sha256(data).hexdigest())
            return found


class _Go(Way):
    """Each request is a go command of its own, on a machine that has nothing yet."""

    def __init__(self, socket_path: Path, directory: Path, deadline_s: float) -> None:
        self._directory = directory
        self._options = ["--dir", str(directory), "--socket", str(socket_path), "--verbose"]
        self._options += ["--deadline", str(deadline_s)]

    def put(self, data: bytes) -> bool:
        with GoCommand(*self._options) as go:
            go.put(hashlib.sha256(data).hexdigest(), data)
            said = go.finish()
        shutil.rmtree(self._directory)
        return "1 uploaded" in said

    def get(self, data: bytes) -> bytes | None:
        with GoCommand(*self._options) as go:
            found = go.get(hashlib.sha256(data).hexdigest())
            go.finish()
        shutil.rmtree(self._directory)
        return found


def ways(home: Path, go_deadline_s: float = 20.0) -> tuple[dict[str, Way], dict[str, Any]]:
    """All of them by name, and the settings of a daemon in this directory that has their doors.

    Args:
        home: the daemon's directory.
        go_deadline_s: how long go waits for an answer; for the others the daemon knows that itself.
    """
    web, crsh, resp = (home / f"{name}.sock" for name in ("h", "c", "r"))
    found: dict[str, Way] = {name: _Http(web, target) for name, target in _TARGETS.items()}
    found |= {"crsh": _Crsh(crsh), "resp": _Resp(resp), "go": _Go(home / "s.sock", home / "go", go_deadline_s)}
    doors: Iterable[tuple[str, Path]] = [("http", web), ("crsh", crsh), ("resp", resp)]
    config: dict[str, Any] = {name: {"socket": str(path)} for name, path in doors}
    return found, config
