"""Peers that do nothing: say nothing, stop in the middle, do not read. Each costs itself, and nobody else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.clients import KINDS, connect, some_bytes
from tests.support.daemon import Daemons, RunningDaemon
from tests.support.peers import Peer
from tests.support.processes import MIB, resident_bytes, until
from tiered_store import Client, DaemonUnavailable, DeadlineExceeded, ProtocolError
from tiered_store.protocol.batches import encode_keys
from tiered_store.protocol.frames import Flag, Opcode, encode_frame
from tiered_store.protocol.messages import encode_hello

CONFIG = {"server": {"hello_timeout_s": 0.5, "stall_timeout_s": 0.5}, "log": {"slow_request_s": 60}}


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    """A daemon that loses patience after half a second."""
    with closing(Daemons()) as daemons:
        yield daemons.start(CONFIG)


@pytest.fixture
def store(daemon: RunningDaemon) -> Iterator[Client]:
    """Somebody who behaves, and must not notice anything."""
    with Client(daemon.socket_path) as client:
        yield client


def stored(daemon: RunningDaemon) -> list[str]:
    return [path.name for path in (daemon.data_dir / "cache" / "spool").iterdir()]


def test_no_hello(daemon: RunningDaemon, store: Client) -> None:
    """Whether they say nothing at all, or stop in the middle of the first frame."""
    hello = encode_hello("x")
    with ExitStack() as peers:
        silent = [peers.enter_context(Peer(daemon.socket_path, hello=False)) for _ in range(8)]
        for peer, said in zip(silent, (hello[:1], hello[:16], hello[:-1]), strict=False):
            peer.send(said)
        store.ping()
        for peer in silent:
            error = peer.error()
            assert isinstance(error, ProtocolError)
            assert "no HELLO within 0.5 s" in str(error)
            assert peer.is_ended()
    assert store.put("x", b"1").size == 1


def test_a_frame_that_stops_in_the_middle(daemon: RunningDaemon, store: Client) -> None:
    frame = encode_frame(Opcode.PING, 1, body=bytes(200_000))
    with ExitStack() as peers:
        stalling = [peers.enter_context(Peer(daemon.socket_path)) for _ in range(5)]
        for peer, sent in zip(stalling, (1, 15, 16, 100, 100_000), strict=True):
            peer.send(frame[:sent])
        for peer in stalling:
            error = peer.error()
            assert isinstance(error, ProtocolError)
            assert "stalled" in str(error)
            assert peer.is_ended()
    store.ping()


def test_an_idle_connection_is_welcome(daemon: RunningDaemon, store: Client) -> None:
    """Owing nothing, a peer may be silent for as long as it likes."""
    with Peer(daemon.socket_path) as idle, Peer(daemon.socket_path) as stalling:
        stalling.send(b"\x00")
        assert stalling.is_ended()  # the daemon has looked for those who stall
        idle.send(encode_frame(Opcode.PING, 1, body=b"x"))
        assert idle.receive().opcode == Opcode.PONG


@pytest.mark.parametrize("flags", [Flag.STREAM, Flag.DESCRIPTOR])
def test_an_upload_that_stops(daemon: RunningDaemon, store: Client, flags: int) -> None:
    """Its room is given back; the connection is still good for other requests."""
    with Peer(daemon.socket_path) as peer:
        assert peer.begin_upload(1, "x", 3 * MIB, flags).opcode == Opcode.WINDOW
        if flags == Flag.STREAM:
            for _ in range(3):
                peer.send(encode_frame(Opcode.DATA, 1, body=bytes(256 * 1024)))
        while (frame := peer.receive()).opcode == Opcode.WINDOW:
            pass
        assert frame.opcode == Opcode.ERROR
        assert b"the upload stalled for 0.5 s" in frame.payload
        assert stored(daemon) == []
        peer.send(encode_frame(Opcode.DATA, 1, body=bytes(1000)))  # sent before the peer could know
        peer.send(encode_frame(Opcode.PING, 2, body=b"x"))
        assert peer.receive().opcode == Opcode.PONG
    assert store.put("y", b"1").size == 1


def test_a_stream_whose_reader_grants_nothing(daemon: RunningDaemon, store: Client) -> None:
    """It reads its socket but takes no more of the stream: that request ends, the connection does not."""
    store.put("large", bytes(4 * MIB))
    with Peer(daemon.socket_path) as peer:
        peer.get(1, "large", Flag.STREAM)
        frame = peer.receive()
        assert frame.opcode == Opcode.OBJECT_STREAM
        taken = 0
        while (frame := peer.receive()).opcode == Opcode.DATA:
            taken += len(frame.payload)
        assert taken == MIB  # the window
        assert b"the reader took nothing for 0.5 s" in frame.payload
        peer.send(encode_frame(Opcode.PING, 2, body=b"x"))
        assert peer.receive().opcode == Opcode.PONG


@pytest.mark.parametrize("way", ["stream", "small", "batch"])
def test_a_reader_that_does_not_read(daemon: RunningDaemon, store: Client, way: str) -> None:
    """Memory stays bounded, the connection is closed, and others are served all the while."""
    data = some_bytes(60_000)
    store.put("small", data)
    store.put("large", bytes(16 * MIB))
    if way == "stream":
        requests = b"".join(
            encode_frame(Opcode.GET, number, body=b"large", flags=Flag.STREAM)
            + encode_frame(Opcode.WINDOW, number, extra=2**31)
            for number in range(1, 9)
        )
    elif way == "small":
        requests = b"".join(encode_frame(Opcode.GET, number, body=b"small") for number in range(1, 200))
    else:
        keys = encode_keys([b"small"] * 1000)
        requests = b"".join(encode_frame(Opcode.GET_MANY, number, body=keys) for number in range(1, 9))
    before = resident_bytes(daemon.process.pid)
    with ExitStack() as peers:
        deaf = [peers.enter_context(Peer(daemon.socket_path)) for _ in range(10)]
        for peer in deaf:
            peer.send(requests)
        most = 0
        while store.stats()["connections"] > 1:
            assert store.get("small") == data
            most = max(most, resident_bytes(daemon.process.pid))
        assert most - before < 80 * MIB
        for peer in deaf:
            assert peer.is_ended()
    until(lambda: stored(daemon) == [], "spools of streams that were cut off are gone")


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_whose_daemon_says_nothing(kind: str, tmp_path: Path) -> None:
    """The other way round: something that listens and never answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mute:
        mute.bind(str(tmp_path / "s"))
        mute.listen(1)
        given_up = pytest.raises((DeadlineExceeded, DaemonUnavailable), match=r"within 0\.2 s")
        with connect(kind, tmp_path / "s", timeout_s=0.2) as store, given_up:
            store.get("x")
