"""Accepts connections of a listening socket, one at a time, and waits a while where the machine has no room for more.

Knows neither who connects nor what for. Invariant: what was accepted is handed on or closed, and nothing is accepted
after the end.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final

__all__ = ["AcceptLoop"]

#: How long to stop accepting when the process has no descriptor left.
_PAUSE_S: Final = 0.5
#: What accept says when the machine, not the peer, is short of something.
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class AcceptLoop:
    """Accepts until it is ended.

    Args:
        listener: listening; owned from here on.
        take: is given each connection, which is its own from then on.
        log: where it is said that there is no room.
    """

    def __init__(self, listener: socket.socket, take: Callable[[socket.socket], None], log: logging.Logger) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._take = take
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._is_on = False

    def start(self) -> None:
        """Begin."""
        self._is_on = True
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        """Take one: the loop calls again while there are more, and those that are connected have their turn between."""
        try:
            sock, _address = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._log.error("cannot accept connections", extra={"error": str(error)})
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(_PAUSE_S, self._go_on)
            return
        self._take(sock)

    def _go_on(self) -> None:
        if self._is_on:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def end(self) -> None:
        """Accept no more, and close the listening socket; more than once is fine."""
        if self._is_on:
            self._is_on = False
            self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
