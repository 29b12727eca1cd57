"""Install a ccache that speaks CRSH (4.13 and later) for the tests, once, outside the checkout.

    python3 scripts/ccache_crsh.py

Debian 12 has an older one, so this takes the one of Debian's development branch, with the libraries that it was built
with: apt, with directories of its own, fetches them, and nothing of the system is touched. Needs apt and dpkg-deb, no
root. Its compilers stay the system's: the libraries are named on the program's command line and not in the environment.

Standard library only; tests/support/ccache.py reads the place from here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
#: Where everything is.
DIRECTORY = _CACHE / "tiered_store" / "ccache-crsh"
#: What to run.
PROGRAM = DIRECTORY / "ccache"

_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SOURCE = f"deb [signed-by={_KEYS}] http://deb.debian.org/debian sid main\n"
_CONFIGURATION = """
Dir::State "{state}";
Dir::State::Lists "{state}/lists";
Dir::State::Status "{state}/status";
Dir::Cache "{state}/cache";
Dir::Etc::SourceList "{state}/sources.list";
Dir::Etc::SourceParts "-";
Dir::Etc::Preferences "-";
Acquire::Languages "none";
APT::Sandbox::User "";
"""
_LIBRARIES = "root/usr/lib/x86_64-linux-gnu"
_LAUNCHER = """#!/bin/sh
exec {libraries}/ld-linux-x86-64.so.2 --argv0 ccache --library-path {libraries} {root}/usr/bin/ccache "$@"
"""


def install() -> None:
    """Fetch and unpack; the launcher is written last."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tiered-store-apt-") as name:
        state = Path(name)
        for directory in ("lists/partial", "cache/archives/partial"):
            (state / directory).mkdir(parents=True)
        (state / "status").touch()
        (state / "sources.list").write_text(_SOURCE)
        (state / "apt.conf").write_text(_CONFIGURATION.format(state=state))
        environment = {**os.environ, "APT_CONFIG": str(state / "apt.conf")}
        quietly = ["apt-get", "-qq", "--yes"]
        subprocess.run([*quietly, "update"], check=True, env=environment)
        fetch = ["install", "--download-only", "--no-install-recommends", "ccache"]
        subprocess.run([*quietly, *fetch], check=True, env=environment, stdout=subprocess.DEVNULL)
        unpack = ["dpkg-deb", "--extract"]
        for package in (state / "cache" / "archives").glob("*.deb"):
            subprocess.run([*unpack, package, DIRECTORY / "root"], check=True)
    launcher = _LAUNCHER.format(libraries=DIRECTORY / _LIBRARIES, root=DIRECTORY / "root")
    (DIRECTORY / "new").write_text(launcher)
    (DIRECTORY / "new").chmod(0o755)
    (DIRECTORY / "new").rename(PROGRAM)


def main() -> None:
    if not PROGRAM.exists():
        sys.stderr.write(f"installing a newer ccache for the tests in {DIRECTORY}, once\n")
        install()


if __name__ == "__main__":
    main()
