"""Make the virtual environment `.venv` ready for some of the project's dependency groups.

    python3 scripts/venv.py [GROUP ...]

Run by every target of the Makefile, so it must be quick when there is nothing to do: each group leaves a
stamp in the environment with a fingerprint of what it was made from, and a group whose stamp still fits is
not looked at again. A change of pyproject.toml, of constraints.txt, of the interpreter or of the checkout's
place makes the environment anew.

Standard library only, and no `pip install --group`: pip has that since 25.1, Debian 12 ships 23.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
#: The stamp of the project itself with its run-time dependencies.
RUN = "run"


def fail(message: str) -> None:
    sys.exit(f"scripts/venv.py: {message}")


if sys.version_info < (3, 11):  # noqa: UP036 - said plainly instead of failing at `import tomllib`
    fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; try `make PYTHON=python3.11 ...`")

import tomllib  # noqa: E402 - older interpreters have no such module, and are told so above


def fingerprint() -> str:
    """What the environment depends on, as one string."""
    parts = [sys.version, sys.executable, str(ROOT)]
    parts += [(ROOT / name).read_text() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def stamp(group: str) -> Path:
    return VENV / f".ready-{group}"


def is_ready(group: str, wanted: str) -> bool:
    try:
        return stamp(group).read_text() == wanted
    except OSError:
        return False


def requirements(groups: list[str]) -> list[str]:
    """The requirements of the dependency groups in pyproject.toml."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    unknown = [group for group in groups if group not in known]
    if unknown:
        fail(f"no dependency group {', '.join(unknown)}; there are {', '.join(known)}")
    return [requirement for group in groups for requirement in known[group]]


def succeeds(*command: str | Path) -> bool:
    try:
        return subprocess.run(command, check=False, cwd=ROOT).returncode == 0
    except OSError:
        return False


def uv() -> str | None:
    """The uv that works here, if any: a version manager's shim may exist without one behind it."""
    found = shutil.which("uv")
    if not found:
        return None
    probe = subprocess.run([found, "--version"], check=False, capture_output=True)
    return found if probe.returncode == 0 else None


def create() -> None:
    if VENV.exists():
        shutil.rmtree(VENV)
    if (tool := uv()) and succeeds(tool, "venv", "--quiet", "--seed", "--python", sys.executable, VENV):
        return
    if not succeeds(sys.executable, "-m", "venv", "--clear", VENV):
        fail("could not make .venv; on Debian and Ubuntu: apt-get install python3-venv")


def install(wanted: list[str]) -> None:
    arguments = ["--constraint", str(CONSTRAINTS), *wanted]
    # An index that pip knows (pip.conf, PIP_*) may be unknown to uv, so pip has the second word.
    if (tool := uv()) and succeeds(tool, "pip", "install", "--quiet", "--python", PYTHON, *arguments):
        return
    if not succeeds(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments):
        fail("installing failed; what pip said is above")


def main(groups: list[str]) -> None:
    wanted = fingerprint()
    missing = [group for group in groups if not is_ready(group, wanted)]
    if is_ready(RUN, wanted) and not missing:
        return
    names = requirements(missing)
    if not is_ready(RUN, wanted):
        sys.stderr.write(f"making {VENV.relative_to(ROOT)} ({', '.join([RUN, *groups])}), once\n")
        create()
        missing = groups
        names = ["--editable", str(ROOT), *requirements(groups)]
    install(names)
    for group in (RUN, *missing):
        stamp(group).write_text(wanted)


if __name__ == "__main__":
    os.umask(0o022)
    main(sys.argv[1:])
