"""Ten thousand readers of one cold object: one read of the origin, and no memory to speak of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from tests.support.clients import some_bytes
from tests.support.daemon import RunningDaemon
from tests.support.processes import MIB, high_water_bytes, reset_high_water
from tiered_store import AsyncClient

SIZE = 8 * MIB
CONNECTIONS = 100
READERS = 10_000


@pytest.mark.slow
async def test_ten_thousand_readers_of_one_cold_object(daemon_factory: Callable[..., RunningDaemon]) -> None:
    daemon = daemon_factory(measured=False)
    data = some_bytes(SIZE)
    (daemon.data_dir / "origin" / "cache").mkdir()
    (daemon.data_dir / "origin" / "cache" / "x").write_bytes(data)
    clients = [AsyncClient(daemon.socket_path, timeout_s=60) for _ in range(CONNECTIONS)]
    await asyncio.gather(*(client.ping() for client in clients))
    before = reset_high_water(daemon.process.pid)

    async def read(client: AsyncClient) -> bytes:
        with await client.get_view("cache/x") as view:
            return bytes(view[:1]) + bytes(view[-1:]) + view.nbytes.to_bytes(4, "little")

    started = time.monotonic()
    answers = await asyncio.gather(*(read(clients[number % CONNECTIONS]) for number in range(READERS)))
    took = time.monotonic() - started
    grown = high_water_bytes(daemon.process.pid) - before
    stats = await clients[0].stats()
    for client in clients:
        await client.close()
    assert set(answers) == {data[:1] + data[-1:] + SIZE.to_bytes(4, "little")}
    assert len(answers) == READERS
    assert stats["origin"]["hits"] == 1
    assert stats["fills"] == 1
    assert stats["origin"]["bytes_read"] == SIZE
    assert grown < 64 * MIB
    assert took < 60
