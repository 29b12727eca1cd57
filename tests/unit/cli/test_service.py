from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import Result

from tiered_store.config.load import Loaded
from tiered_store.errors import OriginUnavailable, QuotaExceeded
from tiered_store.origins.local import LocalOrigin
from tiered_store.origins.memory import MemoryOrigin

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Loaded]:
    """What the daemon was started with; it ends at once, with exit code 0."""
    from tiered_store import daemon

    calls: list[Loaded] = []

    def serve(loaded: Loaded) -> int:
        calls.append(loaded)
        return 0

    monkeypatch.setattr(daemon, "serve", serve)
    return calls


def test_serve_takes_file_environment_and_flags(
    run: Run, served: list[Loaded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.toml").write_text("[memory]\nmax_bytes = '2MiB'\n")
    monkeypatch.setenv("TIERED_STORE_LOG__LEVEL", "debug")
    arguments = ["--config", f"{tmp_path}/c.toml", "--socket", f"{tmp_path}/s", "--data-dir", f"{tmp_path}/d"]
    assert run("serve", *arguments).exit_code == 0
    (loaded,) = served
    assert loaded.config.memory.max_bytes == 2 * 2**20
    assert loaded.config.log.level == "debug"
    assert loaded.config.server.socket == tmp_path / "s"
    assert loaded.config.origin.path == tmp_path / "d/origin"


def test_serve_takes_the_file_from_the_environment_and_the_socket_from_the_root_command(
    run: Run, served: list[Loaded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.toml").write_text("[memory]\nmax_bytes = '2MiB'\n")
    monkeypatch.setenv("TIERED_STORE_CONFIG", f"{tmp_path}/c.toml")
    run("--socket", f"{tmp_path}/global", "serve", "--data-dir", f"{tmp_path}/d")
    assert served[0].config.memory.max_bytes == 2 * 2**20
    assert served[0].config.server.socket == tmp_path / "global"


def test_serve_refuses_a_faulty_configuration(run: Run, served: list[Loaded], tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[server]\nsokcet = 1\n[memory]\nmax_bytes = 5\n")
    result = run("serve", "--config", f"{tmp_path}/c.toml", "--data-dir", f"{tmp_path}/d")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"{tmp_path}/c.toml: server.sokcet: unknown setting; did you mean 'socket'?",
        f"{tmp_path}/c.toml: memory.max_bytes: must be at least 1 MiB, not 5",
    ]
    assert served == []
    assert not (tmp_path / "d").exists()


def test_an_empty_data_directory_is_not_the_current_one(
    run: Run, served: list[Loaded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("serve", "--data-dir", "")
    assert result.exit_code == 2
    assert "'--data-dir': must not be empty" in result.stderr
    assert served == []
    assert run("serve", "--data-dir", ".").exit_code == 0
    assert served[0].config.origin.path == tmp_path / "origin"


def test_serve_says_where_it_cannot_run(run: Run, served: list[Loaded], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    result = run("serve")
    assert result.exit_code == 2
    assert result.stderr == "tiered-store: the daemon runs on Linux only, and this is darwin\n"
    assert served == []


def test_check_config(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.toml").write_text("[memory]\nmax_bytes = '2MiB'\n")
    monkeypatch.setenv("S3_BUCKET", "b")
    result = run("check-config", f"{tmp_path}/c.toml")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path}/c.toml: no faults\n")
    assert "S3_BUCKET has no effect" in result.stderr


def test_check_config_says_what_of_the_file_is_not_used(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.toml").write_text("[memory]\nmax_bytes = '2MiB'\n")
    monkeypatch.setenv("TIERED_STORE_MEMORY__MAX_BYTES", "4MiB")
    result = run("check-config", f"{tmp_path}/c.toml")
    assert result.exit_code == 0
    assert result.stderr == (
        f"tiered-store: memory.max_bytes from {tmp_path}/c.toml is not used, "
        "because TIERED_STORE_MEMORY__MAX_BYTES is set\n"
    )


def test_check_config_takes_a_number_that_nobody_can_read_for_a_fault(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.toml").write_text("")
    monkeypatch.setenv("TIERED_STORE_MEMORY__MAX_BYTES", "9" * 5000)
    result = run("check-config", f"{tmp_path}/c.toml")
    assert result.exit_code == 2
    assert result.stderr.startswith("TIERED_STORE_MEMORY__MAX_BYTES: memory.max_bytes: must be less than 8 EiB")


@pytest.mark.parametrize(
    "fault", ["", "part_bytes = 1", 'session_token = ["sEcReT"]', 'endpoint_url = "http://u:sEcReT@h"']
)
def test_check_config_shows_no_credentials(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Wherever they stand, and whatever is wrong beside them or with them."""
    text = "[origin]\nbackend = 's3'\n[s3]\nbucket = 'builds'\nprovider = 'aws'\naccess_key_id = 'sEcReT'\n"
    (tmp_path / "c.toml").write_text(f"{text}{fault}\n")
    monkeypatch.setenv("TIERED_STORE_S3__SECRET_ACCESS_KEY", "sEcReT")
    result = run("check-config", f"{tmp_path}/c.toml")
    assert result.exit_code == (2 if fault else 0)
    assert (f"{tmp_path}/c.toml: s3.{fault.partition(' ')[0]}: " in result.stderr) is bool(fault)
    assert "sEcReT" not in result.stdout + result.stderr


def test_check_config_shows_the_faults(run: Run, tmp_path: Path) -> None:
    result = run("check-config", f"{tmp_path}/none.toml")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"{tmp_path}/none.toml: cannot be read: No such file or directory")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run: Run, shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_TIERED_STORE_COMPLETE" in result.stdout
    assert f"{shell}_complete" in result.stdout


def test_completion_of_another_shell(run: Run) -> None:
    assert run("completion", "tcsh").exit_code == 2


class TestConnect:
    """``check-config --connect`` uses the origin, and leaves nothing behind."""

    def test_a_directory(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "origin").mkdir()
        (tmp_path / "c.toml").write_text(f"[origin]\npath = '{tmp_path}/origin'\n")
        result = run("check-config", f"{tmp_path}/c.toml", "--connect")
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        assert lines[:2] == [f"{tmp_path}/c.toml: no faults", f"directory {tmp_path}/origin"]
        tried = ["put", "get", "stat", "list", "copy", "delete", "delete several"]
        assert [line.partition(" ok ")[0].strip() for line in lines[2:]] == tried
        assert [path.name for path in (tmp_path / "origin").iterdir()] == [".tiered_store"]

    def test_as_json(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "c.toml").write_text("[origin]\nbackend = 'memory'\n")
        found = json.loads(run("check-config", f"{tmp_path}/c.toml", "--connect", "--json").stdout)
        assert (found["ok"], found["file"], found["origin"]) == (
            True,
            f"{tmp_path}/c.toml",
            "memory (forgets at the stop)",
        )
        assert found["steps"][0].keys() == {"name", "fault", "skipped", "took_s"}
        found = json.loads(run("check-config", f"{tmp_path}/c.toml", "--json").stdout)
        assert (found["ok"], found["steps"]) == (True, [])

    def test_what_fails_is_said(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def full(*_: object) -> NoReturn:
            raise QuotaExceeded("no room")

        monkeypatch.setattr(MemoryOrigin, "put", full)
        (tmp_path / "c.toml").write_text("[origin]\nbackend = 'memory'\n")
        result = run("check-config", f"{tmp_path}/c.toml", "--connect")
        assert result.exit_code == 1
        assert "  put                  fails: no room\n" in result.stdout
        assert "  copy                 not tried: nothing was put\n" in result.stdout
        result = run("check-config", f"{tmp_path}/c.toml", "--connect", "--json")
        assert result.exit_code == 1
        assert not json.loads(result.stdout)["ok"]

    def test_an_origin_that_cannot_be_started(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(_: object) -> NoReturn:
            raise OriginUnavailable("cannot be opened")

        monkeypatch.setattr(LocalOrigin, "start", fail)
        (tmp_path / "origin").mkdir()
        (tmp_path / "c.toml").write_text(f"[origin]\npath = '{tmp_path}/origin'\n")
        result = run("check-config", f"{tmp_path}/c.toml", "--connect")
        assert result.exit_code == 1
        assert result.stdout.splitlines()[2:] == ["  start                fails: cannot be opened"]

    def test_faults_come_first(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "c.toml").write_text("[server]\nsokcet = 1\n")
        result = run("check-config", f"{tmp_path}/c.toml", "--connect", "--json")
        assert (result.exit_code, result.stdout) == (2, "")

    def test_the_time_for_it(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def hang(*_: object) -> NoReturn:
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(MemoryOrigin, "put", hang)
        (tmp_path / "c.toml").write_text("[origin]\nbackend = 'memory'\n")
        result = run("--timeout", "0.05", "check-config", f"{tmp_path}/c.toml", "--connect")
        assert result.exit_code == 1
        assert "put                  fails: no answer within 0.05 s" in result.stdout
