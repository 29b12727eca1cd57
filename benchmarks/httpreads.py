"""Reads through the HTTP door, by a load generator in C: beside nginx and a bare aiohttp handler."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.children import Child, NotStarted
from benchmarks.daemon import MEMORY_ORIGIN, clean_environment
from benchmarks.data import KIB, MIB, payload, size_text
from benchmarks.field import Field, Placement, Turn, Values
from benchmarks.httpbare import WAYS
from benchmarks.peers import HTTP
from benchmarks.table import OURS, Check, Row, at_least

__all__ = ["BARE", "http_get", "http_ways"]

BARE = "bare aiohttp"
_NGINX = "nginx"
_SOURCE = Path(__file__).with_name("chttp.c")
_CONNECTIONS = 8
#: Size and requests in one turn.
_SIZES = ((KIB, 20_000), (MIB, 1000))
_KEY = "cache/bench/http"


class Load:
    """A compiled ``chttp``.

    Raises:
        NotStarted: there is no compiler, or it cannot compile the program.
    """

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if not compiler:
            raise NotStarted("no C compiler is installed")
        self._program = directory / "chttp"
        command = [compiler, "-O2", "-o", str(self._program), str(_SOURCE)]
        built = subprocess.run(command, check=False, capture_output=True, text=True)
        if built.returncode != 0:
            raise NotStarted(f"{compiler} failed: {built.stderr.strip()[-200:]}")

    def turn(self, path: Path, target: str, count: int, size: int) -> Turn:
        """Seconds per request of ``count`` on eight connections, which must all give ``size`` bytes."""
        command = [str(self._program), str(path), target, str(_CONNECTIONS), str(max(count, _CONNECTIONS)), str(size)]

        def run() -> float:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode != 0:
                raise ValueError(f"{path}: {done.stderr.strip()[:200]}")
            return int(done.stdout) / 1e9

        return run


def http_get(field: Field) -> list[Row]:
    """1 KiB and 1 MiB from memory over the unix socket, 8 connections, in seconds per request over all of them."""
    load, rows = Load(field.directory), []
    socket_path = field.directory / "http.sock"
    settings: Mapping[str, Mapping[str, object]] = {"http": {"socket": str(socket_path)}, **MEMORY_ORIGIN}
    with field.running("http", {**settings, "memory": {"max_bytes": 256 * MIB}}) as daemon:
        for size, requests in _SIZES:
            key, count, data = f"{_KEY}/{size}", field.scale.count(requests), payload(size)
            daemon.client.put(key, data)
            turns: dict[str, Turn | None] = {OURS: load.turn(socket_path, f"/v1/objects/{key}", count, size)}
            nginx = field.peers.get(HTTP)
            turns[_NGINX] = None
            if nginx is not None:
                nginx.put(key, data)
                turns[_NGINX] = load.turn(nginx.child.socket_path, f"/{key}", count, size)
            with _bare(field, ["bytes"], size) as bare, daemon.answering_from("memory"):
                turns[BARE] = load.turn(bare["bytes"], "/", count, size)
                title = f"HTTP get {size_text(size)}, {_CONNECTIONS} connections"
                rows += field.compare(title, turns, decides=Placement.ONE_CPU, targets=_targets)
    return rows


def _targets(values: Values) -> list[Check]:
    ours, bare = values[OURS], values[BARE]
    rate = bare.median / ours.median if ours and bare else None
    return [at_least(f"x the rate of {BARE}", rate, 0.8)]


def http_ways(field: Field) -> list[Row]:
    """1 MiB of a memory file, each of the ways that there are to send it (docs/decisions/0021)."""
    load, count = Load(field.directory), field.scale.count(500)
    with _bare(field, WAYS, MIB) as bare:
        turns: dict[str, Turn | None] = {way: load.turn(path, "/", count, MIB) for way, path in bare.items()}
        return field.compare("HTTP, ways to send 1 MiB", turns, decides=Placement.ONE_CPU, targets=lambda _: [])


@contextmanager
def _bare(field: Field, ways: tuple[str, ...] | list[str], size: int) -> Iterator[dict[str, Path]]:
    """Bare handlers, each on a socket of its own."""
    with ExitStack() as running:
        paths = {}
        for way in ways:
            path = field.directory / f"bare-{way}-{size}.sock"
            command = [sys.executable, "-m", "benchmarks.httpbare", str(path), str(size), way]
            child = Child(command, path, field.directory, clean_environment())
            running.callback(child.stop)
            child.wait_until_listening()
            running.enter_context(field.hosting(child))
            paths[way] = path
        yield paths
