"""What headers say of an object, whichever way they came. They are written in origins/s3headers.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tiered_store.s3fields import digest_in_fields, etag_with, told

VERSION = "18ea0489910adb54994f7b92"


def said(**changes: Any) -> Any:
    return told("a", 5, **({"etag": '"e"', "content_type": "text/x", "fields": {}, "modified_ns": 7} | changes))


def test_what_others_wrote() -> None:
    info = said(fields={"user": "7"})
    assert (info.key, info.size, info.etag, info.content_type) == ("a", 5, "e", "text/x")
    assert (info.metadata, info.modified_ns) == ({"user": "7"}, 7)
    assert said(content_type="binary/octet-stream").content_type is None


def test_our_version_is_part_of_the_etag_and_tells_the_time() -> None:
    info = said(fields={"tiered-store-version": VERSION})
    assert (info.etag, info.metadata, info.modified_ns) == (f"e.{VERSION}", {}, int(VERSION[:16], 16))
    assert etag_with('"e-2"', {}) == "e-2"


def test_packed_metadata_wins() -> None:
    packed = json.dumps({"type": None, "metadata": {"Name": "ü"}})
    info = said(fields={"tiered-store-json": packed, "other": "1"})
    assert (info.content_type, info.metadata) == (None, {"Name": "ü"})


@pytest.mark.parametrize(("digest", "found"), [("ab" * 32, "ab" * 32), ("AB" * 32, None), ("ab", None), ("", None)])
def test_a_digest_is_one_or_none(digest: str, found: str | None) -> None:
    assert digest_in_fields({"tiered-store-sha256": digest}) == found
