"""Targets of requests: one meaning or none."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_store.servers.http.problems import Refusal
from tiered_store.servers.http.target import Target, parse_query, parse_target


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        ("/v1/objects/a", Target("v1/objects/a")),
        ("/", Target("")),
        ("/a/", Target("a/")),
        ("/a%20b", Target("a b")),
        ("/a%2Fb", Target("a/b", plain_segments=0)),
        ("/v1/objects/a%2fb/c%2Fd", Target("v1/objects/a/b/c/d", plain_segments=2)),
        ("//a//%2F", Target("a/", has_double_slash=True, plain_segments=1)),
        ("http://host/a%2Fb", Target("a/b", plain_segments=0)),
        ("/a%252Fb", Target("a%2Fb")),
        ("/%C3%BC", Target("ü")),
        ("/a?b=c?d", Target("a", "b=c?d")),
        ("/a+b", Target("a+b")),
        ("//v1/cache/x", Target("v1/cache/x", has_double_slash=True)),
        ("/nx/i//v1///x", Target("nx/i/v1/x", has_double_slash=True)),
        ("/a//", Target("a/", has_double_slash=True)),
        ("/a%2F%2Fb", Target("a/b", has_double_slash=True, plain_segments=0)),
        ("http://host/a", Target("a")),
        ("http://host:80?x=1", Target("", "x=1")),
        ("http://[::1]:80/a", Target("a")),
        ("/...", Target("...")),
    ],
)
def test_what_a_target_means(raw: str, target: Target) -> None:
    assert parse_target(raw) == target


@pytest.mark.parametrize(
    "raw",
    [
        "*",
        "",
        "a/b",
        "host:443",
        "http://user@host/a",
        "http://host\\a",
        "ftp://host/a",
        "http:///a",
        "/a%00",
        "/a%0a",
        "/a\x00",
        "/%2e%2e/a",
        "/a/../b",
        "/a/.%2e",
        "/./a",
        "/a%2f%2e%2e%2fb",
        "/a%zz",
        "/a%2",
        "/a%",
        "/a%ff",
        "/a%C3",
        "/\u00fc",
        "/a b",
        "/a\\b",
        "/a%5cb",
        "/a%c2%85",
        "/a#b",
        "/" + "a" * 5000,
    ],
)
def test_what_is_refused(raw: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_target(raw)
    assert refused.value.status in {400, 414}


@given(st.lists(st.text(st.characters(exclude_categories=["C"], exclude_characters="/\\"), min_size=1), min_size=1))
def test_every_good_path_comes_back(segments: list[str]) -> None:
    path = "/".join(segment for segment in segments if segment not in {".", ".."})
    raw = "/" + quote(path)
    if path and len(raw) <= 4096:
        assert parse_target(raw) == Target(path)


@given(st.text())
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        found = parse_target(text)
    except Refusal:
        return
    segments = found.path.split("/")
    assert not {".", ".."} & set(segments)
    assert "" not in segments[:-1]
    assert found.path.isprintable() or not found.path.isascii()


def test_queries() -> None:
    assert parse_query("") == {}
    assert parse_query("a=1&b=%26&c&=x&d=a+b") == {"a": "1", "b": "&", "c": "", "d": "a+b"}


@pytest.mark.parametrize("raw", ["a=1&a=2", "a=%z", "&".join(f"a{n}=" for n in range(65)), "a=%ff"])
def test_queries_that_are_refused(raw: str) -> None:
    with pytest.raises(Refusal):
        parse_query(raw)
