"""The public interface as a type checker sees it: a user's code is checked, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import tiered_store

pytest.importorskip("mypy", reason="mypy checks the interface; it comes with the lint group")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
#: Of its own: with other options, mypy would throw the project's away.
CACHE = ROOT / ".mypy_cache" / "typing"


def check(name: str) -> subprocess.CompletedProcess[str]:
    """Run mypy over one file, without the project's own configuration."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={CACHE}", str(HERE / name)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=110, check=False)


def test_the_interface_is_typed() -> None:
    done = check("api.py")
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_use_is_found() -> None:
    done = check("wrong.py")
    found = {int(line) for line in re.findall(r"wrong\.py:(\d+): error", done.stdout)}
    lines = (HERE / "wrong.py").read_text(encoding="utf-8").splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.startswith(("Client", "AsyncClient"))}
    assert found == expected, done.stdout + done.stderr


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(tiered_store.__file__).parent / "py.typed").is_file()
