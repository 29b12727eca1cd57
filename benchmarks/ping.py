"""The C ping-pong: compiled when it is needed, where there is a compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

__all__ = ["C_PING_PONG", "PingPong"]

C_PING_PONG = "C ping-pong"
_SOURCE = Path(__file__).with_name("cping.c")


class PingPong:
    """A compiled ``cping``.

    Raises:
        OSError: there is no compiler, or it cannot compile the program; the message says which.
    """

    def __init__(self, directory: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if not compiler:
            raise OSError("no C compiler is installed")
        self._program = directory / "cping"
        built = subprocess.run(
            [compiler, "-O2", "-o", str(self._program), str(_SOURCE)], check=False, capture_output=True, text=True
        )
        if built.returncode != 0:
            raise OSError(f"{compiler} failed: {built.stderr.strip()[-200:]}")

    def seconds(self, size: int, count: int) -> float:
        """The median round trip of ``count``, on the CPUs that the caller may use."""
        done = subprocess.run([str(self._program), str(size), str(count)], check=True, capture_output=True, text=True)
        return int(done.stdout) / 1e9
