"""What every door on a unix socket does with its peers: lets them in or says why not, looks after them, sees them off.

Knows no protocol: how a connection is made of a socket, and how a refusal is put into words, is the door's. Invariant:
a peer that was let in is counted until it has gone, and none is let in beyond the bound.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from tiered_store.aio.channel import Channel
from tiered_store.errors import DaemonUnavailable, PermissionDenied, StoreError
from tiered_store.servers.acceptloop import AcceptLoop
from tiered_store.servers.sockets import PeerCredentials, peer_credentials

__all__ = ["Acceptor", "Admission", "Peer"]

_CHECK_INTERVAL_S: Final = 1.0


class Peer(Protocol):
    """A connection, as its door sees it."""

    channel: Channel

    def check(self, now: float) -> None:
        """Close it if the peer owes something for too long; called every second or so."""
        ...

    def drain(self) -> None:
        """Take no further requests; end when those under way have been answered."""
        ...

    def close(self) -> None:
        """End at once."""
        ...

    async def finished(self) -> None:
        """Return when nothing of this connection runs any more."""
        ...


P = TypeVar("P", bound=Peer)


@dataclass(frozen=True, slots=True)
class Admission:
    """Who is let in.

    Attributes:
        max_connections: how many at once.
        section: of the configuration, for the message: where ``max_connections`` and the lists below stand.
        allow_uids: users that may connect; None for everybody the socket's mode lets in.
        allow_gids: groups likewise. A peer needs to be in one of the two lists.
    """

    max_connections: int
    section: str = "server"
    allow_uids: frozenset[int] | None = None
    allow_gids: frozenset[int] | None = None

    def refusal(self, peer: PeerCredentials, connections: int) -> StoreError | None:
        """Why a peer is not let in while so many are connected; None if it is."""
        if self.allow_uids is not None or self.allow_gids is not None:
            is_allowed = peer.uid in (self.allow_uids or ()) or peer.gid in (self.allow_gids or ())
            if not is_allowed:
                return PermissionDenied(
                    f"user {peer.uid} (group {peer.gid}) is not in the daemon's allow_uids or allow_gids"
                )
        if connections >= self.max_connections:
            return DaemonUnavailable(
                f"the daemon has its {self.max_connections} connections ({self.section}.max_connections)"
            )
        return None


class Acceptor(Generic[P]):
    """Accepts peers on a listening unix socket.

    Args:
        listener: listening; owned from here on.
        admission: who is let in.
        welcome: makes a connection of an accepted socket, which is its own from then on; raises OSError if it cannot.
        refuse: the last words to a peer that is not let in.
        log: where refusals are written to.
    """

    def __init__(
        self,
        listener: socket.socket,
        admission: Admission,
        *,
        welcome: Callable[[socket.socket, PeerCredentials], P],
        refuse: Callable[[StoreError], bytes],
        log: logging.Logger,
    ) -> None:
        self._accepting = AcceptLoop(listener, self._welcome, log)
        self._admission = admission
        self._make = welcome
        self._refuse = refuse
        self._log = log
        self._peers: set[P] = set()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()
        self.refused = 0  # peers that were not let in

    def __len__(self) -> int:
        """How many are connected."""
        return len(self._peers)

    def start(self) -> None:
        """Begin to accept."""
        self._accepting.start()
        self._timer = self._loop.call_later(_CHECK_INTERVAL_S, self._check)

    def _welcome(self, sock: socket.socket) -> None:
        """Make a connection of an accepted socket, or refuse it with a reason."""
        try:
            peer = peer_credentials(sock)
            refusal = self._admission.refusal(peer, len(self._peers))
            if refusal is None:
                self._peers.add(self._make(sock, peer))
                return
            self.refused += 1
            self._log.warning("connection refused", extra={"peer": str(peer), "reason": str(refusal)})
            sock.setblocking(False)
            sock.send(self._refuse(refusal))
        except OSError as error:
            self._log.info("connection lost while it was accepted", extra={"error": str(error)})
        sock.close()

    def _check(self) -> None:
        now = self._loop.time()
        for channel in Channel.broken(peer.channel for peer in self._peers):
            channel.hear_out()
        for peer in list(self._peers):
            peer.check(now)
        self._timer = self._loop.call_later(_CHECK_INTERVAL_S, self._check)

    def gone(self, peer: P) -> None:
        """Forget a connection that has ended."""
        self._peers.discard(peer)
        if not self._peers:
            self._all_gone.set()

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, let requests under way finish, then close every connection.

        Returns:
            whether all of them had finished within ``timeout_s`` seconds.
        """
        self._accepting.end()
        left = list(self._peers)
        self._all_gone.clear()
        for peer in left:
            peer.drain()
        is_clean = True
        if self._peers:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._all_gone.wait()
            except TimeoutError:
                is_clean = False
        for peer in list(self._peers):
            peer.close()
        for peer in left:
            await peer.finished()
        if self._timer is not None:
            self._timer.cancel()
        return is_clean
