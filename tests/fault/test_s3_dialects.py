"""Every fault between the daemon and an S3 server, behind every dialect of build tools that speaks HTTP.

A read gives what was stored or a clean miss, a write says what it did, both in time; and once the fault is gone, what
was acknowledged is there.
"""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.authorization import DIALECTS
from tests.support.daemon import Daemons, RunningDaemon
from tests.support.faultproxy import FaultProxy
from tests.support.matrix import s3_section
from tests.support.processes import until
from tests.support.s3 import shared_server
from tests.support.s3faults import FAULTS
from tests.support.servers import free_port

#: What a tool waits, in seconds, and what counts as hanging.
PATIENCE_S, HANGING_S = 1.0, 20.0
#: Writes that were not stored: each tool is told what harms its build least (docs/build-caches.md).
UNSTORED = {name: {503, 504, 507} for name in DIALECTS} | {"bazel-ac": {403}, "bazel-cas": {403}, "nx": {409}}
FLIPS = {"flipped going up", "flipped coming down"}


@dataclass
class World:
    """A daemon behind whose back a proxy plays tricks."""

    daemon: RunningDaemon
    port: int
    proxy: FaultProxy


def content(dialect: str, name: str) -> bytes:
    return f"{dialect} {name} ".encode() * 100


def path(dialect: str, name: str) -> str:
    if dialect == "bazel-cas":
        return f"/bazel/repo/cas/{hashlib.sha256(content(dialect, name)).hexdigest()}"
    return DIALECTS[dialect].at("repo", int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") >> 1)


def ask(port: int, method: str, dialect: str, name: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HANGING_S)
    try:
        connection.request(method, path(dialect, name), content(dialect, name) if method == "PUT" else None)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def ask_all(port: int, method: str, name: str) -> dict[str, tuple[int, bytes]]:
    """Each dialect at once."""
    with ThreadPoolExecutor(len(DIALECTS)) as pool:
        return dict(zip(DIALECTS, pool.map(lambda dialect: ask(port, method, dialect, name), DIALECTS), strict=True))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    settings = shared_server().settings()
    proxy, daemons = FaultProxy(int(str(settings.endpoint_url).rpartition(":")[2])), Daemons()

    def start(**more: Any) -> tuple[RunningDaemon, int]:
        port = free_port()
        config = {
            "http": {"port": port, "open": True},
            "origin": {"backend": "s3"},
            "s3": s3_section(settings, proxy.url),
            "build.instances": [{"name": "*", "anonymous": "write"}],
            **more,
        }
        return daemons.start(config), port

    try:
        before, port = start()
        for fault in FAULTS:
            assert {status for status, _ in ask_all(port, "PUT", f"cold {fault}").values()} <= {200, 202}
        client = before.client()
        client.flush()
        assert before.stop() == 0
        build = {"read_timeout_s": PATIENCE_S, "write_timeout_s": PATIENCE_S, "write_back": False}
        yield World(*start(build=build, disk={"enabled": False}), proxy)
    finally:
        daemons.close()
        proxy.close()


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_tool_gets_what_it_understands(world: World, fault: str) -> None:
    world.proxy.set(FAULTS[fault])
    try:
        read, written = ask_all(world.port, "GET", f"cold {fault}"), ask_all(world.port, "PUT", f"new {fault}")
    finally:
        world.proxy.set()
        world.proxy.end_connections()
    for dialect, answer in read.items():
        assert answer in {(200, content(dialect, f"cold {fault}")), (404, b"")}, dialect
    for dialect, (status, _) in written.items():
        assert status in {DIALECTS[dialect].stored, *UNSTORED[dialect]}, dialect
    stored = {dialect for dialect, (status, _) in written.items() if status == DIALECTS[dialect].stored}

    def is_well() -> bool:
        cold, new = ask_all(world.port, "GET", f"cold {fault}"), ask_all(world.port, "GET", f"new {fault}")
        assert all(body in {b"", content(dialect, f"cold {fault}")} for dialect, (_, body) in cold.items())
        assert all(body in {b"", content(dialect, f"new {fault}")} for dialect, (_, body) in new.items())
        have = {dialect for dialect, (status, _) in new.items() if status == 200}
        return {status for status, _ in cold.values()} == {200} and (have >= stored or fault in FLIPS)

    until(is_well, "all that was stored", limit_s=30)
