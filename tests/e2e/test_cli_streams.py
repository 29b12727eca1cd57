"""The command line with standard streams as they come in pipelines and under supervisors: full, closed, impatient."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.clients import some_bytes
from tests.support.daemon import RunningDaemon, clean_environment, unmeasured
from tests.support.processes import until

COMMAND = [sys.executable, "-m", "tiered_store"]
LARGE = some_bytes(3 * 2**20)
BUFFERING = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])


@pytest.fixture
def environment(daemon: RunningDaemon) -> dict[str, str]:
    """Of a shell whose commands find the daemon."""
    return {**clean_environment(), "TIERED_STORE_SOCKET": str(daemon.socket_path)}


def shell(script: str, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Run a script in which ``ts`` is the program."""
    functions = f'ts() {{ "{sys.executable}" -m tiered_store "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", functions + script],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )


def is_selecting(pid: int) -> bool:
    """Whether a process waits for descriptors: in select or pselect6, by their numbers on x86-64 and arm64."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] in {"23", "270", "72"}


@BUFFERING
@pytest.mark.parametrize("command", ["get k", "stat k --json", "ls", "--help", "ls --help", "--version"])
def test_a_full_disk_is_said_and_named(
    environment: dict[str, str], daemon: RunningDaemon, command: str, unbuffered: str
) -> None:
    daemon.client().put("k", LARGE)
    found = shell(f"ts {command} > /dev/full", environment | {"PYTHONUNBUFFERED": unbuffered})
    assert (found.returncode, found.stderr) == (1, b"tiered-store: standard output: No space left on device\n")


@BUFFERING
def test_a_file_that_takes_a_part_is_an_error(
    environment: dict[str, str], daemon: RunningDaemon, tmp_path: Path, unbuffered: str
) -> None:
    daemon.client().put("k", LARGE)
    script = f"trap '' XFSZ; ulimit -f 256; ts get k > {tmp_path}/short"
    found = shell(script, environment | {"PYTHONUNBUFFERED": unbuffered})
    assert (tmp_path / "short").stat().st_size == 256 * 1024
    assert (found.returncode, found.stderr) == (1, b"tiered-store: standard output: File too large\n")


@BUFFERING
def test_output_into_a_pipe_that_does_not_wait(
    environment: dict[str, str], daemon: RunningDaemon, unbuffered: str
) -> None:
    daemon.client().put("k", LARGE)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with subprocess.Popen(
        [*COMMAND, "get", "k"],
        env=environment | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writing,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(writing)
        with os.fdopen(reading, "rb") as output:
            # Once it waits for us, the pipe is full, and there is more to come.
            until(lambda: is_selecting(process.pid), "the program waits for its reader")
            assert output.read() == LARGE
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


@pytest.mark.parametrize("command", [("put", "k", "-"), ("artifact", "put", "-", "--json")])
def test_input_from_a_pipe_that_does_not_wait(
    environment: dict[str, str], daemon: RunningDaemon, command: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with subprocess.Popen([*COMMAND, *command], env=environment, stdin=reading, stdout=subprocess.PIPE) as process:
        os.close(reading)
        for piece in (LARGE[:1000], LARGE[1000:]):
            until(lambda: is_selecting(process.pid), "the program waits for more")
            with open(writing, "wb", closefd=False) as sink:
                sink.write(piece)
        os.close(writing)
        assert process.stdout is not None
        printed = process.stdout.read()
        assert process.wait(30) == 0
    key = json.loads(printed)["key"] if printed else "k"
    assert daemon.client().get(key) == LARGE


@pytest.mark.parametrize(
    ("command", "stream"),
    [("get k >&-", "output"), ("get k -o - >&-", "output"), ("put k - <&-", "input"), ("artifact put - <&-", "input")],
)
def test_without_the_stream_it_is_about(
    environment: dict[str, str], daemon: RunningDaemon, command: str, stream: str
) -> None:
    daemon.client().put("k", b"1")
    found = shell(f"ts {command}", environment)
    assert (found.returncode, found.stdout) == (2, b"")
    assert found.stderr == f"tiered-store: standard {stream} is closed\n".encode()


@pytest.mark.parametrize(
    "command", ["ping >&-", "ping <&-", "get k 2>&-", "ls >&- 2>&- <&-", "get k -o out >&- <&- 2>&-"]
)
def test_without_streams_it_needs_not(
    environment: dict[str, str], daemon: RunningDaemon, tmp_path: Path, command: str
) -> None:
    daemon.client().put("k", b"1")
    found = shell(f"cd {tmp_path}; export PYTHONPATH={Path.cwd()}; ts {command}", environment)
    assert (found.returncode, found.stderr) == (0, b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_leaves_no_half_of_a_file(
    environment: dict[str, str], daemon: RunningDaemon, tmp_path: Path, number: int, code: int
) -> None:
    """The daemon stands still: the transfer has begun, and cannot end. (Coverage has a use of its own for SIGTERM.)"""
    daemon.client().put("k", LARGE)
    (tmp_path / "out").write_bytes(b"old")
    os.kill(daemon.process.pid, signal.SIGSTOP)
    try:
        with subprocess.Popen(
            [*COMMAND, "get", "k", "-o", f"{tmp_path}/out"], env=unmeasured(environment), stderr=subprocess.PIPE
        ) as process:
            until(lambda: len(list(tmp_path.iterdir())) == 2, "the file beside it is there")
            process.send_signal(number)
            assert process.stderr is not None
            assert process.stderr.read() == b""
            assert process.wait(30) == code
    finally:
        os.kill(daemon.process.pid, signal.SIGCONT)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"old"


def test_what_has_been_decided_about_a_signal_stays(
    environment: dict[str, str], daemon: RunningDaemon, tmp_path: Path
) -> None:
    """As under nohup."""
    daemon.client().put("k", LARGE)
    os.kill(daemon.process.pid, signal.SIGSTOP)
    try:
        with subprocess.Popen(
            ["bash", "-c", f"trap '' HUP; exec {sys.executable} -m tiered_store get k -o {tmp_path}/out"],
            env=environment,
        ) as process:
            until(lambda: any(tmp_path.iterdir()), "the file beside it is there")
            process.send_signal(signal.SIGHUP)
            os.kill(daemon.process.pid, signal.SIGCONT)
            assert process.wait(30) == 0
    finally:
        os.kill(daemon.process.pid, signal.SIGCONT)
    assert (tmp_path / "out").read_bytes() == LARGE


@pytest.mark.parametrize("name", ["directory", "none/x"])
def test_a_target_that_cannot_be_written_is_named_as_it_was(
    environment: dict[str, str], daemon: RunningDaemon, tmp_path: Path, name: str
) -> None:
    daemon.client().put("k", b"1")
    (tmp_path / "directory").mkdir()
    found = shell(f"ts get k -o {tmp_path}/{name}", environment)
    reason = "Is a directory" if name == "directory" else "No such file or directory"
    assert (found.returncode, found.stderr) == (1, f"tiered-store: {tmp_path}/{name}: {reason}\n".encode())


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_timeout_that_is_none(environment: dict[str, str], value: str) -> None:
    found = shell(f"ts --timeout {value} ping", environment)
    assert found.returncode == 2
    assert b"timeout_s must be above 0" in found.stderr


class Terminal:
    """An interactive bash that completes."""

    def __init__(self, environment: dict[str, str], directory: Path) -> None:
        program = directory / "tiered-store"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tiered_store "$@"\n')
        program.chmod(0o755)
        settings = {"PATH": f"{directory}:{os.environ['PATH']}", "PS1": "", "TERM": "dumb", "INPUTRC": "/dev/null"}
        self._process, self._fd = pty.fork()
        if self._process == 0:
            termios.tcsetwinsize(0, (24, 500))  # in a narrow one bash shows only the end of a long line
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment | settings)
        self.type('eval "$(tiered-store completion bash)"; echo rea""dy\n')
        self.read_until(b"ready")

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def read_until(self, expected: bytes) -> bytes:
        """What is shown, up to and with this."""
        shown = b""
        while expected not in shown:
            readable, _, _ = select.select([self._fd], [], [], 20.0)
            assert readable, f"{expected!r} was not shown: {shown!r}"
            shown += os.read(self._fd, 4096)
        return shown

    def close(self) -> None:
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._fd)


@pytest.fixture
def terminal(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[[], Terminal]]:
    """Starts a terminal."""
    made: list[Terminal] = []

    def make() -> Terminal:
        made.append(Terminal(environment, tmp_path))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_bash_completes_words_with_colons(terminal: Callable[[], Terminal], daemon: RunningDaemon) -> None:
    client = daemon.client()
    digest = client.put_artifact(b"abc").removeprefix("sha256:")
    client.put("builds/42/app.tar", b"1")
    client.put("mail/a@example.org=x:y/z", b"1")
    assert digest == hashlib.sha256(b"abc").hexdigest()
    bash = terminal()
    for begun, whole in (
        ("get builds/4", "get builds/42/app.tar"),
        (f"get sha256:{digest[:4]}", f"get sha256:{digest}"),
        ("get sha256:", f"get sha256:{digest}"),
        ('get "sha256:', f'get "sha256:{digest}'),
        (f"artifact get {digest[:4]}", f"artifact get {digest}"),
        ("artifact get s", f"artifact get sha256:{digest}"),
        ("get mail/a", "get mail/a@example.org=x:y/z"),
        ("get mail/a@exa", "get mail/a@example.org=x:y/z"),
        ("get mail/a@example.org=x", "get mail/a@example.org=x:y/z"),
    ):
        bash.type(f"tiered-store {begun}\t")
        bash.read_until(whole.encode())
        bash.type("\x15")  # forget the line
