"""aiohttp's connection, with reads that begin in the turn of the loop that has read them.

aiohttp gives each request to a new task, by way of the connection's own, which has to be woken: three turns of the
loop, and more work than a small read is. So a request without a body that comes while nothing else is under way is
begun in the callback that has read it (docs/decisions/0014 is the same for the native door). One that has ended by then
was never aiohttp's; one that has to wait goes aiohttp's way, where its rest is run.

What is known of how aiohttp keeps its requests is known here: ``_messages`` are parsed and wait for the task of the
connection; ``_waiter`` is what that task waits for while there are none, and None before its first turn and while it is
busy; ``_request_count`` counts what was ever parsed; ``_upgraded`` says that what comes is no HTTP; a message that is
taken makes room in the parser by ``message_consumed``; at ``_next_keepalive_close_time`` silence has been too long.
None of it is documented: pyproject.toml bounds the version, and the tests of this module look at each.
"""

from __future__ import annotations

from typing import Final

from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.http import RawRequestMessage

__all__ = ["EagerHandler"]

_READS: Final = frozenset({"GET", "HEAD"})


class EagerHandler(web.RequestHandler):
    """Begins reads at once."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        waiter = self._waiter
        is_idle = not self._request_count if waiter is None else not waiter.done()
        if not is_idle or self._messages or self._upgraded:
            super().data_received(data)
            return
        self._waiter = None  # so that nobody is woken for what ends here
        try:
            super().data_received(data)
        finally:
            self._waiter = waiter
        messages = self._messages
        if not messages or (len(messages) == 1 and self._is_answered()):
            return
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _is_answered(self) -> bool:
        """Begin what is a plain read; whether it has ended."""
        message, payload = self._messages[0]
        if payload is not EMPTY_PAYLOAD or not isinstance(message, RawRequestMessage):
            return False
        if message.method not in _READS or message.upgrade:
            return False
        response = self.begin(message)
        if response is None:
            return False
        self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if response.keep_alive:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        else:
            self.force_close()
        return True

    def begin(self, message: RawRequestMessage) -> web.StreamResponse | None:
        """Begin to answer a request without a body; None if that has to wait.

        aiohttp then has the handler called with that request, which is to go on.
        """
        raise NotImplementedError

    @property
    def is_broken(self) -> bool:
        """Whether what came last is no HTTP: that is queued behind the requests before it."""
        return bool(self._messages) and not isinstance(self._messages[-1][0], RawRequestMessage)
