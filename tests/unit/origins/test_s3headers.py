"""What a writer said of an object comes back as it was, through headers that would change it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_store.origins.base import PutHeaders
from tiered_store.origins.s3headers import digest_in, info_of, modified_ns, put_arguments, written_info

DIGEST = "ab" * 32
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def travelled(arguments: dict[str, Any]) -> dict[str, Any]:
    """What HTTP may do to headers: the case of names, and white space round values, are lost."""
    fields = {name.title(): value.strip() for name, value in arguments["Metadata"].items()}
    for name, value in (*fields.items(), ("", arguments["ContentType"])):
        assert name.isascii()
        assert value.isascii()
        assert value.isprintable()
    return {"ContentType": arguments["ContentType"], "Metadata": fields, "ETag": '"e"', "ContentLength": 5}


@given(st.none() | texts, st.dictionaries(texts, texts, max_size=4))
def test_what_was_said_comes_back(content_type: str | None, metadata: dict[str, str]) -> None:
    arguments = put_arguments(PutHeaders(content_type, metadata), DIGEST)
    answer = travelled(arguments)
    info = info_of("a", answer)
    assert (info.content_type, info.metadata) == (content_type, metadata)
    assert digest_in(answer) == DIGEST
    assert written_info("a", 5, "e", arguments) == info


def test_plain_metadata_stays_readable_for_others() -> None:
    said = put_arguments(PutHeaders("text/plain", {"user": "7", "x-y": "a b"}), None)
    assert said["ContentType"] == "text/plain"
    assert {"user": "7", "x-y": "a b"}.items() <= said["Metadata"].items()


def test_each_write_is_a_version_of_its_own() -> None:
    infos = [written_info("a", 1, "same", put_arguments(PutHeaders(), None)) for _ in range(100)]
    assert len({info.etag for info in infos}) == 100
    assert all(len(info.etag) <= 64 for info in infos)
    times = [info.modified_ns for info in infos]
    assert times == sorted(times)
    assert times[0] > 1_700_000_000 * 10**9


def test_what_others_wrote() -> None:
    when = datetime(2026, 5, 1, tzinfo=UTC)
    answer = {"ContentType": "text/html", "ETag": '"x-2"', "ContentLength": 3, "LastModified": when}
    info = info_of("a", answer | {"Metadata": {"Tiered-Store-Json": "not ours", "Other": "1"}})
    assert info.metadata == {"tiered-store-json": "not ours", "other": "1"}
    assert (info.content_type, info.etag, info.size) == ("text/html", "x-2", 3)
    assert info.modified_ns == int(when.timestamp()) * 10**9
    assert info_of("a", answer | {"ContentType": "binary/octet-stream"}).content_type is None


@pytest.mark.parametrize(
    "text", ["{", "[]", "1", '{"type": 1, "metadata": {}}', '{"type": null, "metadata": {"a": 1}}', '{"metadata": {}}']
)
def test_a_field_like_ours_that_is_not_ours(text: str) -> None:
    info = info_of("a", {"Metadata": {"tiered-store-json": text}, "ETag": '"e"', "ContentLength": 0})
    assert info.metadata == {"tiered-store-json": text}


@pytest.mark.parametrize("version", ["", "x", "f" * 24, "0" * 23, "18ea0489910adb54994f7b92 "])
def test_a_version_that_is_not_ours_tells_no_time(version: str) -> None:
    when = datetime(2026, 5, 1, tzinfo=UTC)
    fields = {"tiered-store-version": version}
    info = info_of("a", {"Metadata": fields, "ETag": '"e"', "ContentLength": 0, "LastModified": when})
    assert info.modified_ns == modified_ns(when)


def test_a_digest_that_is_none() -> None:
    assert digest_in({"Metadata": {"tiered-store-sha256": "AB" * 32}}) is None
    assert digest_in({}) is None
    assert modified_ns(None) == 0
