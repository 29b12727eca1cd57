from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tests.unit.cli.conftest import FakeClient

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


def test_put_a_directory_in_a_fixed_order(run: Run, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2").write_bytes(b"two")
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "c").write_bytes(b"three")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe")
    result = run("artifact", "put", str(tmp_path))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{key_of(b'one')}  {tmp_path}/a",
        f"{key_of(b'two')}  {tmp_path}/b/2",
        f"{key_of(b'three')}  {tmp_path}/c",
    ]
    assert [line.split()[1].removeprefix(f"{tmp_path}/") for line in result.stderr.splitlines()] == [
        "link",
        "loop",
        "pipe",
    ]


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
