"""A proxy between an HTTP client and a server, which does to requests and answers what a test says.

It listens on the loopback and runs a loop of its own in a thread, so that it serves daemons and origins alike. Requests
are forwarded as they were sent, the Host field included, which signatures of S3 cover. It understands as much of
HTTP/1.1 as it takes to tell requests, answers and their bodies apart; one request at a time on a connection.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Answer", "Fault", "FaultProxy", "Request"]

_PIECE_BYTES = 64 * 1024
_BUFFER_BYTES = 1024 * 1024
_STOP_TIMEOUT_S = 10.0
#: Events of another thread are looked at so often.
_LOOK_S = 0.01


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request: ``target`` is path and query as they were sent; names of fields are lower-case."""

    method: str
    target: str
    fields: dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the proxy says itself, instead of asking the server: an error as S3 writes it."""

    status: int
    code: str
    message: str = "said by the proxy"
    fields: tuple[tuple[str, str], ...] = ()
    more: str = ""

    def encode(self, method: str) -> bytes:
        """The whole answer; to a HEAD without its body."""
        xml = f"<Error><Code>{self.code}</Code><Message>{self.message}</Message>{self.more}</Error>".encode()
        fields = [f"HTTP/1.1 {self.status} Said", "Content-Type: application/xml", f"Content-Length: {len(xml)}"]
        fields += [f"{name}: {value}" for name, value in self.fields]
        return "\r\n".join([*fields, "", ""]).encode() + (b"" if method == "HEAD" else xml)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to requests.

    Attributes:
        ends: where a connection comes to its end: when it is made (or used again), in the middle of the head or of the
            body of the request, or of the answer. A body that is not there ends with its head.
        how: what its end looks like; "silence" is a connection on which nothing comes any more; "deaf"
            is one from which nothing is taken either. One that ends when it
            is made is refused, reset, or accepted and never answered.
        answer: what the proxy answers itself.
        flips: a bit in the middle of bodies that go up or down.
        etag: what each answer's ETag is replaced by, given the number of answers so far.
        latency_s: before each request is passed on.
        until: what has to be set before that.
        bytes_per_s: the most that a connection carries, in either direction; None for no bound.
        only: which requests are meant.
        every: only each so many-th of those, from the first on.
        times: only so often; None for no end.
    """

    ends: Literal["connection", "request head", "request body", "answer head", "answer body"] | None = None
    how: Literal["close", "reset", "silence", "deaf"] = "close"
    answer: Answer | None = None
    flips: Literal["up", "down"] | None = None
    etag: Callable[[int], str] | None = None
    latency_s: float = 0.0
    until: threading.Event | None = None
    bytes_per_s: int | None = None
    only: Callable[[Request], bool] = field(default=lambda request: True)
    every: int = 1
    times: int | None = None


_NOTHING = Fault()


class _End(Exception):
    """This connection ends here, in this way."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class FaultProxy:
    """Stands before a server on the loopback, until it is closed.

    Args:
        port: the server's.

    Attributes:
        port, url: its own.
        requests: how many of each method came.
        bitten: how many requests (and, where it refuses, how often it was told to) the faults changed.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._held = socket.socket()  # keeps the port while nobody listens on it
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port = self._held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: Counter[str] = Counter()
        self.bitten = 0
        self._fault = _NOTHING
        self._meant = self._answers = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy", daemon=True)
        self._thread.start()
        self._call(self._listen)

    @property
    def open_connections(self) -> int:
        """Clients that are connected now."""
        return len(self._connections)

    def set(self, fault: Fault = _NOTHING) -> None:
        """From now on this happens, and nothing else. Returns when it is so."""
        self._call(lambda: self._set(fault))

    def end_connections(self) -> None:
        """End all connections that clients have now."""
        self._call(self._end_all)

    def close(self) -> None:
        """Stop; all connections end."""
        self._call(self._shut)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_TIMEOUT_S)
        self._loop.close()
        self._held.close()

    def _call(self, work: Callable[[], object]) -> None:
        """Let the loop do something, and wait for it."""

        async def run() -> None:
            result = work()
            if asyncio.iscoroutine(result):
                await result

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(_STOP_TIMEOUT_S)

    async def _shut(self) -> None:
        await self._set(Fault("connection"))
        for _ in range(5):  # the transports' last words
            await asyncio.sleep(0)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._accepted, "127.0.0.1", self.port, reuse_address=True, limit=_BUFFER_BYTES
            )

    async def _set(self, fault: Fault) -> None:
        silenced = self._fault.how in {"silence", "deaf"}
        self._fault, self._meant = fault, 0
        if (fault.ends, fault.how) == ("connection", "close"):
            if self._listener is not None:
                self._listener.close()
                self._listener = None
            self.bitten += 1
            await self._end_all()
        else:
            if silenced:  # what was never answered is not answered late
                await self._end_all()
            await self._listen()

    async def _end_all(self) -> None:
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    def _applies(self, request: Request) -> Fault:
        """What happens to this request."""
        fault = self._fault
        if fault is _NOTHING or not fault.only(request):
            return _NOTHING
        self._meant += 1
        if (self._meant - 1) % fault.every or (fault.times is not None and self._meant > fault.times * fault.every):
            return _NOTHING
        self.bitten += 1
        return fault

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        servers: list[asyncio.StreamWriter] = []
        how = "abort"
        try:
            if self._fault.ends == "connection" and self._fault.every == 1:
                self.bitten += 1
                raise _End(self._fault.how)
            await self._converse(reader, writer, servers)
        except _End as end:
            how = end.how
            if how == "silence":
                with suppress(OSError, asyncio.CancelledError):
                    while await reader.read(_PIECE_BYTES):
                        pass
            elif how == "deaf":
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()  # the reader's buffer is soon full
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # one side is gone, or all are sent away
        finally:
            self._connections.discard(task)
            _finish(writer, how)
            for server in servers:
                server.transport.abort()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, servers: list[asyncio.StreamWriter]
    ) -> None:
        """Request and answer, for as long as both sides like."""
        server_reader, server = await asyncio.open_connection("127.0.0.1", self._server_port, limit=_BUFFER_BYTES)
        servers.append(server)
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            request = _request(head)
            self.requests[request.method] += 1
            fault = self._applies(request)
            if fault.ends == "connection":
                raise _End(fault.how)
            await asyncio.sleep(fault.latency_s)
            while fault.until is not None and not fault.until.is_set():
                await asyncio.sleep(_LOOK_S)
            if fault.answer is not None:
                if "expect" in request.fields:  # its body comes only if it is asked for
                    await _send(writer, fault.answer.encode(request.method))
                    raise _End("close")
                async for _ in _pieces(reader, request.fields):
                    pass
                writer.write(fault.answer.encode(request.method))
                continue
            has_body = request.fields.get("content-length", "0") != "0" or "transfer-encoding" in request.fields
            if fault.ends == "request head" or (fault.ends == "request body" and not has_body):
                await _send(server, head[: len(head) // 2])
                raise _End(fault.how)
            if fault.flips == "up" and not has_body:
                self.bitten -= 1  # there was nothing to change
            server.write(head)
            sending = asyncio.create_task(self._send_body(reader, server, request.fields, fault))
            try:
                await self._pass_answer(server_reader, writer, request, fault, sending)
                await sending
            finally:
                await _stop(sending)

    async def _send_body(
        self, reader: asyncio.StreamReader, server: asyncio.StreamWriter, fields: dict[str, str], fault: Fault
    ) -> None:
        size = int(fields.get("content-length", "0"))
        await _forward(
            _pieces(reader, fields),
            server,
            end=size // 2 if fault.ends == "request body" else None,
            how=fault.how,
            flip=size // 2 if fault.flips == "up" else None,
            bytes_per_s=fault.bytes_per_s,
            is_chunked="transfer-encoding" in fields,
        )

    async def _pass_answer(
        self,
        server: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        request: Request,
        fault: Fault,
        sending: asyncio.Task[None],
    ) -> None:
        answering = asyncio.create_task(server.readuntil(b"\r\n\r\n"))
        try:
            await asyncio.wait([answering, sending], return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and sending.exception() is not None:
                sending.result()  # the request ended on its way
            head = await answering
        finally:
            await _stop(answering)
        status, fields = _status(head)
        if status < 200:
            await _send(writer, head)
            await self._pass_answer(server, writer, request, fault, sending)
            return
        self._answers += 1
        if fault.etag is not None and "etag" in fields:
            head = _replaced(head, "etag", f'"{fault.etag(self._answers)}"')
        has_body = request.method != "HEAD" and status not in {204, 304} and fields.get("content-length") != "0"
        if fault.ends == "answer head" or (fault.ends == "answer body" and not has_body):
            await _send(writer, head[: len(head) // 2])
            raise _End(fault.how)
        writer.write(head)
        if has_body:
            size = int(fields.get("content-length", "0"))
            await _forward(
                _pieces(server, fields, until_end=True),
                writer,
                end=size // 2 if fault.ends == "answer body" else None,
                how=fault.how,
                flip=size // 2 if fault.flips == "down" else None,
                bytes_per_s=fault.bytes_per_s,
                is_chunked="transfer-encoding" in fields,
            )
        await writer.drain()
        if (fault.flips == "down" and not has_body) or (fault.etag is not None and "etag" not in fields):
            self.bitten -= 1  # there was nothing to change
        if fields.get("connection", "").lower() == "close":
            raise _End("close")


def _finish(writer: asyncio.StreamWriter, how: str) -> None:
    """End a client's connection: "close" sends what is still to be sent."""
    if how == "close":
        writer.close()
        return
    if how == "reset":
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _stop(task: asyncio.Task[Any]) -> None:
    """Cancel, and take note of how it ended."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _forward(
    pieces: AsyncIterator[bytes],
    writer: asyncio.StreamWriter,
    *,
    end: int | None,
    how: str,
    flip: int | None,
    bytes_per_s: int | None,
    is_chunked: bool,
) -> None:
    """Write a body's pieces, up to where the connection is to end."""
    offset = 0
    async for piece in pieces:
        data = bytearray(piece)
        if flip is not None and offset <= flip < offset + len(data):
            data[flip - offset] ^= 0x80  # no longer the UTF-8 of anything, if it was
        is_last = end is not None and offset + len(data) > end
        if is_last:
            del data[max((end or 0) - offset, 0) :]
        writer.write(b"%x\r\n%b\r\n" % (len(data), bytes(data)) if is_chunked and data else data)
        await writer.drain()
        if is_last:
            raise _End(how)
        offset += len(data)
        if bytes_per_s is not None:
            await asyncio.sleep(len(data) / bytes_per_s)
    if is_chunked:
        await _send(writer, b"0\r\n\r\n")


async def _pieces(
    reader: asyncio.StreamReader, fields: dict[str, str], *, until_end: bool = False
) -> AsyncIterator[bytes]:
    """A body, without what marks its chunks."""
    if "transfer-encoding" in fields:
        for _ in itertools.count():
            size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
            data = await reader.readexactly(size + 2)
            if size == 0:
                return
            yield data[:-2]
    missing = int(fields["content-length"]) if "content-length" in fields else None
    if missing is None and not until_end:
        return
    while missing is None or missing > 0:
        data = await reader.read(_PIECE_BYTES if missing is None else min(_PIECE_BYTES, missing))
        if not data:
            if missing is None:
                raise _End("close")
            raise EOFError("a body ends early")
        if missing is not None:
            missing -= len(data)
        yield data


def _fields(lines: list[str]) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _request(head: bytes) -> Request:
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    return Request(method, target, _fields(rest))


def _status(head: bytes) -> tuple[int, dict[str, str]]:
    first, *rest = head.decode("latin-1").split("\r\n")
    return int(first.split(" ")[1]), _fields(rest)


def _replaced(head: bytes, field_name: str, value: str) -> bytes:
    lines = head.decode("latin-1").split("\r\n")
    changed = [
        f"{line.partition(':')[0]}: {value}" if line.lower().startswith(f"{field_name}:") else line for line in lines
    ]
    return "\r\n".join(changed).encode("latin-1")
