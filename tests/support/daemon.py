"""Real daemon processes for tests, each on a socket and directories of its own."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiered_store import Client

__all__ = ["Daemons", "RunningDaemon", "clean_environment", "toml_of", "unmeasured"]

ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0


@dataclass
class RunningDaemon:
    """A daemon that answers, until it is stopped."""

    process: subprocess.Popen[bytes]
    socket_path: Path
    data_dir: Path
    log_path: Path
    clients: list[Client] = field(default_factory=list)

    def client(self, **options: Any) -> Client:
        """A client, closed at the end of the test."""
        client = Client(str(self.socket_path), **options)
        self.clients.append(client)
        return client

    def kill9(self) -> None:
        """End it without a warning."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop, and wait; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def log(self) -> list[dict[str, Any]]:
        """The lines logged so far."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def events(self) -> list[str]:
        """What was logged, without the fields."""
        return [str(line["event"]) for line in self.log()]


class Daemons:
    """Starts daemons, and ends those that still run when it is closed."""

    def __init__(self) -> None:
        # Not pytest's tmp_path: its names can be longer than a socket's path may be.
        self.directory = Path(tempfile.mkdtemp(prefix="ts-"))
        self._running: list[RunningDaemon] = []

    def start(
        self,
        config: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        directory: Path | None = None,
        wrapper: Sequence[str] = (),
        measured: bool = True,
    ) -> RunningDaemon:
        """Start one, and return when it is ready.

        Args:
            config: settings by section and name; ``policies`` is a list of tables. None: no file at all.
            env: further environment variables.
            args: further arguments of ``serve``.
            directory: where its files are; a previous daemon's to go on with what that one left.
            wrapper: a command that runs the daemon in its own place, e.g. with fewer capabilities.
            measured: False keeps the measuring of coverage out of the process, where its memory or time counts.
        """
        if directory is None:
            directory = self.directory / str(len(self._running))
            directory.mkdir()
        socket_path, data_dir, log_path = directory / "s.sock", directory / "data", directory / "log"
        command = [*wrapper, sys.executable, "-m", "tiered_store", "serve"]
        command += ["--socket", str(socket_path), "--data-dir", str(data_dir), *args]
        if config is not None:
            (directory / "config.toml").write_text(toml_of(config))
            command += ["--config", str(directory / "config.toml")]
        notify_path = directory / "notify"
        notify_path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log_path.open("ab") as log:
            notify.bind(str(notify_path))
            environment = {**clean_environment(), "NOTIFY_SOCKET": str(notify_path), **(env or {})}
            if not measured:
                environment = unmeasured(environment)
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            daemon = RunningDaemon(process, socket_path, data_dir, log_path)
            self._running.append(daemon)
            if not _is_ready(process, notify):
                raise AssertionError(f"the daemon did not start: {log_path.read_text()}")
        return daemon

    def close(self) -> None:
        """End what still runs, and remove all files."""
        for daemon in self._running:
            for client in daemon.clients:
                client.close()
            if daemon.process.poll() is None:
                daemon.kill9()
        shutil.rmtree(self.directory, ignore_errors=True)


def _is_ready(process: subprocess.Popen[bytes], notify: socket.socket) -> bool:
    """Wait for the daemon's word that it is ready, or for its end."""
    ended = os.pidfd_open(process.pid)
    try:
        ready, _, _ = select.select([notify, ended], [], [], START_TIMEOUT_S)
        return notify in ready and notify.recv(64) == b"READY=1"
    finally:
        os.close(ended)


def clean_environment() -> dict[str, str]:
    """This environment without settings of a daemon; the package under test can be imported."""
    ours = ("TIERED_STORE_", "STORAGE_", "S3_", "AWS_", "XDG_", "NOTIFY_SOCKET")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    return environment


def unmeasured(environment: Mapping[str, str]) -> dict[str, str]:
    """The same without the variables by which coverage measures a new process; for what it would distort."""
    return {name: value for name, value in environment.items() if not name.startswith("COVERAGE_PROCESS_")}


def toml_of(config: Mapping[str, Any]) -> str:
    """TOML of plain settings: JSON's texts, numbers, booleans and lists are TOML's too."""
    lines = []
    for section, value in config.items():
        tables = (
            [(f"[[{section}]]", table) for table in value] if isinstance(value, list) else [(f"[{section}]", value)]
        )
        for head, table in tables:
            lines.append(head)
            lines.extend(f"{name} = {_toml_value(setting)}" for name, setting in table.items())
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml_value(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
