from __future__ import annotations

import pytest

from tests.support.origins import memfd_body
from tiered_store.build import decoding
from tiered_store.build.decoding import Decoder
from tiered_store.build.entry import ToolEntry, decode_entry, encode_entry
from tiered_store.key import Key
from tiered_store.objects import Body, Entry, ObjectInfo, body_size

DIGEST = "0123456789abcdef" * 4


def held(body: Body) -> Entry:
    return Entry(ObjectInfo("k", body_size(body), "1"), body, validated_at=0.0)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was decoded."""
    bodies: list[bytes] = []
    monkeypatch.setattr(decoding, "decode_entry", lambda body: bodies.append(body) or decode_entry(body))
    return bodies


def test_an_object_is_decoded_once_and_its_successor_anew(decoded):
    subject, entries = Decoder(), [ToolEntry(DIGEST, 1), ToolEntry(DIGEST, 2)]
    for entry in entries:
        kept = held(encode_entry(entry))
        assert subject.entry_of(Key("k"), kept) == subject.entry_of(Key("k"), kept) == entry
    assert len(decoded) == 2


def test_few_are_remembered_and_long_ones_never(decoded):
    subject = Decoder(max_known=2)
    kept = {name: held(encode_entry(ToolEntry(DIGEST, 1))) for name in "abc"}
    for name in "abccba":
        subject.entry_of(Key(name), kept[name])
    assert len(decoded) == 4
    long = held(encode_entry(ToolEntry(DIGEST, 1, 0, {"h": "x" * 2000})))
    for _ in range(2):
        subject.entry_of(Key("long"), long)
    assert len(decoded) == 6


def test_what_is_no_entry():
    for body in (b"", b"{}", memfd_body(b"x" * 100_000)):
        with pytest.raises(ValueError):
            Decoder().entry_of(Key("k"), held(body))
