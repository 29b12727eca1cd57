"""The one source of bytes for everything measured here: the same on every machine and in every run."""

from __future__ import annotations

import hashlib
import os
import random
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

__all__ = ["KIB", "MIB", "artifact_key", "keys", "payload", "size_text", "standard_library"]

KIB = 1024
MIB = 1024 * 1024

#: Derived files, and what others installed.
_SKIPPED = {"__pycache__", "site-packages", "dist-packages"}


def payload(size: int, seed: int = 0) -> bytes:
    """Bytes without structure, so that nobody gains by compressing or deduplicating them."""
    return random.Random(f"{seed}/{size}").randbytes(size)


def keys(count: int, prefix: str = "cache/bench/small") -> list[str]:
    """Distinct keys that sort in the order of their numbers. Below ``cache/`` the default policy is "immutable"."""
    return [f"{prefix}/{number:06d}" for number in range(count)]


def artifact_key(data: bytes) -> str:
    """The key of an artifact, computed without the store."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def size_text(size: int) -> str:
    """``1 KiB``, ``64 MiB``: for titles, where sizes are whole."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def standard_library(limit: int | None = None) -> Iterator[tuple[str, Path]]:
    """The files of this Python's standard library, as names relative to it and paths, always in the same order."""
    root = Path(sysconfig.get_path("stdlib"))
    return islice(_files(root), limit)


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    for directory, below, names in os.walk(root):
        # config-* holds the static library to build Python with, larger than all the rest.
        below[:] = sorted(name for name in below if name not in _SKIPPED and not name.startswith("config-"))
        for name in sorted(names):
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(root).as_posix(), path
