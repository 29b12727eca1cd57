"""One blocking connection, against a daemon that follows a script."""

from __future__ import annotations

import errno
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.origins import memfd_body, open_descriptors, pattern
from tests.support.wire import ScriptedDaemon, ServerSide, info, welcome
from tiered_store.client import downloads, operations
from tiered_store.client.link import Link, breaks_link, connect_error
from tiered_store.client.operations import Received, Upload
from tiered_store.errors import (
    DaemonUnavailable,
    DeadlineExceeded,
    InvalidKey,
    NotFound,
    PermissionDenied,
    ProtocolError,
    StoreError,
)
from tiered_store.protocol.frames import Flag, Opcode, encode_frame
from tiered_store.protocol.messages import VERSION, Welcome, encode_info, encode_span, encode_welcome
from tiered_store.protocol.status import encode_error

HEAD = encode_info(info("a", 5), "memory", with_key=False)


def talk(*steps: Any) -> Any:
    """A script: greet, then answer each request with what a step makes of its id."""

    def script(side: ServerSide) -> None:
        side.greet()
        for step in steps:
            frame = side.receive()
            for reply in step(frame.request_id):
                side.send(reply) if isinstance(reply, bytes) else side.send(*reply)
        side.wait_for_end()

    return script


def inline(body: bytes = b"hello") -> Any:
    return lambda number: [encode_frame(Opcode.OBJECT, number, head=HEAD, body=body)]


def connected(daemon: ScriptedDaemon, timeout_s: float | None = 20.0) -> Link:
    return Link(daemon.path, timeout_s)


class TestConnecting:
    def test_greets(self) -> None:
        with ScriptedDaemon(talk()) as daemon:
            link = connected(daemon)
            assert link.welcome == (VERSION, 0, 1 << 20, 1 << 20, 64, "scripted")
            link.close()

    @pytest.mark.parametrize(
        ("number", "words"),
        [
            (errno.ENOENT, "no such socket"),
            (errno.ECONNREFUSED, "nobody listens"),
            (errno.EACCES, "may not use the socket"),
            (errno.EAGAIN, "took no connection in time"),
            (errno.ENOTDIR, os.strerror(errno.ENOTDIR)),
        ],
    )
    def test_what_a_user_is_told(self, number: int, words: str) -> None:
        error = connect_error("/x/s", OSError(number, os.strerror(number)))
        assert words in error.message
        assert "tiered-store serve --socket /x/s" in error.message

    def test_nobody_there(self, tmp_path: Any) -> None:
        with pytest.raises(DaemonUnavailable, match="no such socket"):
            Link(str(tmp_path / "none"), 1.0)

    def test_a_socket_nobody_listens_on(self, tmp_path: Any) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.bind(str(tmp_path / "s"))
            with pytest.raises(DaemonUnavailable, match="nobody listens"):
                Link(str(tmp_path / "s"), 1.0)

    @pytest.mark.parametrize("make", [Path.touch, Path.mkdir], ids=["file", "directory"])
    def test_what_is_no_socket(self, tmp_path: Path, make: Any) -> None:
        make(tmp_path / "s")
        with pytest.raises(DaemonUnavailable, match=r"\(that is no socket\)"):
            Link(str(tmp_path / "s"), 1.0)

    def test_refused_with_a_reason(self) -> None:
        """Before HELLO was read, as a full daemon does; the reason is heard all the same."""

        def refuse(side: ServerSide) -> None:
            side.send(encode_error(0, PermissionDenied("not you")))

        with ScriptedDaemon(refuse) as daemon:
            before = open_descriptors()
            for _ in range(5):
                with pytest.raises(PermissionDenied, match="not you"):
                    connected(daemon)
            assert open_descriptors() <= before + 5  # the daemon's ends may not all be closed yet

    def test_closed_at_once(self) -> None:
        daemon = ScriptedDaemon(lambda side: side.receive())
        with daemon, pytest.raises(DaemonUnavailable, match="at once"):
            connected(daemon)

    def test_another_version(self) -> None:
        def script(side: ServerSide) -> None:
            side.receive()
            side.send(encode_welcome(Welcome(9, 0, 1, 1, 1, "new")))
            side.wait_for_end()

        with ScriptedDaemon(script) as daemon, pytest.raises(ProtocolError, match="version 9"):
            connected(daemon)

    def test_never_greeted(self) -> None:
        with ScriptedDaemon(ServerSide.wait_for_end) as daemon, pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
            connected(daemon, 0.05)


class TestDeadlines:
    def test_no_answer(self) -> None:
        """The kernel keeps the time; the link is of no use afterwards."""
        with ScriptedDaemon(talk(lambda _: [])) as daemon:
            link = connected(daemon, 0.05)
            with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s") as caught:
                link.fetch("a", 0, 0)
            assert breaks_link(caught.value)
            assert not link.is_clean
            link.close()

    def test_half_an_answer(self) -> None:
        """A reply that comes in drops is not given the whole time again for each of them."""
        stop = threading.Event()

        def dribble(side: ServerSide) -> None:
            side.greet()
            number = side.receive().request_id
            for byte in encode_frame(Opcode.OBJECT, number, head=HEAD, body=bytes(100_000)):
                if stop.wait(0.01):
                    return
                side.send(bytes([byte]))

        with ScriptedDaemon(dribble) as daemon:
            link = connected(daemon, 0.1)
            with pytest.raises(DeadlineExceeded):
                link.fetch("a", 0, 0)
            stop.set()
            link.close()

    def test_the_time_is_restored(self) -> None:
        """After an operation whose time ran short, the next has all of it."""
        go_on = threading.Event()

        def script(side: ServerSide) -> None:
            side.greet()
            reply = encode_frame(Opcode.OBJECT, side.receive().request_id, head=HEAD, body=b"hello")
            side.send(reply[:20])
            go_on.wait(20)
            side.send(reply[20:])
            side.send_object(side.receive().request_id, b"again")
            side.wait_for_end()

        with ScriptedDaemon(script) as daemon:
            link = connected(daemon, 20.0)
            limits: list[float] = []
            original = link._limit_time
            link._limit_time = lambda seconds: (limits.append(seconds or 0.0), original(seconds))[1]  # type: ignore[method-assign, func-returns-value]
            number = link.begin()
            link.send(downloads.encode_get(number, b"a"))
            link._sort(*link._read())
            link._deadline = link._deadline - 15.0  # type: ignore[operator]  # fifteen seconds later
            go_on.set()
            link.run(downloads.receive_object(number, "a", link.receive(), b""))
            assert len(limits) == 1
            assert 4.0 < limits[0] <= 5.0
            assert link.fetch("a", 0, 0) == b"again"
            assert limits[1:] == [20.0]
            link.close()

    def test_for_ever(self) -> None:
        with ScriptedDaemon(talk(inline())) as daemon:
            link = connected(daemon, None)
            assert link.fetch("a", 0, 0) == b"hello"
            link.close()

    def test_a_daemon_that_takes_nothing(self) -> None:
        go = threading.Event()

        def deaf(side: ServerSide) -> None:
            side.greet()
            go.wait(20)

        with ScriptedDaemon(deaf) as daemon:
            link = connected(daemon, 0.05)
            link.begin()
            with pytest.raises(DeadlineExceeded):
                link.send(bytes(8 << 20))
            go.set()
            link.close()


class TestReading:
    @pytest.mark.parametrize("size", [0, 1, 65_536])
    def test_in_one_frame(self, size: int) -> None:
        with ScriptedDaemon(talk(inline(pattern(size)), inline(b"next"))) as daemon:
            link = connected(daemon)
            answer = link.fetch("a", Flag.ACCEPT_DESCRIPTOR, 0)
            assert (answer.data if isinstance(answer, Received) else answer) == pattern(size)
            assert link.is_clean
            assert link.fetch("a", 0, 0) == b"next"
            link.close()

    def test_by_descriptor(self) -> None:
        file = memfd_body(pattern(100_000))

        def step(number: int) -> list[Any]:
            span = encode_span(0, 100_000)
            return [(encode_frame(Opcode.OBJECT_DESCRIPTOR, number, head=HEAD, body=span), file.descriptor.fd)]

        with ScriptedDaemon(talk(step, inline())) as daemon:
            link = connected(daemon)
            received = link.fetch("a", Flag.ACCEPT_DESCRIPTOR, 0)
            assert isinstance(received, Received)
            assert received.file is not None
            assert os.pread(received.file.descriptor.fd, 10, 0) == pattern(10)
            assert not os.get_inheritable(received.file.descriptor.fd)
            assert link.is_clean
            assert link.fetch("a", 0, 0) == b"hello"
            link.close()

    def test_as_a_stream(self) -> None:
        def step(number: int) -> list[bytes]:
            pieces = [encode_frame(Opcode.DATA, number, body=pattern(50_000, seed)) for seed in range(4)]
            opening = encode_frame(Opcode.OBJECT_STREAM, number, head=HEAD)
            return [opening, *pieces, encode_frame(Opcode.END, number)]

        with ScriptedDaemon(talk(step)) as daemon:
            link = connected(daemon)
            received = link.fetch("a", 0, 0)
            assert isinstance(received, Received)
            assert received.data == b"".join(pattern(50_000, seed) for seed in range(4))
            assert link.is_clean
            link.close()

    def test_an_error_leaves_the_link_in_order(self) -> None:
        with ScriptedDaemon(talk(lambda number: [encode_error(number, NotFound("none"))], inline())) as daemon:
            link = connected(daemon)
            with pytest.raises(NotFound) as caught:
                link.fetch("a", 0, 0)
            assert link.is_clean
            assert not breaks_link(caught.value)
            assert link.fetch("a", 0, 0) == b"hello"
            link.close()

    def test_a_function_of_the_user_that_raises_a_store_error(self) -> None:
        """The stream goes on behind it, so the link is of no use, although the error is one of the store's."""

        def step(number: int) -> list[bytes]:
            return [
                encode_frame(Opcode.OBJECT_STREAM, number, head=HEAD),
                encode_frame(Opcode.DATA, number, body=b"hello"),
            ]

        def sink(_: Any) -> Any:
            def write(_: bytes) -> None:
                raise NotFound("another store's")

            return write

        with ScriptedDaemon(talk(step)) as daemon:
            link = connected(daemon)
            with pytest.raises(NotFound):
                link.run(downloads.get(link.begin(), "a", flags=0, sink=sink))
            assert not link.is_clean
            link.close()

    @pytest.mark.parametrize("key", ["lone \ud800", "x" * 3_000_000])
    def test_keys_that_cannot_be_sent(self, key: str) -> None:
        def script(side: ServerSide) -> None:
            side.greet()
            with pytest.raises(ProtocolError):  # as the real one does, at the header
                side.receive()

        with ScriptedDaemon(script if len(key) > 100 else talk()) as daemon:
            link = connected(daemon)
            with pytest.raises(InvalidKey):
                link.fetch(key, 0, 0)
            assert not link.is_clean
            link.close()


class TestTheDaemonMisbehaves:
    @pytest.mark.parametrize(
        ("step", "error"),
        [
            (lambda number: [encode_frame(Opcode.OBJECT, number + 1, head=HEAD, body=b"x")], ProtocolError),
            (
                lambda number: [encode_frame(Opcode.OBJECT_DESCRIPTOR, number, head=HEAD, body=encode_span(0, 5))],
                ProtocolError,
            ),
            (lambda number: [encode_frame(Opcode.PONG, number)], ProtocolError),
            (lambda number: [welcome()], ProtocolError),
            (lambda number: [b"\0" * 16], ProtocolError),
            (lambda number: [encode_error(0, DaemonUnavailable("going"))], DaemonUnavailable),
        ],
    )
    def test_answers_that_break_the_link(self, step: Any, error: type[StoreError]) -> None:
        with ScriptedDaemon(talk(step)) as daemon:
            link = connected(daemon)
            with pytest.raises(error) as caught:
                link.run(downloads.get(link.begin(), "a", flags=0))
            assert breaks_link(caught.value)
            link.close()

    def test_another_requests_answer_is_never_taken(self) -> None:
        with ScriptedDaemon(
            talk(lambda number: [encode_frame(Opcode.OBJECT, number + 1, head=HEAD, body=b"x")])
        ) as daemon:
            link = connected(daemon)
            with pytest.raises(ProtocolError, match="another request"):
                link.fetch("a", 0, 0)
            link.close()

    def test_more_than_the_answer(self) -> None:
        """What follows an answer is nobody's: the link is not used again."""
        twice = talk(lambda number: [encode_frame(Opcode.PONG, number, body=b"ping") * 2])
        with ScriptedDaemon(twice) as daemon:
            link = connected(daemon)
            link.run(operations.ping(link.begin()))
            assert not link.is_clean
            link.close()

    def test_a_descriptor_nobody_asked_for(self) -> None:
        file = memfd_body(b"x")
        with ScriptedDaemon(talk(lambda number: [(inline()(number)[0], file.descriptor.fd)])) as daemon:
            link = connected(daemon)
            before = open_descriptors()
            answer = link.fetch("a", 0, 0)
            assert isinstance(answer, Received)
            assert (answer.info, answer.data, answer.file) == (info("a", 5), b"hello", None)
            assert not link.is_clean
            link.close()
            assert open_descriptors() <= before

    def test_goodbye_before_the_answer(self) -> None:
        goodbye = encode_frame(Opcode.GOODBYE, 0)
        with ScriptedDaemon(talk(lambda number: [goodbye, *inline()(number)])) as daemon:
            link = connected(daemon)
            answer = link.fetch("a", 0, 0)
            assert isinstance(answer, Received)
            assert (answer.info, answer.data, answer.file) == (info("a", 5), b"hello", None)
            assert link.is_leaving
            assert not link.is_clean
            link.close()

    def test_gone(self) -> None:
        with ScriptedDaemon(lambda side: (side.greet(), side.receive())) as daemon:
            link = connected(daemon)
            with pytest.raises(ConnectionError):
                link.fetch("a", 0, 0)
            with pytest.raises(ConnectionError):
                link.fetch("a", 0, 0)
            link.close()


class TestWriting:
    def test_by_descriptor(self) -> None:
        seen: list[bytes] = []

        def script(side: ServerSide) -> None:
            side.greet()
            number = side.receive().request_id
            side.send(encode_frame(Opcode.WINDOW, number, extra=1))
            assert side.receive().opcode == Opcode.DESCRIPTOR
            seen.append(os.pread(side.descriptors[0], 10, 0))
            side.send(encode_frame(Opcode.INFO, number, head=encode_info(info("a", 4))))
            side.wait_for_end()

        file = memfd_body(b"file")
        with ScriptedDaemon(script) as daemon:
            link = connected(daemon)
            upload = Upload(4, descriptor=file.descriptor)
            link.run(operations.put(link.begin(), "a", lambda: upload, content_type=None, metadata={}))
            assert seen == [b"file"]
            assert link.is_clean
            link.close()

    def test_a_source_that_fails_in_the_middle(self) -> None:
        def script(side: ServerSide) -> None:
            side.greet()
            side.send(encode_frame(Opcode.WINDOW, side.receive().request_id, extra=1000))
            side.wait_for_end()

        def broken(_: int) -> bytes:
            raise NotFound("another store's")

        with ScriptedDaemon(script) as daemon:
            link = connected(daemon)
            upload = Upload(None, read=broken)
            with pytest.raises(NotFound):
                link.run(operations.put(link.begin(), "a", lambda: upload, content_type=None, metadata={}))
            assert not link.is_clean
            link.close()

    def test_a_source_that_fails_before_anything_was_sent(self) -> None:
        def make() -> Upload:
            raise DaemonUnavailable("cannot be sent again")

        with ScriptedDaemon(talk(inline())) as daemon:
            link = connected(daemon)
            with pytest.raises(DaemonUnavailable):
                link.run(operations.put(link.begin(), "a", make, content_type=None, metadata={}))
            assert link.is_clean
            link.close()

    @pytest.mark.parametrize(("number", "error"), [(errno.ETOOMANYREFS, DaemonUnavailable), (errno.EIO, OSError)])
    def test_the_kernel_refuses_a_descriptor(self, number: int, error: type[Exception]) -> None:
        class Refusing:
            def sendmsg(self, *_: Any) -> int:
                raise OSError(number, os.strerror(number))

        file = memfd_body(b"file")
        with ScriptedDaemon(talk()) as daemon:
            link = connected(daemon)
            real, link._sock = link._sock, Refusing()  # type: ignore[assignment]
            with pytest.raises(error):
                link.send(b"x", file.descriptor)
            link._sock = real
            link.close()


def test_ids_start_again() -> None:
    with ScriptedDaemon(talk(inline())) as daemon:
        link = connected(daemon)
        link.request_id = 0xFFFFFFFF
        assert link.fetch("a", 0, 0) == b"hello"
        assert link.request_id == 1
        link.close()


def test_what_breaks_a_link() -> None:
    for error in (ProtocolError("x"), DeadlineExceeded("x"), DaemonUnavailable("x"), OSError(), KeyboardInterrupt()):
        assert breaks_link(error)
    for fine in (NotFound("x"), StoreError("x")):
        assert not breaks_link(fine)


class TestAsking:
    """One request, one frame: what ``ask`` spells out must be what a conversation would do."""

    def ask(self, link: Link, deadline_ms: int = 7) -> Any:
        return link.ask(Opcode.PUT, b"head", b"body", deadline_ms, Opcode.INFO)

    def test_an_answer_in_one_piece(self) -> None:
        def script(side: ServerSide) -> None:
            side.greet()
            request = side.receive()
            assert (request.opcode, request.head, request.body, request.extra) == (Opcode.PUT, b"head", b"body", 7)
            side.send(encode_frame(Opcode.INFO, request.request_id, head=HEAD))
            side.wait_for_end()

        with ScriptedDaemon(script) as daemon:
            link = connected(daemon)
            assert self.ask(link).head == HEAD
            assert link.is_clean
            link.close()

    @pytest.mark.parametrize("cut", [1, 15, 16, 20])
    def test_an_answer_in_pieces(self, cut: int) -> None:
        def pieces(number: int) -> list[bytes]:
            raw = encode_frame(Opcode.INFO, number, head=HEAD)
            return [raw[:cut], raw[cut:]]

        with ScriptedDaemon(talk(pieces)) as daemon:
            link = connected(daemon)
            assert self.ask(link).head == HEAD
            assert link.is_clean
            link.close()

    def test_an_error_leaves_the_link_in_order(self) -> None:
        with ScriptedDaemon(
            talk(
                lambda number: [encode_error(number, NotFound("no such object", key="a"))],
                lambda number: [encode_frame(Opcode.INFO, number, head=HEAD)],
            )
        ) as daemon:
            link = connected(daemon)
            with pytest.raises(NotFound):
                self.ask(link)
            assert link.is_clean
            assert self.ask(link).head == HEAD
            link.close()

    @pytest.mark.parametrize(
        "reply",
        [
            lambda number: [encode_frame(Opcode.DONE, number)],
            lambda number: [encode_frame(Opcode.INFO, number + 1, head=HEAD)],
            lambda number: [encode_error(0, ProtocolError("not so"))],
        ],
    )
    def test_what_is_no_answer(self, reply: Any) -> None:
        with ScriptedDaemon(talk(reply)) as daemon:
            link = connected(daemon)
            with pytest.raises(ProtocolError) as caught:
                self.ask(link)
            assert breaks_link(caught.value)
            link.close()

    def test_goodbye_behind_the_answer(self) -> None:
        def both(number: int) -> list[bytes]:
            return [encode_frame(Opcode.INFO, number, head=HEAD) + encode_frame(Opcode.GOODBYE, 0)]

        with ScriptedDaemon(talk(both)) as daemon:
            link = connected(daemon)
            assert self.ask(link).head == HEAD
            assert not link.is_clean
            link.close()

    def test_silence(self) -> None:
        with ScriptedDaemon(talk(lambda _: [])) as daemon:
            link = connected(daemon, 0.05)
            with pytest.raises(DeadlineExceeded):
                self.ask(link)
            link.close()
