"""Connections that are to be secret and are not yet: how they are accepted, bounded, and given up.

asyncio's own server for TLS tells nobody of a connection before its handshake is done, so nobody could count it. Here
a connection counts from the moment it is accepted. Invariant: it is expected until it is made, or given up.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol

from tiered_store.servers.acceptloop import AcceptLoop
from tiered_store.servers.http.connection import Connection

__all__ = ["SecretListener"]

_log = logging.getLogger("tiered_store.http")

#: What a peer may take to agree to the end of a secret connection.
_CLOSE_TIMEOUT_S: Final = 2.0


class _Owner(Protocol):
    """What is needed of the door."""

    def expect(self, connection: Connection) -> bool:
        """Count a connection that is still to be made; False where there are too many."""
        ...

    def give_up(self, connection: Connection) -> None:
        """It will not be made, or is already."""
        ...


class SecretListener:
    """Accepts on one listening socket.

    Args:
        listener: listening; owned from here on.
        context: what makes the connections secret; another one can be put in its place for those that follow.
        make: makes a connection.
        door: where it belongs.
        timeout_s: what a handshake may take.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        *,
        make: Callable[[], Connection],
        door: _Owner,
        timeout_s: float,
    ) -> None:
        self.context = context
        self._make = make
        self._door = door
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._under_way: set[asyncio.Task[None]] = set()
        self._accepting = AcceptLoop(listener, self._take, _log)

    def start(self) -> None:
        """Begin to accept."""
        self._accepting.start()

    def _take(self, sock: socket.socket) -> None:
        connection = self._make()
        if not self._door.expect(connection):
            sock.close()  # to say why in plain would be no TLS, and to say it in TLS would take the handshake
            return
        sock.setblocking(False)
        task = self._loop.create_task(self._shake_hands(sock, connection))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _shake_hands(self, sock: socket.socket, connection: Connection) -> None:
        accept: Any = self._loop.connect_accepted_socket  # typeshed does not let a protocol be any factory's
        try:
            await accept(
                lambda: connection,
                sock,
                ssl=self.context,
                ssl_handshake_timeout=self._timeout_s,
                ssl_shutdown_timeout=_CLOSE_TIMEOUT_S,
            )
        except OSError as error:  # ssl.SSLError, ConnectionError, TimeoutError
            _log.debug("no secret connection", extra={"error": str(error)})
        finally:
            self._door.give_up(connection)

    async def close(self) -> None:
        """Accept no more, and give up the handshakes under way."""
        self._accepting.end()
        await asyncio.sleep(0)  # a task that is cancelled before it began would not close its socket
        left = list(self._under_way)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
