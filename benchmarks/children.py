"""Servers as child processes: start, wait until they answer, place on CPUs, weigh, stop by their own pid.

Knows no server. Everything a child needs lives in one temporary directory, and nothing runs as a service.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

__all__ = ["Child", "NotStarted", "cpu_s", "find_program", "memfd_bytes", "orderly_end", "place", "rss_bytes"]

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0


class NotStarted(Exception):
    """A server could not be started; the message says why, with the end of what it printed."""


class Child:
    """One server process that listens on one unix socket.

    Args:
        command: program and arguments.
        socket_path: where it will listen.
        directory: its working directory; its output goes to a file there.
        environment: all of its environment; None to inherit.
    """

    def __init__(
        self, command: Sequence[str], socket_path: Path, directory: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.socket_path = socket_path
        self._log = directory / f"{socket_path.stem}.log"
        self.started_at = time.perf_counter()
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    command,
                    cwd=directory,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    process_group=0,  # Ctrl-C is for us; we stop our children
                )
        except OSError as error:
            raise NotStarted(f"{command[0]}: {error.strerror}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until_listening(self, timeout_s: float = _START_TIMEOUT_S) -> None:
        """Return when a connection is accepted.

        Raises:
            NotStarted: it ended instead, or took too long; it is stopped then.
        """
        end = time.monotonic() + timeout_s
        while not _accepts(self.socket_path):
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise NotStarted(f"{self._process.args!r}: exit code {self._process.returncode}\n{self.log_tail()}")
            time.sleep(0.002)

    def log_tail(self, lines: int = 12) -> str:
        """The end of what it printed."""
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def stop(self) -> int:
        """End it, politely first; returns its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()


def find_program(name: str) -> str:
    """Raises NotStarted where it is not installed; Debian keeps servers in sbin, which is not on every PATH."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise NotStarted(f"{name} is not installed")
    return found


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """SIGTERM unwinds as Ctrl-C does, so that children are stopped and directories removed."""

    def unwind(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def place(pids: Iterable[int], cpus: set[int]) -> None:
    """Let all threads of these processes run on these CPUs only; 0 is the caller's own process."""
    for pid in pids:
        for task in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # a thread may end meanwhile
                os.sched_setaffinity(int(task.name), cpus)


def rss_bytes(pid: int) -> int:
    """The memory of a process that is resident now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_s(pid: int) -> float:
    """The time that CPUs have spent on a process until now, in seconds; without its children."""
    _, _, rest = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")  # the name before it may hold anything
    user, system = rest.split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def memfd_bytes(pid: int) -> int:
    """The memory behind a process's memfds: not part of its resident size unless it maps them."""
    seen: dict[int, int] = {}
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if str(link.readlink()).startswith("/memfd:"):
                status = link.stat()
                seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values())
