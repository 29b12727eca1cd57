"""A real build through ccache, warm: our sockets beside Redis on one, our HTTP beside nginx with WebDAV.

Each contestant is a remote storage to the same ccache. Before each build everything on this side is forgotten: objects
and ccache's own cache. Each file must then have come from the remote, by ccache's own count, or the row fails.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

from benchmarks.children import NotStarted
from benchmarks.daemon import Daemon, Settings
from benchmarks.field import Field, Placement, Turn, Values
from benchmarks.nginx import start_nginx
from benchmarks.peers import REDIS
from benchmarks.table import OURS, Check, Row, at_most, ratio
from scripts.ccache_crsh import PROGRAM

__all__ = ["ccache_warm"]

_FILES = 200
_FUNCTIONS = 40
_INSTANCE = "bench"
_OTHER_SOCKET, _REDIS, _NGINX = "our other socket", "Redis", "nginx with WebDAV"
_MAKEFILE = "all: $(patsubst %.c,%.o,$(wildcard *.c))\n%.o: %.c\n\t$(CC) -c $< -o $@\n"
_WEBDAV = "listen 127.0.0.1:{port}; client_max_body_size 1g; dav_methods PUT DELETE; create_full_put_path on;"


class WrongBuild(Exception):
    """A build was not what is to be measured."""


class Tree:
    """Small C files, and a Makefile that compiles them.

    Args:
        directory: where; made.
        count: how many files.
    """

    def __init__(self, directory: Path, count: int) -> None:
        directory.mkdir()
        self._directory = directory
        self._count = count
        dice = Random(1)
        for number in range(count):
            lines = ["#include <stdio.h>", "#include <stdlib.h>", "#include <string.h>"]
            lines += [f"int f{number}_{at}(int x) {{ return x * {dice.getrandbits(30)}; }}" for at in range(_FUNCTIONS)]
            (directory / f"f{number}.c").write_text("\n".join(lines) + "\n")
        (directory / "Makefile").write_text(_MAKEFILE)

    def warm(self, program: str, storage: str) -> Turn:
        """A turn of one warm build, once the storage has everything: out of the compiler, or of an earlier filling."""
        seed = self._directory / f"seed-{Path(program).parent.name}"
        self._build(program, storage, seed, CCACHE_RESHARE="true")
        return partial(self._build_warm, program, storage)

    def _build_warm(self, program: str, storage: str) -> float:
        local = self._directory / "local"
        shutil.rmtree(local, ignore_errors=True)
        elapsed = self._build(program, storage, local)
        environment = {"CCACHE_DIR": str(local), "CCACHE_CONFIGPATH": "/dev/null"}
        said = subprocess.run([program, "--print-stats"], check=True, env=environment, capture_output=True, text=True)
        found = re.search(r"^remote_storage_hit\t(\d+)$", said.stdout, re.MULTILINE)
        if found is None or int(found[1]) != self._count:
            raise WrongBuild(f"not all {self._count} files came from {storage}")
        return elapsed

    def _build(self, program: str, storage: str, local: Path, **settings: str) -> float:
        """Build with all CPUs, with this directory as ccache's own cache; seconds."""
        for path in self._directory.glob("*.o"):
            path.unlink()
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._directory),
            "CCACHE_DIR": str(local),
            "CCACHE_CONFIGPATH": "/dev/null",
            "CCACHE_REMOTE_STORAGE": storage,
            **settings,
        }
        jobs = len(os.sched_getaffinity(0))
        command = ["make", "--silent", f"--jobs={jobs}", "-C", str(self._directory), f"CC={program} gcc"]
        start = time.perf_counter()
        subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL)
        return time.perf_counter() - start


def ccache_warm(field: Field) -> list[Row]:
    """Every ccache there is, over unix sockets and over HTTP."""
    programs = _programs()
    if not programs or not shutil.which("gcc") or not shutil.which("make"):
        field.absent["ccache"] = "ccache, gcc or make is not installed"
        return []
    if not any("crsh" in said for said in programs.values()):
        field.absent["ccache over crsh"] = "python3 scripts/ccache_crsh.py installs a ccache that has it"
    tree = Tree(field.directory / "ccache-tree", field.scale.count(_FILES))
    directory, port = field.directory / "ccache", _free_port()
    settings: Settings = {
        "resp": {"socket": f"{directory}/resp.sock", "instance": _INSTANCE},
        "crsh": {"socket": f"{directory}/crsh.sock", "instance": _INSTANCE},
        "http": {"port": port, "open": True},
        "build.instances": [{"name": _INSTANCE, "anonymous": "write"}],
    }
    rows: list[Row] = []
    with field.running("ccache", settings) as daemon, _webdav(field) as nginx:
        for program, said in programs.items():
            rows += _by_socket(field, tree, daemon, program, said)
            ours = f"http://127.0.0.1:{port}/ccache/{_INSTANCE}"
            rows += _by_http(field, tree, program, said, {OURS: ours, _NGINX: nginx})
    return rows


def _by_socket(field: Field, tree: Tree, daemon: Daemon, program: str, said: str) -> list[Row]:
    crsh, resp = f"crsh:{daemon.directory}/crsh.sock", f"redis+unix:{daemon.directory}/resp.sock"
    has_crsh = "crsh" in said
    turns: dict[str, Turn | None] = {OURS: tree.warm(program, crsh if has_crsh else resp)}
    if has_crsh:
        turns[_OTHER_SOCKET] = tree.warm(program, resp)
    redis = f"redis+unix:{field.directory}/redis.sock"
    turns[_REDIS] = tree.warm(program, redis) if REDIS in field.peers else None
    kind = "crsh" if has_crsh else "redis+unix"

    def targets(values: Values) -> list[Check]:
        return [at_most("x Redis", ratio(values, _REDIS), 1.0)]

    return _rows(field, f"{_title(field, said)}, {kind}", turns, targets)


def _by_http(field: Field, tree: Tree, program: str, said: str, storages: Mapping[str, str | None]) -> list[Row]:
    turns = {name: tree.warm(program, storage) if storage else None for name, storage in storages.items()}

    def targets(values: Values) -> list[Check]:
        return [at_most("x nginx", ratio(values, _NGINX), 1.1)]

    return _rows(field, f"{_title(field, said)}, http", turns, targets)


def _rows(
    field: Field, title: str, turns: Mapping[str, Turn | None], targets: Callable[[Values], Sequence[Check]]
) -> list[Row]:
    return field.compare(title, turns, decides=Placement.SCHEDULER, targets=targets, unit="s")


def _title(field: Field, said: str) -> str:
    version = said.split("\n", 1)[0].removeprefix("ccache version ")
    return f"{field.scale.count(_FILES)} C files through ccache {version}, warm"


def _programs() -> dict[str, str]:
    """Every ccache by its path, and what it says of itself."""
    own = shutil.which("ccache")
    paths = ([own] if own else []) + ([str(PROGRAM)] if PROGRAM.exists() else [])
    return {path: _version(path) for path in paths}


def _version(program: str) -> str:
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout


@contextmanager
def _webdav(field: Field) -> Iterator[str | None]:
    """nginx, where files can be put; its address, or None where it is not installed or cannot."""
    port = _free_port()
    try:
        child = start_nginx(field.directory / "webdav", location=_WEBDAV.format(port=port))
    except NotStarted as error:
        field.absent[_NGINX] = str(error)
        yield None
        return
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        child.stop()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
