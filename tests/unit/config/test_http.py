"""Settings of the HTTP door."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiered_store.config.faults import ConfigError
from tiered_store.config.load import Flags, Loaded, load


def read(tmp_path: Path, text: str) -> Loaded:
    (tmp_path / "c.toml").write_text(text)
    flags = Flags(socket=tmp_path / "s.sock", data_dir=tmp_path / "d")
    return load(tmp_path / "c.toml", flags=flags, environment={})


def faults(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    return str(raised.value)


def test_it_is_off_unless_told_where_to_listen(tmp_path: Path) -> None:
    assert not read(tmp_path, "[http]\nmax_connections = 5").config.http.is_on
    assert read(tmp_path, f"[http]\nsocket = '{tmp_path}/h'").config.http.is_on
    assert read(tmp_path, "[http]\nport = 8080\nopen = true").config.http.is_on


def test_from_the_environment(tmp_path: Path) -> None:
    variables = {"SOCKET": f"{tmp_path}/h", "HOST": "::1", "PORT": "81", "OPEN": "true", "MAX_HEADER_BYTES": "16KiB"}
    environment = {f"TIERED_STORE_HTTP__{name}": value for name, value in variables.items()}
    http = load(flags=Flags(socket=tmp_path / "s", data_dir=tmp_path / "d"), environment=environment).config.http
    assert (http.socket, http.host, http.port, http.open, http.max_header_bytes) == (
        tmp_path / "h",
        "::1",
        81,
        True,
        16_384,
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("port = 8080", "http.port: nobody could do anything there"),
        ("port = 8080\nopen = true\nhost = '0.0.0.0'", "http.open: lets in who connects, and 0.0.0.0 is not of this"),
        ("port = 70000", "http.port: must be at most 65535"),
        ("anonymous = 'all'", "http.anonymous: must be 'none', 'read' or 'write', not 'all'"),
        ("host = 'localhost'", "http.host: must be an IP address such as '127.0.0.1' or '::1', not 'localhost'"),
        ("socket = 'h'", "http.socket: must be an absolute path"),
        ("group = 'no such group'\nsocket = '/tmp/h'", "http.group: there is no group 'no such group'"),
        ("max_header_bytes = 100", "http.max_header_bytes: must be at least 4 KiB"),
        ("header_timeout_s = 0", "http.header_timeout_s: must be more than 0"),
    ],
)
def test_faults(tmp_path: Path, text: str, fault: str) -> None:
    assert fault in faults(tmp_path, f"[http]\n{text}")


CLOSED = "\n[[build.instances]]\nname = 'x'\nanonymous = 'none'\n"


def test_a_closed_instance_beside_an_open_door_wants_a_word_about_objects(tmp_path: Path) -> None:
    door = "[http]\nport = 8080\nopen = true\n"
    assert "http.anonymous: is 'read' by default" in faults(tmp_path, door + CLOSED)
    for said in ("none", "read", "write"):
        assert read(tmp_path, f"{door}anonymous = '{said}'\n{CLOSED}").config.http.anonymous == said


def test_what_nobody_is_let_in_for(tmp_path: Path) -> None:
    text = f"[http]\nsocket = '{tmp_path}/h'\nanonymous = 'none'\n"
    (notice,) = read(tmp_path, text).notices
    assert notice.endswith("has no effect: there is no http.port")
    token = f"[[access.tokens]]\nname = 't'\nhash = 'sha256:{'0' * 64}'\n"
    (notice,) = read(tmp_path, f"[http]\nport = 8080\nanonymous = 'none'\n{token}").notices
    assert notice.endswith("has no effect: http.open is off")


def test_two_doors_do_not_share_a_socket(tmp_path: Path) -> None:
    text = f"[http]\nsocket = '{tmp_path}/s.sock'"
    assert "http.socket: " in faults(tmp_path, text)
    assert "is server.socket already" in faults(tmp_path, text)
