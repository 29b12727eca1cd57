"""Uploads to servers that do not take what they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.support.faultproxy import Fault, FaultProxy
from tests.support.matrix import direct
from tests.support.origins import NOTHING_SAID, pattern
from tests.support.processes import MIB
from tests.support.s3 import S3Server, shared_server
from tiered_store.errors import OriginUnavailable
from tiered_store.origins.s3settings import S3Settings


@pytest.fixture
def server() -> S3Server:
    return shared_server()


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    proxy = FaultProxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def settings(server: S3Server, proxy: FaultProxy) -> S3Settings:
    waits = {"connect_timeout_s": 0.2, "read_timeout_s": 0.2}
    return replace(server.settings(part_bytes=16 * MIB, **waits), endpoint_url=proxy.url)


@pytest.mark.parametrize("ends", ["connection", "request body"])
async def test_a_server_that_stops_to_take_bytes(proxy: FaultProxy, settings: S3Settings, ends: str) -> None:
    """More than fits between it and us. The SDK's own timeouts begin when all has been sent."""
    async with direct(settings) as origin, asyncio.timeout(20):
        await origin.put("a", b"old", NOTHING_SAID)
        proxy.set(Fault(ends, "deaf"))  # type: ignore[arg-type]
        with pytest.raises(OriginUnavailable, match="in time") as caught:
            await origin.put("a", pattern(32 * MIB)[: 16 * MIB], NOTHING_SAID)
        assert caught.value.retryable
        proxy.set()
        await origin.put("b", b"new", NOTHING_SAID)
