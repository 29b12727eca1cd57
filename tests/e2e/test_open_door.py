"""Whom a real daemon lets in without a token, and connections that are secret."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.authorization import DIALECTS
from tests.support.daemon import Daemons, RunningDaemon
from tests.support.servers import free_port
from tests.support.tls import certificates_in
from tiered_store.servers.credentials import hash_of

NX = DIALECTS["nx"]
ORIGIN = "https://ours.example"


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def daemon(port: int) -> Iterator[RunningDaemon]:
    config = {
        "http": {"port": port, "open": True, "anonymous": "write", "cors_origins": [ORIGIN]},
        "build": {
            "instances": [
                {"name": "shared", "anonymous": "write"},
                {"name": "closed", "anonymous": "none"},
            ]
        },
        "access": {
            "tokens": [{"name": "reader", "hash": f"sha256:{hash_of('t')}", "prefixes": [], "instances": ["x"]}]
        },
        "origin": {"backend": "memory"},
    }
    daemons = Daemons()
    try:
        yield daemons.start(config=config)
    finally:
        daemons.close()


def ask(port: int, method: str, target: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, target, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_programs_of_this_machine_need_no_token(daemon: RunningDaemon, port: int) -> None:
    assert ask(port, "PUT", "/v1/objects/a", b"x")[0] == 200
    assert ask(port, "GET", "/v1/objects/a") == (200, b"x")
    assert ask(port, "GET", "/v1/objects/a", Authorization="Bearer anything") == (200, b"x")
    assert ask(port, "DELETE", "/v1/objects/a")[0] == 204
    assert ask(port, "GET", "/v1/stats")[0] == 401
    for method in ("GET", "HEAD", "DELETE"):
        assert ask(port, method, "/v1/objects?prefix=a")[0] == 401
    key = daemon.client().put_artifact(b"of everybody")
    assert ask(port, "GET", f"/v1/objects/{key}") == (200, b"of everybody")
    assert ask(port, "DELETE", f"/v1/objects/{key}")[0] == 401
    assert ask(port, "PUT", f"/v1/objects/build{NX.at('repo', 1)}", b"x")[0] == 401


@pytest.mark.parametrize(("said", "reads"), [({}, 200), ({"anonymous": "none"}, 401)])
def test_programs_of_this_machine_change_nothing_unless_it_is_said(
    daemon_factory: Callable[..., RunningDaemon], said: dict[str, str], reads: int
) -> None:
    port = free_port()
    client = daemon_factory(config={"http": {"port": port, "open": True, **said}}).client()
    client.put("ci/default/x/k", b"restored")
    key = client.put_artifact(b"of everybody")
    for name in ("ci/default/x/k", key):
        assert [ask(port, method, f"/v1/objects/{name}", b"x")[0] for method in ("PUT", "DELETE", "GET")] == [
            401,
            401,
            reads,
        ]
    copy = b'{"source": "ci/default/x/k", "target": "ci/default/x/l"}'
    assert ask(port, "POST", "/v1/copy", copy)[0] == 401
    assert ask(port, "PUT", "/v1/artifacts", b"x")[0] == 401
    assert ask(port, "GET", "/v1/objects?prefix=ci/")[0] == 401
    assert client.get("ci/default/x/k") == b"restored"
    assert client.exists(key)


def test_a_token_may_less_where_it_says_so(daemon: RunningDaemon, port: int) -> None:
    assert ask(port, "GET", "/v1/objects/a", Authorization="Bearer t")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example"},
        {"Host": "rebound.example:80"},
        {"Host": "127.0.0.1.rebound.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
    ],
)
def test_pages_are_not_let_in(daemon: RunningDaemon, port: int, headers: dict[str, str]) -> None:
    assert ask(port, "PUT", "/v1/objects/page", b"x", **headers)[0] == 401
    assert ask(port, "POST", "/v1/copy", b'{"source": "a", "target": "b"}', **headers)[0] == 401
    daemon.client().put("a", b"x")
    assert ask(port, "GET", "/v1/objects/a", **headers)[0] == 401


def test_pages_that_are_named_are_let_in(daemon: RunningDaemon, port: int) -> None:
    assert ask(port, "PUT", "/v1/objects/page", b"x", Origin=ORIGIN)[0] == 200


def test_build_caches_are_read_and_not_written_unless_an_instance_says_otherwise(
    daemon: RunningDaemon, port: int
) -> None:
    written = {name: ask(port, "PUT", NX.at(name, 1), b"x")[0] for name in ("repo", "shared", "closed")}
    assert written == {"repo": 403, "shared": 200, "closed": 403}
    client = daemon.client()
    entry = client.get("build/nx/shared/1")
    for name in ("repo", "closed"):
        client.put(f"build/nx/{name}/1", entry)
    read = {name: ask(port, "GET", NX.at(name, 1)) for name in ("repo", "shared", "closed")}
    assert read == {"repo": (200, b"x"), "shared": (200, b"x"), "closed": (404, b"")}


def test_users_on_a_unix_socket(daemon_factory: Callable[..., RunningDaemon], tmp_path: Path) -> None:
    directory = daemon_factory().socket_path.parent  # short enough for a socket's path
    path = directory / "h.sock"
    daemon_factory(
        config={
            "http": {"socket": str(path)},
            "access": {"peers": [{"name": "me", "prefixes": ["mine/"], "role": "write", "instances": []}]},
            "origin": {"backend": "memory"},
        }
    )
    connection = http.client.HTTPConnection("localhost")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        connection.sock = sock
        statuses = []
        for key in ("mine/a", "others/a"):
            connection.request("PUT", f"/v1/objects/{key}", b"x")
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
    assert statuses == [200, 403]


def test_secret_connections(daemon_factory: Callable[..., RunningDaemon], tmp_path: Path) -> None:
    files, port = certificates_in(tmp_path / "tls"), free_port()
    settings = {
        "port": port,
        "open": True,
        "anonymous": "write",
        "tls_certificate": str(files.certificate),
        "tls_key": str(files.key),
    }
    daemon_factory(config={"http": settings, "origin": {"backend": "memory"}})
    trusting = ssl.create_default_context(cafile=str(files.authority))
    body = bytes(range(256)) * 8192
    connection = http.client.HTTPSConnection("localhost", port, context=trusting, timeout=30)
    connection.request("PUT", "/v1/objects/a", body)
    response = connection.getresponse()
    assert (response.status, response.read() != b"") == (200, True)
    connection.request("GET", "/v1/objects/a")
    assert connection.getresponse().read() == body
    connection.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        http.client.HTTPSConnection("localhost", port, context=ssl.create_default_context(), timeout=30).connect()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
        plain.sendall(b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" not in plain.recv(4096)


def test_a_peer_that_never_agrees_on_secrets_is_left(
    daemon_factory: Callable[..., RunningDaemon], tmp_path: Path
) -> None:
    files, port = certificates_in(tmp_path / "tls"), free_port()
    settings = {"tls_certificate": str(files.certificate), "tls_key": str(files.key), "header_timeout_s": 0.5}
    daemon_factory(config={"http": {"port": port, "open": True, **settings}, "origin": {"backend": "memory"}})
    with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
        assert silent.recv(1) == b""
