"""What callers pass, refused at the door."""

from __future__ import annotations

from typing import Any

import pytest

from tiered_store.client.arguments import check_waits, named, raw_key, raw_keys, raw_target, span_of, unsendable
from tiered_store.errors import InvalidKey, ProtocolError


@pytest.mark.parametrize("timeout_s", [None, 1, 0.001, 1e9])
@pytest.mark.parametrize("reconnect_s", [0, 2.5, float("inf")])
@pytest.mark.parametrize("on_unavailable", ["error", "miss"])
def test_what_a_client_may_be_made_with(timeout_s: Any, reconnect_s: Any, on_unavailable: str) -> None:
    check_waits(timeout_s, reconnect_s, on_unavailable)


@pytest.mark.parametrize(
    ("waits", "error", "said"),
    [
        *(((value, 2, "miss"), ValueError, "timeout_s") for value in (0, -5, float("inf"), float("nan"), 1e10)),
        *(((1, value, "miss"), ValueError, "reconnect_s") for value in (-1, float("nan"))),
        (("30", 2, "miss"), TypeError, "timeout_s"),
        ((1, None, "miss"), TypeError, "reconnect_s"),
        ((1, 2, "mis"), ValueError, "'error' or 'miss', not 'mis'"),
        ((1, 2, None), ValueError, "on_unavailable"),
    ],
)
def test_and_what_not(waits: tuple[Any, Any, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        check_waits(*waits)


def test_ranges() -> None:
    assert span_of(3, None) == (3, None)
    assert span_of(0, 0) == (0, 0)
    assert span_of(2**70, 2**64) == (2**63 - 1, 2**63 - 1)
    for offset, length in ((-1, None), (0, -1)):
        with pytest.raises(ValueError, match="negative"):
            span_of(offset, length)
    wrong: Any
    for wrong in (1.5, "1", None):
        with pytest.raises(TypeError, match="integers"):
            span_of(wrong, None)
    wrong = 1.5
    with pytest.raises(TypeError, match="integers"):
        span_of(0, wrong)


@pytest.mark.parametrize("key", [5, b"a", ["a"], None])
def test_keys_that_are_no_text(key: Any) -> None:
    said = rf"a key must be a str, not {type(key).__name__}"
    for call in (lambda: raw_key(key), lambda: raw_keys(["a", key]), lambda: raw_target(key), lambda: named(key)):
        with pytest.raises(TypeError, match=said):
            call()


def test_keys_that_cannot_be_sent() -> None:
    for key in ("lone \ud800", "x" * 70_000):
        for call in (raw_key, raw_target, lambda key: raw_keys(["a", key])):
            with pytest.raises(InvalidKey):
                call(key)
    with pytest.raises(InvalidKey):
        raw_target("sha256:")
    assert raw_key("ü") == "ü".encode()


@pytest.mark.parametrize(
    ("content_type", "metadata", "kind", "said"),
    [
        (5, {}, TypeError, "the content type must be a str, not 5"),
        ("\ud800", {}, ValueError, "the content type must be valid Unicode"),
        (None, {"a": 1}, TypeError, "the metadata's 'a' must be a str, not 1"),
        (None, {b"a": "x"}, TypeError, "a name of the metadata must be a str, not b'a'"),
        ("a/b", {"ok": "x", "a": "\udcff"}, ValueError, "the metadata's 'a' must be valid Unicode"),
    ],
)
def test_whose_fault_it_is(content_type: Any, metadata: Any, kind: type[Exception], said: str) -> None:
    found = unsendable(content_type, metadata, ProtocolError("it cannot be sent"))
    assert type(found) is kind
    assert str(found).startswith(said)


def test_nobodys_fault_is_what_the_codec_said() -> None:
    error = ProtocolError("it cannot be sent")
    assert unsendable("a/b", {"a": "b"}, error) is error
