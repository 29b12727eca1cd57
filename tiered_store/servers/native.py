"""The native door: the store, as the native protocol shows it to peers on a unix socket."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable

from tiered_store.protocol.status import encode_error
from tiered_store.servers.acceptor import Acceptor, Admission
from tiered_store.servers.connection import Connection
from tiered_store.servers.limits import NativeLimits, RequestBytes
from tiered_store.servers.requests import HANDLERS, QUICK
from tiered_store.servers.sockets import PeerCredentials
from tiered_store.store.store import Store

__all__ = ["NativeDoor"]

_log = logging.getLogger("tiered_store.native")


class NativeDoor:
    """Serves the native protocol on a listening unix socket.

    Args:
        store: what is served.
        listener: listening; owned from here on.
        limits: what one peer, and all of them, may use.
        allow_uids: users that may connect; None for everybody the socket's mode lets in.
        allow_gids: groups likewise. A peer needs to be in one of the two lists.
        extra_stats: what STATS reports besides the store's own numbers.
    """

    def __init__(
        self,
        store: Store,
        listener: socket.socket,
        *,
        limits: NativeLimits,
        allow_uids: frozenset[int] | None = None,
        allow_gids: frozenset[int] | None = None,
        extra_stats: Callable[[], dict[str, object]] = dict,
        name: str = "tiered_store",
    ) -> None:
        self.store = store
        self.limits = limits
        self.request_bytes = RequestBytes()
        self.name = name
        self._extra_stats = extra_stats
        self._loop = asyncio.get_running_loop()
        self._started = time.monotonic()
        self._acceptor: Acceptor[Connection] = Acceptor(
            listener,
            Admission(limits.max_connections, allow_uids=allow_uids, allow_gids=allow_gids),
            welcome=self._welcome,
            refuse=lambda refusal: encode_error(0, refusal),
            log=_log,
        )

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._acceptor)

    def start(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, let requests under way finish, then close every connection.

        Returns:
            whether all of them had finished within ``timeout_s`` seconds.
        """
        return await self._acceptor.drain(timeout_s)

    def gone(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._acceptor.gone(connection)

    def _welcome(self, sock: socket.socket, peer: PeerCredentials) -> Connection:
        return Connection(sock, self, peer, handlers=HANDLERS, quick=QUICK, opened_at=self._loop.time())

    def statistics(self) -> dict[str, object]:
        """The store's numbers and the daemon's."""
        own = {"connections": self.connections, "uptime_s": round(time.monotonic() - self._started, 3)}
        return {**self.store.stats(), **own, **self._extra_stats()}
