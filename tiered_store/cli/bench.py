"""A small self-test: how quick the running daemon is for one client, on this machine, now.

Not the project's benchmark, which has a room of its own and compares with other servers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import click

from tiered_store.cli.keys import as_json_option
from tiered_store.cli.output import table, write_json
from tiered_store.cli.session import connect
from tiered_store.client.sync import Client
from tiered_store.config.sizes import format_size

__all__ = ["bench"]

_HEAD = ["operation", "size", "count", "p50 us", "p99 us", "MB/s"]
_KIB, _MIB = 2**10, 2**20
#: Size of the object, and how often each operation is done. Put is durable, so it is done less often.
_ROUNDS = ((_KIB, 1000, 50), (64 * _KIB, 500, 20), (_MIB, 200, 10), (16 * _MIB, 20, 3))


@click.command()
@as_json_option
@click.pass_context
def bench(context: click.Context, json_output: bool) -> None:
    """Measure put and get against the running daemon.

    With objects of its own, which are removed afterwards.
    """
    prefix = f"tiered_store-bench/{os.getpid()}-{os.urandom(4).hex()}/"
    with connect(context) as client:
        try:
            results = [result for size, gets, puts in _ROUNDS for result in _measure(client, prefix, size, gets, puts)]
        finally:
            client.delete_prefix(prefix)
    if json_output:
        write_json(results)
        return
    click.echo(table([_HEAD, *(_row(result) for result in results)]))


def _row(result: dict[str, Any]) -> list[str]:
    numbers = [f"{result[name]:.0f}" for name in ("count", "p50_us", "p99_us", "mb_per_s")]
    return [result["operation"], format_size(result["size"]), *numbers]


def _measure(client: Client, prefix: str, size: int, gets: int, puts: int) -> Iterable[dict[str, Any]]:
    body = os.urandom(min(size, _MIB)) * max(1, size // _MIB)
    key = f"{prefix}{size}"
    yield _summary("put", size, _time(lambda: client.put(key, body), puts))
    client.get(key)  # the first read may fill a tier
    yield _summary("get", size, _time(lambda: client.get(key), gets))
    yield _summary("get_view", size, _time(lambda: _touch(client, key), gets))


def _touch(client: Client, key: str) -> int:
    with client.get_view(key) as view:
        return view[0] + view[-1]


def _time(operation: Callable[[], object], count: int) -> list[float]:
    """Seconds of each run, in ascending order."""
    times = []
    for _ in range(count):
        started = time.perf_counter()
        operation()
        times.append(time.perf_counter() - started)
    return sorted(times)


def _summary(operation: str, size: int, times: list[float]) -> dict[str, Any]:
    median = times[len(times) // 2]
    return {
        "operation": operation,
        "size": size,
        "count": len(times),
        "p50_us": round(median * 1e6, 1),
        "p99_us": round(times[min(len(times) - 1, len(times) * 99 // 100)] * 1e6, 1),
        "mb_per_s": round(size / median / 1e6, 1),
    }
