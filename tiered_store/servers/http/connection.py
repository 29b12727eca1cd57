"""One connection of the HTTP door: aiohttp's, and the limits of time that aiohttp does not have.

What is counted here is what a peer owes: the rest of a request's headers, or to read its reply. A request's body has
its limits where it is read (``bodies``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Final, Protocol, cast

from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from tiered_store.aio.eager import Finished, Waiting
from tiered_store.servers.access import Grant
from tiered_store.servers.http.eager import EagerHandler
from tiered_store.servers.http.heads import SERVER
from tiered_store.servers.http.limits import HttpLimits
from tiered_store.servers.http.problems import PROBLEM_TYPE, Refusal, problem_of
from tiered_store.servers.http.rights import Sender, sender_of

__all__ = ["Connection", "Owner", "Server"]

_log = logging.getLogger("tiered_store.http")

#: How long what a refused peer still sends is read and dropped, so that it can read why it was refused.
_LINGER_S: Final = 2.0
#: All headers of a request together may have as much as so many of the largest, as with nginx, and an object's
#: metadata, percent-encoded. aiohttp bounds each field and their number only, and has up to 32 requests at hand while
#: one is answered.
_LARGE_FIELDS: Final = 4
_ENCODED: Final = len("%XX")
_FULL: Final = Refusal(503, "DaemonUnavailable", "the daemon has all its connections (http.max_connections)")


class Owner(Protocol):
    """What a connection needs of its door."""

    limits: HttpLimits

    def admit(self, connection: Connection) -> bool:
        """Count a new connection; False where there are too many."""
        ...

    def gone(self, connection: Connection) -> None:
        """It has ended."""
        ...

    def begin(
        self, connection: Connection, message: RawRequestMessage
    ) -> Finished[web.StreamResponse] | Waiting[web.StreamResponse]:
        """Begin to answer a request without a body."""
        ...

    def forsake(self, begun: Waiting[web.StreamResponse]) -> None:
        """Nobody waits any more for what was begun: end it."""
        ...


class Connection(EagerHandler):
    """aiohttp's protocol, watched."""

    __slots__ = (
        "_begun",
        "_body",
        "_content",
        "_door",
        "_head_bytes",
        "_head_bytes_max",
        "_head_since",
        "_is_admitted",
        "_left",
        "_read_bytes",
        "_room",
        "_stalled_bytes",
        "_stalled_since",
        "grant",
        "granted_by",
        "is_last",
        "is_secret",
        "is_serving",
        "sender",
    )

    def __init__(self, manager: web.Server, door: Owner, *, loop: asyncio.AbstractEventLoop) -> None:
        limits = door.limits
        super().__init__(
            manager,
            loop=loop,
            keepalive_timeout=limits.keepalive_timeout_s,
            max_line_size=limits.max_header_bytes,
            max_field_size=limits.max_header_bytes,
            max_headers=limits.max_headers,
            lingering_time=_LINGER_S,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]  # documented: None turns it off
            logger=_log,
        )
        self._door = door
        self._is_admitted = False
        self._head_since: float | None = None
        self._read_bytes = 0  # what came at once, and last
        self._head_bytes = 0
        self._head_bytes_max = _LARGE_FIELDS * limits.max_header_bytes + _ENCODED * limits.max_metadata_bytes
        self._body: StreamReader | None = None  # of the request whose headers came last
        self._stalled_since: float | None = None
        self._stalled_bytes = 0
        self._room: asyncio.Future[None] | None = None
        self._begun: Waiting[web.StreamResponse] | None = None
        self._content: StreamReader | None = None
        self._left: StreamReader | None = None  # of a body that was not wanted; it is no beginning of a request
        self.is_serving = False
        self.is_last = False
        self.is_secret = False
        self.sender = Sender()
        self.grant: Grant | None = None
        self.granted_by = 0  # the version of the rules

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A peer is here; one too many is told so."""
        self.sender = sender_of(transport)
        self.is_secret = transport.get_extra_info("sslcontext") is not None
        self._is_admitted = self._door.admit(self)
        if not self._is_admitted:
            cast("asyncio.Transport", transport).write(_raw(_FULL))
            transport.close()
            return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The peer is gone."""
        if self._is_admitted:
            self._is_admitted = False
            super().connection_lost(exc)
            if self._room is not None and not self._room.done():
                self._room.set_exception(ConnectionResetError("the peer has gone"))
            begun = self.take_begun()
            if begun is not None:  # aiohttp had no turn to take it
                self._door.forsake(begun)
            self._door.gone(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        if not self._is_admitted:
            return
        if data and self._is_between_requests and self._head_since is None:  # aiohttp says b"" to itself
            self._head_since = self._loop.time()
        is_body = self._body is not None and not self._body.is_eof()
        parsed, self._read_bytes = self._request_count, len(data)
        super().data_received(data)
        if self._messages:
            self._body = self._messages[-1][1]
        if not self._has_small_heads(self._request_count - parsed, is_body=is_body):
            self._refuse_head()
            return
        content = self._content
        if content is not None and self.is_broken and not content.is_eof():
            # The parser has given up inside a body, and nobody has told the one who waits for the rest of it.
            content.set_exception(web.RequestPayloadError("it cannot be understood"))

    def begin(self, message: RawRequestMessage) -> web.StreamResponse | None:
        """See :class:`EagerHandler`."""
        if self._read_bytes > self._head_bytes_max and not self._has_small_head(message):
            return None  # and is refused
        begun = self._door.begin(self, message)
        if isinstance(begun, Finished):
            return begun.result
        self._begun = begun
        return None

    def take_begun(self) -> Waiting[web.StreamResponse] | None:
        """The rest of an answer that was begun, once."""
        begun, self._begun = self._begun, None
        return begun

    def _has_small_heads(self, parsed: int, *, is_body: bool) -> bool:
        """Whether the headers that have come are within their bound, or less than one read of the socket beyond it."""
        if not parsed:
            self._head_bytes += 0 if is_body else self._read_bytes
            return self._head_bytes <= self._head_bytes_max
        self._head_bytes = 0
        if self._read_bytes <= self._head_bytes_max:
            return True
        heads = [message for message, _ in self._messages if isinstance(message, RawRequestMessage)]
        return all(map(self._has_small_head, heads[-parsed:]))

    def _has_small_head(self, message: RawRequestMessage) -> bool:
        return sum(map(len, chain(*message.raw_headers))) <= self._head_bytes_max

    def _refuse_head(self) -> None:
        """End the connection of a peer that sends too many headers; with a word, if nothing else is being said."""
        if self.is_serving or self.transport is None:
            self.abort()
            return
        self.transport.write(_raw(Refusal(431, "LineTooLong", "the request's headers are too large together")))
        self.force_close()

    @property
    def _is_between_requests(self) -> bool:
        """Whether what comes next is the beginning of one."""
        return not self.is_serving and (self._left is None or self._left.is_eof())

    def began(self, content: StreamReader) -> None:
        """A request's headers are here, and its body will be."""
        self._content = content
        self._left = None
        self.is_serving = True
        self._head_since = None

    def ended(self) -> None:
        """It has been answered."""
        self._left, self._content = self._content, None
        self.is_serving = False

    @property
    def is_stalled(self) -> bool:
        """Whether what was written waits for the peer to read."""
        return self._stalled_since is not None

    async def writable(self) -> None:
        """Return when more may be written. Raises ConnectionResetError if the peer goes meanwhile."""
        if self._stalled_since is None:
            return
        self._room = self._loop.create_future()
        try:
            await self._room
        finally:
            self._room = None

    def pause_writing(self) -> None:
        """The peer does not read as fast as we write."""
        super().pause_writing()
        self._stalled_since = self._loop.time()
        self._stalled_bytes = 0

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._stalled_since = None
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def drain(self) -> None:
        """End it: now if no request is under way, else after that one."""
        self.is_last = True  # not aiohttp's close(), which would drop the rest of a body that is on its way
        if not self.is_serving:
            self.force_close()

    def abort(self) -> None:
        """End it now, whatever is under way."""
        if self.transport is not None:
            self.transport.abort()

    def check(self, now: float) -> bool:
        """End the connection if its peer has let us wait for too long, and tell so; called every second or so."""
        transport = self.transport
        if transport is None:
            return False
        if self._head_since is not None and now - self._head_since > self._door.limits.header_timeout_s:
            transport.write(_raw(Refusal(408, "DeadlineExceeded", "the request's headers took too long")))
            self.force_close()
            return True
        if self._stalled_since is not None:
            waiting = transport.get_write_buffer_size()
            if waiting != self._stalled_bytes:
                self._stalled_since, self._stalled_bytes = now, waiting
            elif now - self._stalled_since > self._door.limits.stall_timeout_s:
                transport.abort()
                return True
        return False

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP, and what nobody caught."""
        if isinstance(exc, HttpProcessingError):
            _log.info("bad request", extra={"error": type(exc).__name__})
            status = 431 if isinstance(exc, LineTooLong) else 400
            refusal = Refusal(status, type(exc).__name__, _one_line(message), closes=True)
        else:
            _log.error("request failed", exc_info=exc)
            refusal = Refusal(500, "StoreError", f"internal error: {type(exc).__name__}", closes=True)
        headers = {"Content-Type": PROBLEM_TYPE, "Server": SERVER}  # aiohttp would tell its version, and Python's
        response = web.Response(status=refusal.status, body=problem_of(refusal), headers=headers)
        response.force_close()
        return response


class Server(web.Server):
    """aiohttp's, with connections of ours."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], door: Owner) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._door = door

    def __call__(self) -> Connection:
        """A protocol for a new connection."""
        return Connection(self, self._door, loop=asyncio.get_running_loop())


def _raw(refusal: Refusal) -> bytes:
    body = problem_of(refusal)
    fields = f"Content-Type: {PROBLEM_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return f"HTTP/1.1 {refusal.status} -\r\n{fields}".encode() + body


def _one_line(message: str | None) -> str:
    return " ".join((message or "").split())[:200]
