"""A daemon whose HTTP door build tools use, and what can be done to what it keeps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.daemon import RunningDaemon
from tests.support.servers import free_port
from tests.support.tiers import object_files
from tests.support.tools import Endpoint
from tiered_store.servers.credentials import hash_of, new_token

__all__ = ["Cache"]

#: Anything larger is a tool's output: what compilers and archives of the tests come to. Entries are smaller.
_CONTENT_MIN_BYTES = 20_000


class Cache:
    """One daemon at one address, however often it is started.

    Args:
        start: the fixture ``daemon_factory``.
        directory: where its files are.
        config: settings beside those of the door.
    """

    def __init__(
        self, start: Callable[..., RunningDaemon], directory: Path, config: Mapping[str, Any] | None = None
    ) -> None:
        token = new_token()
        self.endpoint = Endpoint(free_port(), token, directory / "h.sock")
        self._start, self._directory = start, directory
        self._config = {
            "http": {"port": self.endpoint.port, "socket": str(self.endpoint.socket)},
            "crsh": {"socket": str(self.endpoint.crsh)},
            "resp": {"socket": str(self.endpoint.resp)},
            "access": {"tokens": [{"name": "ci", "hash": f"sha256:{hash_of(token)}", "role": "write"}]},
            **(config or {}),
        }
        self.daemon = start(self._config, directory=directory, measured=False)

    @property
    def origin(self) -> Path:
        """The local origin's directory."""
        return self.daemon.data_dir / "origin"

    def stop(self) -> None:
        """End it as an operator does."""
        assert self.daemon.stop() == 0

    def kill(self) -> None:
        """End it without a warning."""
        self.daemon.kill9()

    def start(self, **config: Any) -> None:
        """Start it again, with what it left, and further settings."""
        self._config |= config
        self.daemon = self._start(self._config, directory=self._directory, measured=False)

    def forget_tiers(self) -> None:
        """Remove the disk tier of a daemon that is stopped."""
        shutil.rmtree(self.daemon.data_dir / "cache")

    def contents(self) -> list[Path]:
        """The tools' outputs at a local origin."""
        paths = (self.origin / "artifacts").rglob("*")
        return [path for path in paths if path.is_file() and path.stat().st_size >= _CONTENT_MIN_BYTES]

    def entries(self) -> list[Path]:
        """What is behind the tools' keys at a local origin."""
        return [path for path in (self.origin / "build").rglob("*") if path.is_file()]

    def cached_files(self) -> list[Path]:
        """The tools' outputs in the disk tier."""
        paths = object_files(self.daemon.data_dir / "cache")
        return [path for path in paths if path.stat().st_size >= _CONTENT_MIN_BYTES]


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        byte = file.read(1)[0]
        file.seek(size // 2)
        file.write(bytes([byte ^ 1]))


def cut(path: Path) -> None:
    """Leave the first half of a file."""
    os.truncate(path, path.stat().st_size // 2)
