"""Errors across the wire."""

from __future__ import annotations

import json

import pytest

from tests.support.wire import one_frame
from tiered_store import errors
from tiered_store.errors import IntegrityError, InvalidKey, NotFound, ProtocolError, StoreError
from tiered_store.protocol.frames import MAX_FRAME_BYTES, Flag, Opcode, encode_frame
from tiered_store.protocol.status import decode_error, encode_error, status_of_error

CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("key", [None, "", "größe"])
@pytest.mark.parametrize("retryable", [False, True])
def test_there_and_back(cls: type[StoreError], key: str | None, retryable: bool) -> None:
    decoded = decode_error(one_frame(encode_error(7, cls("what", key=key, retryable=retryable))))
    assert type(decoded) is cls
    assert (decoded.message, decoded.key, decoded.retryable) == ("what", key, retryable)


def test_a_subclass_is_its_base() -> None:
    class Special(NotFound):
        pass

    assert status_of_error(Special("x")) == 1
    assert type(decode_error(one_frame(encode_error(1, Special("x"))))) is NotFound


def test_details_of_a_digest() -> None:
    error = IntegrityError("x", expected="0" * 64, source="disk")
    decoded = decode_error(one_frame(encode_error(1, error)))
    assert isinstance(decoded, IntegrityError)
    assert (decoded.expected, decoded.actual, decoded.source) == ("0" * 64, None, "disk")


def test_any_text_can_be_said() -> None:
    """Lone surrogates of a bad key, control characters, and far too much of it."""
    decoded = decode_error(one_frame(encode_error(1, InvalidKey("\ud800\0" * 5000, key="🎉" * 100_000))))
    assert decoded.message == ("\ud800\0" * 5000)[:4096]
    assert decoded.key == "🎉" * 4096
    assert len(encode_error(1, InvalidKey("🎉" * 5000, key="🎉" * 5000))) < MAX_FRAME_BYTES


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b'"x"', b"{}", b"\xff\xfe", b"[" * 100_000, b'{"key": "x"}'])
def test_a_damaged_body_is_itself_the_error(body: bytes) -> None:
    decoded = decode_error(one_frame(encode_frame(Opcode.ERROR, 1, body=body, extra=1)))
    assert type(decoded) is ProtocolError
    assert "status 1" in decoded.message


def test_members_of_another_type_are_left_out() -> None:
    body = json.dumps({"message": 7, "key": ["x"], "expected": 1, "actual": None, "source": "disk"}).encode()
    decoded = decode_error(one_frame(encode_frame(Opcode.ERROR, 1, body=body, extra=5, flags=Flag.RETRYABLE)))
    assert isinstance(decoded, IntegrityError)
    assert (decoded.message, decoded.key, decoded.expected, decoded.source) == ("7", None, None, "disk")
    assert decoded.retryable


def test_a_status_from_the_future() -> None:
    decoded = decode_error(one_frame(encode_frame(Opcode.ERROR, 1, body=b'{"message": "new"}', extra=17)))
    assert type(decoded) is StoreError
    assert decoded.message == "new"
