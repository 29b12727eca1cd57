"""Many requests at once: one asynchronous client with a hundred in flight, and a stampede on one key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.children import memfd_bytes, rss_bytes
from benchmarks.data import KIB, MIB, payload, size_text
from benchmarks.field import Field, Placement, Turn, Values
from benchmarks.peers import REDIS
from benchmarks.samples import percentile, summary
from benchmarks.table import OURS, Check, Row, at_least, at_most, ratio
from tiered_store import AsyncClient

__all__ = ["in_flight", "stampede"]

_KEY = "cache/bench/flight"
_IN_FLIGHT = 100
REDIS_ASYNCIO = "redis.asyncio"

_READERS, _CONNECTIONS = 10_000, 100
_STAMPEDE_BYTES = 8 * MIB


def in_flight(field: Field) -> list[Row]:
    """One asynchronous client, 100 gets of 1 KiB at the same time; both on asyncio's own loop."""
    field.store(_KEY, payload(KIB))
    batches = field.scale.count(20)
    redis_path = field.peers[REDIS].child.socket_path if REDIS in field.peers else None
    turns: dict[str, Turn | None] = {
        OURS: lambda: asyncio.run(_ours_in_flight(field.memory.socket_path, batches)),
        REDIS_ASYNCIO: (lambda: asyncio.run(_redis_in_flight(redis_path, batches))) if redis_path else None,
    }

    def targets(values: Values) -> list[Check]:
        return [at_most(f"x {REDIS_ASYNCIO}", ratio(values, REDIS_ASYNCIO), 0.7)]

    with field.memory.answering_from("memory"):
        title = f"AsyncClient, {_IN_FLIGHT} gets of 1 KiB in flight, per get"
        return field.compare(title, turns, decides=Placement.SCHEDULER, targets=targets, per=_IN_FLIGHT)


async def _ours_in_flight(path: Path, batches: int) -> float:
    async with AsyncClient(socket_path=str(path)) as client:
        return await _batches(client.get, batches)


async def _redis_in_flight(path: Path, batches: int) -> float:
    import redis.asyncio

    client: Any = redis.asyncio.Redis(unix_socket_path=str(path), max_connections=_IN_FLIGHT)
    try:
        return await _batches(client.get, batches)
    finally:
        await client.aclose()


async def _batches(get: Callable[[str], Any], batches: int) -> float:
    """The median time of a batch."""
    times = []
    for number in range(batches + 1):
        start = time.perf_counter()
        await asyncio.gather(*(get(_KEY) for _ in range(_IN_FLIGHT)))
        if number:  # the first one connects
            times.append(time.perf_counter() - start)
    return percentile(times, 0.5)


def stampede(field: Field) -> list[Row]:
    """10,000 readers of one object that only the origin has, from 100 connections."""
    data = payload(_STAMPEDE_BYTES)
    # The file is there before the daemon has ever heard of it.
    (field.directory / "stampede/data/origin/cache").mkdir(parents=True)
    (field.directory / "stampede/data/origin/cache/cold").write_bytes(data)
    with field.running("stampede", None) as daemon:
        before, rss = daemon.stats(), rss_bytes(daemon.child.pid)
        spent, peak = asyncio.run(_stampede(daemon.socket_path, daemon.child.pid, data))
        after, memfds = daemon.stats(), memfd_bytes(daemon.child.pid) / MIB
    reads = after["origin"]["hits"] - before["origin"]["hits"]
    read = after["origin"]["bytes_read"] - before["origin"]["bytes_read"]
    growth = (peak - rss) / MIB
    checks = [
        at_most("origin reads", reads, 1),
        at_least("origin reads", reads, 1),
        at_most("x the object read from the origin", read / len(data), 1.0),
        at_most("MiB of daemon RSS growth", growth, 64),
    ]
    notes = [
        f"{after['fills']} fill, {after['coalesced']:,} readers joined it",
        f"memfds {memfds:.0f} MiB",
    ]
    title = f"{_READERS:,} readers of one cold {size_text(_STAMPEDE_BYTES)} object, {_CONNECTIONS} connections"
    return [Row(title, Placement.SCHEDULER.value, "s", {OURS: summary([spent])}, checks, notes)]


async def _stampede(path: Path, pid: int, data: bytes) -> tuple[float, int]:
    """Let all readers go at once; returns the seconds until the last is served, and the daemon's peak RSS."""
    clients = [AsyncClient(socket_path=str(path), timeout_s=120.0) for _ in range(_CONNECTIONS)]
    go = asyncio.Event()

    async def reader(client: AsyncClient) -> None:
        await go.wait()
        with await client.get_view("cache/cold") as view:
            if len(view) != len(data) or view[:64] != data[:64] or view[-64:] != data[-64:]:
                raise ValueError("a reader got other bytes than the origin has")

    async def watch() -> int:
        peak = 0
        while not done.is_set():
            peak = max(peak, rss_bytes(pid))
            await asyncio.sleep(0.01)
        return peak

    done = asyncio.Event()
    for client in clients:
        await client.ping()
    watcher = asyncio.create_task(watch())
    readers = [asyncio.create_task(reader(clients[number % _CONNECTIONS])) for number in range(_READERS)]
    start = time.perf_counter()
    go.set()
    try:
        await asyncio.gather(*readers)
        spent = time.perf_counter() - start
    finally:
        done.set()
        peak = await watcher
        for client in clients:
            await client.close()
    return spent, peak
