"""Ranges: what is asked for, and how several are framed."""

from __future__ import annotations

import email
from email.policy import HTTP

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_store.servers.http.problems import Refusal
from tiered_store.servers.http.ranges import Span, content_range, framed, parse_ranges


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("bytes=0-0", [Span(0, 1)]),
        ("bytes=2-", [Span(2, 8)]),
        ("bytes=-3", [Span(7, 3)]),
        ("bytes=-99", [Span(0, 10)]),
        ("bytes=8-99", [Span(8, 2)]),
        ("Bytes = 0-1 , 4-5", [Span(0, 2), Span(4, 2)]),
        ("bytes=0-1,,20-30", [Span(0, 2)]),
    ],
)
def test_ranges_that_count(text: str, spans: list[Span]) -> None:
    assert parse_ranges(text, 10) == spans


@pytest.mark.parametrize(
    "text",
    [
        "lines=0-1",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=3-1",
        "bytes=12-11",
        "bytes=a-b",
        "bytes=0-1;2",
        "bytes=\u0661-",
        "bytes=0-" + "9" * 50,
        "bytes=0-9,0-9",
        "bytes=" + ",".join(["0-0"] * 17),
    ],
)
def test_ranges_that_are_ignored(text: str) -> None:
    assert parse_ranges(text, 10) is None


@pytest.mark.parametrize("text", ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=11-12,20-"])
def test_ranges_beyond_the_object(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_ranges(text, 10)
    assert (refused.value.status, refused.value.headers) == (416, {"Content-Range": "bytes */10"})


def test_an_empty_object_has_no_ranges() -> None:
    with pytest.raises(Refusal):
        parse_ranges("bytes=0-0", 0)


@given(st.text(), st.integers(0, 100))
def test_no_text_gives_a_range_outside(text: str, size: int) -> None:
    try:
        spans = parse_ranges("bytes=" + text, size)
    except Refusal:
        return
    for span in spans or []:
        assert span.length > 0
        assert 0 <= span.offset < span.offset + span.length <= size


def test_several_ranges_are_a_multipart_body() -> None:
    data = bytes(range(100))
    spans = [Span(0, 3), Span(50, 10)]
    parts, end, size = framed(spans, len(data), "text/x", "frontier")
    body = b"".join(part.head + data[part.span.offset :][: part.span.length] for part in parts) + end
    assert len(body) == size
    read = email.message_from_bytes(
        b'Content-Type: multipart/byteranges; boundary="frontier"\r\n\r\n' + body, policy=HTTP
    )
    found = list(read.iter_parts())
    assert [part["Content-Range"] for part in found] == [content_range(span, 100) for span in spans]
    assert [part.get_content_type() for part in found] == ["text/x", "text/x"]
