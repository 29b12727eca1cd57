"""Connections that are not secret yet: they count, they end, and they leave room when they do."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest

from tests.support.doors import eventually
from tests.support.http import ServedHttp, served_http
from tests.support.tls import Certificates, certificates_in
from tiered_store.config.tls import server_context
from tiered_store.servers.http.api import api_mounts
from tiered_store.servers.http.limits import HttpLimits

API = api_mounts(dict)
HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates_in(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(files: Certificates) -> ssl.SSLContext:
    return server_context(files.certificate, files.key)


async def silent(it: ServedHttp) -> Streams:
    """A peer that has connected and says nothing; the door has noticed."""
    expected = len(it.door._expected) + it.door.stats.refused
    streams = await asyncio.open_unix_connection(it.path)
    await eventually(lambda: len(it.door._expected) + it.door.stats.refused > expected)
    return streams


async def health(it: ServedHttp, authority: Path) -> bytes:
    context = ssl.create_default_context(cafile=authority)
    reader, writer = await asyncio.open_unix_connection(it.path, ssl=context, server_hostname="localhost")
    try:
        writer.write(HEALTH)
        return await reader.read()
    finally:
        writer.close()


async def test_they_count(tls: ssl.SSLContext, files: Certificates) -> None:
    async with served_http(*API, tls=tls, limits=HttpLimits(max_connections=2)) as it:
        _, first = await silent(it)
        _, second = await silent(it)
        one_too_many, writer = await silent(it)
        assert await one_too_many.read() == b""
        assert (it.door.connections, it.door.stats.refused) == (0, 1)
        first.close()
        await eventually(lambda: len(it.door._expected) == 1)
        assert (await health(it, files.authority)).startswith(b"HTTP/1.1 200")
        for each in (second, writer):
            each.close()


async def test_a_connection_counts_once(tls: ssl.SSLContext, files: Certificates) -> None:
    async with served_http(*API, tls=tls, limits=HttpLimits(max_connections=1)) as it:
        for _ in range(3):
            assert (await health(it, files.authority)).startswith(b"HTTP/1.1 200")
            await eventually(lambda: not it.door.connections)
        assert not it.door._expected
        assert it.door.stats.refused == 0


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\x00" * 64])
async def test_what_is_no_tls_leaves_room(tls: ssl.SSLContext, files: Certificates, said: bytes) -> None:
    async with served_http(*API, tls=tls, limits=HttpLimits(max_connections=1)) as it:
        reader, writer = await silent(it)
        writer.write(said)
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in await reader.read()
        writer.close()
        await eventually(lambda: not it.door._expected)
        assert (await health(it, files.authority)).startswith(b"HTTP/1.1 200")


async def test_who_takes_too_long_leaves_room(tls: ssl.SSLContext, files: Certificates) -> None:
    limits = HttpLimits(max_connections=1, header_timeout_s=0.2)
    async with served_http(*API, tls=tls, limits=limits) as it:
        reader, writer = await silent(it)
        assert await reader.read() == b""
        await eventually(lambda: not it.door._expected)
        writer.close()


async def test_a_stop_waits_for_none(tls: ssl.SSLContext) -> None:
    async with served_http(*API, tls=tls) as it:
        reader, writer = await silent(it)
        assert await it.door.drain(20) is True
        assert await reader.read() == b""
        assert not it.door._expected
        writer.close()
