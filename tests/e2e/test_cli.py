"""The command line as a user has it: real processes on both ends."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, clean_environment
from tests.support.processes import until

COMMAND = [sys.executable, "-m", "tiered_store"]
LARGE = os.urandom(1024 * 1024) * 12


class Shell:
    """Runs commands against one daemon."""

    def __init__(self, socket_path: Path) -> None:
        self.environment = {**clean_environment(), "TIERED_STORE_SOCKET": str(socket_path)}

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*COMMAND, *arguments], env=self.environment, input=stdin, capture_output=True, check=False, timeout=60
        )

    def ok(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Standard output of a command that must succeed and say nothing else."""
        found = self.run(*arguments, stdin=stdin)
        assert (found.returncode, found.stderr) == (0, b""), found
        return found.stdout


@pytest.fixture
def shell(daemon: RunningDaemon) -> Shell:
    return Shell(daemon.socket_path)


def test_a_file_there_and_back(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(LARGE)
    found = json.loads(shell.ok("put", "a/b", f"{tmp_path}/in", "--content-type", "x/y", "--meta", "user=7", "--json"))
    assert (found["key"], found["size"], found["content_type"]) == ("a/b", len(LARGE), "x/y")
    assert shell.ok("get", "a/b") == LARGE
    assert shell.ok("get", "a/b", "-o", f"{tmp_path}/out") == b""
    assert (tmp_path / "out").read_bytes() == LARGE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]
    assert json.loads(shell.ok("stat", "a/b", "--json"))["metadata"] == {"user": "7"}
    assert shell.ok("cp", "a/b", "a/c") == b""
    assert shell.ok("ls", "a/") == b"a/b\na/c\n"
    assert shell.ok("rm", "a/b") == b""
    assert shell.ok("ls") == b"a/c\n"


@pytest.mark.parametrize("body", [b"", b"x", LARGE])
def test_standard_input_and_output(shell: Shell, body: bytes) -> None:
    assert shell.ok("put", "piped", "-", stdin=body) == b""
    assert shell.ok("get", "piped") == body


def test_a_cold_object_is_streamed_to_standard_output(shell: Shell, daemon: RunningDaemon) -> None:
    (daemon.data_dir / "origin/by-hand").write_bytes(LARGE)
    assert shell.ok("get", "by-hand") == LARGE
    assert daemon.client().stats()["fills"] == 1


def test_artifacts(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(LARGE)
    key = f"sha256:{hashlib.sha256(LARGE).hexdigest()}"
    assert shell.ok("artifact", "put", f"{tmp_path}/in").decode() == f"{key}  {tmp_path}/in\n"
    assert shell.ok("artifact", "get", key) == LARGE
    shell.ok("artifact", "get", key, "-o", f"{tmp_path}/out")
    assert (tmp_path / "out").read_bytes() == LARGE


def test_trees(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep/b").write_bytes(LARGE)
    (tmp_path / "tree/a").write_bytes(b"small")
    shell.environment["XDG_CACHE_HOME"] = f"{tmp_path}/cache"
    key = shell.ok("artifact", "put", f"{tmp_path}/tree").split()[0].decode()
    shell.ok("artifact", "get", key, "-o", f"{tmp_path}/out")
    assert shell.ok("artifact", "put", f"{tmp_path}/out").split()[0].decode() == key
    assert shell.ok("artifact", "get", f"sha256:{hashlib.sha256(LARGE).hexdigest()}") == LARGE


def test_a_ci_saves_and_restores(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/a").write_bytes(b"small")
    shell.environment["XDG_CACHE_HOME"] = f"{tmp_path}/cache"
    shell.environment["GITHUB_OUTPUT"] = f"{tmp_path}/outputs"
    path = f"{tmp_path}/modules"
    assert shell.ok("ci", "save", "--key", "linux-1", path).startswith(b"cache-saved=true\n")
    (tmp_path / "modules").rename(tmp_path / "saved")
    assert shell.ok("ci", "restore", "--key", "linux-2", "--restore-keys", "linux-", path).startswith(
        b"cache-hit=partial\n"
    )
    assert (tmp_path / "modules/a").read_bytes() == b"small"
    assert "cache-matched-key=linux-1\n" in (tmp_path / "outputs").read_text()


def test_a_missing_key_prints_nothing_and_leaves_no_file(shell: Shell, tmp_path: Path) -> None:
    for arguments in (("get", "no"), ("get", "no", "-o", f"{tmp_path}/out"), ("stat", "no"), ("rm", "no")):
        found = shell.run(*arguments)
        assert (found.returncode, found.stdout) == (1, b"")
        assert found.stderr.startswith(b"tiered-store: ")
        assert found.stderr.count(b"\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "rule"), [("a//b", b"empty segment"), ("../x", b"'..' segment"), ("/x", b"start with '/'"), ("", b"empty")]
)
def test_a_key_that_breaks_a_rule_names_the_rule(shell: Shell, key: str, rule: bytes) -> None:
    found = shell.run("put", key, "-", stdin=b"x")
    assert (found.returncode, found.stdout) == (1, b"")
    assert rule in found.stderr


def test_a_wrong_digest_names_both(shell: Shell) -> None:
    claimed, actual = "0" * 64, hashlib.sha256(b"x").hexdigest()
    found = shell.run("put", f"sha256:{claimed}", "-", stdin=b"x")
    assert found.returncode == 1
    assert claimed.encode() in found.stderr
    assert actual.encode() in found.stderr


@pytest.mark.parametrize("arguments", [("get", "a"), ("put", "a", "-"), ("ping",), ("stats", "--json"), ("bench",)])
def test_without_a_daemon(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    found = Shell(tmp_path / "none.sock").run(*arguments)
    assert (found.returncode, found.stdout) == (3, b"")
    assert b"no daemon at" in found.stderr
    assert b"tiered-store serve" in found.stderr


def test_a_reader_that_has_enough(shell: Shell) -> None:
    shell.ok("put", "large", "-", stdin=LARGE)
    process = subprocess.Popen(
        [*COMMAND, "get", "large"], env=shell.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(5) == LARGE[:5]
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 141


def _reads_standard_input(pid: int) -> bool:
    """By the number of read(2) on x86-64 and arm64, and its first argument."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[:2] in (["0", "0x0"], ["63", "0x0"])


def test_an_interrupt_leaves_no_trace(shell: Shell, daemon: RunningDaemon) -> None:
    watcher = daemon.client()
    watcher.ping()
    process = subprocess.Popen(
        [*COMMAND, "put", "never", "-"], env=shell.environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    until(lambda: watcher.stats()["connections"] == 2, "the command has its connection")
    # An import that an interrupt meets may swallow it (callbacks of its locks), so all of them have to be over.
    until(lambda: _reads_standard_input(process.pid), "the command waits for its input")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert shell.ok("ls") == b""


def test_about_the_daemon(shell: Shell, daemon: RunningDaemon) -> None:
    assert json.loads(shell.ok("ping", "--json"))["socket"] == str(daemon.socket_path)
    assert json.loads(shell.ok("stats", "--json"))["pid"] == daemon.process.pid
    assert shell.ok("stats").decode().splitlines()[1].startswith("memory ")
    assert shell.ok("--version").startswith(b"tiered-store ")


def test_the_self_test_cleans_up(shell: Shell) -> None:
    shell.ok("put", "mine", "-", stdin=b"x")
    rows = json.loads(shell.ok("bench", "--json"))
    assert {row["operation"] for row in rows} == {"put", "get", "get_view"}
    assert all(row["p50_us"] > 0 for row in rows)
    assert shell.ok("ls") == b"mine\n"


def test_check_config(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[server]\nsocket = 'relative'\n[lgo]\n")
    found = shell.run("check-config", f"{tmp_path}/c.toml")
    assert found.returncode == 2
    # The environment's socket wins over the file's, so that only one fault is left.
    (line,) = found.stderr.splitlines()
    assert line.endswith(b"c.toml: lgo: unknown section; did you mean 'log'?")


def test_completion_in_bash(shell: Shell) -> None:
    shell.ok("put", "sessions/a", "-", stdin=b"x")
    shell.environment |= {
        "_TIERED_STORE_COMPLETE": "bash_complete",
        "COMP_WORDS": "tiered-store get sess",
        "COMP_CWORD": "2",
    }
    assert shell.ok() == b"plain,sessions/a\n"
