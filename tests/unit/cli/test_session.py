from __future__ import annotations

import importlib.metadata
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import tiered_store
from tests.unit.cli.conftest import FakeClient, refusals
from tiered_store.cli import session
from tiered_store.cli.program import program
from tiered_store.client.sync import Client
from tiered_store.errors import StoreError

Run = Callable[..., Result]
Store = type[FakeClient]


@pytest.mark.parametrize(("error", "code"), refusals())
@pytest.mark.parametrize("command", [("get", "k"), ("ls",), ("ping",), ("stats", "--json")])
def test_refusals_are_one_line_and_a_code(
    run: Run, store: Store, command: tuple[str, ...], error: StoreError, code: int
) -> None:
    store.fails = error
    result = run(*command)
    assert result.exit_code == code
    assert result.stdout_bytes == b""
    assert result.stderr == f"tiered-store: {error}\n"


def test_an_error_of_a_file_is_a_refusal(run: Run, store: Store, tmp_path: Path) -> None:
    store().put("k", b"x")
    result = run("get", "k", "-o", str(tmp_path / "no" / "file"))
    assert result.exit_code == 1
    assert result.stderr == f"tiered-store: {tmp_path}/no/file: No such file or directory\n"


def test_an_error_without_a_file_is_said_too(run: Run, store: Store) -> None:
    store.fails = OSError("strange")
    assert run("ping").stderr == "tiered-store: strange\n"


def test_an_interrupt_leaves_no_traceback(run: Run, store: Store) -> None:
    store.fails = KeyboardInterrupt()
    result = run("get", "k")
    assert result.exit_code == 130
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [("nonsense",), ("get",), ("get", "a", "b"), ("--timeout", "0", "ping")])
def test_wrong_usage(run: Run, store: Store, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert store.opened == []


def test_the_socket_that_is_named_is_used(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERED_STORE_SERVER__SOCKET", "/configured")
    run("--socket", "/named", "--timeout", "5", "ping")
    assert store.opened == [("/named", 5.0)]


def test_the_clients_variable_is_left_to_the_client(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERED_STORE_SOCKET", "/variable")
    monkeypatch.setenv("TIERED_STORE_SERVER__SOCKET", "/configured")
    run("ping")
    assert store.opened == [(None, 30.0)]


def test_work_that_grows_with_the_data_has_no_limit_unless_one_is_named(run: Run, store: Store) -> None:
    store().put("a", b"x")
    for command in (("put", "k", "-"), ("cp", "a", "b"), ("rm", "a", "--prefix"), ("artifact", "put", "-")):
        store.opened.clear()
        run(*command, stdin=b"x")
        run("--timeout", "5", *command, stdin=b"x")
        assert [timeout for _, timeout in store.opened] == [None, 5.0], command


def test_the_configured_socket_from_the_environment(run: Run, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERED_STORE_SERVER__SOCKET", "/configured")
    run("ping")
    assert store.opened[0][0] == "/configured"


@pytest.mark.parametrize(
    ("text", "path"), [("[server]\nsocket = '/in/file'", "/in/file"), ("[memory]\nmax_bytes = 5", None)]
)
def test_the_configured_socket_from_the_file(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, path: str | None
) -> None:
    (tmp_path / "c.toml").write_text(text)
    monkeypatch.setenv("TIERED_STORE_CONFIG", str(tmp_path / "c.toml"))
    run("ping")
    assert store.opened[0][0] == path


@pytest.mark.parametrize("text", [None, "[server", "server = 5"])
def test_a_configuration_that_cannot_be_read(
    run: Run, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "c.toml").write_text(text)
    monkeypatch.setenv("TIERED_STORE_CONFIG", str(tmp_path / "c.toml"))
    result = run("ping")
    assert result.exit_code == 2
    assert "$TIERED_STORE_CONFIG names" in result.stderr
    assert store.opened == []


@pytest.mark.parametrize("value", ["inf", "nan", "1e10"])
def test_a_timeout_that_the_client_refuses_is_wrong_usage(
    run: Run, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setattr(session, "Client", Client)
    result = run("--timeout", value, "ping")
    assert result.exit_code == 2
    assert "timeout_s must be above 0" in result.stderr


@pytest.mark.parametrize("variable", ["TIERED_STORE_SOCKET", "TIERED_STORE_SERVER__SOCKET"])
def test_a_home_directory_is_written_out_as_by_the_daemon(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    monkeypatch.setattr(session, "Client", Client)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/s.sock")
    assert f"no daemon at {tmp_path}/s.sock (no such socket)" in run("ping").stderr
    monkeypatch.delenv(variable)
    assert f"no daemon at {tmp_path}/t.sock (no such socket)" in run("--socket", "~/t.sock", "ping").stderr


def test_signals_are_afterwards_as_they_were(run: Run, store: Store) -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    during: list[Any] = []
    store.ping = lambda _: during.extend(map(signal.getsignal, numbers)) or 0.1  # type: ignore[method-assign, func-returns-value, assignment]
    assert run("ping").exit_code == 0
    assert all(callable(handler) for handler in during)
    assert [signal.getsignal(number) for number in numbers] == before


def test_every_command_is_there_and_explains_itself(run: Run) -> None:
    found = run("--help")
    commands = ["serve", "put", "get", "stat", "ls", "cp", "rm", "artifact", "ci", "gocacheprog", "stats", "ping"]
    commands += ["flush", "check-config", "abort-uploads", "token", "promote", "bench"]
    assert list(program.commands) == [*commands, "completion"]
    for command in commands:
        assert f"\n  {command} " in found.output
        assert "..." not in next(line for line in found.output.splitlines() if line.startswith(f"  {command} "))
        assert run(command, "--help").exit_code == 0


def test_commands_do_not_load_the_daemon() -> None:
    heavy = ("pydantic", "uvloop", "diskcache", "cachetools", "aiohttp", "aioboto3", "asyncio")
    ours = ("tiered_store.store", "tiered_store.tiers", "tiered_store.daemon", "tiered_store.wiring")
    code = f"import sys, tiered_store.cli.program; print(sorted(set({heavy + ours}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_the_version_is_the_packages_own_installed_or_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"tiered-store {tiered_store.__version__}\n")
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", tiered_store.__version__)


def test_the_version_is_said_in_one_place() -> None:
    project = tomllib.loads((Path(tiered_store.__file__).parent.parent / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "tiered_store/__init__.py"
