"""The daemon under measurement, as a child process, and what its own counters say."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.children import Child
from tiered_store import Client, StoreError

__all__ = ["MEMORY_ORIGIN", "Daemon", "Settings", "WrongTier", "clean_environment", "config_text", "tier_hits"]

#: By section and name; the rules for prefixes are an array of tables.
Settings = Mapping[str, "Mapping[str, object] | Sequence[Mapping[str, object]]"]

PLACES = ("memory", "disk", "origin")
MEMORY_ORIGIN = {"origin": {"backend": "memory"}}
_START_TIMEOUT_S = 60.0


class WrongTier(Exception):
    """Reads were answered by another place than the one to be measured."""


class Daemon:
    """``tiered-store serve`` on directories of its own.

    Args:
        directory: where everything of it lives; made if need be.
        settings: what differs from the defaults, by section and name. None starts it without a configuration
            file, from ``--data-dir`` and ``--socket`` alone.
    """

    def __init__(self, directory: Path, settings: Settings | None = None) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.socket_path = directory / "store.sock"
        self.data.mkdir(parents=True, exist_ok=True)
        self._arguments = ["--data-dir", str(self.data), "--socket", str(self.socket_path)]
        if settings is not None:
            configuration = directory / "store.toml"
            configuration.write_text(config_text(settings))
            self._arguments += ["--config", str(configuration)]
        self.child = self._start()
        self.client = self.connect()

    @property
    def cache(self) -> Path:
        """Where the disk tier lives."""
        return self.data / "cache"

    @property
    def origin(self) -> Path:
        """Where the local origin lives."""
        return self.data / "origin"

    def connect(self) -> Client:
        """A further client."""
        return Client(socket_path=str(self.socket_path), timeout_s=120.0)

    def stats(self) -> dict[str, Any]:
        return self.client.stats()

    def start_again(self) -> float:
        """Stop if need be, and start on what is on disk; returns the seconds from exec to the first answer."""
        self.stop()
        self.child = self._start()
        self.client = self.connect()
        while True:
            try:
                self.client.ping()
            except StoreError:
                if time.perf_counter() - self.child.started_at > _START_TIMEOUT_S:
                    raise
            else:
                return time.perf_counter() - self.child.started_at

    def stop(self) -> int:
        """Disconnect and end it; returns its exit code."""
        self.client.close()
        return self.child.stop()

    @contextmanager
    def answering_from(self, place: str) -> Iterator[None]:
        """Raises WrongTier unless all reads meanwhile were answered by this place, by the daemon's own counters."""
        before = tier_hits(self.stats())
        yield
        after = tier_hits(self.stats())
        moved = {name: after[name] - before[name] for name in PLACES if after[name] != before[name]}
        if set(moved) != {place}:
            raise WrongTier(f"reads meant for {place} were answered by {moved}")

    def _start(self) -> Child:
        command = [sys.executable, "-m", "tiered_store", "serve", *self._arguments]
        child = Child(command, self.socket_path, self.directory, clean_environment())
        child.wait_until_listening()
        return child


def tier_hits(stats: Mapping[str, Any]) -> dict[str, int]:
    """How many reads each place has answered."""
    return {place: int(stats[place]["hits"]) for place in PLACES}


def config_text(settings: Settings) -> str:
    """TOML of plain settings: numbers, booleans and texts without quotes in them."""
    lines = []
    for section, value in settings.items():
        is_table = isinstance(value, Mapping)
        for table in [value] if isinstance(value, Mapping) else value:
            lines.append(f"[{section}]" if is_table else f"[[{section}]]")
            for name, setting in table.items():
                is_text = isinstance(setting, str)
                lines.append(f"{name} = " + (f'"{setting}"' if is_text else str(setting).lower()))
    return "\n".join(lines) + "\n"


def clean_environment() -> dict[str, str]:
    """The environment without settings of a daemon that this user may have; this package stays importable.

    Bytecode is cached as it is for every user, also where the environment forbids it: compiling would be most
    of an import and of a start.
    """
    ours = ("TIERED_STORE_", "STORAGE_", "S3_", "AWS_", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    root = str(Path(__file__).resolve().parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    return environment
