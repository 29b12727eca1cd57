"""What the daemon and the client cost before they do anything: import time, memory, time to the first answer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.children import memfd_bytes, rss_bytes
from benchmarks.daemon import MEMORY_ORIGIN, Daemon, clean_environment
from benchmarks.data import KIB, MIB, keys, payload, size_text
from benchmarks.field import Field
from benchmarks.samples import summary
from benchmarks.table import OURS, Row, at_most

__all__ = ["importing", "memory", "starting"]

_BARE, _ASYNCIO = "a bare interpreter", "asyncio alone"
_HEAVY = ("aioboto3", "aiohttp", "diskcache", "pydantic")
_ROOT = Path(__file__).resolve().parent.parent
_MEMORY_BYTES = 64_000_000
_BATCH = 500
_FILLING_PASSES = 20


def importing(field: Field) -> list[Row]:
    """A process that imports a client, over one that does nothing; asyncio alone beside the asynchronous one."""
    programs = {name: f"from tiered_store import {name}" for name in ("Client", "AsyncClient")} | {
        _ASYNCIO: "import asyncio"
    }
    # This also leaves the bytecode in its place for the runs that are timed.
    heavy = set(_HEAVY) & set(_modules_of("; ".join(programs.values())))
    times: dict[str, list[float]] = {name: [] for name in (_BARE, *programs)}
    for _ in range(field.scale.imports):
        times[_BARE].append(_python_seconds("pass") * 1e3)
        for name, program in programs.items():
            times[name].append(_python_seconds(program) * 1e3 - times[_BARE][-1])
    found = {name: summary(values) for name, values in times.items()}
    checks = [
        at_most("ms", found["Client"].median, 60),
        at_most(f"of {', '.join(_HEAVY)} imported by either client", len(heavy), 0),
    ]
    notes = [f"a bare interpreter takes {found[_BARE].median:.0f} ms"]
    other = {OURS: found["AsyncClient"], _ASYNCIO: found[_ASYNCIO]}
    return [
        Row("import of Client, over a bare interpreter", "", "ms", {OURS: found["Client"]}, checks, notes),
        Row("import of AsyncClient, over a bare interpreter", "", "ms", other),
    ]


def _python_seconds(program: str) -> float:
    environment = clean_environment()
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True, cwd=_ROOT, env=environment)
    return time.perf_counter() - start


def _modules_of(program: str) -> list[str]:
    """The modules that a process has after it ran this."""
    command = [sys.executable, "-c", f"import sys; {program}; print(*sys.modules)"]
    environment = clean_environment()
    done = subprocess.run(command, check=True, capture_output=True, cwd=_ROOT, env=environment, text=True)
    return done.stdout.split()


def memory(field: Field) -> list[Row]:
    """The daemon's resident memory: idle, and with its memory tier full of objects of one size."""
    with field.running("idle", None) as daemon:
        daemon.client.ping()
        idle = rss_bytes(daemon.child.pid) / MIB
    rows = [Row("daemon, idle", "", "MiB RSS", {OURS: summary([idle])}, [at_most("MiB", idle, 80)])]
    full = (80 * MIB + 1.3 * _MEMORY_BYTES) / MIB
    rows += [_full_memory(field, size, full) for size in (KIB, 16 * KIB, MIB)]
    return rows


def _full_memory(field: Field, size: int, limit: float) -> Row:
    """Objects that lie in the origin are read until the memory tier has to forget some."""
    directory = field.directory / f"full-{size}"
    names = keys(round(1.05 * _MEMORY_BYTES / size), "cache/full")
    _place_in_origin(directory / "data/origin", names, size)
    with field.running(directory.name, {"memory": {"max_bytes": _MEMORY_BYTES}}) as daemon:
        tier = _fill(daemon, names)
        resident, memfds = rss_bytes(daemon.child.pid) / MIB, memfd_bytes(daemon.child.pid) / MIB
    checks = [at_most("MiB with the memfds", resident + memfds, limit)]
    notes = [f"memfds {memfds:.0f} MiB, {tier['entries']:,} objects, {tier['bytes']:,} of {tier['max_bytes']:,} bytes"]
    return Row(
        f"daemon, memory tier full of {size_text(size)}", "", "MiB RSS", {OURS: summary([resident])}, checks, notes
    )


def _fill(daemon: Daemon, names: list[str]) -> dict[str, Any]:
    """Read until the memory tier is full. What came from the origin as a file moves up when it is read again."""
    for _ in range(_FILLING_PASSES):
        for batch in _batches(names):
            daemon.client.get_many(batch)
            tier: dict[str, Any] = daemon.stats()["memory"]
            if tier["evictions"]:
                return tier
    raise ValueError(f"the memory tier does not get full: {tier}")


def _place_in_origin(origin: Path, names: Iterable[str], size: int) -> None:
    for number, name in enumerate(names):
        path = origin / name
        if not number:
            path.parent.mkdir(parents=True)
        path.write_bytes(payload(size, number))


def starting(field: Field) -> list[Row]:
    """From exec to the first answered PING, with many objects in the disk tier."""
    entries = field.scale.disk_entries
    with field.running("starting", {"disk": {"max_bytes": 8 * 1024 * MIB}, **MEMORY_ORIGIN}) as daemon:
        sent = 0
        for batch in _batches(keys(entries, "cache/start")):
            daemon.client.put_many(dict.fromkeys(batch, b"sixteen bytes..."))
            sent += len(batch)
            _wait_for_entries(daemon, sent - _BATCH)  # the tier writes behind the puts; what it cannot take it forgets
        _wait_for_entries(daemon, entries)
        seconds = [daemon.start_again() for _ in range(field.scale.rounds)]
        there = daemon.stats()["disk"]["entries"]
    found = summary(seconds)
    checks = [at_most("s", found.median, 0.7)]
    title = f"daemon, exec to the first answered PING, {entries:,} disk entries"
    return [Row(title, "", "s", {OURS: found}, checks, [f"{there:,} entries counted right after the start"])]


def _wait_for_entries(daemon: Daemon, entries: int, timeout_s: float = 30.0) -> None:
    """Raises TimeoutError if the disk tier does not come to hold so many objects."""
    end = time.monotonic() + timeout_s
    while (there := daemon.stats()["disk"]["entries"]) < entries:
        if time.monotonic() > end:
            raise TimeoutError(f"the disk tier holds {there:,} of {entries:,} objects")
        time.sleep(0.05)


def _batches(names: list[str]) -> Iterator[list[str]]:
    for first in range(0, len(names), _BATCH):
        yield names[first : first + _BATCH]
