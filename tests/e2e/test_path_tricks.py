"""Paths that are meant to lead elsewhere, through every route of a real daemon on a real directory.

Callers that are held to one prefix and one instance try to get at what is beside it. Whatever the answer is, it has
nothing of that in it, and nothing appears where the caller may not write.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.authorization import CONTENT, DIALECTS
from tests.support.daemon import Daemons, RunningDaemon
from tests.support.servers import free_port
from tiered_store.servers.credentials import hash_of

#: Ways to write "..", some of which some decoder somewhere takes for it.
UPS = ["..", "%2e%2e", "%252e%252e", "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae", "..%00", "%ef%bc%8e%ef%bc%8e"]
#: And "/".
SLASHES = ["/", "%2f", "//", "\\", "%252f", "%c0%af"]
RULES = {
    "held": {"role": "write", "can_list": True, "prefixes": ["ci/"], "instances": ["repo"]},
    "pr": {"role": "write", "can_list": True, "prefixes": ["pr/"], "instances": ["repo"], "quarantine": True},
    "root": {"role": "admin"},
}
MAY_WRITE = {"held": ("ci/", "sha256:"), "pr": ("pr/", "sha256:", "quarantine/pr/")}


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def daemon(port: int) -> Iterator[RunningDaemon]:
    """Holds the secret as an object, and as an entry of each build cache of another instance."""
    tokens = [{"name": name, "hash": f"sha256:{hash_of(name)}", **rule} for name, rule in RULES.items()]
    daemons = Daemons()
    try:
        started = daemons.start(config={"http": {"port": port}, "access": {"tokens": tokens}})
        started.client().put("secret/a", CONTENT)
        for dialect in DIALECTS.values():
            assert status(send(port, "PUT", dialect.at("other", 1), CONTENT, token="root")) == dialect.stored
        yield started
    finally:
        daemons.close()


def send(port: int, method: str, target: str, body: bytes = b"", *, token: str) -> bytes:
    """The whole answer to a request, whose target goes out as it stands."""
    head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(head.encode() + body)
        while data := sock.recv(65536):
            found += data
    return found


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def ways(below: str, to: str) -> list[str]:
    """Targets that could lead from a place to another that is beside it or above it."""
    depth = below.strip("/").count("/")
    ups = [(slash.join([up] * times), slash) for up in UPS for slash in SLASHES for times in {1, depth}]
    found = [f"{below}{up}{slash}{to}" for up, slash in ups]
    found += [f"{below}{to}", f"{below}/{to}", f"{below}%2f{to}", f"{below}%00{to}", f"{below}?/{to}", f"{below};/{to}"]
    return [*found, *(f"http://127.0.0.1{target}" for target in found[:4]), f"http://x@y{below}{to}"]


def places(name: str) -> list[tuple[str, str]]:
    """Where a caller may be, and where it may not."""
    prefix = RULES[name].get("prefixes", [""])[0]
    objects = [(f"/v1/objects/{prefix}", "secret/a"), (f"/v1/objects/{prefix}x/", "secret/a")]
    caches = [
        (path.at("repo", 1).partition("?")[0].rpartition("/")[0] + "/", path.at("other", 1).partition("?")[0][1:])
        for path in DIALECTS.values()
    ]
    # From the instance's root to the other's, too.
    roots = [("/" + to.split("/")[0] + "/repo/", to.partition("/")[2]) for _, to in caches]
    return [*objects, *caches, *roots]


@pytest.mark.parametrize("name", MAY_WRITE)
def test_nothing_is_read_that_is_beside(daemon: RunningDaemon, port: int, name: str) -> None:
    for below, to in places(name):
        for target in ways(below, to):
            answer = send(port, "GET", target, token=name)
            assert CONTENT not in answer, target
            assert status(answer) in {400, 401, 403, 404, 414}, target


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MAY_WRITE)
def test_nothing_is_written_beside(daemon: RunningDaemon, port: int, name: str) -> None:
    client = daemon.client()
    before = {info.key: info.etag for info in client.list()}
    outside = set(daemon.data_dir.parent.iterdir())
    for below, to in places(name):
        for number, target in enumerate(ways(below, to)):
            send(port, "DELETE" if number % 7 == 0 else "PUT", target, b"planted", token=name)
    after = {info.key: info.etag for info in client.list()}
    new = {key for key in after if key not in before}
    strays = [key for key in new if not key.startswith(MAY_WRITE[name])]
    if name == "held":
        strays = [key for key in strays if not (key.startswith("build/") and key.split("/")[2] == "repo")]
    assert strays == []
    assert {key: after.get(key) for key in before} == before
    assert client.get("secret/a") == CONTENT
    assert set(daemon.data_dir.parent.iterdir()) == outside


@pytest.mark.parametrize(
    "prefix", ["", "c", "ci", "secret/", "ci/../", "ci%2f..%2f", "build/", "quarantine/", "sha256:"]
)
def test_listings_stay_below_the_prefix(daemon: RunningDaemon, port: int, prefix: str) -> None:
    for method in ("GET", "DELETE"):
        answer = send(port, method, f"/v1/objects?prefix={prefix}", token="held")
        assert status(answer) in {400, 403}
        assert b"secret" not in answer
    assert daemon.client().exists("secret/a")


def test_two_credentials_are_none(daemon: RunningDaemon, port: int) -> None:
    request = b"GET /v1/objects/secret/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer held\r\n"
    request += b"Authorization: Bearer root\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(request)
        answer = sock.recv(65536)
    assert status(answer) in {400, 401}


@pytest.mark.parametrize(
    "field",
    [
        "X-HTTP-Method-Override: PUT",
        "X-Original-URL: /v1/health",
        "X-Rewrite-URL: /v1/health",
        "X-Forwarded-For: 127.0.0.1",
        "Forwarded: for=127.0.0.1",
    ],
)
def test_fields_that_other_servers_believe(daemon: RunningDaemon, port: int, field: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(f"GET /v1/objects/secret/a HTTP/1.1\r\nHost: x\r\n{field}\r\nConnection: close\r\n\r\n".encode())
        answer = sock.recv(65536)
    assert status(answer) == 401
