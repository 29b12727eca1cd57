"""What a CI's cache does: keys, prefixes, scopes, outputs, and faults that break no build."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.support.trees import Tree, found, key_of, make
from tests.unit.cli.conftest import FakeClient
from tiered_store.cli.cicache import object_key
from tiered_store.client.trees import restoring
from tiered_store.errors import DaemonUnavailable, OriginUnavailable
from tiered_store.objects import ObjectInfo

Run = Callable[..., Result]
Store = type[FakeClient]

TREE: Tree = {b"a": (b"one", False), b"b": {b"2": (b"two", True)}, b"link": b"a"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "saved", TREE)
    return tmp_path


def save(run: Run, here: Path, key: str, *more: str, tree: Tree = TREE, path: str = "modules") -> dict[str, object]:
    """Save a tree under a path that is not there afterwards."""
    make(here / path, tree)
    result = run("ci", "save", "--key", key, *more, "--json", path)
    assert result.exit_code == 0, result.output
    (here / path).rename(here / f"was-{len(list(here.iterdir()))}")
    told: dict[str, object] = json.loads(result.stdout)
    return told


def restore(run: Run, *arguments: str) -> dict[str, object]:
    result = run("ci", "restore", "--json", *arguments)
    assert result.exit_code == 0, result.output
    told: dict[str, object] = json.loads(result.stdout)
    return told


def age(store: Store, key: str, modified_ns: int, scope: str = "default") -> None:
    """Have an entry be of that time."""
    where = object_key(scope, ["modules"], key)
    info, data = store.objects[where]
    store.objects[where] = ObjectInfo(where, info.size, info.etag, None, {}, modified_ns), data


def test_the_exact_key(run: Run, here: Path) -> None:
    told = save(run, here, "linux-1")
    assert told == {"cache-saved": True, "files": 2, "new-bytes": 6, "shared-bytes": 0}
    told = restore(run, "--key", "linux-1", "modules")
    assert (told["cache-hit"], told["cache-matched-key"], told["new-bytes"]) == ("true", "linux-1", 6)
    assert found(here / "modules") == TREE
    assert [path.name for path in here.glob("*.part")] == []


def test_nothing_is_found(run: Run, here: Path) -> None:
    save(run, here, "linux-1")
    for more in ((), ("--restore-keys", "mac-,win-")):
        told = restore(run, "--key", "other", *more, "modules")
        assert (told["cache-hit"], told["cache-matched-key"]) == ("false", None)
    assert not (here / "modules").exists()
    assert run("ci", "restore", "--key", "other", "--fail-on-cache-miss", "modules").exit_code == 1


def test_the_newest_by_a_prefix_in_the_order_of_the_prefixes(run: Run, here: Path, store: Store) -> None:
    for number, key in enumerate(["linux-a", "linux-b", "linux-c", "mac-a"]):
        save(run, here, key, tree={b"n": (b"%d" % number, False)})
    for key, at in (("linux-a", 5), ("linux-b", 9), ("linux-c", 7), ("mac-a", 99)):
        age(store, key, at)
    told = restore(run, "--key", "none", "--restore-keys", "win-,linux-,mac-", "modules")
    assert (told["cache-hit"], told["cache-matched-key"]) == ("partial", "linux-b")
    assert found(here / "modules") == {b"n": (b"1", False)}
    told = restore(run, "--key", "linux-", "--lookup-only", "modules")
    assert (told["cache-hit"], told["cache-matched-key"]) == ("partial", "linux-b")


def test_a_key_that_is_taken_is_not_written_again(run: Run, here: Path, store: Store) -> None:
    save(run, here, "k")
    before = dict(store.objects)
    assert save(run, here, "k", tree={})["cache-saved"] is False
    assert store.objects == before


def test_scopes_are_apart_and_searched_in_order(run: Run, here: Path) -> None:
    save(run, here, "k", "--scope", "main", tree={b"main": (b"", False)})
    save(run, here, "k-1", "--scope", "branch", tree={b"branch": (b"", False)})
    assert restore(run, "--key", "k", "modules")["cache-hit"] == "false"
    both = ("--scope", "branch", "--scope", "main")
    assert restore(run, "--key", "k", *both, "--lookup-only", "modules")["cache-matched-key"] == "k-1"
    assert restore(run, "--key", "k", "--scope", "main", "modules")["cache-hit"] == "true"


def test_other_paths_are_another_cache(run: Run, here: Path) -> None:
    save(run, here, "k")
    assert restore(run, "--key", "k", "other")["cache-hit"] == "false"
    assert restore(run, "--key", "k", "modules", "other")["cache-hit"] == "false"


def test_several_paths(run: Run, here: Path) -> None:
    make(here / "one", {b"1": (b"one", False)})
    make(here / "two", {b"2": (b"two", False)})
    run("ci", "save", "--key", "k", "one", "two", "missing")
    (here / "one/1").unlink()
    (here / "two").rename(here / "gone")
    assert restore(run, "--key", "k", "one", "two", "missing")["files"] == 2
    assert (found(here / "one"), found(here / "two")) == ({b"1": (b"one", False)}, {b"2": (b"two", False)})


def test_paths_that_are_no_directories_are_said_and_not_saved(run: Run, here: Path, store: Store) -> None:
    (here / "file").touch()
    result = run("ci", "save", "--key", "k", "file", "no")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "cache-saved=false")
    assert result.stderr.count("is no directory") == 2
    assert store.opened == []


@pytest.mark.parametrize("key", ["", "a,b", "a\nb", "a\x00", "k" * 201, "é" * 50])
def test_what_can_be_no_key(run: Run, store: Store, key: str) -> None:
    for command in ("save", "restore"):
        assert run("ci", command, "--key", key, "saved").exit_code == 2
    assert store.opened == []


@pytest.mark.parametrize("key", [".", "..", "../../x", ".tiered_store", "a/b", "a b", "é", "100%", "a//b", "%2E"])
def test_any_other_key(run: Run, here: Path, store: Store, key: str) -> None:
    save(run, here, key)
    assert sum(each.startswith("ci/") for each in store.objects) == 1
    assert all(len(each.split("/")) == 4 for each in store.objects if each.startswith("ci/"))
    assert restore(run, "--key", key, "modules")["cache-hit"] == "true"
    assert (
        restore(run, "--key", f"{key}-", "--restore-keys", key[0], "--lookup-only", "modules")["cache-hit"] == "partial"
    )


@pytest.mark.parametrize("scope", ["", "a/b", "..", "a" * 65])
def test_what_can_be_no_scope(run: Run, scope: str) -> None:
    for command in ("save", "restore"):
        assert run("ci", command, "--key", "k", "--scope", scope, "saved").exit_code == 2


def test_outputs_for_the_ci(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(here / "outputs"))
    make(here / "modules", TREE)
    result = run("ci", "save", "--key", "k", "modules")
    assert result.stdout == "cache-saved=true\nfiles=2\nnew-bytes=6\nshared-bytes=0\n"
    result = run("ci", "restore", "--key", "k", "modules")
    shown = "cache-hit=true\ncache-primary-key=k\ncache-matched-key=k\n"
    assert result.stdout == f"{shown}files=2\nnew-bytes=0\nshared-bytes=6\n"
    assert (here / "outputs").read_text() == f"cache-saved=true\n{shown}"


@pytest.mark.parametrize("fault", [DaemonUnavailable("nobody there"), OriginUnavailable("down")])
def test_faults_are_misses_unless_asked_for(run: Run, store: Store, fault: Exception) -> None:
    store.fails = fault
    for command, output in (("restore", "cache-hit=false"), ("save", "cache-saved=false")):
        result = run("ci", command, "--key", "k", "saved")
        assert (result.exit_code, result.stdout.splitlines()[0]) == (0, output)
        assert result.stderr.startswith("tiered-store: no cache: ")
        strict = run("ci", command, "--key", "k", "--strict", "saved")
        assert strict.exit_code == (3 if isinstance(fault, DaemonUnavailable) else 1)


def test_a_cache_that_has_lost_a_file_is_a_miss_that_leaves_nothing(run: Run, here: Path, store: Store) -> None:
    save(run, here, "k-1")
    save(run, here, "k-2", tree={b"a": (b"three", False)})
    del store.objects[key_of(b"one")]
    told = restore(run, "--key", "k-1", "modules")
    assert told["cache-hit"] == "false"
    assert [path.name for path in here.glob("modules*")] == []
    assert restore(run, "--key", "k-1", "--restore-keys", "k-", "modules")["cache-matched-key"] == "k-2"


def test_a_directory_that_is_left_in_between_is_an_error(run: Run, here: Path, store: Store) -> None:
    save(run, here, "k")
    (here / "modules").mkdir()
    del store.objects[key_of(b"two")]
    result = run("ci", "restore", "--key", "k", "modules")
    assert result.exit_code == 1
    assert "modules is left in between" in result.stderr


def test_two_restores_at_once_do_not_meet(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins while the first is beside the path, and gets there before it."""
    save(run, here, "k")
    places: list[Path] = []
    write = restoring.write_files

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(restoring, "write_files", write)
        places.extend(here.glob("modules*"))
        assert [stat.S_IMODE(place.stat().st_mode) for place in places] == [0o700]
        assert restore(run, "--key", "k", "modules")["cache-hit"] == "true"
        assert places[0].is_dir()
        return write(*arguments, **options)

    monkeypatch.setattr(restoring, "write_files", meanwhile)
    assert restore(run, "--key", "k", "modules")["cache-hit"] == "true"
    assert len(places) == 1
    assert found(here / "modules") == TREE
    assert [path.name for path in here.glob("modules*")] == ["modules"]


def test_names_beside_a_path_are_foreseen_by_nobody(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run, here, "k")
    real = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: b"\1" * size)
    (here / "elsewhere").mkdir()
    (here / f"modules.{'01' * 8}.part").symlink_to(here / "elsewhere")
    assert run("ci", "restore", "--key", "k", "modules").exit_code == 1  # if somebody could, it would be an error
    assert list((here / "elsewhere").iterdir()) == []
    monkeypatch.setattr(os, "urandom", real)
    restore(run, "--key", "k", "modules")
    expected = here / "mode"
    expected.mkdir()
    assert (here / "modules").stat().st_mode == expected.stat().st_mode


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"v":2,"key":"k","paths":[]}',
        b'{"v":1,"key":7,"paths":[]}',
        b'{"v":1,"key":"k","paths":7}',
        b'{"v":1,"key":"k","paths":[7]}',
        b'{"v":1,"key":"k","paths":[{"path":"modules"}]}',
        b'{"v":1,"key":"k","paths":[{"path":"modules","tree":"sha256:../../x"}]}',
        b'{"v":1,"key":"other","paths":[]}',
        b"[" * 100_000,
    ],
)
def test_an_entry_that_is_none_is_a_miss(run: Run, store: Store, body: bytes) -> None:
    store().put(object_key("default", ["modules"], "k"), body)
    assert restore(run, "--key", "k", "modules")["cache-hit"] == "false"


def test_an_entry_does_not_say_where_to_write(run: Run, here: Path, store: Store) -> None:
    tree = run("artifact", "put", "saved").stdout.split()[0]
    body = {"v": 1, "key": "k", "paths": [{"path": f"{here}/elsewhere", "tree": tree}]}
    store().put(object_key("default", ["modules"], "k"), json.dumps(body).encode())
    assert restore(run, "--key", "k", "modules")["cache-hit"] == "false"
    assert not (here / "elsewhere").exists()


@pytest.mark.parametrize("told", ["k-1", "x", "k-2\ncache-hit=true", "k-2\ufffe"])
def test_an_entry_does_not_say_what_its_key_is(run: Run, here: Path, store: Store, told: str) -> None:
    """Keys are written to a file of the CI's, line by line."""
    save(run, here, "k-2")
    where = object_key("default", ["modules"], "k-2")
    entry = json.loads(store.objects[where][1])
    store().put(where, json.dumps({**entry, "key": told}).encode())
    assert restore(run, "--key", "k-3", "--restore-keys", "k-", "modules")["cache-hit"] == "false"


def test_an_entry_names_a_path_once(run: Run, here: Path, store: Store) -> None:
    save(run, here, "k")
    where = object_key("default", ["modules"], "k")
    entry = json.loads(store.objects[where][1])
    store().put(where, json.dumps({**entry, "paths": entry["paths"] * 2}).encode())
    assert restore(run, "--key", "k", "modules")["cache-hit"] == "false"
    assert [path.name for path in here.glob("modules*")] == []


@pytest.mark.parametrize("paths", [("a", "a"), ("a/b", "a-c", "a"), ("a", "./a/b/"), ("/", "a"), ("x/../a", "a/b")])
def test_paths_in_each_other_are_no_use(run: Run, store: Store, paths: tuple[str, ...]) -> None:
    for command in ("save", "restore"):
        result = run("ci", command, "--key", "k", *paths)
        assert result.exit_code == 2
        assert "leave it out" in result.stderr
    assert store.opened == []


def test_a_full_disk_leaves_nothing_of_a_path_that_was_not_there(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(run, here, "k")
    monkeypatch.setattr(restoring, "write_files", full)
    result = run("ci", "restore", "--key", "k", "modules")
    assert (result.exit_code, "No space left" in result.stderr) == (1, True)
    assert [path.name for path in here.glob("modules*")] == []


def test_a_full_disk_leaves_a_directory_in_between(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run, here, "k")
    (here / "modules").mkdir()
    monkeypatch.setattr(restoring, "write_files", full)
    result = run("ci", "restore", "--key", "k", "modules")
    assert result.exit_code == 1
    assert "modules is left in between" in result.stderr
    assert "No space left" in result.stderr


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_names_of_files_are_no_lines(run: Run, here: Path) -> None:
    """A runner of a CI takes a line that begins with two colons for a command."""
    os.mkfifo(here / "saved/pipe\n::add-path::evil\x1b")
    result = run("ci", "save", "--key", "k", "saved")
    assert "saved/pipe\\n::add-path::evil\\x1b is left out" in result.stderr
