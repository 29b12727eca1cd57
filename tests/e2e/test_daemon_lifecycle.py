"""Starting, stopping and surviving: real daemon processes, real signals."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import Daemons, RunningDaemon, clean_environment
from tiered_store import Client, ObjectInfo, PermissionDenied

Factory = Callable[..., RunningDaemon]

FIRST_PART = b"first part" * 100_000


class Upload:
    """A put whose bytes come through a pipe, so that the test decides how far it is."""

    def __init__(self, client: Client, key: str) -> None:
        reading, self._writing = os.pipe()
        self.result: ObjectInfo | Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(client, key, reading))
        self._thread.start()

    def _run(self, client: Client, key: str, reading: int) -> None:
        with os.fdopen(reading, "rb") as source:
            try:
                self.result = client.put_file(key, source)
            except Exception as error:
                self.result = error

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._writing, data) :]

    def finish(self) -> ObjectInfo | Exception | None:
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1
        self._thread.join(30)
        return self.result


@contextmanager
def uploading(daemon: RunningDaemon, key: str) -> Iterator[Upload]:
    """An upload that has begun on the server's side."""
    upload = Upload(daemon.client(), key)
    try:
        # A pipe holds 64 KiB: when more has been written, the client has read, which it does when it may send.
        upload.send(FIRST_PART)
        yield upload
    finally:
        upload.finish()


def wait_until_it_accepts_no_more(daemon: RunningDaemon) -> None:
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(daemon.socket_path))
            except OSError:
                return


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_without_any_configuration(daemon_factory: Factory, number: int) -> None:
    daemon = daemon_factory()
    with daemon.client() as client:
        client.put("sessions/a/files/x.txt", b"hello", content_type="text/plain")
        assert client.get("sessions/a/files/x.txt") == b"hello"
        numbers = client.stats()
        assert {"memory", "disk", "cdn", "origin", "connections", "uptime_s", "rss_bytes"} <= set(numbers)
        assert numbers["pid"] == daemon.process.pid
    assert (daemon.data_dir / "origin/sessions/a/files/x.txt").read_bytes() == b"hello"
    assert stat.S_IMODE(daemon.socket_path.stat().st_mode) == 0o660
    assert daemon.stop(number) == 0
    assert not daemon.socket_path.exists()
    assert not Path(f"{daemon.socket_path}.lock").exists()
    assert daemon.events() == ["started", "stopping", "stopped"]


def test_one_line_says_what_was_chosen_and_why(daemon_factory: Factory) -> None:
    daemon = daemon_factory({"memory": {"max_bytes": "32MiB"}}, env={"TIERED_STORE_LOG__SLOW_REQUEST_S": "5"})
    started = daemon.log()[0]
    assert started["memory"] == "32 MiB"
    assert started["socket"] == str(daemon.socket_path)
    assert started["settings"]["memory.max_bytes"] == str(daemon.socket_path.parent / "config.toml")
    assert started["settings"]["log.slow_request_s"] == "TIERED_STORE_LOG__SLOW_REQUEST_S"


def test_everything_is_there_after_a_restart(daemon_factory: Factory) -> None:
    first = daemon_factory()
    with first.client() as client:
        key = client.put_artifact(b"artifact" * 20_000)
        client.put("a", b"1", metadata={"user": "7"})
    assert first.stop() == 0
    second = daemon_factory(directory=first.socket_path.parent)
    with second.client() as client:
        assert client.get(key) == b"artifact" * 20_000
        assert client.stat("a").metadata == {"user": "7"}


def test_a_killed_daemon_leaves_no_obstacle(daemon_factory: Factory) -> None:
    first = daemon_factory()
    with first.client() as client:
        client.put("a", b"acknowledged")
    first.kill9()
    assert first.socket_path.exists()
    second = daemon_factory(directory=first.socket_path.parent)
    with second.client() as client:
        assert client.get("a") == b"acknowledged"


def test_a_second_daemon_on_the_socket_is_refused(daemon_factory: Factory, daemon: RunningDaemon) -> None:
    command = [sys.executable, "-m", "tiered_store", "serve", "--socket", str(daemon.socket_path)]
    command += ["--data-dir", str(daemon.data_dir) + "2"]
    found = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 1
    assert "cannot start: another daemon" in found.stderr
    daemon.client().ping()


def test_faults_of_the_configuration_touch_nothing(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[memory]\nmax_byte = 5\n[disk]\nmax_bytes = 1\n")
    command = [sys.executable, "-m", "tiered_store", "serve", "--config", f"{tmp_path}/c.toml"]
    command += ["--socket", f"{tmp_path}/r/s.sock", "--data-dir", f"{tmp_path}/d"]
    found = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 2
    assert found.stderr.splitlines() == [
        f"{tmp_path}/c.toml: memory.max_byte: unknown setting; did you mean 'max_bytes'?",
        f"{tmp_path}/c.toml: disk.max_bytes: must be at least 16 MiB, not 1",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


def test_paths_that_are_wrong_are_faults_and_touch_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    origin, cache, config = tmp_path / "unmounted/objects", tmp_path / "file/cache", tmp_path / "c.toml"
    config.write_text(f'[server]\nsocket = "{tmp_path}/r/s.sock"\n[disk]\npath = "{cache}"\n')
    command = [sys.executable, "-m", "tiered_store", "serve", "--config", str(config)]
    environment = {**clean_environment(), "STORAGE_LOCAL_PATH": str(origin)}
    advice = "mount what holds it, or make it (mkdir -p) if it shall be new"
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 2
    assert found.stderr.splitlines() == [
        f"STORAGE_LOCAL_PATH: origin.path: {origin} does not exist; {advice}",
        f"{config}: disk.path: {cache} cannot be used: {tmp_path}/file is not a directory",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.toml", "file"]


def test_what_is_under_way_is_finished(daemon: RunningDaemon) -> None:
    with uploading(daemon, "slow") as upload:
        daemon.process.send_signal(signal.SIGTERM)
        wait_until_it_accepts_no_more(daemon)
        upload.send(b"second part")
        result = upload.finish()
    assert isinstance(result, ObjectInfo), result
    assert daemon.process.wait(30) == 0
    assert (daemon.data_dir / "origin/slow").read_bytes() == FIRST_PART + b"second part"


def test_but_not_for_ever(daemon_factory: Factory) -> None:
    daemon = daemon_factory({"server": {"drain_timeout_s": 0.1}})
    with uploading(daemon, "slow") as upload:
        assert daemon.stop() == 0
        assert isinstance(upload.finish(), Exception)
    assert "requests were cut off" in daemon.events()
    assert not (daemon.data_dir / "origin/slow").exists()
    assert not daemon.socket_path.exists()


def test_a_second_signal_ends_it_at_once(daemon_factory: Factory) -> None:
    daemon = daemon_factory({"server": {"drain_timeout_s": 600}})
    with uploading(daemon, "slow"):
        daemon.process.send_signal(signal.SIGTERM)
        wait_until_it_accepts_no_more(daemon)
        assert daemon.stop() == 1
    assert daemon.events()[-1] == "stopping at once"
    assert not daemon.socket_path.exists()


def test_only_the_users_that_are_allowed(daemon_factory: Factory) -> None:
    daemon = daemon_factory({"server": {"allow_uids": [os.getuid() + 1], "mode": "0600"}})
    assert stat.S_IMODE(daemon.socket_path.stat().st_mode) == 0o600
    with daemon.client() as client, pytest.raises(PermissionDenied, match="allow_uids"):
        client.get("a")


def test_a_daemon_that_does_not_start_is_shown_by_the_fixture() -> None:
    daemons = Daemons()
    try:
        with pytest.raises(AssertionError, match="did you mean 'memory'"):
            daemons.start({"memoyr": {}})
    finally:
        daemons.close()
