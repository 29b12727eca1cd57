"""The real go command with ``tiered-store gocacheprog``: cold, clean and hit, and with everything that can fail."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import daemon
from tests.support.daemon import RunningDaemon
from tests.support.processes import until
from tests.tools.golang import Workspace, compiled, counted

__all__ = ["daemon"]


@pytest.fixture
def workspace(daemon: RunningDaemon, tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, daemon.socket_path)


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
