"""Where things live when nobody says so: XDG directories for a user, ``/var`` and ``/run`` for root.

A function of the environment and the user id, so that tests can play both. The client's own search for
the socket (``client/address.py``) follows the same rule; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DefaultPaths", "default_paths", "paths_below"]

_NAME = "tiered_store"


@dataclass(frozen=True, slots=True)
class DefaultPaths:
    """The places a daemon needs."""

    socket: Path
    origin: Path
    cache: Path
    journal: Path


def default_paths(environment: Mapping[str, str], uid: int, home: Path) -> DefaultPaths:
    """The places for this user.

    Args:
        environment: XDG variables are looked up here; relative ones are ignored, as XDG asks.
        uid: 0 is root, who gets the system's directories.
        home: the user's home directory.
    """
    runtime = _xdg(environment, "XDG_RUNTIME_DIR")
    socket = (runtime or Path("/run")) / _NAME / "store.sock"
    if uid == 0:
        state = Path("/var/lib") / _NAME
        return DefaultPaths(socket, state / "origin", Path("/var/cache") / _NAME, state / "journal")
    data = _xdg(environment, "XDG_DATA_HOME") or home / ".local/share"
    cache = _xdg(environment, "XDG_CACHE_HOME") or home / ".cache"
    # The journal is no cache: whoever empties caches must not lose acknowledged puts.
    return DefaultPaths(socket, data / _NAME / "origin", cache / _NAME, data / _NAME / "journal")


def paths_below(directory: Path) -> tuple[Path, Path, Path]:
    """Origin, cache and journal below one directory, for ``--data-dir``."""
    return directory / "origin", directory / "cache", directory / "journal"


def _xdg(environment: Mapping[str, str], name: str) -> Path | None:
    value = environment.get(name, "")
    return Path(value) if value.startswith("/") else None
