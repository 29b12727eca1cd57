from __future__ import annotations

import base64
import hashlib
import re

import pytest

from tiered_store.servers.credentials import hash_of, new_token, token_of


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_tokens_have_256_random_bits_and_can_stand_in_a_url() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    for token in tokens:
        assert re.fullmatch(r"tst_[A-Za-z0-9_-]{43}", token)


def test_what_is_kept_of_a_token_is_its_sha256() -> None:
    assert hash_of("tst_abc") == hashlib.sha256(b"tst_abc").hexdigest()


def test_bytes_that_are_no_text_can_be_hashed() -> None:
    assert len(hash_of("a\udcff")) == 64


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("BEARER abc", "abc"),
        (basic("user:abc"), "abc"),
        (basic("abc:"), "abc"),
        (basic("abc"), "abc"),
        (basic("u:a:b"), "a:b"),
        (basic("ü:é"), "é"),
        ("AWS4-HMAC-SHA256 Credential=abc/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0", "abc"),
        ("AWS4-HMAC-SHA256 SignedHeaders=host,Credential=abc/20260101/x/s3/aws4_request,Signature=0", "abc"),
    ],
)
def test_where_tools_put_a_token(header: str, token: str) -> None:
    assert token_of(header) == token


@pytest.mark.parametrize(
    "header",
    [
        "",
        "abc",
        "Bearer",
        "Digest abc",
        "Basic %%%",
        "Basic YQ",
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        "Basic é",
        "AWS4-HMAC-SHA256 SignedHeaders=host",
        "Bearer " + "a" * 1025,
    ],
)
def test_what_is_no_credential(header: str) -> None:
    assert not token_of(header)
