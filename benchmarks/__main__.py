"""``python -m benchmarks``: everything in one run, a table on standard output, JSON where asked for."""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import ccache, clients, crowd, footprint, go, httpreads, reads, s3reads, s3writes, trees, uploads
from benchmarks.children import orderly_end
from benchmarks.field import Field, Placement, Scale
from benchmarks.peers import HTTP, MEMCACHE, REDIS, server_versions
from benchmarks.table import OURS, Row, as_json, render

WORK: dict[str, Callable[[Field], list[Row]]] = {
    "get_small": reads.get_small,
    "get_many": reads.get_many,
    "get_large": reads.get_large,
    "get_view": reads.get_view,
    "put_small": reads.put_small,
    "put_artifact": uploads.put_artifact,
    "many_clients": clients.many_clients,
    "http_get": httpreads.http_get,
    "http_ways": httpreads.http_ways,
    "in_flight": crowd.in_flight,
    "stampede": crowd.stampede,
    "s3_large": s3reads.s3_large,
    "s3_small": s3reads.s3_small,
    "s3_crowd": s3reads.s3_crowd,
    "s3_put_artifact": s3writes.s3_put_artifact,
    "s3_write_back": s3writes.s3_write_back,
    "go_build": go.go_build,
    "trees": trees.trees,
    "ccache_warm": ccache.ccache_warm,
    "import": footprint.importing,
    "memory": footprint.memory,
    "start": footprint.starting,
}
PLACEMENTS = {"one-cpu": Placement.ONE_CPU, "scheduler": Placement.SCHEDULER}
FULL = Scale(rounds=7, operations=1.0, disk_entries=200_000, imports=11, seconds=1.0)
QUICK = Scale(rounds=2, operations=0.1, disk_entries=5_000, imports=3, seconds=0.3)


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 when everything ran, else 1; which targets are met is for the reader of the table to judge."""
    options = _options(arguments)
    scale = QUICK if options.quick else FULL
    placements = [PLACEMENTS[options.placement]] if options.placement else list(Placement)
    # Ten thousand readers hold a descriptor each for a moment.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.json:  # a place that cannot be written to is better noticed before a long run
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.touch()
    started = time.monotonic()
    with orderly_end(), tempfile.TemporaryDirectory(prefix="tiered-store-bench-") as directory:
        field = Field(Path(directory), scale, placements)
        try:
            rows, faults = _measure(field, options.only or list(WORK))
        finally:
            field.close()
        _report(rows, faults, field.absent)  # before everything is removed, which takes a while
        if options.quick:
            print("--quick shows that everything runs; its figures mean nothing.")
        sys.stdout.flush()
    if options.json:
        about = {"machine": _machine(), "versions": _versions(), "quick": options.quick, "rounds": scale.rounds}
        about |= {"seconds": round(time.monotonic() - started, 1), "not_measured": field.absent, "failed": faults}
        options.json.write_text(json.dumps(about | {"rows": as_json(rows)}, indent=1) + "\n")
    return 1 if faults else 0


def _measure(field: Field, names: list[str]) -> tuple[list[Row], dict[str, str]]:
    """The rows, and for each work that failed the reason: one failure must not cost the rest of a long run."""
    rows: list[Row] = []
    faults: dict[str, str] = {}
    for name in names:
        started = time.monotonic()
        try:
            rows += WORK[name](field)
        except Exception as error:
            traceback.print_exc()
            faults[name] = f"{type(error).__name__}: {error}"
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return rows, faults


def _report(rows: list[Row], faults: dict[str, str], absent: dict[str, str]) -> None:
    print(render(rows, [OURS, REDIS, MEMCACHE, HTTP]))
    for name, reason in absent.items():
        print(f"{name}: not measured: {reason}")
    for name, reason in faults.items():
        print(f"{name}: failed: {reason}")
    checks = [check for row in rows for check in row.checks]
    met = sum(check.is_met is True for check in checks)
    print(f"{met} of {len(checks)} targets met, {sum(check.is_met is None for check in checks)} not measured")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there")
    parser.add_argument("--quick", action="store_true", help="a few operations of everything, to see that it runs")
    parser.add_argument(
        "--placement", choices=list(PLACEMENTS), help="measure in this one only; the other's targets are left out"
    )
    parser.add_argument(
        "--only", action="append", choices=list(WORK), metavar="NAME", help=f"one of {', '.join(WORK)}; may be repeated"
    )
    return parser.parse_args(arguments)


def _versions() -> dict[str, str]:
    """Of the servers and of the clients' packages, where they are installed."""
    found = {name: metadata.version(name) for name in ("redis", "hiredis", "pymemcache", "uvloop") if find_spec(name)}
    return found | server_versions()


def _machine() -> dict[str, Any]:
    """What a reader must know to judge the figures."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
