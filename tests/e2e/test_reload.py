"""SIGHUP and a real daemon: what it takes of a changed file, for open connections too, and what it leaves alone."""

from __future__ import annotations

import http.client
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.daemon import Daemons, RunningDaemon, toml_of
from tests.support.processes import until
from tests.support.servers import free_port
from tests.support.tls import certificates_in
from tests.support.tooldoors import CRSH_KEY, asked
from tiered_store.servers.credentials import hash_of
from tiered_store.servers.crsh.codec import GREETING, Operation

Settings = dict[str, Any]


@pytest.fixture
def daemons() -> Iterator[Daemons]:
    made = Daemons()
    try:
        yield made
    finally:
        made.close()


def tokens(**roles: str) -> list[Settings]:
    return [{"name": name, "hash": f"sha256:{hash_of(name)}", "role": role} for name, role in roles.items()]


def peers(*rules: Settings) -> list[Settings]:
    return [{"name": f"p{number}", **rule} for number, rule in enumerate(rules)]


def reload(daemon: RunningDaemon, settings: Settings | str, says: str = "reloaded") -> dict[str, Any]:
    """Change the file and say so; the line that the daemon writes about it."""
    before = daemon.events().count(says)
    text = settings if isinstance(settings, str) else toml_of(settings)
    (daemon.socket_path.parent / "config.toml").write_text(text)
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: daemon.events().count(says) > before, says)
    return [line for line in daemon.log() if line["event"] == says][-1]


def ask(connection: http.client.HTTPConnection, method: str, path: str, token: str = "") -> int:
    connection.request(method, path, b"x", {"Authorization": f"Bearer {token}"} if token else {})
    response = connection.getresponse()
    response.read()
    return response.status


def test_a_token_that_is_revoked_is_none_from_the_next_request_on(daemons: Daemons) -> None:
    port = free_port()
    settings: Settings = {"http": {"port": port}, "access": {"tokens": tokens(old="write", kept="read")}}
    daemon = daemons.start(settings)
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        assert ask(connection, "PUT", "/v1/objects/a", "old") == 200
        settings["access"]["tokens"] = tokens(new="write", kept="write")
        assert reload(daemon, settings)["rules"] == 2
        assert ask(connection, "GET", "/v1/objects/a", "old") == 401
        assert ask(connection, "PUT", "/v1/objects/a", "new") == 200
        assert ask(connection, "PUT", "/v1/objects/a", "kept") == 200


def test_users_of_open_sockets_are_judged_by_the_new_rules(daemons: Daemons) -> None:
    path, resp, crsh = (str(daemons.directory / name) for name in ("h", "r", "c"))
    settings: Settings = {"http": {"socket": path}, "resp": {"socket": resp}, "crsh": {"socket": crsh}}
    daemon = daemons.start(settings)
    settings["access"] = {"tokens": tokens(trusted="write")}
    connection = http.client.HTTPConnection("localhost")
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
        one.connect(path)
        connection.sock = one
        two.settimeout(30)
        two.connect(crsh)
        assert two.recv(len(GREETING), socket.MSG_WAITALL) == GREETING
        with redis.Redis(unix_socket_path=resp, single_connection_client=True) as client:
            assert client.set("k", b"v") is True
            assert ask(connection, "PUT", "/v1/objects/a") == 200
            two.sendall(asked(Operation.REMOVE, CRSH_KEY))
            assert two.recv(1) == b"\x01"  # there was nothing

            reload(daemon, {**settings, "access": {**settings["access"], "peers": peers({"role": "read"})}})
            assert client.get("k") == b"v"
            with pytest.raises(redis.ResponseError, match="may not store anything"):
                client.set("k", b"w")
            assert (ask(connection, "PUT", "/v1/objects/a"), ask(connection, "GET", "/v1/objects/a")) == (403, 200)
            two.sendall(asked(Operation.REMOVE, CRSH_KEY))
            assert two.recv(1024)[:1] == b"\x02"

            assert client.execute_command("AUTH", "trusted")
            assert client.set("k", b"w") is True
            nobody = peers({"role": "read", "uid": 4_000_000_000})
            reload(daemon, {**settings, "access": {"peers": nobody}})
            with pytest.raises(redis.AuthenticationError):
                client.get("k")
            assert ask(connection, "GET", "/v1/objects/a") == 401
            two.sendall(asked(Operation.GET, CRSH_KEY))
            assert two.recv(1) == b"\x01"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[access]\ntokens = 1\n", "access.tokens: is an array of tables"),
        ("[server]\nsoket = '/x'\n", "server.soket: unknown setting"),
        ("[access\n", "config.toml"),
    ],
)
def test_a_file_with_a_fault_changes_nothing(daemons: Daemons, text: str, fault: str) -> None:
    port = free_port()
    daemon = daemons.start({"http": {"port": port}, "access": {"tokens": tokens(old="write")}})
    (daemon.socket_path.parent / "config.toml").write_text(text)
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: any(event.startswith("not reloaded") and fault in event for event in daemon.events()), fault)
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        assert ask(connection, "PUT", "/v1/objects/a", "old") == 200
    reload(daemon, {"http": {"port": port}, "access": {"tokens": tokens(new="write")}})
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        assert ask(connection, "PUT", "/v1/objects/a", "old") == 401
    assert daemon.stop() == 0


def test_a_certificate_is_renewed_for_those_who_connect_from_then_on(daemons: Daemons, tmp_path: Path) -> None:
    old, new, port = certificates_in(tmp_path / "old"), certificates_in(tmp_path / "new"), free_port()
    files = {"tls_certificate": str(old.certificate), "tls_key": str(old.key)}
    settings: Settings = {"http": {"port": port, **files}, "access": {"tokens": tokens(t="write")}}
    daemon = daemons.start(settings)

    def connected(authority: Path) -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(authority))
        return http.client.HTTPSConnection("localhost", port, context=context, timeout=30)

    with closing(connected(old.authority)) as before:
        assert ask(before, "PUT", "/v1/objects/a", "t") == 200
        old.certificate.write_bytes(new.certificate.read_bytes())
        daemon.process.send_signal(signal.SIGHUP)  # between the two files of a renewal
        until(lambda: any("is not the key of" in event for event in daemon.events()), "a refusal")
        with closing(connected(old.authority)) as still:
            assert ask(still, "GET", "/v1/objects/a", "t") == 200
        old.key.write_bytes(new.key.read_bytes())
        assert reload(daemon, settings)["certificate"] is True
        assert ask(before, "GET", "/v1/objects/a", "t") == 200
    with closing(connected(new.authority)) as after:
        assert ask(after, "GET", "/v1/objects/a", "t") == 200
    with closing(connected(old.authority)) as refused, pytest.raises(ssl.SSLCertVerificationError):
        refused.connect()


def test_other_settings_wait_for_a_restart_and_are_named(daemon_factory: Callable[..., RunningDaemon]) -> None:
    daemon = daemon_factory({"memory": {"max_bytes": 10_000_000}})
    changed: Settings = {"memory": {"max_bytes": 20_000_000}, "policies": [{"prefix": "a/", "ttl_s": 1}]}
    said = reload(daemon, changed, "changed settings that wait for a restart")
    assert said["settings"] == "memory.max_bytes, policies"
    assert daemon.client().stats()["memory"]["max_bytes"] == 10_000_000
