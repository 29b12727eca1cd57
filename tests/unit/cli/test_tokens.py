from __future__ import annotations

import hashlib
import json
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.unit.cli.conftest import FakeClient
from tiered_store.build.entry import Place, ToolEntry, encode_entry
from tiered_store.config.load import Flags, load

Run = Callable[..., Result]
Store = type[FakeClient]


def test_a_token_is_printed_with_the_lines_by_which_it_is_known(run: Run, tmp_path: Path) -> None:
    result = run("token", "new", "ci", "--role", "write", "--prefix", "a/", "--instance", "x", "--list", "--quarantine")
    secret, _, lines = result.stdout.partition("\n")
    (tmp_path / "c.toml").write_text(lines)
    flags, environment = Flags(data_dir=tmp_path / "d"), {"XDG_RUNTIME_DIR": str(tmp_path)}
    (rule,) = load(tmp_path / "c.toml", flags=flags, environment=environment).config.access.tokens
    assert rule.hash == f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"
    assert (rule.name, rule.role, rule.prefixes, rule.instances) == ("ci", "write", ("a/",), ("x",))
    assert (rule.can_list, rule.quarantine) == (True, True)


def test_the_hash_is_not_the_token(run: Run) -> None:
    secret, _, lines = run("token", "new", "ci").stdout.partition("\n")
    assert secret not in lines
    assert set(tomllib.loads(lines)["access"]["tokens"][0]) == {"name", "hash", "role"}


def test_scripts_get_json(run: Run) -> None:
    found = json.loads(run("token", "new", "ci", "--json", "--prefix", "a/").stdout)
    assert found["rule"]["hash"] == f"sha256:{hashlib.sha256(found['token'].encode()).hexdigest()}"
    assert tomllib.loads(found["toml"])["access"]["tokens"] == [found["rule"]]
    assert (found["rule"]["prefixes"], found["rule"]["instances"]) == (["a/"], [])


@pytest.mark.parametrize(
    "options",
    [("a/b",), ("",), ("x", "--role", "root"), ("x", "--role", "admin", "--list"), ("x", "--quarantine")],
)
def test_a_token_that_cannot_be_meant(run: Run, options: tuple[str, ...]) -> None:
    assert run("token", "new", *options).exit_code == 2


class Cache:
    """Entries in a fake store."""

    def __init__(self, store: Store) -> None:
        self.client = store()
        self.objects = store.objects

    def add(
        self, name: str, content: bytes | None = b"", *, dialect: str = "nx", writer: str = "pr", **more: Any
    ) -> str:
        """An entry; None leaves out its content."""
        digest = hashlib.sha256(content or name.encode()).hexdigest()
        stored_ns = more.get("stored_ns", 0)
        if content is not None:
            self.client.put(f"sha256:{digest}", content)
        key = Place(dialect, more.get("instance", "repo"), writer).key(name)
        self.client.put(
            key, encode_entry(ToolEntry(digest, len(content or b""), stored_ns)), content_type="application/json"
        )
        return key


@pytest.fixture
def cache(store: Store) -> Cache:
    return Cache(store)


def test_what_is_whole_is_promoted(run: Run, cache: Cache) -> None:
    mine, of_another_tool = cache.add("a"), cache.add("b", dialect="gradle")
    bodies = [cache.objects[key][1] for key in (mine, of_another_tool)]
    result = run("promote", "pr", "repo")
    assert result.output == "2 promoted, 0 were there already, 0 without their content\n"
    assert [cache.objects[key][1] for key in ("build/nx/repo/a", "build/gradle/repo/b")] == bodies
    assert cache.objects["build/nx/repo/a"][0].content_type == "application/json"
    assert mine not in cache.objects
    assert of_another_tool not in cache.objects


def test_only_what_was_asked_for_is_promoted(run: Run, cache: Cache) -> None:
    others = [
        cache.add("a", writer="other"),
        cache.add("a", writer="pr2"),
        cache.add("a", instance="repo2"),
        cache.add("repo", instance="other"),
        cache.add("a", dialect="gradle"),
    ]
    cache.add("a")
    result = run("promote", "pr", "repo", "--dialect", "nx", "--json")
    assert json.loads(result.stdout)["promoted"] == 1
    assert {key for key in cache.objects if key.startswith("build/")} == {"build/nx/repo/a"}
    assert all(key in cache.objects for key in others)


def test_content_that_is_gone_is_not_promised_to_anybody(run: Run, cache: Cache) -> None:
    key = cache.add("a", None)
    assert "1 without their content" in run("promote", "pr", "repo").output
    assert key in cache.objects
    assert "build/nx/repo/a" not in cache.objects


@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 100])
def test_what_is_no_entry_stays(run: Run, cache: Cache, body: bytes) -> None:
    cache.client.put("quarantine/pr/nx/repo/a", body)
    result = run("promote", "pr", "repo")
    assert "quarantine/pr/nx/repo/a is left where it is" in result.stderr
    assert "build/nx/repo/a" not in cache.objects


def test_what_everybody_sees_already_stays(run: Run, cache: Cache) -> None:
    trusted = cache.objects[cache.add("a", b"trusted", writer="")][1]
    key = cache.add("a", b"of the writer")
    assert "1 were there already" in run("promote", "pr", "repo").output
    assert cache.objects["build/nx/repo/a"][1] == trusted
    assert key not in cache.objects


def test_unless_it_shall_be_overwritten(run: Run, cache: Cache) -> None:
    cache.add("a", b"trusted", writer="")
    body = cache.objects[cache.add("a", b"of the writer")][1]
    assert "1 promoted" in run("promote", "pr", "repo", "--overwrite").output
    assert cache.objects["build/nx/repo/a"][1] == body


def test_a_rehearsal_changes_nothing(run: Run, cache: Cache) -> None:
    cache.add("a", b"1", writer="")
    for name in "abc":
        cache.add(name)
    before = dict(cache.objects)
    assert run("promote", "pr", "repo", "--dry-run").output.startswith("2 would be promoted, 1 were there already")
    assert cache.objects == before


def test_what_is_stored_after_it_was_looked_at_stays(run: Run, cache: Cache) -> None:
    looked_at = cache.add("a", stored_ns=time.time_ns())
    rehearsed = json.loads(run("promote", "pr", "repo", "--dry-run", "--json").stdout)
    assert run("promote", "pr", "repo", "--dry-run").output.splitlines()[1].startswith("to promote these and none")
    since = cache.add("b", stored_ns=time.time_ns())
    result = run("promote", "pr", "repo", "--as-of", rehearsed["as_of"])
    assert result.output == "1 promoted, 0 were there already, 0 without their content, 1 were stored later\n"
    assert (looked_at in cache.objects, since in cache.objects) == (False, True)
    assert {key for key in cache.objects if key.startswith("build/")} == {"build/nx/repo/a"}
    cache.add("c", stored_ns=time.time_ns() + 10**12)  # while the command runs
    assert run("promote", "pr", "repo").output.startswith("1 promoted")


@pytest.mark.parametrize("time_", ["", "now", "2026-03-01", "2026-03-01T12:00:00", "x+00:00"])
def test_a_time_that_is_none(run: Run, store: Store, time_: str) -> None:
    assert run("promote", "pr", "repo", "--as-of", time_).exit_code == 2
    assert store.opened == []


def test_what_a_trusted_build_stores_meanwhile_stays(
    run: Run, cache: Cache, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        cache.add(name, b"of the writer")
    put = store.put

    def meanwhile(client: FakeClient, key: str, *arguments: Any, **options: Any) -> Any:
        if key == "build/nx/repo/a":
            put(client, "build/nx/repo/b", b"trusted")
        return put(client, key, *arguments, **options)

    monkeypatch.setattr(store, "put", meanwhile)
    assert run("promote", "pr", "repo").output.startswith("1 promoted, 1 were there already")
    assert cache.objects["build/nx/repo/b"][1] == b"trusted"


def test_more_than_one_batch(run: Run, cache: Cache) -> None:
    for number in range(600):
        cache.add(f"{number:03}")
    assert "600 promoted" in run("promote", "pr", "repo").output
    assert sum(key.startswith("build/nx/repo/") for key in cache.objects) == 600


def test_nothing_in_quarantine(run: Run, store: Store) -> None:
    result = run("promote", "pr", "repo")
    assert (result.exit_code, result.stderr) == (1, "tiered-store: nothing of pr is in quarantine for repo\n")


@pytest.mark.parametrize("arguments", [("../x", "repo"), ("pr", "a/b"), ("pr", "repo", "--dialect", "*"), ("pr",)])
def test_names_that_cannot_be(run: Run, arguments: tuple[str, ...]) -> None:
    assert run("promote", *arguments).exit_code == 2
