"""The native door: accepts peers on the unix socket and looks after their connections."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable
from typing import Final

from tiered_store.aio.channel import Channel
from tiered_store.errors import DaemonUnavailable, PermissionDenied, StoreError
from tiered_store.protocol.status import encode_error
from tiered_store.servers.connection import Connection
from tiered_store.servers.limits import NativeLimits, RequestBytes
from tiered_store.servers.requests import HANDLERS, QUICK
from tiered_store.servers.sockets import PeerCredentials, peer_credentials
from tiered_store.store.store import Store

__all__ = ["NativeDoor"]

_log = logging.getLogger("tiered_store.native")

#: Connections taken per wake-up, so that a storm of them does not starve those that are open.
_ACCEPT_BATCH: Final = 64
#: How long to stop accepting when the process has no descriptor left.
_ACCEPT_PAUSE_S: Final = 0.5
_CHECK_INTERVAL_S: Final = 1.0
#: What accept says when the machine, not the peer, is short of something.
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


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
        listener.setblocking(False)
        self.store = store
        self.limits = limits
        self.request_bytes = RequestBytes()
        self.name = name
        self._listener = listener
        self._allow_uids = allow_uids
        self._allow_gids = allow_gids
        self._extra_stats = extra_stats
        self._connections: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_accepting = False
        self._all_gone = asyncio.Event()
        self._started = time.monotonic()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def start(self) -> None:
        """Begin to accept."""
        self._is_accepting = True
        self._loop.add_reader(self._listener.fileno(), self._accept)
        self._timer = self._loop.call_later(_CHECK_INTERVAL_S, self._check)

    def _accept(self) -> None:
        for _ in range(_ACCEPT_BATCH):
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                _log.error("cannot accept connections", extra={"error": str(error)})
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(_ACCEPT_PAUSE_S, self._accept_again)
                return
            self._welcome(sock)

    def _accept_again(self) -> None:
        if self._is_accepting:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def _welcome(self, sock: socket.socket) -> None:
        """Make a connection of an accepted socket, or refuse it with a reason."""
        try:
            peer = peer_credentials(sock)
            refusal = self._refusal(peer)
            if refusal is None:
                self._connections.add(
                    Connection(sock, self, peer, handlers=HANDLERS, quick=QUICK, opened_at=self._loop.time())
                )
                return
            _log.warning("connection refused", extra={"peer": str(peer), "reason": str(refusal)})
            sock.setblocking(False)
            sock.send(encode_error(0, refusal))
        except OSError as error:
            _log.info("connection lost while it was accepted", extra={"error": str(error)})
        sock.close()

    def _refusal(self, peer: PeerCredentials) -> StoreError | None:
        if self._allow_uids is not None or self._allow_gids is not None:
            is_allowed = peer.uid in (self._allow_uids or ()) or peer.gid in (self._allow_gids or ())
            if not is_allowed:
                return PermissionDenied(
                    f"user {peer.uid} (group {peer.gid}) is not in the daemon's allow_uids or allow_gids"
                )
        if len(self._connections) >= self.limits.max_connections:
            return DaemonUnavailable(
                f"the daemon has its {self.limits.max_connections} connections (server.max_connections)"
            )
        return None

    def _check(self) -> None:
        now = self._loop.time()
        for channel in Channel.broken(connection.channel for connection in self._connections):
            channel.hear_out()
        for connection in list(self._connections):
            connection.check(now)
        self._timer = self._loop.call_later(_CHECK_INTERVAL_S, self._check)

    def gone(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self._connections.discard(connection)
        if not self._connections:
            self._all_gone.set()

    def statistics(self) -> dict[str, object]:
        """The store's numbers and the daemon's."""
        own = {"connections": len(self._connections), "uptime_s": round(time.monotonic() - self._started, 3)}
        return {**self.store.stats(), **own, **self._extra_stats()}

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, let requests under way finish, then close every connection.

        Returns:
            whether all of them had finished within ``timeout_s`` seconds.
        """
        if self._is_accepting:
            self._is_accepting = False
            self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        left = list(self._connections)
        self._all_gone.clear()
        for connection in left:
            connection.drain()
        is_clean = True
        if self._connections:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._all_gone.wait()
            except TimeoutError:
                is_clean = False
        for connection in list(self._connections):
            connection.close()
        for connection in left:
            await connection.finished()
        if self._timer is not None:
            self._timer.cancel()
        return is_clean
