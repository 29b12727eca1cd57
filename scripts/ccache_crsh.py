"""Install a ccache that speaks CRSH (4.13 and later) for the tests, once, outside the checkout.

    python3 scripts/ccache_crsh.py

Debian 12 has an older one, so this takes the one of Debian's development branch, with the libraries that it was built
with: apt, with directories of its own, fetches them, and nothing of the system is touched. Needs apt and dpkg-deb, no
root. Its compilers stay the system's: the libraries are named on the program's command line and not in the environment.

That branch moves on and keeps nothing old, so no version can be asked for by name: any that speaks CRSH will do. Where
there is none today (the branch is in the middle of something, or this is no x86-64), that is said, and is no failure of
whoever ran this: tests that need the program are then skipped, with that reason, on build servers, too.

Standard library only; tests/support/ccache.py reads the place and the reason from here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
#: Where everything is.
DIRECTORY = _CACHE / "tiered_store" / "ccache-crsh"
#: What to run.
PROGRAM = DIRECTORY / "ccache"
#: Why there is nothing to run, after an attempt to install it.
REASON = DIRECTORY / "missing"

_LIMIT_S = 300.0
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


class NotInstalledError(Exception):
    """There is no ccache with CRSH; the text says why."""


def install() -> None:
    """Fetch and unpack; the launcher is written last.

    Raises:
        NotInstalledError: what is there today is of no use.
    """
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    DIRECTORY.mkdir(parents=True)
    try:
        _unpack()
        launcher = DIRECTORY / "new"
        launcher.write_text(_LAUNCHER.format(libraries=DIRECTORY / _LIBRARIES, root=DIRECTORY / "root"))
        launcher.chmod(0o755)
        said = _run([launcher, "--version"])
    except OSError as error:
        raise NotInstalledError(str(error)) from error
    except subprocess.CalledProcessError as error:
        raise NotInstalledError(f"{Path(error.cmd[0]).name}: {error.output[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NotInstalledError(str(error)) from error
    if "crsh-storage" not in said:
        raise NotInstalledError(f"{said.partition(chr(10))[0]} does not speak CRSH")
    launcher.rename(PROGRAM)


def _unpack() -> None:
    with tempfile.TemporaryDirectory(prefix="tiered-store-apt-") as name:
        state = Path(name)
        for directory in ("lists/partial", "cache/archives/partial"):
            (state / directory).mkdir(parents=True)
        (state / "status").touch()
        (state / "sources.list").write_text(_SOURCE)
        (state / "apt.conf").write_text(_CONFIGURATION.format(state=state))
        environment = {**os.environ, "APT_CONFIG": str(state / "apt.conf")}
        quietly = ["apt-get", "-qq", "--yes"]
        _run([*quietly, "update"], environment)
        _run([*quietly, "install", "--download-only", "--no-install-recommends", "ccache"], environment)
        for package in (state / "cache" / "archives").glob("*.deb"):
            _run(["dpkg-deb", "--extract", package, DIRECTORY / "root"])


def _run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> str:
    """Run to the end; what it has printed."""
    done = subprocess.run(
        command,
        check=True,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_LIMIT_S,
    )
    return done.stdout


def main() -> None:
    if PROGRAM.exists():
        return
    sys.stderr.write(f"installing a newer ccache for the tests in {DIRECTORY}, once\n")
    try:
        install()
    except NotInstalledError as error:
        sys.stderr.write(f"there is none, so that tests which need it will be skipped: {error}\n")
        REASON.write_text(str(error))


if __name__ == "__main__":
    main()
