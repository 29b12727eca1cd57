"""The HTTP door as a whole: its stop, its log, and what nobody foresaw."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.support.doors import eventually
from tests.support.http import served_http
from tests.support.tls import certificates_in
from tiered_store.servers.access import AccessSettings, PeerRule, Rule, TokenRule
from tiered_store.servers.credentials import hash_of
from tiered_store.servers.http.api import api_mounts
from tiered_store.servers.http.exchange import Exchange, Mount, Mounts
from tiered_store.servers.http.limits import HttpLimits
from tiered_store.servers.http.problems import Refusal
from tiered_store.servers.http.target import parse_target
from tiered_store.store.reading import PIECE_BYTES

API = api_mounts(dict)
GET = b"GET /v1/objects/k HTTP/1.1\r\nHost: h\r\n\r\n"
LARGE = bytes(range(256)) * 4000


async def test_a_stop_lets_requests_finish_and_closes_the_others() -> None:
    async with served_http(*API) as it:
        await it.rig.there("k", b"there")
        gate = it.rig.origin.hold("open")
        idle_reader, idle = await asyncio.open_unix_connection(it.path)
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(GET)
        await gate.reached.wait()
        stop = asyncio.create_task(it.door.drain(20))
        assert await idle_reader.read() == b""
        gate.open()
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"Connection: close\r\n" in answer
        assert answer.endswith(b"there")
        assert await stop is True
        for one in (idle, writer):
            one.close()


async def test_a_stop_cuts_off_what_does_not_finish() -> None:
    async with served_http(*API) as it:
        await it.rig.there("k", LARGE)
        gate = it.rig.origin.hold("open")
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(GET)
        await gate.reached.wait()
        assert await it.door.drain(0.01) is False
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert it.door.connections == 0


async def test_a_fault_of_ours_is_an_answer_and_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(exchange: Exchange) -> None:
        raise KeyError("secret")

    async with served_http(Mount("broken", broken)) as it:  # type: ignore[arg-type]
        answer = await it.ask("GET", "/broken")
        assert (answer.status, json.loads(answer.body)["code"]) == (500, "StoreError")
        assert b"secret" not in answer.body
        assert "request failed" in caplog.text


async def test_a_fault_in_the_middle_of_an_answer_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(exchange: Exchange) -> None:
        exchange.begin(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n")
        await exchange.write(b"half")
        raise KeyError

    async with served_http(Mount("broken", broken)) as it:  # type: ignore[arg-type]
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(b"GET /broken HTTP/1.1\r\nHost: h\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert (await reader.read()).count(b"HTTP/1.1") <= 1
        writer.close()
        await eventually(lambda: not it.door.connections)
        assert "request failed" in caplog.text


async def test_a_slow_request_leaves_a_line(caplog: pytest.LogCaptureFixture) -> None:
    async with served_http(*API, limits=HttpLimits(slow_request_s=0.0)) as it:
        with caplog.at_level(logging.WARNING):
            await it.ask("GET", "/v1/objects/none?token=secret")
        assert "slow request" in caplog.text


def test_mounts() -> None:
    one, two, odd = Mount("a", None), Mount("a/b", None), Mount("n", None, joins_slashes=True)  # type: ignore[arg-type]
    mounts = Mounts(one, two, odd)
    found = {raw: mounts.find(parse_target(raw)) for raw in ("/a", "/a/", "/a/c/d", "/a/b", "/a/b/c/", "//n//x", "/n")}
    assert found == {
        "/a": (one, ""),
        "/a/": (one, ""),
        "/a/c/d": (one, "c/d"),
        "/a/b": (two, ""),
        "/a/b/c/": (two, "c/"),
        "//n//x": (odd, "x"),
        "/n": (odd, ""),
    }
    with pytest.raises(ValueError, match="two mounts"):
        Mounts(one, one)


def test_an_escaped_slash_is_one_in_a_key_and_nowhere_else() -> None:
    key, other = Mount("v1/objects", None, ends_in_key=True), Mount("nx", None, joins_slashes=True)  # type: ignore[arg-type]
    mounts = Mounts(key, other)
    assert mounts.find(parse_target("/v1/objects/a%2Fb/c")) == (key, "a/b/c")
    for raw in ("/v1%2fobjects/a", "/v1/objects%2Fa", "/v1%2Fobjects%2Fa", "/nx/i%2Fa", "/nx%2Fi/a", "//nx//i%2fa"):
        with pytest.raises(Refusal) as caught:
            mounts.find(parse_target(raw))
        assert (caught.value.status, caught.value.code) == (404, "NoSuchPath"), raw


async def test_refusals_for_want_of_a_right_are_counted_by_who_asked() -> None:
    rules = [TokenRule(Rule(name, "read", prefixes=("a/",)), hash_of(name)) for name in ("one", "two")]
    access = AccessSettings(tokens=rules, peers=[PeerRule(Rule("me", "read", prefixes=()))])
    async with served_http(*API, access=access) as it:
        for token, key in (("one", "a/x"), ("one", "b"), ("two", "b"), ("one", "c"), ("unknown", "b")):
            assert (await it.ask("GET", f"/v1/objects/{key}", Authorization=f"Bearer {token}")).status in {403, 404}
        assert it.door.counters()["forbidden"] == {"token one": 2, "token two": 1, "peer me": 1}


@pytest.mark.parametrize("is_secret", [True, False])
async def test_what_tls_would_copy_goes_to_it_in_small_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_secret: bool
) -> None:
    files = certificates_in(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(files.certificate, files.key)
    trusting: dict[str, Any] = {"ssl": ssl.create_default_context(cafile=files.authority)} if is_secret else {}
    sizes: list[int] = []
    write = Exchange._write
    monkeypatch.setattr(Exchange, "_write", lambda it, data: (sizes.append(len(data)), write(it, data))[1])
    body = bytes(range(256)) * 3000
    async with served_http(*API, tls=tls if is_secret else None) as it:
        reader, writer = await asyncio.open_unix_connection(
            it.path, **trusting, **({"server_hostname": "localhost"} if is_secret else {})
        )
        writer.write(b"PUT /v1/objects/k HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.write(b"GET /v1/objects/k HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(body)
        assert max(sizes) == (PIECE_BYTES if is_secret else len(body))  # which is in memory: one view of all of it
        writer.close()
        await writer.wait_closed()
