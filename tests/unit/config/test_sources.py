from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tiered_store.config.sources import Raw, from_environment, from_file


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return path


def test_a_file_is_flattened(tmp_path: Path) -> None:
    path = write(tmp_path, '[server]\nmode = "0600"\n[[policies]]\nprefix = "a/"\n')
    layer = from_file(path)
    assert layer.faults == []
    assert layer.values == {
        "server.mode": Raw("0600", str(path)),
        "policies": Raw([{"prefix": "a/"}], str(path)),
    }


@pytest.mark.parametrize(
    ("text", "setting", "message"),
    [
        ("[server]\nsokcet = 1", "server.sokcet", "unknown setting; did you mean 'socket'?"),
        ("[sevrer]\n", "sevrer", "unknown section; did you mean 'server'?"),
        (
            "[zzz]\n",
            "zzz",
            "unknown section; known are access, build, cdn, crsh, disk, fills, ",
        ),
        ("[metrics]\nport = 1", "metrics", "is not supported by this version; remove it"),
        ("[cdn]\nbase = 'x'", "cdn.base", "unknown setting; did you mean 'base_url'?"),
        ("[s3]\nbuckt = 'x'", "s3.buckt", "unknown setting; did you mean 'bucket'?"),
        ("server = 5", "server", "is a table; write it as [server]"),
        ("[server\n", "", "is not TOML: "),
        (f"[memory]\nmax_bytes = {'9' * 5000}", "", "is not TOML: "),
        (f"[server]\nallow_uids = {'[' * 5000}", "", "is not TOML: "),
    ],
)
def test_faults_of_a_file(tmp_path: Path, text: str, setting: str, message: str) -> None:
    path = write(tmp_path, text)
    (fault,) = from_file(path).faults
    assert (fault.source, fault.setting) == (str(path), setting)
    assert fault.message.startswith(message)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (fault,) = from_file(tmp_path / "no.toml").faults
    assert "cannot be read: No such file" in str(fault)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "c.toml"
    make(path)
    (fault,) = from_file(path).faults
    assert str(fault) == f"{path}: cannot be read: it is not a regular file"


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(b"\xff\xfe")
    (fault,) = from_file(path).faults
    assert "is not TOML" in str(fault)


@pytest.mark.parametrize(
    ("variable", "text", "setting", "value"),
    [
        ("TIERED_STORE_SERVER__SOCKET", "/a/b.sock", "server.socket", "/a/b.sock"),
        ("TIERED_STORE_SERVER__MODE", "0600", "server.mode", "0600"),
        ("TIERED_STORE_SERVER__GROUP", "1000", "server.group", "1000"),
        ("TIERED_STORE_SERVER__ALLOW_UIDS", "0,1000", "server.allow_uids", [0, 1000]),
        ("TIERED_STORE_SERVER__ALLOW_UIDS", "7", "server.allow_uids", [7]),
        ("TIERED_STORE_SERVER__ALLOW_UIDS", "[7]", "server.allow_uids", [7]),
        ("TIERED_STORE_MEMORY__MAX_BYTES", "64MB", "memory.max_bytes", "64MB"),
        ("TIERED_STORE_MEMORY__MAX_BYTES", "64000000", "memory.max_bytes", 64_000_000),
        ("TIERED_STORE_MEMORY__MAX_OBJECT_SHARE", "0.5", "memory.max_object_share", 0.5),
        ("TIERED_STORE_DISK__ENABLED", "false", "disk.enabled", False),
        ("TIERED_STORE_LOG__LEVEL", "debug", "log.level", "debug"),
        ("TIERED_STORE_POLICIES", '[{prefix = "a/"}]', "policies", [{"prefix": "a/"}]),
        ("TIERED_STORE_SOCKET", "/a", "server.socket", "/a"),
        ("STORAGE_LOCAL_PATH", "/a", "origin.path", "/a"),
        ("STORAGE_CACHE_PATH", "/a", "disk.path", "/a"),
        ("STORAGE_CACHE_MEMORY_MAX_BYTES", "64000000", "memory.max_bytes", 64_000_000),
        ("STORAGE_BACKEND", "local", "origin.backend", "local"),
        ("STORAGE_BACKEND", "s3", "origin.backend", "s3"),
        ("STORAGE_ORIGIN_BACKEND", "local", "origin.backend", "local"),
        ("S3_BUCKET", "builds", "s3.bucket", "builds"),
        ("S3_REGION", "eu-central-1", "s3.region", "eu-central-1"),
        ("S3_ENDPOINT", "http://[::1]:9000", "s3.endpoint_url", "http://[::1]:9000"),
        ("TIERED_STORE_S3__BUCKET", "1000", "s3.bucket", "1000"),
        ("TIERED_STORE_S3__SECRET_ACCESS_KEY", "12345", "s3.secret_access_key", "12345"),
        ("TIERED_STORE_S3__PATH_STYLE", "true", "s3.path_style", True),
        ("TIERED_STORE_S3__MAX_CONNECTIONS", "7", "s3.max_connections", 7),
        ("STORAGE_CDN_BASE_URL", "https://c/d", "cdn.base_url", "https://c/d"),
        ("STORAGE_CDN_TIMEOUT_MS", "500", "cdn.timeout_ms", 500),
        ("TIERED_STORE_CDN__HEADERS", '{ X = "1" }', "cdn.headers", {"X": "1"}),
        ("TIERED_STORE_CDN__PURGE", "http", "cdn.purge", "http"),
        ("TIERED_STORE_S3__STORAGE_CLASSES", '{ "a/" = "B" }', "s3.storage_classes", {"a/": "B"}),
    ],
)
def test_the_environment(variable: str, text: str, setting: str, value: object) -> None:
    layer = from_environment({variable: text})
    assert layer.faults == []
    assert layer.notices == []
    assert layer.values == {setting: Raw(value, variable)}


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 5000])
def test_a_variable_that_no_parser_takes_is_a_text(text: str) -> None:
    """Which is then judged as the setting's value, in place of ending the program."""
    layer = from_environment({"TIERED_STORE_MEMORY__MAX_BYTES": text})
    assert layer.values == {"memory.max_bytes": Raw(text, "TIERED_STORE_MEMORY__MAX_BYTES")}


def test_an_empty_variable_is_not_set() -> None:
    layer = from_environment({"TIERED_STORE_SERVER__SOKCET": "", "STORAGE_CDN_BASE_URL": "", "STORAGE_LOCAL_PATH": ""})
    assert (layer.values, layer.faults, layer.notices) == ({}, [], [])


@pytest.mark.parametrize(
    ("variable", "fault"),
    [
        (
            "TIERED_STORE_SERVER__SOKCET",
            "TIERED_STORE_SERVER__SOKCET: server.sokcet: unknown setting; did you mean 'socket'?",
        ),
        ("TIERED_STORE_SEVRER__SOCKET", "TIERED_STORE_SEVRER__SOCKET: sevrer: unknown section; did you mean 'server'?"),
        (
            "TIERED_STORE_METRICS__PORT",
            "TIERED_STORE_METRICS__PORT: metrics: is not supported by this version; remove it",
        ),
        ("STORAGE_BACKEND", "STORAGE_BACKEND: origin.backend: must be 'local', 's3' or 'tiered', not 'x'"),
    ],
)
def test_names_that_nobody_knows(variable: str, fault: str) -> None:
    assert [str(found) for found in from_environment({variable: "x"}).faults] == [fault]


def test_tiered_leaves_the_origin_to_the_other_variable() -> None:
    layer = from_environment({"STORAGE_BACKEND": "tiered", "STORAGE_ORIGIN_BACKEND": "local"})
    assert layer.values == {"origin.backend": Raw("local", "STORAGE_ORIGIN_BACKEND")}
    assert from_environment({"STORAGE_BACKEND": "tiered"}).values == {}


def test_two_backends_contradict_each_other() -> None:
    (fault,) = from_environment({"STORAGE_BACKEND": "local", "STORAGE_ORIGIN_BACKEND": "s3"}).faults
    assert "is 's3' but STORAGE_BACKEND is 'local'" in str(fault)


def test_the_newer_name_wins_and_says_so() -> None:
    layer = from_environment({"STORAGE_LOCAL_PATH": "/old", "TIERED_STORE_ORIGIN__PATH": "/new"})
    assert layer.values == {"origin.path": Raw("/new", "TIERED_STORE_ORIGIN__PATH")}
    assert layer.notices == ["STORAGE_LOCAL_PATH is ignored, because TIERED_STORE_ORIGIN__PATH is set too"]


def test_the_clients_socket_variable_wins_in_the_daemon_too() -> None:
    layer = from_environment({"TIERED_STORE_SOCKET": "/one", "TIERED_STORE_SERVER__SOCKET": "/two"})
    assert layer.values == {"server.socket": Raw("/one", "TIERED_STORE_SOCKET")}


def test_the_newer_name_wins_over_the_short_one_for_s3() -> None:
    layer = from_environment({"S3_BUCKET": "old", "TIERED_STORE_S3__BUCKET": "new"})
    assert layer.values == {"s3.bucket": Raw("new", "TIERED_STORE_S3__BUCKET")}
    assert layer.notices == ["S3_BUCKET is ignored, because TIERED_STORE_S3__BUCKET is set too"]


def test_variables_of_an_orchestrator_are_no_fault() -> None:
    layer = from_environment({"TIERED_STORE_SERVICE_HOST": "10.0.0.1", "TIERED_STORE_CONFIG": "/c"})
    assert layer.faults == []
    assert layer.notices == [
        "TIERED_STORE_SERVICE_HOST names no setting and is ignored; settings are TIERED_STORE_SECTION__NAME"
    ]


def test_credentials_are_not_even_looked_at() -> None:
    layer = from_environment({"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"})
    assert (layer.values, layer.faults, layer.notices) == ({}, [], [])
