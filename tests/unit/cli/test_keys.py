from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import Result

from tests.unit.cli.conftest import FakeClient
from tiered_store.cli.program import program
from tiered_store.errors import DaemonUnavailable

Run = Callable[..., Result]
Store = type[FakeClient]


def test_put_a_file(run: Run, store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    result = run("put", "a/b", str(tmp_path / "f"), "--content-type", "text/plain", "--meta", "user=7", "--meta", "x=")
    assert (result.exit_code, result.output) == (0, "")
    info, data = store.objects["a/b"]
    assert data == b"abc"
    assert (info.content_type, info.metadata) == ("text/plain", {"user": "7", "x": ""})


def test_put_standard_input(run: Run, store: Store) -> None:
    result = run("put", "k", "-", "--json", stdin=b"piped")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["key"], found["size"], found["metadata"]) == ("k", 5, {})
    assert found["modified"] == "1970-01-01T00:00:00Z"
    assert store.objects["k"][1] == b"piped"


@pytest.mark.parametrize("pair", ["novalue", "=v"])
def test_metadata_needs_name_and_value(run: Run, pair: str) -> None:
    result = run("put", "k", "-", "--meta", pair, stdin=b"")
    assert result.exit_code == 2
    assert "is not NAME=VALUE" in result.stderr


def test_put_a_file_that_is_not_there(run: Run, store: Store) -> None:
    assert run("put", "k", "/no/such/file").exit_code == 2
    assert store.objects == {}


def test_get_writes_every_byte_to_standard_output(run: Run, store: Store) -> None:
    body = bytes(range(256)) * 20
    store.objects["k"] = FakeClient.put(store(), "k", body), body
    result = run("get", "k")
    assert result.exit_code == 0
    assert result.stdout_bytes == body


@pytest.mark.parametrize("dash", [(), ("-o", "-")])
def test_get_of_the_empty_object(run: Run, store: Store, dash: tuple[str, ...]) -> None:
    store().put("k", b"")
    result = run("get", "k", *dash)
    assert (result.exit_code, result.stdout_bytes) == (0, b"")


def test_get_into_a_file(run: Run, store: Store, tmp_path: Path) -> None:
    store().put("k", b"abc")
    result = run("get", "k", "-o", str(tmp_path / "out"))
    assert (result.exit_code, result.output) == (0, "")
    assert (tmp_path / "out").read_bytes() == b"abc"


@pytest.mark.parametrize(
    "command", [("get", "k"), ("stat", "k"), ("stat", "k", "--json"), ("cp", "k", "l"), ("rm", "k")]
)
def test_a_missing_key(run: Run, command: tuple[str, ...]) -> None:
    result = run(*command)
    assert result.exit_code == 1
    assert result.stdout_bytes == b""
    assert result.stderr == "tiered-store: no object under this key (key 'k')\n"


def test_stat(run: Run, store: Store) -> None:
    store().put("k", b"a" * 2048, content_type="text/plain", metadata={"user": "7"})
    lines = run("stat", "k").stdout.splitlines()
    assert lines[0].split() == ["key:", "k"]
    assert lines[1].split() == ["size:", "2048", "(2", "KiB)"]
    assert lines[-1].split() == ["metadata", "user:", "7"]
    assert json.loads(run("stat", "k", "--json").stdout)["content_type"] == "text/plain"


def test_stat_of_a_small_object_without_a_type(run: Run, store: Store) -> None:
    store().put("k", b"abc")
    lines = run("stat", "k").stdout.splitlines()
    assert lines[1].split() == ["size:", "3"]
    assert lines[4].split() == ["content", "type:", "-"]


def test_ls(run: Run, store: Store) -> None:
    for key in ("b/1", "a/1", "a/2"):
        store().put(key, b"x")
    assert run("ls").stdout == "a/1\na/2\nb/1\n"
    assert run("ls", "a/").stdout == "a/1\na/2\n"
    assert [json.loads(line)["key"] for line in run("ls", "a/", "--json").stdout.splitlines()] == ["a/1", "a/2"]
    first = run("ls", "-l", "a/").stdout.splitlines()[0].split()
    assert (first[0], first[-1]) == ("1", "a/1")


def test_cp(run: Run, store: Store) -> None:
    store().put("a", b"x")
    assert run("cp", "a", "b").output == ""
    assert store.objects["b"][1] == b"x"
    assert json.loads(run("cp", "a", "c", "--json").stdout)["key"] == "c"


def test_rm(run: Run, store: Store) -> None:
    for key in ("a/1", "a/2", "b"):
        store().put(key, b"x")
    assert (run("rm", "b").exit_code, list(store.objects)) == (0, ["a/1", "a/2"])
    result = run("rm", "a/", "--prefix")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "2 removed\n")
    assert store.objects == {}
    assert run("rm", "a/", "--prefix").exit_code == 0


def test_an_empty_prefix_removes_nothing(run: Run, store: Store) -> None:
    """As in ``rm "$SESSION" --prefix`` where the variable is not set."""
    store().put("a", b"x")
    result = run("rm", "", "--prefix")
    assert result.exit_code == 2
    assert "would remove every object" in result.stderr
    assert list(store.objects) == ["a"]


def test_keys_are_completed(store: Store) -> None:
    for key in ("sessions/a", "sessions/b", "other"):
        store().put(key, b"x")
    shell = ShellComplete(program, {}, "tiered-store", "_X")
    assert [item.value for item in shell.get_completions(["get"], "sess")] == ["sessions/a", "sessions/b"]


def test_without_a_daemon_there_is_nothing_to_complete(store: Store) -> None:
    store.fails = DaemonUnavailable("gone")
    assert ShellComplete(program, {}, "tiered-store", "_X").get_completions(["get"], "") == []
