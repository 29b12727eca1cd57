"""A CDN to test: a small HTTP server in the test's own event loop, which lies, stalls and breaks off when told to."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from tiered_store.tiers.cdnsettings import CdnSettings

NAME_PREFIX = "/base/"


@dataclass
class Served:
    """What is under one name."""

    body: bytes
    etag: str = '"1"'
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Asked:
    """One request that came."""

    method: str
    name: str
    headers: dict[str, str]
    reader: asyncio.StreamReader

    @property
    def span(self) -> tuple[int, int] | None:
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return None if found is None else (int(found[1]), int(found[2]))


#: Answers a request in place of the server; False to close the connection behind it.
Behaviour = Callable[["FakeCdn", Asked, asyncio.StreamWriter], Awaitable[bool]]


class FakeCdn:
    """The server.

    Attributes:
        objects: by name.
        asked: every request, in the order they came.
        behave: what answers; :func:`well` unless a test says otherwise.
        connections: open now; ``accepted``: how many there ever were.
        purged: names of which a purge came.
        stalled: set when a request is left without (more of) an answer.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Served] = {}
        self.asked: list[Asked] = []
        self.behave: Behaviour = well
        self.connections = 0
        self.accepted = 0
        self.purged: list[str] = []
        self.stalled = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def settings(self, **changes: Any) -> CdnSettings:
        said: dict[str, Any] = {"base_url": f"http://127.0.0.1:{self.port}{NAME_PREFIX[:-1]}", "timeout_s": 5.0}
        return CdnSettings(**(said | changes))

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def names(self) -> list[str]:
        return [asked.name for asked in self.asked]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.accepted += 1
        try:
            while (asked := await _read_request(reader)) is not None:
                self.asked.append(asked)
                if not await self.behave(self, asked, writer):
                    break
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.connections -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def stall(self, asked: Asked) -> None:
        """Say nothing, until the other end has gone."""
        self.stalled.set()
        await asked.reader.read()


async def _read_request(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode().rstrip().split("\r\n")
    method, path, _ = first.split(" ")
    assert path.startswith(NAME_PREFIX)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Asked(method, unquote(path[len(NAME_PREFIX) :]), headers, reader)


def head_of(status: str, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def answer_of(cdn: FakeCdn, asked: Asked) -> tuple[str, dict[str, str], bytes]:
    """Status, headers and body, as a good server gives them."""
    if asked.method == "PURGE":
        cdn.purged.append(asked.name)
        return "200 OK", {"Content-Length": "0"}, b""
    served = cdn.objects.get(asked.name)
    if served is None:
        return "404 Not Found", {"Content-Length": "9"}, b"not found"
    headers = {"ETag": served.etag, "Content-Type": "text/x", **served.headers}
    body, total, span = served.body, len(served.body), asked.span
    if span is None:
        return "200 OK", {**headers, "Content-Length": str(total)}, body
    first, last = span[0], min(span[1], total - 1)
    if first >= total:
        return "416 Range Not Satisfiable", {"Content-Range": f"bytes */{total}", "Content-Length": "0"}, b""
    said = {**headers, "Content-Range": f"bytes {first}-{last}/{total}", "Content-Length": str(last - first + 1)}
    return "206 Partial Content", said, body[first : last + 1]


async def well(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
    """As it should be."""
    status, headers, body = answer_of(cdn, asked)
    writer.write(head_of(status, headers) + body)
    return True


async def hung_up(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
    """No answer, and the end of the connection."""
    return False


def changed(change: Callable[[str, dict[str, str], bytes], tuple[str, dict[str, str], bytes]]) -> Behaviour:
    """A good answer, changed."""

    async def behave(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        status, headers, body = change(*answer_of(cdn, asked))
        writer.write(head_of(status, headers) + body)
        return True

    return behave


def status(line: str, **headers: str) -> Behaviour:
    """An answer without the object."""
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    return changed(lambda *_: (line, {"Content-Length": "4", **said}, b"oops"))


def flipped(*, at: int = 0) -> Behaviour:
    """Other bytes of the right number; ``at`` an offset in the answer's body."""

    def flip(line: str, headers: dict[str, str], body: bytes) -> tuple[str, dict[str, str], bytes]:
        return line, headers, body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] if body else body

    return changed(flip)


def broken_after(count: int) -> Behaviour:
    """The head, so many bytes, and the end of the connection."""

    async def behave(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        line, headers, body = answer_of(cdn, asked)
        writer.write(head_of(line, headers) + body[:count])
        await writer.drain()
        return False

    return behave


def stalled_after(count: int | None) -> Behaviour:
    """The head and so many bytes, then nothing; None: not even the head."""

    async def behave(cdn: FakeCdn, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        line, headers, body = answer_of(cdn, asked)
        if count is not None:
            writer.write(head_of(line, headers) + body[:count])
            await writer.drain()
        await cdn.stall(asked)
        return False

    return behave


@asynccontextmanager
async def fake_cdn() -> AsyncIterator[FakeCdn]:
    cdn = FakeCdn()
    await cdn.start()
    try:
        yield cdn
    finally:
        await cdn.close()
