"""Requests to the cdn, each with its deadline and its pass of the breaker, and what their answers are taken for.

Knows HTTP and no objects. An answer is taken only for what it says it is, and only where it says how long it is: not
encoded, not redirected, the range that was asked for or the whole. Invariant: an answer gives exactly the bytes that it
announced, or a ``ReadFault``; whatever happens, its connection is given back or closed, and its pass is given back.
"""

from __future__ import annotations

import asyncio
import re
from typing import Final

import aiohttp
from yarl import URL

from tiered_store.aio.breaker import Breaker, Pass
from tiered_store.tiers.base import ReadFault
from tiered_store.tiers.cdnsession import open_session, said
from tiered_store.tiers.cdnsettings import CdnSettings

__all__ = ["Absent", "Answer", "NoRange", "Requests", "Shut"]

_ABSENT: Final = frozenset({404, 410})
_NO_RANGE: Final = 416
#: Refusals that mean "later", and so tell of the server's health as its own errors do.
_BUSY: Final = frozenset({408, 425, 429})
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)
#: A body that comes slower than this, its pauses for us not counted, is as good as none: bytes per second.
_SLOWEST: Final = 16 * 1024


class Absent(Exception):
    """The cdn has no such object, and says so."""


class NoRange(Exception):
    """The object has no such range; if that begins at its start, it is empty."""


class Shut(Exception):
    """The breaker lets nothing pass now."""


class Answer:
    """The body of one answer; implements ``Stream``.

    Args:
        response: its head has been read and judged.
        begun: the first bytes of the body.
        passing: the breaker's.
        timeout_s: how long a byte may take.
        size: bytes that it has.
        total: the whole object's size.

    Attributes:
        size: see above.
        total: see above.
        headers: its head's.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        begun: bytes,
        passing: Pass,
        timeout_s: float,
        *,
        size: int,
        total: int,
    ) -> None:
        self._response = response
        self._begun = begun
        self._pass = passing
        self._timeout_s = timeout_s
        self._left = size
        self._waited_s = 0.0
        self.size = size
        self.total = total
        self.headers = response.headers

    @property
    def etag(self) -> str:
        """The version, by its header; empty where it has none."""
        return self.headers.get("ETag", "")

    async def read(self, size: int, /) -> bytes:
        """Some of the next bytes, at most ``size``; none at the end.

        Raises:
            ReadFault: they do not come, or too slowly.
        """
        if self._begun:
            piece, self._begun = self._begun[:size], self._begun[size:]
        elif not self._left:
            return b""
        else:
            piece = await self._wait(size)
        self._left -= len(piece)
        if not self._left:
            self._pass.succeeded()
        return piece

    async def _wait(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._timeout_s):
                piece: bytes = await self._response.content.read(min(size, self._left))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._broken(said(error)) from None
        self._waited_s += loop.time() - began
        if not piece:
            raise self._broken("the body ends early")
        if self._waited_s > 2 * self._timeout_s + (self.size - self._left) / _SLOWEST:
            raise self._broken("the body comes too slowly")
        return piece

    def _broken(self, reason: str) -> ReadFault:
        self._pass.failed()
        self.close()
        return ReadFault(f"{reason}, {self._left} of {self.size} bytes before the end of an answer")

    def close(self) -> None:
        """Give the connection back, or end it where bytes are still to come; more than once is fine."""
        if self._left:
            self._pass.abandoned()
        else:
            self._pass.succeeded()
        self._response.close()


class Requests:
    """The cdn, by names.

    Args:
        settings: place, headers, times.
        breaker: asked before each request.
    """

    def __init__(self, settings: CdnSettings, breaker: Breaker) -> None:
        self._settings = settings
        self._breaker = breaker
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        """Make the session; nobody is asked. To be called in the event loop."""
        self._session = open_session(self._settings.headers)

    async def get(self, name: str, offset: int = 0, length: int | None = None) -> Answer:
        """Ask for an object from ``offset`` on, or for a range of it.

        Args:
            name: the object's.
            offset: 0 without a length.
            length: None to ask for all of it.

        Returns:
            an answer whose first bytes are there. It may have the whole object where its beginning was asked for.

        Raises:
            Absent, NoRange: see there. Shut: see there; never with an offset. ReadFault: anything else that is no such
                answer.
        """
        # A read that was let through goes on: its parts may say how the cdn is, and are not held up by what others say.
        passing = Pass(self._breaker) if offset else self._breaker.enter()
        if passing is None:
            raise Shut
        headers = {} if length is None else {"Range": f"bytes={offset}-{offset + length - 1}"}
        response: aiohttp.ClientResponse | None = None
        is_answer = False
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                response = await self._send(name, headers)
                begun = await response.content.readany()
            answer = self._judge(response, begun, passing, offset, length)
            is_answer = True
        except (Absent, NoRange):
            passing.succeeded()
            raise
        except ReadFault:
            passing.failed()
            raise
        except (aiohttp.ClientError, OSError, ValueError) as error:
            passing.failed()
            raise ReadFault(said(error)) from None
        finally:
            if not is_answer:
                passing.abandoned()  # counts where nothing was said above: it was cancelled
                if response is not None:
                    response.close()
        return answer

    async def _send(self, name: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        assert self._session is not None
        url = URL(self._settings.url(name), encoded=True)
        return await self._session.get(url, headers=headers, allow_redirects=False)

    def _judge(
        self, response: aiohttp.ClientResponse, begun: bytes, passing: Pass, offset: int, length: int | None
    ) -> Answer:
        """What an answer is, by its head."""
        status, size = response.status, response.content_length
        if status in _ABSENT:
            raise Absent
        if status == _NO_RANGE and length is not None:
            raise NoRange
        if status not in {200, 206}:
            if status < 500 and status not in _BUSY:
                passing.succeeded()  # the server is well; it is just not what we take it for
            raise ReadFault(f"the answer is {status} {response.reason or ''}".rstrip())
        if response.headers.get("Content-Encoding", "identity").strip().lower() not in {"", "identity"}:
            raise ReadFault("the answer is encoded, although its bytes were asked for as they are")
        if size is None:
            raise ReadFault("the answer does not say how long it is")
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if found is not None:
            first, last, total = map(int, found.groups())
            if length is None or first != offset or last - first + 1 != size or size > length or last >= total:
                raise ReadFault("the answer is not the range that was asked for")
        elif status == 206 or offset:
            raise ReadFault("the answer is not a range of the object")
        else:
            first, total = 0, size
        return Answer(response, begun, passing, self._settings.timeout_s, size=size, total=total)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
