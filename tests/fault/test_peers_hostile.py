"""Peers that do wrong: garbage, lies, floods, uploads that break off, users who are not welcome."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import uvloop

from tests.support.daemon import Daemons, RunningDaemon
from tests.support.peers import Peer
from tests.support.processes import MIB, descriptors, resident_bytes, until
from tiered_store import AsyncClient, Client, DaemonUnavailable, NotFound, ProtocolError, StoreError, TooLarge
from tiered_store.protocol.frames import HEADER, Flag, Opcode, encode_frame
from tiered_store.protocol.messages import Welcome, encode_hello, encode_welcome

MAX_OBJECT = 4 * MIB
CONFIG = {
    "server": {"max_connections": 24, "max_in_flight": 8, "stall_timeout_s": 5},
    "limits": {"max_object_bytes": MAX_OBJECT},
    "log": {"slow_request_s": 60},
}


@pytest.fixture(scope="module")
def daemon() -> Iterator[RunningDaemon]:
    """A daemon that has to bear all of this module."""
    with closing(Daemons()) as daemons:
        yield daemons.start(CONFIG)


@pytest.fixture(autouse=True)
def store(daemon: RunningDaemon) -> Iterator[Client]:
    """Somebody who behaves, before, during and after: nobody's misdeeds may reach them."""
    with Client(daemon.socket_path) as client:
        client.put("mine", b"untouched")
        yield client
        assert client.get("mine") == b"untouched"
        until(lambda: client.stats()["connections"] == 1, "connections of bad peers are closed")
        spools = daemon.data_dir / "cache" / "spool"
        until(lambda: not [*spools.iterdir()], "uploads that broke off leave no files")
    assert "unhandled error" not in daemon.log_path.read_text()


def header(length: int, opcode: int, head: int = 0, request_id: int = 1, flags: int = 0, extra: int = 0) -> bytes:
    return HEADER.pack(length, opcode, flags, head, request_id, extra)


GARBAGE = {
    "text": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": bytes(100),
    "unknown opcode": header(0, 0x3F),
    "a reply": header(0, Opcode.PONG),
    "too long": header(2**20 + 1, Opcode.PING),
    "longest": header(2**32 - 1, Opcode.PUT),
    "head over payload": header(4, Opcode.PUT, head=5) + b"xxxx",
    "hello again": encode_hello("twice"),
    "request id 0": header(1, Opcode.STAT, request_id=0) + b"x",
    "descriptor unasked": None,
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_ends_the_connection_with_a_reason(daemon: RunningDaemon, name: str) -> None:
    garbage = GARBAGE[name]
    with Peer(daemon.socket_path) as peer:
        if garbage is None:
            assert peer.begin_upload(1, "x", 5, Flag.DESCRIPTOR).opcode == Opcode.WINDOW
            garbage = encode_frame(Opcode.DESCRIPTOR, 1)
        peer.send(garbage)
        error = peer.error()
        assert isinstance(error, ProtocolError)
        assert str(error)
        assert peer.is_ended()


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n\r\n   ",
        header(4, Opcode.HELLO, head=4) + b"TSP\x01",
        encode_hello("x", lowest=9, highest=9),
    ],
)
def test_no_proper_hello(daemon: RunningDaemon, first: bytes) -> None:
    with Peer(daemon.socket_path, hello=False) as peer:
        peer.send(first)
        assert isinstance(peer.error(), ProtocolError)
        assert peer.is_ended()


def test_a_version_that_is_not_spoken_is_told_so(daemon: RunningDaemon) -> None:
    with Peer(daemon.socket_path, hello=False) as peer:
        peer.send(encode_hello("x", lowest=7, highest=9))
        assert "this daemon speaks version 1, the client 7 to 9" in str(peer.error())


def test_random_bytes(daemon: RunningDaemon) -> None:
    """Whatever the daemon makes of them, it answers in whole frames and comes to an end with them."""
    chance = random.Random(7)
    for turn in range(150):
        with Peer(daemon.socket_path) as peer:
            if turn % 2:
                opcode = chance.choice(list(Opcode))
                payload = chance.randbytes(chance.randrange(200))
                head = chance.randrange(len(payload) + 1)
                flags = chance.randrange(256)
                raw = (
                    HEADER.pack(len(payload), opcode, flags, head, chance.randrange(3), chance.getrandbits(32))
                    + payload
                )
            else:
                raw = chance.randbytes(chance.randrange(1, 300))
            try:
                peer.send(raw)
                peer.send(encode_frame(Opcode.CANCEL, 1))
                peer.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has closed the connection already
            assert peer.is_ended()


def test_a_peer_that_goes_with_replies_unread(daemon: RunningDaemon, store: Client) -> None:
    """The kernel then resets the connection, behind a request that still waits to be read."""
    for _ in range(3):
        with Peer(daemon.socket_path) as peer:
            peer.send(encode_frame(Opcode.PING, 1, body=b"x"))
            peer.sock.recv(1, socket.MSG_PEEK)  # the reply is here
            os.kill(daemon.process.pid, signal.SIGSTOP)
            peer.send(encode_frame(Opcode.CANCEL, 2))  # nothing that is answered, which would fail and tell
        os.kill(daemon.process.pid, signal.SIGCONT)
    until(lambda: store.stats()["connections"] == 1, "connections that were reset are closed")


def test_a_daemon_that_goes_with_requests_unread(tmp_path: Path) -> None:
    """The same for a client on uvloop, which is told of it once, and has a part of a reply to read just then."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        reading, dying = threading.Event(), threading.Event()

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(encode_welcome(Welcome(1, 0, 2**20, 2**20, 16, "dying")))
                peer.recv(10)  # not all of the request
                reading.set()
                dying.wait(20)
                peer.sendall(encode_frame(Opcode.PONG, 99, body=b"x" * 100)[:50])

        async def ask() -> None:
            async with AsyncClient(tmp_path / "s", timeout_s=60, reconnect_s=0) as client:
                asking = asyncio.create_task(client.get("x"))
                await asyncio.to_thread(reading.wait, 20)
                dying.set()
                serving.join(20)  # blocks the loop, so that it meets the bytes and the reset at once
                listener.close()
                async with asyncio.timeout(20):
                    with pytest.raises(DaemonUnavailable):
                        await asking

        serving = threading.Thread(target=serve)
        serving.start()
        uvloop.run(ask())


#: Requests whose frame is fine and whose content is not: refused, and the connection goes on.
DAMAGED = {
    "get": header(3, Opcode.GET, head=3, flags=Flag.RANGE) + b"abc",
    "keys": header(8, Opcode.EXISTS) + struct.pack("<II", 2**31, 5),
    "too many keys": header(4, Opcode.GET_MANY) + struct.pack("<I", 1025),
    "put": header(2, Opcode.PUT, head=2) + b"ab",
    "put size": header(15 + 1, Opcode.PUT, head=15) + struct.pack("<QHHH", 5, 1, 0, 0) + b"k" + b"z",
    "pairs": header(5, Opcode.PUT_MANY) + b"\xff\xff\xff\xff\xff",
    "list": header(9, Opcode.LIST, head=9) + struct.pack("<IHH", 5, 60000, 60000) + b"x",
    "copy": header(0, Opcode.COPY),
    "key": header(2, Opcode.STAT) + b"\xff\xfe",
    "no key": header(0, Opcode.DELETE),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_request_is_refused(daemon: RunningDaemon, name: str) -> None:
    with Peer(daemon.socket_path) as peer:
        peer.send(DAMAGED[name])
        frame = peer.receive()
        assert frame.opcode == Opcode.ERROR
        if frame.request_id == 0:
            assert peer.is_ended()
            return
        assert frame.request_id == 1
        peer.send(encode_frame(Opcode.PING, 2, body=b"still there"))
        assert peer.receive().opcode == Opcode.PONG


class TestUploads:
    """Uploads that lie about themselves or end early change nothing and leave nothing."""

    @pytest.mark.parametrize("flags", [Flag.STREAM, Flag.DESCRIPTOR])
    def test_too_large_is_refused_before_a_byte_is_asked_for(self, daemon: RunningDaemon, flags: int) -> None:
        with Peer(daemon.socket_path) as peer:
            frame = peer.begin_upload(1, "x", MAX_OBJECT + 1, flags)
            assert frame.opcode == Opcode.ERROR  # not WINDOW: nothing may be sent
            assert f"at most {MAX_OBJECT} bytes, this one has {MAX_OBJECT + 1}".encode() in frame.payload

    @pytest.mark.parametrize("bad", ["", "a//b", "../x", "sha256:12", ".tiered_store/x"])
    def test_so_is_a_bad_key(self, daemon: RunningDaemon, bad: str) -> None:
        with Peer(daemon.socket_path) as peer:
            assert peer.begin_upload(1, bad, 100_000).opcode == Opcode.ERROR

    @pytest.mark.parametrize("announced", [10, 3 * MIB])
    @pytest.mark.parametrize("sent", [5, 100_000])
    def test_another_size_than_announced(self, daemon: RunningDaemon, store: Client, announced: int, sent: int) -> None:
        with Peer(daemon.socket_path) as peer:
            peer.begin_upload(1, "x", announced)
            peer.send(encode_frame(Opcode.DATA, 1, body=bytes(sent)))
            peer.send(encode_frame(Opcode.END, 1))
            while (frame := peer.receive()).opcode == Opcode.WINDOW:
                pass
            assert frame.opcode == Opcode.ERROR
        with pytest.raises(NotFound):
            store.get("x")

    @pytest.mark.parametrize("sent", [0, 1, 300_000, 900_000])
    def test_a_peer_that_dies_in_the_middle(self, daemon: RunningDaemon, store: Client, sent: int) -> None:
        """The spool's room is given back: the disk tier holds what it held before."""
        held = store.stats()["disk"]["bytes"]
        for size in (None, 3 * MIB):
            with Peer(daemon.socket_path) as peer:
                peer.begin_upload(1, "x", size)
                if sent:
                    peer.send(encode_frame(Opcode.DATA, 1, body=bytes(sent)))
                    peer.send(encode_frame(Opcode.PING, 2))
                    while peer.receive().opcode != Opcode.PONG:
                        pass
        until(lambda: store.stats()["disk"]["bytes"] <= held, "the room is given back")
        with pytest.raises(NotFound):
            store.get("x")

    def test_a_descriptor_of_anything_but_a_readable_file(self, daemon: RunningDaemon, tmp_path: Path) -> None:
        reading, writing = os.pipe()
        directory = os.open(tmp_path, os.O_RDONLY)
        write_only = os.open(tmp_path / "w", os.O_WRONLY | os.O_CREAT)
        os.ftruncate(write_only, 100_000)
        zero = os.open("/dev/zero", os.O_RDONLY)
        short = os.open(tmp_path / "s", os.O_RDWR | os.O_CREAT)
        files = [reading, writing, directory, write_only, zero, short]
        try:
            for fd in files:
                with Peer(daemon.socket_path) as peer:
                    assert peer.begin_upload(1, "x", 100_000, Flag.DESCRIPTOR).opcode == Opcode.WINDOW
                    peer.send(encode_frame(Opcode.DESCRIPTOR, 1), fd)
                    assert isinstance(peer.error(), StoreError)
                    peer.send(encode_frame(Opcode.PING, 2))
                    assert peer.receive().opcode == Opcode.PONG
        finally:
            for fd in files:
                os.close(fd)

    def test_an_unsealed_memfd_is_copied(self, daemon: RunningDaemon, store: Client) -> None:
        """Its owner can still change it; what is stored must not follow."""
        fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.write(fd, b"a" * 100_000)
        with Peer(daemon.socket_path) as peer:
            peer.begin_upload(1, "copied", 100_000, Flag.DESCRIPTOR)
            peer.send(encode_frame(Opcode.DESCRIPTOR, 1), fd)
            assert peer.receive().opcode == Opcode.INFO
        os.pwrite(fd, b"b" * 100_000, 0)
        assert store.get("copied") == b"a" * 100_000
        os.close(fd)

    def test_descriptors_nobody_asked_for(self, daemon: RunningDaemon) -> None:
        before = len(descriptors(daemon.process.pid))
        with Path(__file__).open("rb") as file, Peer(daemon.socket_path) as peer:
            for number in range(1, 200):
                peer.send(encode_frame(Opcode.PING, number), *[file.fileno()] * (number % 4))
                assert peer.receive().opcode == Opcode.PONG
            assert __file__ not in descriptors(daemon.process.pid)
        until(lambda: len(descriptors(daemon.process.pid)) <= before, "descriptors are level")


def test_more_requests_than_allowed_at_once(daemon: RunningDaemon, store: Client) -> None:
    """The ninth is refused; the eight are not hurt."""
    with Peer(daemon.socket_path) as peer:
        for number in range(1, 9):
            assert peer.begin_upload(number, f"x{number}", 3).opcode == Opcode.WINDOW
        frame = peer.begin_upload(9, "x9", 3)
        assert frame.opcode == Opcode.ERROR
        assert b"more than 8 requests in flight" in frame.payload
        for number in range(1, 9):
            peer.send(encode_frame(Opcode.DATA, number, body=b"abc") + encode_frame(Opcode.END, number))
        done = 0
        while done < 8:
            done += peer.receive().opcode == Opcode.INFO
    assert store.get_many([f"x{number}" for number in range(1, 10)]).keys() == {f"x{number}" for number in range(1, 9)}


class TestFloods:
    """More connections than the daemon takes."""

    async def test_one_more_is_refused_with_a_reason(self, daemon: RunningDaemon) -> None:
        with ExitStack() as peers:
            for _ in range(23):
                peers.enter_context(Peer(daemon.socket_path))
            with pytest.raises(DaemonUnavailable, match=r"24 connections \(server\.max_connections\)") as caught:
                Client(daemon.socket_path).ping()
            assert caught.value.retryable
            async with AsyncClient(daemon.socket_path) as client:
                with pytest.raises(DaemonUnavailable, match="24 connections"):
                    await client.get("x")

    def test_hundreds_at_once_harm_nobody(self, daemon: RunningDaemon, store: Client) -> None:
        before = resident_bytes(daemon.process.pid)
        refused = 0
        with ExitStack() as peers:
            crowd = [peers.enter_context(Peer(daemon.socket_path, hello=False)) for _ in range(500)]
            assert store.get("mine") == b"untouched"
            for peer in crowd:
                try:
                    peer.send(encode_hello("crowd"))
                    refused += peer.receive().opcode == Opcode.ERROR
                except ConnectionError:
                    refused += 1
            assert refused >= 500 - 24
        assert resident_bytes(daemon.process.pid) - before < 32 * MIB

    def test_there_is_room_again_afterwards(self, daemon: RunningDaemon) -> None:
        for _ in range(100):
            with Client(daemon.socket_path) as client:
                client.ping()


def ask_as(daemon: RunningDaemon, uid: int, gid: int) -> str:
    """What a client of another user gets: in a child, because that user may not read the interpreter's files."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            try:
                answer = str(Client(daemon.socket_path).put("x", b"1").size)
            except StoreError as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(writing, answer.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as answer_file:
        answer = answer_file.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can play other users")
class TestUsers:
    """``allow_uids`` and ``allow_gids``: the kernel says who is calling, and the daemon listens."""

    def test_only_those_named_are_let_in(self) -> None:
        with closing(Daemons()) as daemons:
            daemons.directory.chmod(0o755)
            daemon = daemons.start({"server": {"mode": "0666", "allow_uids": [0, 12345], "allow_gids": [23456]}})
            assert ask_as(daemon, 12345, 12345) == "1"
            assert ask_as(daemon, 12346, 23456) == "1"
            denied = ask_as(daemon, 12346, 12346)
            assert denied.startswith("PermissionDenied: user 12346 (group 12346) is not in the daemon's allow_uids")
            with daemon.client() as client:
                assert client.get("x") == b"1"

    def test_the_sockets_mode_keeps_others_out(self) -> None:
        with closing(Daemons()) as daemons:
            daemons.directory.chmod(0o755)
            daemon = daemons.start({"server": {"mode": "0600"}})
            denied = ask_as(daemon, 12345, 12345)
            assert denied.startswith("DaemonUnavailable")
            assert "user 12345 may not use the socket" in denied


def test_too_large_metadata_by_hand(daemon: RunningDaemon) -> None:
    """A client that does not check anything itself is checked here."""
    with Peer(daemon.socket_path) as peer:
        head = struct.pack("<QHHH", 1, 1, 0, 1) + b"k" + struct.pack("<HH", 1, 30_000) + b"n" + bytes(30_000)
        peer.send(encode_frame(Opcode.PUT, 1, head=head, body=b"x"))
        assert isinstance(peer.error(), TooLarge)
