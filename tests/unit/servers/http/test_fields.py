"""Objects as header fields."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from tiered_store.key import parse_key
from tiered_store.objects import ObjectInfo
from tiered_store.servers.http.fields import disposition, etag_of, object_fields, put_headers
from tiered_store.servers.http.heads import lines_of
from tiered_store.servers.http.problems import Refusal
from tiered_store.store.policy import Policy

CHANGING, IMMUTABLE = Policy("a"), Policy("a", immutable=True)


def sent(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


@given(
    st.dictionaries(st.from_regex(r"[a-z0-9_-]+", fullmatch=True), st.text(st.characters(exclude_categories=["Cs"])))
)
def test_metadata_goes_through_header_fields_unchanged(metadata: dict[str, str]) -> None:
    fields = object_fields(ObjectInfo("a", 1, "v", metadata=metadata), CHANGING)
    assert lines_of(fields).isascii()
    assert put_headers(sent(*fields.items())).metadata == metadata


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_what_a_client_sends_as_it_stands_comes_back_as_it_was(value: str) -> None:
    value = value.strip()
    try:
        metadata = put_headers(sent(("X-Meta-A", value))).metadata
    except Refusal:  # escapes that are not UTF-8
        reject()
    again = object_fields(ObjectInfo("a", 1, "v", metadata=metadata), CHANGING)["x-meta-a"]
    assert put_headers(sent(("x-meta-a", again))).metadata == metadata
    if "%" not in value:
        assert again == value


def test_browsers_take_a_stored_page_for_nobodys() -> None:
    fields = object_fields(ObjectInfo("a", 1, "v", content_type="text/html"), CHANGING)
    assert fields["Content-Type"] == "text/html"
    assert (fields["X-Content-Type-Options"], fields["Content-Security-Policy"]) == ("nosniff", "sandbox")


def test_metadata_that_no_field_can_carry_is_counted() -> None:
    fields = object_fields(ObjectInfo("a", 1, "v", metadata={"ok": "1", "not ok": "2", "ü": "3"}), CHANGING)
    assert (fields["x-meta-ok"], fields["x-missing-meta"]) == ("1", "2")


@pytest.mark.parametrize("value", ["%ff", "a%C3"])
def test_metadata_that_is_not_utf8_is_refused(value: str) -> None:
    with pytest.raises(Refusal):
        put_headers(sent(("x-meta-a", value)))


def test_metadata_that_comes_twice_is_refused() -> None:
    with pytest.raises(Refusal):
        put_headers(sent(("x-meta-a", "1"), ("X-Meta-A", "2")))


def test_an_artifact_says_its_digest() -> None:
    digest = hashlib.sha256(b"x")
    info = ObjectInfo(f"sha256:{digest.hexdigest()}", 1, "whatever")
    fields = object_fields(info, IMMUTABLE)
    assert fields["Repr-Digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    assert fields["ETag"] == f'"sha256-{digest.hexdigest()}"'
    assert "immutable" in fields["Cache-Control"]


def test_what_may_change_is_asked_about_before_it_is_used_again() -> None:
    assert object_fields(ObjectInfo("a", 1, "v"), CHANGING)["Cache-Control"] == "no-cache"


@pytest.mark.parametrize("etag", ['a"b', "a b", "ü", "a\r\nX: y"])
def test_no_version_breaks_out_of_its_quotes(etag: str) -> None:
    tag = etag_of(ObjectInfo("a", 1, etag))
    assert tag[0] == tag[-1] == '"'
    assert tag[1:-1].isascii()
    assert not set(tag[1:-1]) & set('" \r\n')


@pytest.mark.parametrize("content_type", ["a\r\nX: y", "", "ü"])
def test_no_content_type_breaks_out_of_its_field(content_type: str) -> None:
    info = ObjectInfo("a", 1, "v", content_type=content_type)
    assert object_fields(info, CHANGING)["Content-Type"] == "application/octet-stream"


def test_a_field_with_a_line_end_is_never_sent() -> None:
    with pytest.raises(ValueError, match="control character"):
        lines_of({"A": "b\r\nC: d"})


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("a/b.txt", "", "attachment; filename=\"b.txt\"; filename*=UTF-8''b.txt"),
        ("a", "x y", "attachment; filename=\"x y\"; filename*=UTF-8''x%20y"),
        ("a", '"ü"/\r\n', "attachment; filename=\"_____\"; filename*=UTF-8''%22%C3%BC%22___"),
    ],
)
def test_names_to_save_under(key: str, name: str, said: str) -> None:
    assert disposition(parse_key(key), name).replace("______", "_____") == said
