"""8 and 64 clients at once, each reading 1 KiB again as soon as it has it: what a server makes of a crowd.

Two kinds of crowd. In the first, two processes hold the connections, an asynchronous client each, so that the server is
what is measured: this one has the targets. In the second, every client is a process of its own with a synchronous
client, as on a machine that builds: there, the system's scheduler decides most of it, for every server alike.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from array import array
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.data import KIB, payload
from benchmarks.field import Field, Placement
from benchmarks.peers import REDIS
from benchmarks.samples import Summary, percentile, summary
from benchmarks.table import OURS, Row, at_least, at_most
from tiered_store import AsyncClient, Client

__all__ = ["many_clients"]

_KEY = "cache/bench/crowd"
_CROWD, _FEW = 64, 8
_PROCESSES = 2

#: Called when all clients of a process are connected; returns when to begin and when to end, on the machine's clock.
Signal = Callable[[], tuple[float, float]]
#: What a member process does: so many clients on the socket at this path; returns how long each get took.
Drive = Callable[[Path, int, Signal], "array[float]"]


@dataclass(frozen=True, slots=True)
class Load:
    """What a crowd saw in one round: gets per second, and percentiles of their times in microseconds."""

    rate: float
    p50: float
    p99: float


def many_clients(field: Field) -> list[Row]:
    """Both crowds, small and large, ours and Redis."""
    field.store(_KEY, payload(KIB))
    rows = _crowds(field, f"connections from {_PROCESSES} processes", _PROCESSES, _asynchronous_drives(), decides=True)
    return rows + _crowds(field, "processes", None, _synchronous_drives(), decides=False)


def _crowds(field: Field, kind: str, processes: int | None, drives: Mapping[str, Drive], *, decides: bool) -> list[Row]:
    """A small and a large crowd of one kind. ``processes`` None is one for each client."""
    paths = {OURS: field.memory.socket_path}
    if REDIS in field.peers:
        paths[REDIS] = field.peers[REDIS].child.socket_path
    found: dict[tuple[str, int], list[Load]] = {(name, clients): [] for name in paths for clients in (_FEW, _CROWD)}
    with field.memory.answering_from("memory"):
        for _ in range(field.scale.rounds):
            for (name, clients), loads in found.items():
                members = processes or clients
                loads.append(_crowd(drives[name], paths[name], members, clients // members, field.scale.seconds))
    middle = {key: _middle(loads) for key, loads in found.items()}
    rows = []
    for clients in (_FEW, _CROWD):
        values: dict[str, Summary | None] = {OURS: None, REDIS: None}
        values |= {name: summary([load.rate for load in found[name, clients]]) for name in paths}
        notes = [f"{name}: {_described(middle[name, clients], middle[name, _FEW])}" for name in paths]
        few, crowd = middle[OURS, _FEW], middle[OURS, clients]
        checks = [at_least(f"of the total with {_FEW}", crowd.rate / few.rate, 0.9)]
        checks.append(at_most("p99 / median", crowd.p99 / crowd.p50, 20))
        title = f"{clients} clients at once ({kind}), get 1 KiB"
        wanted = checks if decides and clients == _CROWD else []
        rows.append(Row(title, Placement.SCHEDULER.value, "gets/s", values, wanted, notes))
    return rows


def _described(load: Load, few: Load) -> str:
    times = f"p50 {load.p50:,.0f} us, p99 {load.p99:,.0f} us"
    return times if load is few else f"{times}, {load.rate / few.rate:.2f} of the total with {_FEW}"


def _middle(loads: list[Load]) -> Load:
    """Each figure's median over the rounds."""
    return Load(*(summary([getattr(load, name) for load in loads]).median for name in ("rate", "p50", "p99")))


def _crowd(drive: Drive, path: Path, members: int, clients: int, seconds: float) -> Load:
    """Fork the members, let all begin at one moment of the machine's clock, gather how long each get took."""
    context = multiprocessing.get_context("fork")
    processes, mine = [], []
    for _ in range(members):
        end, theirs = context.Pipe()
        processes.append(context.Process(target=_member, args=(theirs, drive, path, clients), daemon=True))
        processes[-1].start()
        theirs.close()  # so that the end of a member that fails is noticed below
        mine.append(end)
    for end in mine:
        end.recv()  # connected
    begin = time.monotonic() + 0.1
    for end in mine:
        end.send((begin, begin + seconds))
    times = array("d")
    for end in mine:
        times.frombytes(end.recv_bytes())
    for process, end in zip(processes, mine, strict=True):
        process.join()
        end.close()
    return Load(len(times) / seconds, percentile(times, 0.5) * 1e6, percentile(times, 0.99) * 1e6)


def _member(parent: Connection, drive: Drive, path: Path, clients: int) -> None:
    def signal() -> tuple[float, float]:
        parent.send("connected")
        begin, end = parent.recv()
        time.sleep(max(0.0, begin - time.monotonic()))
        return begin, end

    parent.send_bytes(drive(path, clients, signal).tobytes())


def _synchronous_drives() -> dict[str, Drive]:
    def ours(path: Path) -> Callable[[], object]:
        return partial(Client(socket_path=path).get, _KEY)

    def theirs(path: Path) -> Callable[[], object]:
        import redis

        client: Any = redis.Redis(unix_socket_path=str(path))
        return partial(client.get, _KEY)

    return {OURS: partial(_synchronous, ours), REDIS: partial(_synchronous, theirs)}


def _synchronous(
    connect: Callable[[Path], Callable[[], object]], path: Path, _clients: int, signal: Signal
) -> array[float]:
    """One client in this process."""
    get = connect(path)
    get()
    now, end = signal()
    times = array("d")
    while now < end:
        before = time.monotonic()
        get()
        now = time.monotonic()
        times.append(now - before)
    return times


def _asynchronous_drives() -> dict[str, Drive]:
    def ours(path: Path) -> AsyncClient:
        return AsyncClient(socket_path=path)

    def theirs(path: Path) -> Any:
        import redis.asyncio

        return redis.asyncio.Redis(unix_socket_path=str(path), single_connection_client=True)

    return {OURS: partial(_asynchronous, ours), REDIS: partial(_asynchronous, theirs)}


def _asynchronous(connect: Callable[[Path], Any], path: Path, clients: int, signal: Signal) -> array[float]:
    """Some clients in this process, each with a connection of its own and one get at a time."""
    times = array("d")

    async def reader(get: Callable[[str], Awaitable[object]], end: float) -> None:
        now = time.monotonic()
        while now < end:
            before = now
            await get(_KEY)
            now = time.monotonic()
            times.append(now - before)

    async def run() -> None:
        async with AsyncExitStack() as stack:
            gets = [(await stack.enter_async_context(connect(path))).get for _ in range(clients)]
            for get in gets:
                await get(_KEY)
            _, end = signal()
            await asyncio.gather(*(reader(get, end) for get in gets))

    asyncio.run(run())
    return times
