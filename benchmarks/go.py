"""Go's standard library through ``tiered-store gocacheprog``, beside Go's own local cache.

The program is started as an installed one is: by a script, with its bytecode cached. What its summary says proves where
everything was found.
"""

from __future__ import annotations

import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from benchmarks.children import cpu_s
from benchmarks.daemon import Daemon, WrongTier, clean_environment
from benchmarks.field import Field, Turn
from benchmarks.samples import summary
from benchmarks.table import OURS, Row, at_most, ratio

__all__ = ["go_build"]

_OWN, _FROM_DAEMON = "go's own cache", "tiered_store, from the daemon"
_OLDEST = (1, 24)
_WARM_MAX = 1.3
#: A cold build takes minutes.
_COLD_ROUNDS = 2
_SCRIPT = "#!{python}\nimport sys\nfrom tiered_store.cli import main\nsys.exit(main())\n"
_FOUND = re.compile(r"(\d+) gets, (\d+) found here(?:; (\d+) in the daemon)?")


def go_build(field: Field) -> list[Row]:
    """``go build`` with nothing to compile, and with everything."""
    program = shutil.which("go")
    reason = "there is no go command" if program is None else _too_old(program)
    if program is None or reason:
        field.absent["go"] = reason
        return []
    what = "std" if field.scale.operations >= 1 else "errors"
    with field.running("go", {}) as daemon:
        builds = _Builds(program, what, field.directory / "go-files", daemon)
        cold = _cold(builds, min(_COLD_ROUNDS, field.scale.rounds))
        turns: dict[str, Turn | None] = {OURS: builds.here, _OWN: builds.own, _FROM_DAEMON: builds.from_daemon}
        warm = field.race(turns)
    check = at_most(f"x {_OWN}", ratio(warm, _OWN), _WARM_MAX)
    return [Row(f"go build {what}, warm", "", "s", warm, [check]), *cold]


def _too_old(program: str) -> str:
    said = subprocess.run([program, "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout.strip()
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found and (int(found[1]), int(found[2])) >= _OLDEST:
        return ""
    return f"{said} has no cache programs, which came with 1.24"


def _cold(builds: _Builds, rounds: int) -> list[Row]:
    """Leaves both caches warm."""
    turns: dict[str, Callable[[], float]] = {OURS: builds.cold_here, _OWN: builds.cold_own}
    took: dict[str, list[float]] = {name: [] for name in turns}
    cpu: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        for name in sorted(turns, reverse=bool(number % 2)):
            before_s = builds.cpu_s
            took[name].append(turns[name]())
            cpu[name].append(builds.cpu_s - before_s)
    return [
        Row(f"go build {builds.what}, {which}", "", "s", {name: summary(times) for name, times in found.items()})
        for which, found in (("cold", took), ("cold, CPU time", cpu))
    ]


class _Builds:
    """Builds of the same packages, each with its cache in the state that its name says."""

    def __init__(self, program: str, what: str, directory: Path, daemon: Daemon) -> None:
        self.what = what
        self._program = program
        self._own = directory / "own"
        self._here = directory / "here"
        self._other = directory / "other"
        directory.mkdir()
        self._script = directory / "tiered-store"
        self._script.write_text(_SCRIPT.format(python=sys.executable))
        self._script.chmod(0o755)
        self._directory = directory
        self._daemon = daemon
        self._instances = count()
        self._instance = ""
        self._environment = clean_environment() | {
            "TIERED_STORE_SOCKET": str(daemon.socket_path),
            "TIERED_STORE_GO_VERBOSE": "1",
            "TIERED_STORE_GO_DRAIN": "300",
            "GOPATH": str(directory / "gopath"),
            "GOTOOLCHAIN": "local",
            "GOPROXY": "off",
            "GOFLAGS": "",
            "GOTELEMETRY": "off",
        }
        self._environment.pop("GOCACHEPROG", None)

    @property
    def cpu_s(self) -> float:
        """What all builds until now have cost: go, all that it has started, and the daemon."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime + cpu_s(self._daemon.child.pid)

    def own(self) -> float:
        return self._build({"GOCACHE": str(self._own)})[0]

    def here(self) -> float:
        """Everything is in the program's own directory."""
        took, (gets, here, _) = self._through(self._here)
        if not 0 < gets == here:
            raise WrongTier(f"{here} of {gets} outputs were in the program's own directory")
        return took

    def from_daemon(self) -> float:
        """Everything is in the daemon, and nothing here."""
        shutil.rmtree(self._other, ignore_errors=True)
        took, (gets, here, daemon) = self._through(self._other)
        if not 0 < gets == here + daemon:
            raise WrongTier(f"{here + daemon} of {gets} outputs were in the daemon")
        return took

    def cold_own(self) -> float:
        shutil.rmtree(self._own, ignore_errors=True)
        return self.own()

    def cold_here(self) -> float:
        """As a new instance, so that the daemon has nothing of it either; until everything is uploaded."""
        shutil.rmtree(self._here, ignore_errors=True)
        self._instance = f"bench-{next(self._instances)}"
        return self._through(self._here)[0]

    def _through(self, directory: Path) -> tuple[float, tuple[int, int, int]]:
        command = [str(self._script), "gocacheprog", "--dir", str(directory), "--instance", self._instance]
        took, said = self._build({"GOCACHEPROG": shlex.join(command), "GOCACHE": str(self._directory / "unused")})
        found = _FOUND.search(said)
        if found is None:
            raise WrongTier(f"the program has not said where it found what: {said[-300:]}")
        return took, (int(found[1]), int(found[2]), int(found[3] or 0))

    def _build(self, environment: dict[str, str]) -> tuple[float, str]:
        start = time.perf_counter()
        done = subprocess.run(
            [self._program, "build", self.what],
            env=self._environment | environment,
            cwd=os.sep,
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"go build {self.what} has failed: {done.stderr[-300:]}")
        return took, done.stderr
