"""Real build tools: where they are, and tiny projects that each builds through a remote cache.

Whatever a tool writes (its home, its cache, its server's socket) is inside one temporary directory, and its environment
is made from nothing, so that neither this machine's settings nor an earlier test's can give it a hit. The steps that
it runs are two programs of the test's own: they count how often they really ran, and one can be held in the middle.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

from scripts.tools import NODE_MODULES, PYTHON_PROGRAMS
from tests.support.servers import is_missing

__all__ = ["Build", "Endpoint", "Project", "Steps", "found"]

#: A build takes seconds; one that a fault makes wait for its time-outs, half a minute.
BUILD_LIMIT_S = 90.0
#: What a step makes beside its source, so that a whole output does not fit into what a daemon answers inline.
_RANDOM_BYTES = 300_000
_DIGEST_CHARACTERS = 64


def found(program: str) -> str:
    """The path of a build tool's program, installed by ``scripts/tools.py`` or by Debian."""
    places = [PYTHON_PROGRAMS / program, NODE_MODULES / ".bin" / program]
    places += [
        NODE_MODULES / package / program for package in ("@bazel/bazel-linux_x64", "@moonrepo/core-linux-x64-gnu")
    ]
    for place in places:
        if os.access(place, os.X_OK):
            return str(place)
    there = shutil.which(program)
    if there is None:
        is_missing(f"{program} is not installed, so its build was not run: see scripts/tools.py")
    return there


def bare_environment(home: Path) -> dict[str, str]:
    """Nothing of this process's environment but where programs are; what a tool keeps for its user goes to ``home``."""
    path = [str(PYTHON_PROGRAMS), "/usr/local/bin", "/usr/bin", "/bin"]
    return {"PATH": os.pathsep.join(path), "HOME": str(home), "TMPDIR": str(home / "tmp"), "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a daemon's HTTP door is.

    Attributes:
        port: of the loopback.
        token: who presents it there may write.
        socket: the same door on a unix socket, where this user may write without a token.
    """

    port: int
    token: str
    socket: Path

    @property
    def crsh(self) -> Path:
        """Where ccache 4.13 and later speaks with the daemon."""
        return self.socket.with_name("c.sock")

    @property
    def resp(self) -> Path:
        """Where clients of Redis do."""
        return self.socket.with_name("r.sock")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def place(self, dialect: str) -> str:
        """The address of a dialect's instance that the tests use."""
        return f"{self.url}/{dialect}/tests"


@dataclass(frozen=True, slots=True)
class Build:
    """How a tool's run ended, and what it printed."""

    status: int
    text: str

    @property
    def is_green(self) -> bool:
        return self.status == 0

    def __str__(self) -> str:
        return f"exit status {self.status}:\n{self.text[-4000:]}"


class Run:
    """A program that runs; its output goes to a file, since a server that it leaves behind would keep a pipe open."""

    def __init__(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self._process, self._output = process, output
        self.pid = process.pid

    def finish(self) -> Build:
        """Wait for its end."""
        self._process.wait(BUILD_LIMIT_S)
        self._output.seek(0)
        return Build(self._process.returncode, self._output.read().decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class Gate:
    """Where steps wait."""

    reached: int
    go: int
    path: Path

    def wait(self, run: Run) -> None:
        """Wait until the first step is here."""
        ended = os.pidfd_open(run.pid)
        try:
            ready, _, _ = select.select([self.reached, ended], [], [], BUILD_LIMIT_S)
        finally:
            os.close(ended)
        assert self.reached in ready, f"no step was run: {run.finish()}"

    def open(self) -> None:
        """Let all go on, also those that come later."""
        self.path.unlink()
        os.write(self.go, b"\n" * 64)


class Steps:
    """The programs that builds run; each run is counted.

    Attributes:
        make: ``make SOURCE OUTPUT`` writes the source, random bytes and the digest of both, so that no two runs make
            the same and damage shows.
        compiler: gcc, of whose runs only those that compile are counted.
    """

    def __init__(self, directory: Path) -> None:
        self._ran, self._reached, self._go = (directory / name for name in ("ran", "reached", "go"))
        self._go_fd: int | None = None
        for earlier in (self._ran, self._reached, self._go):
            earlier.unlink(missing_ok=True)
        prologue = f"""#!/bin/sh
            set -e
            step() {{
                echo "$*" >>{self._ran}
                if [ -p {self._reached} ]; then echo "$*" >{self._reached}; read -r _ <{self._go}; fi
            }}
            """
        make = f"""
            step "$@"
            mkdir -p "$(dirname "$2")"
            {{ cat "$1"; head -c {_RANDOM_BYTES} /dev/urandom; }} >"$2"
            digest=$(sha256sum <"$2")
            printf '%.{_DIGEST_CHARACTERS}s' "$digest" >>"$2"
            """
        compiler = f"""
            case " $* " in *" -E "*) ;; *" -c "*) step "$@" ;; esac
            exec {found("gcc")} "$@"
            """
        self.make = self._script(directory / "make", prologue + make)
        self.compiler = self._script(directory / "cc", prologue + compiler)

    @staticmethod
    def _script(path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o700)
        return path

    @property
    def ran(self) -> int:
        """How many steps have run."""
        return len(self._ran.read_text().splitlines()) if self._ran.exists() else 0

    @contextmanager
    def held(self) -> Iterator[Gate]:
        """Hold the steps that run in this block, until the gate is opened; once."""
        os.mkfifo(self._reached)
        os.mkfifo(self._go)
        # Both ends of each, so that nobody waits in open(). The second one stays open, for steps that come to it late.
        reached, self._go_fd = os.open(self._reached, os.O_RDWR), os.open(self._go, os.O_RDWR)
        try:
            yield Gate(reached, self._go_fd, self._reached)
        finally:
            os.close(reached)

    def close(self) -> None:
        """Let go of what held the steps."""
        if self._go_fd is not None:
            os.close(self._go_fd)


def is_whole(output: bytes, source: bytes) -> bool:
    """Whether :attr:`Steps.make` made this of that source, and nothing has changed it since."""
    body, digest = output[:-_DIGEST_CHARACTERS], output[-_DIGEST_CHARACTERS:]
    whole = len(body) == len(source) + _RANDOM_BYTES and body.startswith(source)
    return whole and hashlib.sha256(body).hexdigest().encode() == digest


class Project(ABC):
    """A few files that one tool builds in a few steps, each of which a remote cache can spare it.

    Args:
        home: a directory of its own.
        endpoint: the cache.
        shared: a directory of all its projects, for what its programs unpack and for servers that go on.

    Attributes:
        steps: how often they ran is what a hit spares.
        tool: its name.
        count: how many steps a whole build has.
        stays: whether all projects are one, at ``shared``, so that a server which belongs to a directory need not be
            started for each.
        needs_a_daemon: when its build fails because nobody listens where its cache should be: ``"at its start"``,
            ``"always"``, or empty.
    """

    tool: ClassVar[str]
    count: ClassVar[int] = 2
    stays: ClassVar[bool] = False
    needs_a_daemon: ClassVar[str] = ""

    def __init__(self, home: Path, endpoint: Endpoint, shared: Path) -> None:
        self.home, self.endpoint, self.shared = home, endpoint, shared
        self.tree = home / "tree"
        for directory in (home, home / "tmp", home / "bin", self.tree):
            directory.mkdir(exist_ok=True)
        self.steps = Steps(home / "bin")
        self.environment = bare_environment(home)

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """What builds everything."""

    @abstractmethod
    def outputs(self) -> dict[str, bytes]:
        """What a build makes, by name."""

    @abstractmethod
    def forget(self) -> None:
        """Remove the outputs and all that the tool itself remembers of them."""

    @abstractmethod
    def hits(self, build: Build) -> int:
        """How many steps the tool says that its remote cache spared it, in the last build."""

    def is_sound(self) -> bool:
        """Whether the last build made what it should."""
        return len(self.outputs()) == self.count and all(
            is_whole(output, self.source(name)) for name, output in self.outputs().items()
        )

    def source(self, name: str) -> bytes:
        """What the output of this name is made of."""
        raise NotImplementedError

    def close(self) -> None:
        """End what the tool left running for this project."""
        self.steps.close()

    @classmethod  # noqa: B027 - most tools leave nothing
    def end(cls, shared: Path) -> None:
        """End what the tool left running for all projects that shared this directory."""

    @abstractmethod
    def change(self) -> None:
        """Change the sources, so that no cache can know what is made of them."""

    def prepare(self) -> None:  # noqa: B027 - most tools are ready
        """Make the tool ready for a build."""

    def build(self) -> Build:
        """Build everything."""
        with self.building() as run:
            return run.finish()

    @contextmanager
    def building(self) -> Iterator[Run]:
        """A build that goes on while the block runs."""
        self.prepare()
        with self.running(self.command()) as run:
            yield run

    def run(self, *command: str | Path) -> Build:
        """Run a program of the tool's to its end."""
        with self.running(command) as run:
            return run.finish()

    @contextmanager
    def running(self, command: Sequence[str | Path]) -> Iterator[Run]:
        """A program that runs while the block does."""
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                command,
                cwd=self.tree,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
            try:
                yield Run(process, output)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def seed() -> str:
    """A line that no source ever had."""
    return f"{secrets.token_hex(16)}\n"
