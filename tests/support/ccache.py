"""ccache for real: a few C files, compiled through a storage that is named to it."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.ccache_crsh import PROGRAM, REASON
from tests.support.servers import is_missing

__all__ = ["CcacheBuild", "ccache_with"]

_LIMIT_S = 60.0


def ccache_with(feature: str) -> str:
    """A ccache with this storage (``redis+unix`` or ``crsh``); the test ends here if there is none."""
    found = next((program for program in _programs() if f"{feature}-storage" in _version(program)), None)
    if found is None and feature == "crsh" and REASON.exists():
        pytest.skip(f"scripts/ccache_crsh.py has found no ccache with {feature}: {REASON.read_text()}")
    if found is None:
        is_missing(f"no ccache here has {feature}: apt-get install ccache; scripts/ccache_crsh.py for a newer one")
    return found


def _programs() -> list[str]:
    """Debian's own, and the newer one."""
    own = shutil.which("ccache")
    newer = [str(PROGRAM)] if os.access(PROGRAM, os.X_OK) else []
    return ([own] if own else []) + newer


def _version(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=_LIMIT_S).stdout


class CcacheBuild:
    """A tree of C files of its own.

    Args:
        directory: where it is; made.
        program: which ccache.
        storage: as ccache's ``remote_storage``.
        count: how many files.
    """

    def __init__(self, directory: Path, program: str, storage: str, count: int = 4) -> None:
        directory.mkdir()
        self.directory = directory
        self._program = program
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(directory),
            "CCACHE_DIR": str(directory / "local"),
            "CCACHE_CONFIGPATH": "/dev/null",
            "CCACHE_REMOTE_STORAGE": storage,
        }
        self.names = [f"f{number}" for number in range(count)]
        for name in self.names:
            # One of them so large that neither side sends it in one piece.
            text = "".join(random.choices("abcdefgh", k=400_000 if name == "f0" else 2000))
            (directory / f"{name}.c").write_text(f'const char {name}[] = "{text}";\n')

    def compile(self, name: str) -> None:
        """One file; a failure of the compilation is the test's."""
        command = [self._program, "gcc", "-c", f"{name}.c", "-o", f"{name}.o"]
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def build(self) -> None:
        """All files, one after the other."""
        for name in self.names:
            self.compile(name)

    def objects(self) -> dict[str, bytes]:
        """What was built."""
        return {name: (self.directory / f"{name}.o").read_bytes() for name in self.names}

    def clean(self) -> None:
        """Forget everything on this side: what was built, and ccache's own cache."""
        for name in self.names:
            (self.directory / f"{name}.o").unlink(missing_ok=True)
        shutil.rmtree(self.directory / "local", ignore_errors=True)

    def counted(self, name: str) -> int:
        """One of ccache's own counters since the last :meth:`clean`."""
        said = subprocess.run(
            [self._program, "--print-stats"], env=self._environment, capture_output=True, text=True, check=True
        ).stdout
        found = re.search(rf"^{name}\t(\d+)$", said, re.MULTILINE)
        assert found is not None, said
        return int(found[1])

    def compiled(self) -> dict[str, bytes]:
        """What the compiler makes of the same files without any cache."""
        made = {}
        for name in self.names:
            command = ["gcc", "-c", f"{name}.c", "-o", "reference"]
            subprocess.run(command, cwd=self.directory, check=True)
            made[name] = (self.directory / "reference").read_bytes()
        return made
