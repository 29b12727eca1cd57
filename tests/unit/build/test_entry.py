from __future__ import annotations

import json

import pytest

from tiered_store.build.entry import ENTRY_MAX_BYTES, Place, ToolEntry, decode_entry, encode_entry
from tiered_store.errors import InvalidKey

DIGEST = "0123456789abcdef" * 4
ENTRY = ToolEntry(DIGEST, 12, 1_700_000_000_000_000_000, {"x-artifact-tag": "t"})


def test_an_entry_comes_back():
    assert decode_entry(encode_entry(ENTRY)) == ENTRY
    assert decode_entry(encode_entry(ToolEntry(DIGEST, 0))) == ToolEntry(DIGEST, 0)
    assert ENTRY.content == f"sha256:{DIGEST}"


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": None},
        {"digest": DIGEST.upper()},
        {"digest": DIGEST[:-1]},
        {"digest": DIGEST + "\n"},
        {"digest": None},
        {"size": -1},
        {"size": True},
        {"size": "12"},
        {"stored_ns": "now"},
        {"headers": []},
        {"headers": {"a": 1}},
    ],
    ids=json.dumps,
)
def test_what_cannot_be_is_no_entry(change):
    said = json.loads(encode_entry(ENTRY))
    with pytest.raises(ValueError, match="entry of a build cache"):
        decode_entry(json.dumps(said | change).encode())


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"null", b" " * ENTRY_MAX_BYTES + b"{}"])
def test_damage_is_no_entry(body):
    with pytest.raises(ValueError):
        decode_entry(body)


def test_where_keys_live():
    assert Place("ccache", "main").key("ab/cd") == "build/ccache/main/ab/cd"
    assert Place("ccache", "main", "pr-7").key("ab/cd") == "quarantine/pr-7/ccache/main/ab/cd"


@pytest.mark.parametrize("name", ["", "..", ".a", "a/b", "a b", "a" * 65, "é", "a\n"])
def test_names_that_are_none(name):
    for names in [("ccache", name), (name, "main")]:
        with pytest.raises(InvalidKey, match="build cache"):
            Place(*names)
    if name:
        with pytest.raises(InvalidKey, match="build cache"):
            Place("ccache", "main", name)


@pytest.mark.parametrize("name", ["", "a//b", "../b", "a\x00", "a/", "x" * 1024])
def test_names_of_entries_keep_to_the_rules_for_keys(name):
    with pytest.raises(InvalidKey):
        Place("ccache", "main").key(name)
