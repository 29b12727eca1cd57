"""The daemon in this process: its main function runs here, a second thread plays its world."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import clean_environment
from tests.support.logs import logging_restored
from tiered_store import Client, daemon
from tiered_store.config.load import Flags, Loaded, load
from tiered_store.wiring.descriptors import CannotStart


@pytest.fixture(autouse=True)
def _process_restored() -> Iterator[None]:
    with logging_restored():
        yield
    gc.unfreeze()


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., Loaded]:
    def make(text: str = "", environment: dict[str, str] | None = None) -> Loaded:
        (tmp_path / "c.toml").write_text(text)
        flags = Flags(socket=tmp_path / "s.sock", data_dir=tmp_path / "d")
        return load(tmp_path / "c.toml", flags=flags, environment=environment or {})

    return make


class World:
    """Waits for the daemon's word to systemd, and then does what the test wants."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        self.said: list[str] = []
        self.fault: BaseException | None = None

    def hear(self) -> str:
        self.said.append(self.socket.recv(64).decode())
        return self.said[-1]

    def run(self, loaded: Loaded, when_ready: Callable[[], None]) -> int:
        def play() -> None:
            try:
                assert self.hear() == "READY=1"
                when_ready()
            except BaseException as error:
                self.fault = error
                os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=play)
        thread.start()
        try:
            return daemon.serve(loaded)
        finally:
            thread.join()
            if self.fault is not None:
                raise self.fault


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    found = World(tmp_path / "notify", monkeypatch)
    yield found
    found.socket.close()


def signal_self(number: int) -> None:
    os.kill(os.getpid(), number)


def lines(captured: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in captured.splitlines()]


def test_from_start_to_stop(
    loaded: Callable[..., Loaded], world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}

    def use() -> None:
        with Client(str(tmp_path / "s.sock")) as client:
            client.put("a/b", b"abc")
            assert client.get("a/b") == b"abc"
            found.update(client.stats())
            signal_self(signal.SIGHUP)  # not the end
            client.ping()
        signal_self(signal.SIGTERM)
        assert world.hear() == "STOPPING=1"

    environment = {"TIERED_STORE_LOG__LEVEL": "debug", "S3_BUCKET": "b"}
    assert world.run(loaded("", environment), use) == 0
    assert not (tmp_path / "s.sock").exists()
    assert (tmp_path / "d/origin/a/b").read_bytes() == b"abc"
    assert found["connections"] == 1
    assert found["rss_bytes"] > 2**20
    assert found["pid"] == os.getpid()
    assert found["uptime_s"] >= 0
    log = {str(line["event"]): line for line in lines(capsys.readouterr().err)}
    assert "configuration: S3_BUCKET has no effect: origin.backend is not 's3'" in log
    assert log["stopping"]["signal"] == "SIGTERM"
    assert log["stopped"]["clean"] is True
    started = log["started"]
    assert started["socket"] == str(tmp_path / "s.sock")
    assert started["origin"] == f"directory {tmp_path}/d/origin"
    assert started["memory"] == "64 MB"
    assert started["settings"] == {
        "server.socket": "--socket",
        "origin.path": "--data-dir",
        "disk.path": "--data-dir",
        "write_back.path": "--data-dir",
        "log.level": "TIERED_STORE_LOG__LEVEL",
    }


def test_what_is_off_is_said(loaded: Callable[..., Loaded], world: World, capsys: pytest.CaptureFixture[str]) -> None:
    text = "[origin]\nbackend = 'memory'\n[disk]\nenabled = false"
    assert world.run(loaded(text), lambda: signal_self(signal.SIGINT)) == 0
    started = next(line for line in lines(capsys.readouterr().err) if line["event"] == "started")
    assert (started["origin"], started["disk"]) == ("memory (forgets at the stop)", "off")


def test_a_signal_during_the_start_is_not_lost(
    loaded: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = daemon.open_store

    async def slow(*arguments: object) -> object:
        signal_self(signal.SIGTERM)
        await asyncio.sleep(0)
        return await real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(daemon, "open_store", slow)
    assert daemon.serve(loaded()) == 0
    assert not (tmp_path / "s.sock").exists()


class Left(BaseException):
    """In place of the process's end."""


def test_a_second_signal_ends_it_at_once(
    loaded: Callable[..., Loaded], world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    codes: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "_exit", lambda code: codes.append((code, (tmp_path / "s.sock").exists())))
    release = threading.Event()

    async def stuck(*_: object) -> bool:
        return await asyncio.to_thread(release.wait)

    monkeypatch.setattr(daemon.NativeDoor, "drain", stuck)

    def impatient() -> None:
        signal_self(signal.SIGTERM)
        assert world.hear() == "STOPPING=1"
        signal_self(signal.SIGTERM)
        while not codes:
            pass
        release.set()

    world.run(loaded(), impatient)
    assert codes == [(1, False)]  # and the socket file was gone by then


def test_requests_that_do_not_end_are_cut_off(
    loaded: Callable[..., Loaded], world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def drain(*_: object) -> bool:
        return False

    monkeypatch.setattr(daemon.NativeDoor, "drain", drain)
    assert world.run(loaded(), lambda: signal_self(signal.SIGTERM)) == 0
    assert "requests were cut off" in [line["event"] for line in lines(capsys.readouterr().err)]


def test_a_store_that_does_not_close_is_left(
    loaded: Callable[..., Loaded], world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    codes: list[tuple[int, bool]] = []

    def leave(code: int) -> None:
        codes.append((code, (tmp_path / "s.sock").exists()))

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(daemon, "_CLOSE_MARGIN_S", 0.0)
    real = daemon.OpenStore.close

    async def stuck(self: daemon.OpenStore) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await real(self)

    monkeypatch.setattr(daemon.OpenStore, "close", stuck)
    world.run(loaded("[server]\ndrain_timeout_s = 0"), lambda: signal_self(signal.SIGTERM))
    assert codes == [(1, False)]


def reasons(captured: str) -> list[str]:
    return [str(line["event"]) for line in lines(captured) if line["level"] == "error"]


def test_another_daemon_is_there(
    loaded: Callable[..., Loaded], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s.sock"))
        other.listen(1)
        assert daemon.serve(loaded()) == 1
    (reason,) = reasons(capsys.readouterr().err)
    assert reason.startswith("cannot start: another daemon answers on")
    assert not (tmp_path / "d").exists()


def test_an_origin_that_cannot_be_used(
    loaded: Callable[..., Loaded], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = loaded()
    (tmp_path / "d").write_text("in the way")
    assert daemon.serve(found) == 1
    assert len(reasons(capsys.readouterr().err)) == 1
    assert not (tmp_path / "s.sock").exists()


def test_too_few_descriptors(
    loaded: Callable[..., Loaded], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def divide(*_: object) -> None:
        raise CannotStart("the process may open only 5 files")

    monkeypatch.setattr(daemon, "divide_descriptors", divide)
    assert daemon.serve(loaded()) == 1
    assert reasons(capsys.readouterr().err) == ["cannot start: the process may open only 5 files"]


def test_errors_that_nobody_takes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger().addHandler(caplog.handler)
    loop = asyncio.new_event_loop()
    try:
        daemon._log_loop_error(loop, {"message": "lost", "exception": ValueError("x")})
    finally:
        loop.close()
    assert "unhandled error: lost" in caplog.text
    assert "ValueError: x" in caplog.text


def test_systemd_in_the_abstract_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"tiered-store-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(f"\0{name}")
        supervisor.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        daemon.notify_systemd("READY=1")
        assert supervisor.recv(64) == b"READY=1"


@pytest.mark.parametrize("address", ["", "nonsense", "/no/such/socket"])
def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    daemon.notify_systemd("READY=1")


UNWANTED = ("aiohttp", "aiobotocore", "aioboto3", "botocore", "click", "tiered_store.origins.s3")


def test_the_daemon_loads_nothing_that_it_does_not_need() -> None:
    code = f"import sys, tiered_store.daemon; print(sorted(set({UNWANTED}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


_OPENED = """
import asyncio, pathlib, sys
from tiered_store.config.load import Flags, load
from tiered_store.wiring.descriptors import divide_descriptors
from tiered_store.wiring.opening import open_store

async def run():
    place = pathlib.Path(sys.argv[1])
    (place / "c.toml").write_text(sys.argv[2])
    config = load(place / "c.toml", flags=Flags(data_dir=place / "d"), environment={}, uid=1000, home=place).config
    opened = await open_store(config, divide_descriptors(1024, config))
    print(sorted(set(sys.argv[3:]) & set(sys.modules)))
    await opened.close()

asyncio.run(run())
"""


@pytest.mark.parametrize(
    ("text", "loads"), [("", False), ("[s3]\nbucket = 'builds'\nprovider = 'aws'\n[origin]\nbackend = 's3'", True)]
)
def test_only_an_s3_origin_loads_the_sdk(tmp_path: Path, text: str, loads: bool) -> None:
    """Importing it takes longer than the rest of the start; no credentials are looked for over the network here."""
    environment = clean_environment() | {"AWS_EC2_METADATA_DISABLED": "true"}
    command = [sys.executable, "-c", _OPENED, str(tmp_path), f"[server]\nsocket = '{tmp_path}/s'\n{text}", *UNWANTED]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    unwanted = sorted(name for name in UNWANTED if name != "click")
    assert found.stdout == f"{unwanted if loads else []}\n"
