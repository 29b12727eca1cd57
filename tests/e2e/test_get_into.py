"""Reading an object into a function: the same pieces from both clients, whichever way they come."""

from __future__ import annotations

import os

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.wire import as_received
from tiered_store import AsyncClient, DaemonUnavailable, ObjectInfo
from tiered_store.client.targets import PieceTarget

BODIES = {"empty": b"", "inline": b"x" * 1000, "file": os.urandom(3_000_000)}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("is_cold", [True, False])
async def test_every_byte_in_order(daemon: RunningDaemon, name: str, is_cold: bool) -> None:
    body = BODIES[name]
    (daemon.data_dir / "origin/k").write_bytes(body)
    sync_pieces: list[bytes] = []
    async_pieces: list[bytes] = []
    reports: list[tuple[int, int | None]] = []
    client = daemon.client()
    if not is_cold:
        client.get("k")
    info = client.get_into("k", sync_pieces.append, progress=lambda done, total: reports.append((done, total)))
    async with AsyncClient(str(daemon.socket_path)) as other:
        assert await other.get_into("k", async_pieces.append) == info
    assert info.size == len(body)
    assert b"".join(sync_pieces) == b"".join(async_pieces) == body
    assert reports[-1:] == ([(len(body), len(body))] if body else [])


def test_what_the_function_raises_ends_the_read(daemon: RunningDaemon) -> None:
    class Enough(Exception):
        pass

    def refuse(_: bytes) -> None:
        raise Enough

    client = daemon.client()
    client.put("k", BODIES["file"])
    with pytest.raises(Enough):
        client.get_into("k", refuse)
    assert client.get("k") == BODIES["file"]


def test_pieces_that_were_given_are_not_given_again() -> None:
    """A read is repeated on a fresh connection when a daemon was restarted, but not into the same function."""
    pieces: list[bytes] = []
    target = PieceTarget(pieces.append)
    info = ObjectInfo("k", 6, "e")
    target.sink(info)(b"abc")
    with pytest.raises(DaemonUnavailable, match="after 3 bytes"):
        target.sink(info)
    with pytest.raises(DaemonUnavailable, match="after 3 bytes"):
        target.take(as_received(info, b"abcdef", None))
    assert pieces == [b"abc"]
