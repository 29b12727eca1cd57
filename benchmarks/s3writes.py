"""Writes through a daemon to an S3 server: a large artifact beside the SDK's own upload, small puts while it is slow.

What uploads add to the daemon's memory is the peak of its resident set (``VmHWM``) over the peak before the first one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from benchmarks.daemon import Daemon, Settings
from benchmarks.data import KIB, MIB, payload, size_text
from benchmarks.field import Field, Placement, Turn, Values, timed
from benchmarks.s3server import BUCKET, S3Server
from benchmarks.table import OURS, Check, Row, at_least, at_most, ratio
from tests.support.faultproxy import Fault, FaultProxy

__all__ = ["s3_put_artifact", "s3_write_back"]

_LARGE, _PIECE, _SMALL = 256 * MIB, 64 * MIB, 64 * KIB
_UPLOAD, _LOCAL, _THROUGH = "boto3 upload_fileobj", "origin local", "S3 without write-back"
_GROWTH_MAX_MIB = 96
_PUTS, _SLOW_PUTS = 200, 5
_DELAY_S = 0.1
_PREFIX = "cache/back/"

_numbers = count(time.time_ns())


def s3_put_artifact(field: Field) -> list[Row]:
    """256 MiB from a file that neither has seen, hashed by us and not by the other."""
    server = field.s3_server()
    if server is None:
        return []
    path = field.directory / "artifact"
    with path.open("wb") as file:
        for seed in range(_LARGE // _PIECE):
            file.write(payload(_PIECE, seed))
    grown: list[float] = []

    def targets(values: Values) -> list[Check]:
        found = ratio(values, _UPLOAD)
        return [
            at_least(f"of the speed of {_UPLOAD}", 1 / found if found else None, 0.9),
            at_most("MiB of daemon RSS growth", max(grown), _GROWTH_MAX_MIB),
        ]

    with field.running("s3-writes", {**server.settings(), "disk": {"max_bytes": 8 * 1024 * MIB}}) as daemon:
        turns: dict[str, Turn | None] = {OURS: _artifact(daemon, path, grown), _UPLOAD: _upload(server, path)}
        title = f"put_artifact {size_text(_LARGE)} from a file, origin S3"
        return field.compare(title, turns, decides=Placement.SCHEDULER, targets=targets, unit="ms")


def _change(path: Path) -> None:
    """Different bytes each time, so that no upload is saved because the artifact is already there."""
    with path.open("r+b") as file:
        file.write(next(_numbers).to_bytes(16, "big"))


def _artifact(daemon: Daemon, path: Path, grown: list[float]) -> Turn:
    process = Path(f"/proc/{daemon.child.pid}")
    daemon.client.delete(daemon.client.put_artifact(b"loads what an upload needs"))
    before = _peak_kib(process)

    def turn() -> float:
        _change(path)
        start = time.perf_counter()
        key = daemon.client.put_artifact(path)
        spent = time.perf_counter() - start
        grown.append((_peak_kib(process) - before) / KIB)
        assert daemon.client.stat(key).size == _LARGE
        daemon.client.delete(key)
        return spent

    return turn


def _upload(server: S3Server, path: Path) -> Turn:
    def turn() -> float:
        _change(path)
        with path.open("rb") as file:
            start = time.perf_counter()
            server.client.upload_fileobj(file, BUCKET, "upload")
            spent = time.perf_counter() - start
        server.remove(["upload"])
        return spent

    return turn


def _peak_kib(process: Path) -> int:
    return next(int(line.split()[1]) for line in (process / "status").read_text().splitlines() if "VmHWM" in line)


def s3_write_back(field: Field) -> list[Row]:
    """64 KiB while each request to the origin takes 100 ms: the journal acknowledges; beside a directory as origin."""
    server = field.s3_server()
    if server is None:
        return []
    proxy = FaultProxy(server.port)
    try:
        proxy.set(Fault(latency_s=_DELAY_S))
        settings: Settings = {**server.settings(proxy.port), "policies": [{"prefix": _PREFIX, "write_back": True}]}
        with field.running("write-back", settings) as behind, field.running("write-through", {}) as local:
            return _write_back(field, behind, local)
    finally:
        proxy.close()


def _write_back(field: Field, behind: Daemon, local: Daemon) -> list[Row]:
    data, puts = payload(_SMALL), field.scale.count(_PUTS)

    def put(daemon: Daemon, prefix: str) -> Callable[[], object]:
        return lambda: daemon.client.put(f"{prefix}{next(_numbers)}", data)

    def ours() -> float:
        spent = timed(put(behind, _PREFIX), puts)()
        behind.client.flush()  # what is behind shall not be uploaded while the others are measured
        return spent

    def targets(values: Values) -> list[Check]:
        return [at_most(f"x {_LOCAL}", ratio(values, _LOCAL), 3)]

    turns: dict[str, Turn | None] = {
        OURS: ours,
        _LOCAL: timed(put(local, _PREFIX), puts),
        _THROUGH: timed(put(behind, "cache/through/"), field.scale.count(_SLOW_PUTS)),
    }
    title = f"put {size_text(_SMALL)} with write-back, S3 {_DELAY_S * 1e3:.0f} ms away"
    rows = field.compare(title, turns, decides=Placement.SCHEDULER, targets=targets)
    backlog = behind.stats()["write_back"]
    if backlog["bypassed"]:
        raise ValueError(f"{backlog['bypassed']} puts went straight to the origin")
    return rows
