import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_store.errors import InvalidKey
from tiered_store.key import (
    MAX_KEY_BYTES,
    artifact_key,
    digest_of,
    is_artifact,
    key_of_name,
    name_of_key,
    parse_key,
    parse_prefix,
)

DIGEST = "ab" * 32
ARTIFACT = "sha256:" + DIGEST
NAME = f"artifacts/sha256/ab/{DIGEST}"


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a/b",
        "sessions/abc/files/main.py",
        "ä/漢字",
        "a b",
        "...",
        "a/..b",
        ".hidden",
        "-",
        "%2e%2e",
        "sha256",
        "x" * 1024,
        ARTIFACT,
    ],
)
def test_good_keys_come_back_as_they_are(text: str) -> None:
    assert parse_key(text) == text
    assert parse_key(text.encode()) == text


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        ("", "empty"),
        ("/a", "start with '/'"),
        ("a//b", "empty segment"),
        ("a/", "empty segment"),
        (".", "'.' or '..'"),
        ("a/../b", "'.' or '..'"),
        ("a\\b", "backslash"),
        ("a\0b", "control"),
        ("a\x7f", "control"),
        ("a\x85", "control"),
        ("a\u2028b", "control"),
        ("a/.tiered_store/b", "reserved"),
        (".tiered_store-spool", "reserved"),
        ("x" * (MAX_KEY_BYTES + 1), "at most 1024 bytes, this one has 1025"),
        ("é" * 513, "at most 1024 bytes"),
        (b"\xff", "valid UTF-8"),
        ("\udc80", "valid UTF-8"),
        ("sha256:short", "64 lowercase hex"),
        ("sha256:" + "AB" * 32, "64 lowercase hex"),
        (ARTIFACT + "\n", "64 lowercase hex"),
    ],
)
def test_bad_keys_are_refused_by_rule(raw: str | bytes, rule: str) -> None:
    with pytest.raises(InvalidKey, match=rule):
        parse_key(raw)


@pytest.mark.parametrize(
    "text",
    ["", "a", "a/", "a/b", "a/.", "a/..", ".", "sha256:", "sha256:ab", ARTIFACT, "sessions/x/.", "a" * 1022 + "/"],
)
def test_good_prefixes(text: str) -> None:
    assert parse_prefix(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "/",
        "//",
        "a//",
        "../",
        "a/../",
        "a\\",
        "a\0",
        "a/\x07",
        ".tiered_store",
        "a/.tiered_store",
        "sha256:X",
        ARTIFACT + "0",
        "a" * 1023 + "/",  # a key has one byte more
        "a" * 1021 + "/..",
    ],
)
def test_bad_prefixes(text: str) -> None:
    with pytest.raises(InvalidKey):
        parse_prefix(text)


def test_a_bad_prefix_is_called_a_prefix() -> None:
    with pytest.raises(InvalidKey, match="a prefix must not contain a control character"):
        parse_prefix("a\0/b")


def test_artifacts_and_their_names() -> None:
    key = artifact_key(DIGEST)
    assert key == ARTIFACT
    assert is_artifact(key)
    assert digest_of(key) == DIGEST
    assert name_of_key(key) == NAME
    assert key_of_name(NAME) == key
    path = parse_key("a/b")
    assert not is_artifact(path)
    assert name_of_key(path) == "a/b"
    assert key_of_name("a/b") == path
    with pytest.raises(InvalidKey):
        artifact_key("nothex")


@pytest.mark.parametrize(
    "name", ["", "sha256:x", ARTIFACT, "a//b", "../x", ".tiered_store/x", "x" * 1025, "bad\udcff", "a\nb"]
)
def test_names_that_are_no_keys(name: str) -> None:
    assert key_of_name(name) is None


@pytest.mark.parametrize(
    "name", [f"artifacts/sha256/cd/{DIGEST}", f"artifacts/sha256/ab/{DIGEST}0", "artifacts/sha256/x"]
)
def test_odd_names_in_the_artifacts_directory_are_paths(name: str) -> None:
    assert key_of_name(name) == name


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_every_key_survives_its_name_and_starts_with_its_prefixes(raw: str | bytes) -> None:
    try:
        key = parse_key(raw)
    except InvalidKey:
        return
    assert key_of_name(name_of_key(key)) == key
    for end in range(len(key) + 1):
        if not (key.startswith("sha256:") and end < len("sha256:")):
            parse_prefix(key[:end])
