"""Where a client looks for the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tiered_store.client.address import SOCKET_VARIABLE, SYSTEM_SOCKET, default_socket_path, socket_path_of
from tiered_store.config.defaults import default_paths

NOWHERE = "/nowhere/store.sock"


def set_environment(monkeypatch: pytest.MonkeyPatch, named: str | None, runtime: str | None) -> None:
    for variable, value in ((SOCKET_VARIABLE, named), ("XDG_RUNTIME_DIR", runtime)):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)


@pytest.mark.parametrize(
    ("named", "runtime", "expected"),
    [
        ("/x/s.sock", "/run/user/7", "/x/s.sock"),
        (None, "/run/user/7", "/run/user/7/tiered_store/store.sock"),
        ("", "/run/user/7", "/run/user/7/tiered_store/store.sock"),
        (None, None, NOWHERE),
        (None, "", NOWHERE),
        (None, "relative", NOWHERE),
    ],
)
def test_in_order(monkeypatch: pytest.MonkeyPatch, named: str | None, runtime: str | None, expected: str) -> None:
    set_environment(monkeypatch, named, runtime)
    assert default_socket_path(NOWHERE) == expected


@pytest.mark.parametrize("runtime", [None, "", "relative", "/run/user/7"])
def test_it_is_where_a_daemon_of_the_same_environment_listens(
    monkeypatch: pytest.MonkeyPatch, runtime: str | None
) -> None:
    set_environment(monkeypatch, None, runtime)
    environment = {} if runtime is None else {"XDG_RUNTIME_DIR": runtime}
    listens = default_paths(environment, 7, Path("/home/a")).socket
    assert default_socket_path(NOWHERE if runtime == "/run/user/7" else SYSTEM_SOCKET) == str(listens)


def test_the_systems_daemon_is_found_where_the_user_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_environment(monkeypatch, None, str(tmp_path / "run"))
    own = tmp_path / "run/tiered_store/store.sock"
    system = tmp_path / "system.sock"
    assert default_socket_path(str(system)) == str(own)  # neither is there: a user's daemon would be here
    system.touch()
    assert default_socket_path(str(system)) == str(system)
    own.parent.mkdir(parents=True)
    own.touch()
    assert default_socket_path(str(system)) == str(own)


def test_a_home_directory_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.setenv(SOCKET_VARIABLE, "~/s.sock")
    assert socket_path_of(None) == "/home/a/s.sock"
    assert socket_path_of("~/t.sock") == "/home/a/t.sock"
    assert socket_path_of(Path("/x/s.sock")) == socket_path_of(b"/x/s.sock") == "/x/s.sock"


@pytest.mark.parametrize(
    ("named", "error"), [("", ValueError), ("a\0b", ValueError), (5, TypeError), (["x"], TypeError)]
)
def test_what_is_no_path(named: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        socket_path_of(named)
