"""The description of the object API is the one that is served and committed, and says what the door answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.http import ServedHttp, served_http
from tiered_store.errors import InvalidKey
from tiered_store.key import parse_key, parse_prefix
from tiered_store.servers.http.api import api_mounts
from tiered_store.servers.http.components import FAULTS
from tiered_store.servers.http.openapi import description
from tiered_store.servers.http.problems import _STATUSES

COMMITTED = Path(__file__).resolve().parents[4] / "docs" / "openapi.json"
METHODS = {"get", "head", "put", "post", "delete", "options", "patch", "trace"}
EXAMPLES = {"key": "a/b", "artifact": "sha256:" + "0" * 64}


def served(**options: Any) -> Any:
    return served_http(*api_mounts(dict), **options)


def operations() -> dict[str, set[str]]:
    """The methods by path."""
    return {path: METHODS & set(item) for path, item in description()["paths"].items()}


async def allowed(it: ServedHttp, path: str) -> set[str]:
    """The methods that the door says a path has, in lower case."""
    found = await it.ask("TRACE", path)
    assert found.status == 405, path
    return {method.strip().lower() for method in found.headers["Allow"].split(",")}


async def test_what_is_served_is_what_is_committed() -> None:
    async with served() as it:
        found = await it.ask("GET", "/v1/openapi.json")
    assert found.headers["Content-Type"] == "application/json"
    assert json.loads(found.body) == json.loads(COMMITTED.read_text()) == description(), "run scripts/openapi.py"


async def test_every_path_has_the_methods_that_are_described_and_no_others() -> None:
    async with served() as it:
        for path, methods in operations().items():
            assert await allowed(it, path.format(**EXAMPLES)) == methods, path


def test_every_path_that_is_served_is_described() -> None:
    described = {path.removeprefix("/").partition("/{")[0] for path in operations()}
    assert {mount.prefix for mount in api_mounts(dict)} == described


def references(value: Any) -> set[str]:
    """Everything that is referred to."""
    if isinstance(value, dict):
        own = {value["$ref"]} if "$ref" in value else set()
        return own.union(*(references(inner) for inner in value.values()))
    if isinstance(value, list):
        return set().union(*(references(inner) for inner in value))
    return set()


def test_every_part_is_used_and_there() -> None:
    document = description()
    there = {f"#/components/{kind}/{name}" for kind, parts in document["components"].items() for name in parts}
    used = references(document) | {"#/components/securitySchemes/bearer", "#/components/securitySchemes/basic"}
    assert used - there == set()
    assert {name for name in there - used if "/responses/" not in name} == set()


def test_every_operation_has_a_name_of_its_own() -> None:
    names = [item[method]["operationId"] for item in description()["paths"].values() for method in METHODS & set(item)]
    assert len(names) == len(set(names)) > 10


def test_every_status_of_an_error_is_described() -> None:
    assert {status for status, _ in FAULTS.values()} >= set(_STATUSES.values())


def fits(text: str, schema: str) -> bool:
    patterns = description()["components"]["schemas"][schema]["anyOf"]
    return any(re.search(one["pattern"], text) for one in patterns)


def is_taken(text: str, parse: Callable[[str], str]) -> bool:
    try:
        parse(text)
    except InvalidKey:
        return False
    return True


def test_the_pattern_of_keys_is_the_rules_of_keys() -> None:
    good = ["a", "a/b", "...", "a/..b", ".a", "é", "a b", "sha256:" + "0" * 64, "x/sha256:1", "\U0010ffff"]
    bad = ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\\b", "a\x00", "a\x85", "\u2028", "sha256:1"]
    bad += ["sha256:" + "A" * 64, ".tiered_store", "a/.tiered_store-x/b", "a\nb"]
    assert [key for key in good if not (fits(key, "Key") and is_taken(key, parse_key))] == []
    assert [key for key in bad if fits(key, "Key") or is_taken(key, parse_key)] == []


def test_the_pattern_of_prefixes_is_the_rules_of_prefixes() -> None:
    good = ["", "a", "a/", "a/b", "a/.", "..", "a/..", "...", "sha256:", "sha256:0", "s", "a/sha256:x"]
    bad = [
        "/",
        "a//",
        "a/../",
        "./a",
        "a\\",
        "\x00",
        "sha256:g",
        "sha256:" + "0" * 65,
        ".tiered_store",
        "a/.tiered_store",
    ]
    assert [text for text in good if not (fits(text, "Prefix") and is_taken(text, parse_prefix))] == []
    assert [text for text in bad if fits(text, "Prefix") or is_taken(text, parse_prefix)] == []
