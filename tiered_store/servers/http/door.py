"""The HTTP door: listens, routes, answers, and stops."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, cast

from aiohttp import EMPTY_PAYLOAD, HttpVersion10, HttpVersion11, StreamReader, web
from aiohttp.hdrs import AUTHORIZATION, TRANSFER_ENCODING
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDictProxy

from tiered_store.aio.eager import Finished, Waiting, begin
from tiered_store.errors import StoreError
from tiered_store.servers.access import Caller, Gate, Grant
from tiered_store.servers.http.conditions import FAILED
from tiered_store.servers.http.connection import Connection, Server
from tiered_store.servers.http.cors import answer_headers, preflight_headers
from tiered_store.servers.http.exchange import Asked, Exchange, Mounts
from tiered_store.servers.http.files import Files
from tiered_store.servers.http.handshakes import SecretListener
from tiered_store.servers.http.heads import Heads
from tiered_store.servers.http.limits import HttpLimits
from tiered_store.servers.http.problems import Refusal, refusal_of
from tiered_store.servers.http.rights import caller_of
from tiered_store.servers.http.target import parse_target
from tiered_store.stats import HttpStats
from tiered_store.store.conditions import ConditionFailed
from tiered_store.store.store import Store

__all__ = ["HttpDoor", "Listening"]

_log = logging.getLogger("tiered_store.http")

_CHECK_INTERVAL_S: Final = 1.0
_VERSIONS: Final = (HttpVersion11, HttpVersion10)
#: Callers that are counted by name.
_NAMES_MAX: Final = 4096
#: What a stop waits for threads that read files, and for requests that were cut off.
_LEAVE_S: Final = 2.0
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Listening:
    """A listening socket.

    Attributes:
        socket: owned by the door from its start on.
        tls: what makes its connections secret, or None.
    """

    socket: socket.socket
    tls: ssl.SSLContext | None = None


class HttpDoor:
    """Serves mounts over HTTP/1.1 on any number of listening sockets.

    Args:
        store: what is served.
        mounts: who answers for which path.
        limits: what one peer, and all of them, may use.
        gate: who may do what.
        cors_origins: whose pages may use this door.
    """

    def __init__(
        self, store: Store, mounts: Mounts, *, limits: HttpLimits, gate: Gate, cors_origins: Collection[str] = ()
    ) -> None:
        self.limits = limits
        self._store = store
        self._mounts = mounts
        self._gate = gate
        self._cors_origins = cors_origins
        self._files = Files()
        self._heads = Heads()
        self._server = Server(self._handle, self)
        self._servers: list[asyncio.Server] = []
        self._secret: list[SecretListener] = []
        self._connections: set[Connection] = set()
        self._expected: set[Connection] = set()
        self._running: set[asyncio.Task[Any] | None] = set()
        self.stats = HttpStats()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()
        self._is_draining = False

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def counters(self) -> dict[str, object]:
        """As plain data, for `stats`."""
        self.stats.connections = len(self._connections)
        return asdict(self.stats)

    async def start(self, listening: Sequence[Listening]) -> None:
        """Begin to accept."""
        for place in listening:
            if place.tls is not None:
                self._listen_in_secret(place.socket, place.tls)
                continue
            create: Any = self._loop.create_server
            if place.socket.family == socket.AF_UNIX:
                create = self._loop.create_unix_server
            self._servers.append(await create(self._server, sock=place.socket))
        self._timer = self._loop.call_later(_CHECK_INTERVAL_S, self._check)

    def _listen_in_secret(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        timeout_s = self.limits.header_timeout_s  # what is not secret yet has the time that a request's headers have
        listener = SecretListener(sock, context, make=self._server, door=self, timeout_s=timeout_s)
        self._secret.append(listener)
        listener.start()

    def renew(self, context: ssl.SSLContext) -> None:
        """Make secret what connects from now on with this."""
        for listener in self._secret:
            listener.context = context

    def expect(self, connection: Connection) -> bool:
        """Count a connection that is not secret yet; False where there are too many."""
        if self._is_full:
            self.stats.refused += 1
            return False
        self._expected.add(connection)
        return True

    def give_up(self, connection: Connection) -> None:
        """It is not to be expected any more."""
        self._expected.discard(connection)

    @property
    def _is_full(self) -> bool:
        return len(self._connections) + len(self._expected) >= self.limits.max_connections or self._is_draining

    def admit(self, connection: Connection) -> bool:
        """Count a new connection, unless it is already; False where there are too many."""
        self._expected.discard(connection)
        if self._is_full:
            self.stats.refused += 1
            return False
        self._connections.add(connection)
        return True

    def gone(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()

    def _check(self) -> None:
        now = self._loop.time()
        for connection in list(self._connections):
            self.stats.cut_off += connection.check(now)
        self._timer = self._loop.call_later(_CHECK_INTERVAL_S, self._check)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request in a task of aiohttp's, or go on with one that was begun."""
        connection, task = cast("Connection", request.protocol), asyncio.current_task()
        self._running.add(task)
        try:
            begun = connection.take_begun()
            if begun is not None:
                return await begun
            asked = Asked(request.method, request.raw_path, request.headers, request.version, request.keep_alive)
            return await self._answer(self._exchange(connection, asked, request.content))
        finally:
            self._running.discard(task)

    def begin(
        self, connection: Connection, message: RawRequestMessage
    ) -> Finished[web.StreamResponse] | Waiting[web.StreamResponse]:
        """Begin to answer a request without a body, in no task."""
        asked = Asked(message.method, message.path, message.headers, message.version, not message.should_close)
        return begin(self._answer(self._exchange(connection, asked, EMPTY_PAYLOAD)))

    def forsake(self, begun: Waiting[web.StreamResponse]) -> None:
        """End an answer that nobody waits for."""
        task: asyncio.Task[web.StreamResponse] = self._loop.create_task(begun)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.cancel()

    def _exchange(self, connection: Connection, asked: Asked, content: StreamReader) -> Exchange:
        connection.began(content)
        origins = self._cors_origins
        return Exchange(
            connection,
            asked,
            content,
            store=self._store,
            limits=self.limits,
            grant=self._grant(connection, asked.headers),
            files=self._files,
            heads=self._heads,
            headers_of_all=answer_headers(asked.headers, origins) if origins else _NO_HEADERS,
        )

    async def _answer(self, exchange: Exchange) -> web.StreamResponse:
        """Answer; every error becomes an answer, or the end of an answer that has begun."""
        began, headers, origins = self._loop.time(), exchange.headers, self._cors_origins
        try:
            if exchange.asked.version is not HttpVersion11 or TRANSFER_ENCODING in headers:
                _check_framing(exchange.asked)
            asked = preflight_headers(exchange.method, headers, origins) if origins else None
            if asked is not None:
                return await exchange.reply(204, b"", asked)
            target = parse_target(exchange.asked.target)
            mount, rest = self._mounts.find(target)
            exchange.aim(rest, target.query)
            return await mount.handle(exchange)
        except Refusal as refusal:
            return await self._refuse(exchange, refusal)
        except StoreError as error:
            return await self._refuse(exchange, refusal_of(error))
        except ConditionFailed:
            return await self._refuse(exchange, FAILED)
        except ConnectionError:
            return exchange.abort()
        except Exception as error:
            _log.exception("request failed", extra={"method": exchange.method})
            return await self._refuse(exchange, Refusal(500, "StoreError", f"internal error: {type(error).__name__}"))
        finally:
            exchange.connection.ended()
            self.stats.requests += 1
            self._log_slow(exchange.asked, began)

    def _grant(self, connection: Connection, headers: CIMultiDictProxy[str]) -> Grant:
        """What the sender may do. Of a unix socket's peer who shows no token, that is the same while the rules are."""
        if connection.sender.peer is not None and AUTHORIZATION not in headers:
            if connection.grant is None or connection.granted_by != self._gate.version:
                connection.grant = self._gate.of(Caller(peer=connection.sender.peer))
                connection.granted_by = self._gate.version
            return connection.grant
        return self._gate.of(caller_of(connection.sender, headers, self._cors_origins))

    def _log_slow(self, asked: Asked, began: float) -> None:
        elapsed = self._loop.time() - began
        if elapsed >= self.limits.slow_request_s:
            fields = {"request": f"{asked.method} {asked.target[:200]}", "seconds": round(elapsed, 3)}
            _log.warning("slow request", extra=fields)

    async def _refuse(self, exchange: Exchange, refusal: Refusal) -> web.StreamResponse:
        self.stats.failures += refusal.status >= 500
        self.stats.cut_off += refusal.status == 408
        if refusal.is_of_right:
            self._count_forbidden(exchange.grant.name)
        if exchange.has_begun:  # an answer has begun: its end must not look like one
            return exchange.abort()
        return await exchange.reply_problem(refusal)

    def _count_forbidden(self, name: str) -> None:
        """Count a refusal by who asked: as many names as rules, and with each reload perhaps others."""
        forbidden = self.stats.forbidden
        if name in forbidden or len(forbidden) < _NAMES_MAX:
            forbidden[name] = forbidden.get(name, 0) + 1

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, let requests under way finish, then close every connection.

        Returns:
            whether all of them had finished within ``timeout_s`` seconds.
        """
        self._is_draining = True
        for server in self._servers:
            server.close()
        for listener in self._secret:
            await listener.close()
        self._all_gone.clear()
        for connection in list(self._connections):
            connection.drain()
        is_clean = True
        if self._connections:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._all_gone.wait()
            except TimeoutError:
                is_clean = False
        if self._connections:
            self._all_gone.clear()
            for connection in list(self._connections):
                connection.abort()
            await self._all_gone.wait()
        if self._timer is not None:
            self._timer.cancel()
        left = [task for task in self._running if task is not None]
        try:
            async with asyncio.timeout(_LEAVE_S):
                if left:  # cancelled with their connections; what they hold is given back before the store is closed
                    await asyncio.wait(left)
                await self._files.close()
        except TimeoutError:  # threads that a disk holds must not hold the stop
            is_clean = False
        return is_clean


def _check_framing(asked: Asked) -> None:
    """Refuse what somebody in between may have read in another way, or what would be stored with its coding.

    Raises:
        Refusal: a version that is not spoken here, the one without a name (0.9) included; a coding beside "chunked", or
            any at all from a client too old to know them (RFC 9112, section 6.1).
    """
    if asked.version not in _VERSIONS:
        raise Refusal(400, "BadVersion", "of HTTP the versions 1.1 and 1.0 are spoken here", closes=True)
    if TRANSFER_ENCODING not in asked.headers:
        return
    codings = ",".join(asked.headers.getall(TRANSFER_ENCODING)).strip().lower()
    if codings != "chunked" or asked.version < HttpVersion11:
        raise Refusal(400, "BadHeader", "Transfer-Encoding must be 'chunked', and nothing before HTTP/1.1", closes=True)
