"""What the kernel says of a process: descriptors and memory; and waiting for what cannot be awaited."""

from __future__ import annotations

import re
import select
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

__all__ = ["MIB", "descriptors", "high_water_bytes", "reset_high_water", "resident_bytes", "until"]

MIB = 1024 * 1024


def descriptors(pid: int) -> list[str]:
    """What every open descriptor of a process points at."""
    targets = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            targets.append(str(path.readlink()))
    return sorted(targets)


def _status(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found is not None, text
    return int(found[1]) * 1024


def resident_bytes(pid: int) -> int:
    """Anonymous memory in RAM: what the process itself has allocated, without mapped files."""
    return _status(pid, "RssAnon")


def high_water_bytes(pid: int) -> int:
    """The most that was ever resident since the start, or since :func:`reset_high_water`."""
    return _status(pid, "VmHWM")


def reset_high_water(pid: int) -> int:
    """Begin to measure anew (proc(5), clear_refs); gives what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
    return _status(pid, "VmRSS")


def until(condition: Callable[[], bool], what: str, *, limit_s: float = 15.0) -> None:
    """Look at another process until a condition holds; fails after ``limit_s`` seconds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s} s: {what}")
        select.select([], [], [], 0.01)
