"""The settings of [resp] and [crsh]: what is refused, and what it takes to have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiered_store.config.faults import ConfigError
from tiered_store.config.load import Flags, Loaded, load


@pytest.fixture
def loaded(tmp_path: Path):
    def read(text: str = "", **environment: str) -> Loaded:
        path = tmp_path / "c.toml"
        path.write_text(text)
        variables = {"XDG_RUNTIME_DIR": str(tmp_path), **environment}
        return load(path, flags=Flags(data_dir=tmp_path / "d"), environment=variables)

    return read


def faults(loaded, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    return [str(fault).partition(": ")[2] for fault in caught.value.faults]


def test_there_is_none_unless_it_is_said(loaded) -> None:
    config = loaded().config
    assert (config.resp.socket, config.crsh.socket) == (None, None)


def test_a_socket_from_a_file_and_from_the_environment(loaded, tmp_path: Path) -> None:
    text = f'[resp]\nsocket = "{tmp_path}/r.sock"\nmode = "0666"\ninstance = "team.a"'
    config = loaded(text, TIERED_STORE_CRSH__SOCKET=f"{tmp_path}/c.sock").config
    assert config.resp.socket == tmp_path / "r.sock"
    assert (config.resp.mode, config.resp.instance) == (0o666, "team.a")
    assert config.crsh.socket == tmp_path / "c.sock"
    assert (config.crsh.mode, config.crsh.allow_stop) == (0o600, False)


@pytest.mark.parametrize("name", ["", "-x", ".x", "a/b", "a b", "é", "x" * 61])
def test_an_instance_is_a_name(loaded, name: str) -> None:
    (found,) = faults(loaded, f'[crsh]\ninstance = "{name}"')
    assert found.startswith("crsh.instance: must be 1 to 60 of A-Z a-z 0-9 . _ -, a letter or digit first, not ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[resp]\nsocket = "relative"', "resp.socket: must be an absolute path"),
        ('[resp]\nsocket = "/proc/x/r.sock"', "resp.socket: /proc/x/r.sock cannot be created"),
        ('[crsh]\nmode = "600"\ngroup = "no-such-group-here"\nsocket = "/tmp/c.sock"', "crsh.group: there is no group"),
        ("[crsh]\nmax_connections = 0", "crsh.max_connections: must be at least 1, not 0"),
        ("[resp]\nidle_timeout_s = 0", "resp.idle_timeout_s: must be more than 0, not 0"),
        ('[build]\nenabled = false\n[resp]\nsocket = "/tmp/r.sock"', "resp.socket: needs the build cache"),
        ("[resp]\nallow_stop = true", "resp.allow_stop: unknown setting"),
    ],
)
def test_what_cannot_be(loaded, text: str, message: str) -> None:
    (found,) = faults(loaded, text)
    assert found.startswith(message)


def test_each_protocol_has_a_socket_of_its_own(loaded, tmp_path: Path) -> None:
    path = tmp_path / "one.sock"
    found = faults(loaded, "\n".join(f'[{name}]\nsocket = "{path}"' for name in ("server", "resp", "crsh")))
    assert found == [
        f"resp.socket: {path} is server.socket already; each protocol has a socket of its own",
        f"crsh.socket: {path} is resp.socket already; each protocol has a socket of its own",
    ]
