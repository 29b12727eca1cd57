"""The protocol of go commands: whole, byte by byte, and what is none."""

from __future__ import annotations

import base64
import hashlib
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_store.gocache import protocol
from tiered_store.gocache.protocol import Malformed, Reader, Request

ACTION, OUTPUT = bytes(range(32)), hashlib.sha256(b"body").digest()
HASH = "2" * 64


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def put(body: bytes, **fields: Any) -> bytes:
    said = {"ID": 2, "Command": "put", "ActionID": text(ACTION), "OutputID": text(OUTPUT), "BodySize": len(body)}
    said |= fields
    return json.dumps(said).encode() + b'\n\n"' + base64.b64encode(body) + b'"\n'


def flat(events: list[Request | bytes | None]) -> list[Any]:
    """Requests as tuples, and the pieces of a body in one."""
    found: list[Any] = []
    for event in events:
        if isinstance(event, Request):
            found.append((event.number, event.command, event.action, event.output, event.size, bool(event.problem)))
        elif isinstance(event, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += event
        else:
            found.append(event)
    return found


GET = b'{"ID":1,"Command":"get","ActionID":"' + text(ACTION).encode() + b'"}\n\n'
#: What go 1.24 and later send, and what it means.
SESSION = [
    (GET, [(1, "get", ACTION.hex(), "", 0, False)]),
    (put(b"body"), [(2, "put", ACTION.hex(), OUTPUT.hex(), 4, False), b"body", None]),
    (
        b'{"ID":3,"Command":"put","ActionID":"AAAA","OutputID":"' + text(OUTPUT).encode() + b'"}\n\n',
        [(3, "put", "000000", OUTPUT.hex(), 0, False), None],
    ),
    (b'{"ID":4,"Command":"close"}\n\n', [(4, "close", "", "", 0, False)]),
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64, 10_000])
def test_a_session_in_pieces_of_any_size(step: int) -> None:
    data = b"".join(sent for sent, _ in SESSION)
    reader = Reader()
    events = [event for at in range(0, len(data), step) for event in reader.receive(data[at : at + step])]
    assert flat(events) == [event for _, meant in SESSION for event in meant]
    assert not reader.is_midway


@given(body=st.binary(max_size=500), cuts=st.lists(st.integers(0, 900), max_size=8))
def test_any_body_cut_anywhere(body: bytes, cuts: list[int]) -> None:
    data = put(body) if body else SESSION[2][0]
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reader = Reader()
    events = [event for a, b in pairwise(edges) for event in reader.receive(data[a:b])]
    assert b"".join(event for event in events if isinstance(event, bytes)) == body
    assert events[-1] is None


def test_a_large_body_is_not_kept() -> None:
    body = bytes(1_000_000)
    reader = Reader()
    data = put(body)
    kept = 0
    for at in range(0, len(data), 65536):
        reader.receive(data[at : at + 65536])
        kept = max(kept, len(reader._buffer))
    assert kept < 1000


@pytest.mark.parametrize(
    "line",
    [
        b'{"Command":"get","ID":1,"ActionID":"AAAA"}',
        b'{ "ID" : 1, "Command":"get","ActionID":"AAAA"}',
        b'{"ID":1,"Command":"get","ActionID":"\\u0041AAA"}',
        b'{"ID":1,"Command":"get","ActionID":"AAAA","More":[1]}',
    ],
)
def test_the_same_in_other_words(line: bytes) -> None:
    assert flat(Reader().receive(line + b"\n")) == [(1, "get", "000000", "", 0, False)]


@pytest.mark.parametrize(
    "line",
    [
        b'{"ID":1,"Command":"get"}',
        b'{"ID":1,"Command":"get","ActionID":""}',
        b'{"ID":1,"Command":"get","ActionID":"AA/"}',
        b'{"ID":1,"Command":"get","ActionID":"../x"}',
        b'{"ID":1,"Command":"get","ActionID":"' + text(bytes(65)).encode() + b'"}',
        b'{"ID":1,"Command":"get","ActionID":7}',
        b'{"ID":1,"Command":"put","ActionID":"AAAA","OutputID":"AAAA"}',
        b'{"ID":1,"Command":"put","OutputID":"' + text(OUTPUT).encode() + b'"}',
    ],
)
def test_a_request_that_cannot_be_answered_says_so(line: bytes) -> None:
    request = Reader().receive(line + b"\n")[0]
    # '../x' is base64 without dots only; whatever a name is made of is hex.
    assert isinstance(request, Request)
    assert request.problem


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"1\n",
        b'{"ID":1}\n',
        b'{"ID":-1,"Command":"get"}\n',
        b'{"ID":true,"Command":"get"}\n',
        b'{"ID":"1","Command":"get"}\n',
        b'{"ID":' + b"9" * 5000 + b',"Command":"get","ActionID":"AAAA"}\n',
        b'{"ID":1,"Command":7}\n',
        b"[" * 60_000 + b"\n",
        b"x" * 70_000,
        put(b"body", BodySize=-1),
        put(b"body", BodySize="4"),
        put(b"body", BodySize=3),
        put(b"body", BodySize=5),
        put(b"body", BodySize=2**70),
        put(b"body")[:-9] + b"!!!!\n",
        put(b"body").replace(b'\n\n"', b"\n\nx"),
    ],
)
def test_what_is_no_such_protocol(data: bytes) -> None:
    with pytest.raises(Malformed):
        Reader().receive(data)


def test_an_end_in_the_middle_is_known() -> None:
    for cut in (GET[:5], put(b"body")[:-8], put(b"body")[:-14]):
        reader = Reader()
        reader.receive(cut)
        assert reader.is_midway


def test_replies_are_lines_of_json() -> None:
    said = [
        protocol.greeting(),
        protocol.hit(1, OUTPUT.hex(), 4, 1_700_000_000_123_456_789, protocol.quoted("/a/b")),
        protocol.miss(2),
        protocol.stored(3, protocol.quoted('/"\\\n\u00e4')),
        protocol.failed(4, 'no "such" thing'),
        protocol.closed(5),
    ]
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in said)
    assert [json.loads(line) for line in said] == [
        {"ID": 0, "KnownCommands": ["get", "put", "close"]},
        {
            "ID": 1,
            "OutputID": text(OUTPUT),
            "Size": 4,
            "Time": "2023-11-14T22:13:20.123456789Z",
            "DiskPath": "/a/b",
        },
        {"ID": 2, "Miss": True},
        {"ID": 3, "DiskPath": '/"\\\n\u00e4'},
        {"ID": 4, "Err": 'no "such" thing'},
        {"ID": 5},
    ]
