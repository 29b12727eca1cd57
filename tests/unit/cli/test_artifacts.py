from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.support.trees import found, make
from tests.unit.cli.conftest import FakeClient
from tiered_store.client.trees.manifest import TREE_CONTENT_TYPE

Run = Callable[..., Result]
Store = type[FakeClient]


def key_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_put_a_file(run: Run, store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    result = run("artifact", "put", str(tmp_path / "f"))
    assert result.stdout == f"{key_of(b'abc')}  {tmp_path}/f\n"
    assert list(store.objects) == [key_of(b"abc")]


def test_put_standard_input(run: Run) -> None:
    result = run("artifact", "put", "-", "--json", stdin=b"piped")
    assert json.loads(result.stdout) == {"key": key_of(b"piped"), "path": "-"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    make(tmp_path / "in", {b"a": (b"one", False), b"b": {b"2": (b"two", True)}, b"link": b"a"})
    return tmp_path / "in"


def test_put_a_directory(run: Run, store: Store, tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    result = run("artifact", "put", str(tree))
    assert result.exit_code == 0
    key, path = result.stdout.split()
    assert (store.objects[key][0].content_type, path) == (TREE_CONTENT_TYPE, str(tree))
    assert set(store.objects) == {key, key_of(b"one"), key_of(b"two")}
    said = f"tiered-store: {tree}/pipe is left out: neither file, directory nor symbolic link\n"
    assert result.stderr == said
    result = run("artifact", "put", str(tree), "--json")
    told = json.loads(result.stdout)
    assert (told["key"], told["path"], told["files"], told["links"], told["directories"]) == (key, str(tree), 2, 1, 1)
    assert (told["bytes"], told["new_bytes"], told["shared_bytes"], told["left_out"]) == (6, 0, 6, [f"{tree}/pipe"])


def test_of_many_things_left_out_some_are_named(run: Run, tmp_path: Path) -> None:
    for number in range(25):
        os.mkfifo(tmp_path / f"{number}")
    lines = run("artifact", "put", str(tmp_path)).stderr.splitlines()
    assert (len(lines), lines[-1]) == (21, "tiered-store: 5 more are left out")


def test_what_is_remembered_of_a_directory(
    run: Run, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("artifact", "put", str(tree), "--no-stat-cache")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    run("artifact", "put", str(tree), "--stat-cache", f"{tmp_path}/cache")
    assert (tmp_path / "cache").is_file()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    run("artifact", "put", str(tree))
    assert len(list((tmp_path / "xdg/tiered_store/trees").iterdir())) == 1


def test_get_a_tree(run: Run, tree: Path, tmp_path: Path) -> None:
    key = run("artifact", "put", str(tree)).stdout.split()[0]
    assert run("artifact", "get", key, "-o", f"{tmp_path}/out").output == ""
    assert found(tmp_path / "out") == found(tree)
    told = json.loads(run("artifact", "get", key, "-o", f"{tmp_path}/out", "--json").stdout)
    assert (told["path"], told["files"], told["new_files"]) == (f"{tmp_path}/out", 2, 0)
    run("artifact", "get", key, "-o", f"{tmp_path}/linked", "--link-from", f"{tmp_path}/links")
    assert (tmp_path / "linked/a").stat().st_nlink == 2
    # Without a directory the manifest is what it is: an artifact.
    assert run("artifact", "get", key).stdout_bytes.startswith(b"tiered_store tree 1\0")


def test_a_tree_whose_kind_the_store_does_not_say(run: Run, store: Store, tree: Path, tmp_path: Path) -> None:
    key = run("artifact", "put", str(tree)).stdout.split()[0]
    store().put(key, store.objects[key][1])
    run("artifact", "get", key, "-o", f"{tmp_path}/file")
    assert (tmp_path / "file").is_file()
    run("artifact", "get", key, "--tree", "-o", f"{tmp_path}/out")
    assert found(tmp_path / "out") == found(tree)


@pytest.mark.parametrize("more", [("--tree",), ("--link-from", "x"), ("--tree", "-o", "-")])
def test_a_tree_needs_a_directory(run: Run, more: tuple[str, ...]) -> None:
    assert run("artifact", "get", key_of(b""), *more).exit_code == 2


@pytest.mark.parametrize("prefix", ["sha256:", ""])
def test_get(run: Run, store: Store, prefix: str) -> None:
    store().put(key_of(b"abc"), b"abc")
    assert run("artifact", "get", prefix + hashlib.sha256(b"abc").hexdigest()).stdout_bytes == b"abc"


def test_get_into_a_file(run: Run, store: Store, tmp_path: Path) -> None:
    store().put(key_of(b"abc"), b"abc")
    assert run("artifact", "get", key_of(b"abc"), "-o", str(tmp_path / "out")).output == ""
    assert (tmp_path / "out").read_bytes() == b"abc"


@pytest.mark.parametrize("key", ["sha256:abc", "a/b", "SHA256:" + "0" * 64, "0" * 63 + "G", "0" * 65])
def test_what_is_no_artifact_key_is_wrong_usage(run: Run, store: Store, key: str) -> None:
    result = run("artifact", "get", key)
    assert result.exit_code == 2
    assert "is not 'sha256:' and 64 lowercase hex digits" in result.stderr
    assert store.opened == []


def test_a_file_of_a_tree_that_cannot_be_read_is_named(run: Run, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: bytes) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "lstat", refuse)
    result = run("artifact", "put", str(tree))
    assert (result.exit_code, result.stderr) == (1, f"tiered-store: {tree}/a: Permission denied\n")
