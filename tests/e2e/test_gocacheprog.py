"""``tiered-store gocacheprog`` between a go command, played by the test, and a real daemon."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, clean_environment
from tests.support.gocache import GoCommand, action_of
from tests.support.processes import until
from tiered_store.build.entry import Place, decode_entry

SMALL, LARGE = b"small", os.urandom(1024 * 1024) * 5
BODIES = {"small": SMALL, "large": LARGE, "empty": b""}


class Machine:
    """A user who runs go commands with a directory of their own, against one daemon."""

    def __init__(self, daemon: RunningDaemon, directory: Path) -> None:
        self.daemon = daemon
        self.directory = directory
        self.options = ["--dir", str(directory), "--socket", str(daemon.socket_path), "--verbose"]

    def go(self, *options: str) -> GoCommand:
        return GoCommand(*self.options, *options)

    def build(self, *options: str) -> str:
        """What a build does that finds nothing; what the program said at its end."""
        with self.go(*options) as go:
            for name, body in BODIES.items():
                assert go.get(name) is None
                go.put(name, body)
            return go.finish()

    def rebuild(self, *options: str) -> str:
        """What one does that must find everything."""
        with self.go(*options) as go:
            for name, body in BODIES.items():
                assert go.get(name) == body
            return go.finish()

    def clean(self) -> None:
        shutil.rmtree(self.directory)

    def outputs(self) -> list[Path]:
        return sorted(self.directory.rglob("*-d"))


@pytest.fixture
def machine(daemon: RunningDaemon, tmp_path: Path) -> Machine:
    return Machine(daemon, tmp_path / "go")


def test_cold_then_clean_then_from_the_daemon(machine: Machine) -> None:
    assert "3 puts, 3 uploaded, 0 not" in machine.build()
    assert "3 gets, 3 found here" in machine.rebuild()
    machine.clean()
    assert "3 gets, 0 found here; 3 in the daemon" in machine.rebuild()
    assert "3 gets, 3 found here" in machine.rebuild()
    with machine.daemon.client() as store:
        entry = decode_entry(store.get(Place("go", "default").key(action_of("large").hex())))
        assert (entry.digest, entry.size) == (hashlib.sha256(LARGE).hexdigest(), len(LARGE))
        assert store.get(entry.content) == LARGE


def test_instances_do_not_meet(machine: Machine) -> None:
    machine.build("--instance", "one")
    machine.build("--instance", "two")
    machine.clean()
    machine.rebuild("--instance", "two")


def test_who_only_reads_writes_nothing(machine: Machine) -> None:
    assert "3 puts, 0 uploaded, 0 not" in machine.build("--read-only")
    with machine.daemon.client() as store:
        assert list(store.list()) == []
    machine.rebuild("--read-only")  # from its own directory


def test_what_the_daemon_could_not_take_is_offered_again(
    machine: Machine, daemon_factory: Callable[..., RunningDaemon]
) -> None:
    machine.daemon.stop()
    machine.build()
    daemon_factory(directory=machine.daemon.socket_path.parent)
    assert "3 found here; 0 in the daemon; 0 puts, 3 uploaded, 0 not" in machine.rebuild()
    assert "uploaded" not in machine.rebuild()
    machine.clean()
    machine.rebuild()


def test_no_daemon_is_a_cache_of_ones_own(machine: Machine) -> None:
    machine.daemon.stop()
    machine.build()
    machine.rebuild()


def test_a_daemon_that_was_killed_and_left_its_socket(machine: Machine) -> None:
    machine.daemon.kill9()
    assert machine.daemon.socket_path.exists()
    machine.build()
    machine.rebuild()


def test_a_daemon_killed_between_two_requests(machine: Machine, daemon_factory: Callable[..., RunningDaemon]) -> None:
    with machine.go() as go:
        assert go.get("large") is None
        go.put("large", LARGE)
        machine.daemon.kill9()
        assert go.get("small") is None
        go.put("small", SMALL)
        assert go.get("small") == SMALL
        go.finish()
    machine.daemon = daemon_factory(directory=machine.daemon.socket_path.parent)
    with machine.go() as go:
        assert go.get("large") == LARGE
        assert go.get("small") == SMALL
        go.finish()


def test_a_daemon_that_answers_nothing_costs_one_deadline(machine: Machine) -> None:
    machine.build()
    machine.clean()
    machine.daemon.process.send_signal(signal.SIGSTOP)
    try:
        with machine.go("--deadline", "0.2", "--drain", "0.2") as go:
            for name, body in BODIES.items():
                assert go.get(name) is None
                go.put(name, body)
            said = go.finish()
    finally:
        machine.daemon.process.send_signal(signal.SIGCONT)
    assert "0 uploaded, 3 not" in said
    machine.rebuild()


def test_damage_in_the_directory_is_repaired_from_the_daemon(machine: Machine) -> None:
    machine.build()
    for path in machine.outputs():
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert "0 found here; 3 in the daemon" in machine.rebuild()


@pytest.mark.parametrize("damage", [b"", b"?" * len(LARGE)], ids=["truncated", "overwritten"])
def test_damage_in_the_daemon_is_a_miss(
    machine: Machine, daemon_factory: Callable[..., RunningDaemon], damage: bytes
) -> None:
    """In its origin, with nothing left in its tiers."""
    machine.build()
    machine.clean()
    machine.daemon.stop()
    digest = hashlib.sha256(LARGE).hexdigest()
    (origin,) = machine.daemon.data_dir.joinpath("origin").rglob(digest)
    origin.chmod(0o600)
    origin.write_bytes(damage)
    shutil.rmtree(machine.daemon.data_dir / "cache")
    daemon_factory(directory=machine.daemon.socket_path.parent)
    with machine.go() as go:
        assert go.get("large") is None
        assert go.get("small") == SMALL
        go.put("large", LARGE)
        assert go.get("large") == LARGE
        go.finish()
    machine.clean()
    machine.rebuild()


def test_two_go_commands_at_once(machine: Machine) -> None:
    with machine.go() as one, machine.go() as other:
        for name, body in BODIES.items():
            assert one.put(name, body) == other.put(name, body)
        assert one.get("large") == other.get("large") == LARGE
        one.finish()
        assert other.get("small") == SMALL
        other.finish()
    machine.clean()
    machine.rebuild()


def test_a_program_that_is_killed_leaves_nothing_half(machine: Machine) -> None:
    with machine.go() as go:
        go.put("large", LARGE)
        go.begin("get", ActionID="AAAA")
        go.send(b'{"ID":9,"Command":"put","ActionID":"AAAA","OutputID":"' + b"A" * 43 + b'=","BodySize":900}\n"AAAA')
        until(lambda: bool(list(machine.directory.rglob("incoming/*"))), "the body is being taken")
        go.process.kill()
    assert len(machine.outputs()) == 1
    with machine.go() as go:
        assert go.get("large") == LARGE
        go.finish()


def test_from_the_configuration_the_socket_is_known(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(f'[server]\nsocket = "{machine.daemon.socket_path}"\n')
    with GoCommand("--dir", str(machine.directory), env={"TIERED_STORE_CONFIG": f"{tmp_path}/c.toml"}) as go:
        go.put("small", SMALL)
        go.finish()
    machine.clean()
    with machine.go() as go:
        assert go.get("small") == SMALL
        go.finish()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tiered_store", *arguments],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_line_proper_explains_it(tmp_path: Path) -> None:
    assert "--read-only" in run("gocacheprog", "--help").stdout
    assert "gocacheprog" in run("--help").stdout
    refused = run("gocacheprog", "--max-size", "3XB")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "max-size: must be a number of bytes" in refused.stderr
    same = run("--socket", f"{tmp_path}/none", "gocacheprog", "--dir", f"{tmp_path}/go", "--read-only", "--verbose")
    assert (same.returncode, same.stdout) == (0, '{"ID":0,"KnownCommands":["get","put","close"]}\n')
