"""Bodies, both ways: from a request into the store's staging, and from memory, a file or a fill into a reply.

Invariants: memory in use does not depend on a body's size; a request that ends before its body does leaves no spool;
a reply that cannot be finished ends with its connection, so that nobody takes a part for the whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from aiohttp import web

from tiered_store.errors import ProtocolError, StoreError, TooLarge
from tiered_store.objects import INLINE_MAX_BYTES, Body, read_body
from tiered_store.servers.http.exchange import Exchange
from tiered_store.servers.http.files import Piece
from tiered_store.servers.http.heads import head_of
from tiered_store.servers.http.problems import Refusal
from tiered_store.store.reading import Reading
from tiered_store.store.spool import Staged

__all__ = ["receive", "receive_small", "send", "send_parts", "stream"]

#: Beyond the first ``stall_timeout_s`` a body must come at this rate, bytes per second, on average.
_RATE_MIN: Final = 512


async def receive(exchange: Exchange, *, hashed: bool, max_bytes: int = 0) -> Staged:
    """Take the request's body.

    Args:
        exchange: whose; nothing was read of it yet. Everything that can be refused without the body should have been.
        hashed: whether its sha256 is wanted.
        max_bytes: a bound beside the store's own, or 0.

    Raises:
        TooLarge: over a bound; as early as the announced size. Refusal: it comes too slowly, is malformed, or has a
        coding. ProtocolError: it ended early. QuotaExceeded, DaemonUnavailable: no room for it.
    """
    size = _announced(exchange)
    if size is not None:
        exchange.store.check_size(size)
        _check_size(size, max_bytes)
    _invite(exchange)
    pieces = _Incoming(exchange)
    if size is not None and size <= INLINE_MAX_BYTES:
        data = b"".join([piece async for piece in pieces])
        if len(data) != size:
            raise ProtocolError(f"the body ended after {len(data)} of {size} bytes")
        return Staged.of_bytes(data, hashed=hashed)
    spool = exchange.store.spool(size, hashed=hashed)
    try:
        taken = 0
        async for piece in pieces:
            taken += len(piece)
            _check_size(taken, max_bytes)
            await spool.write(piece)
        return await spool.finish()
    except BaseException:
        await spool.abort()
        raise


async def receive_small(exchange: Exchange, max_bytes: int) -> bytes:
    """Take a body that is a document, into memory. Raises as :func:`receive`."""
    size = _announced(exchange)
    _check_size(size or 0, max_bytes)
    _invite(exchange)
    data = bytearray()
    async for piece in _Incoming(exchange):
        _check_size(len(data) + len(piece), max_bytes)
        data += piece
    return bytes(data)


async def send(
    exchange: Exchange,
    status: int,
    headers: Mapping[str, str],
    body: Body,
    offset: int = 0,
    length: int | None = None,
    *,
    damaged: Callable[[], None] | None = None,
) -> web.StreamResponse:
    """Answer with (part of) a body that is at hand. To a HEAD only its size is sent.

    Args:
        exchange: what is answered.
        status: of the answer.
        headers: of the answer.
        body: whole, and checked.
        offset: where to begin.
        length: how many bytes, or None for all.
        damaged: called if the body's file cannot be read.
    """
    if isinstance(body, bytes):
        return await exchange.reply(status, read_body(body, offset, length), headers)
    end = body.size if length is None else min(body.size, offset + length)
    return await send_parts(
        exchange, status, headers, end - offset, [(b"", exchange.files.pieces(body, offset, end))], damaged=damaged
    )


async def stream(
    exchange: Exchange,
    status: int,
    headers: Mapping[str, str],
    reading: Reading,
    offset: int = 0,
    length: int | None = None,
) -> web.StreamResponse:
    """As :func:`send`, with an object while it comes. The caller closes ``reading``."""
    size = reading.info.size
    end = size if length is None else min(size, offset + length)
    return await send_parts(exchange, status, headers, end - offset, [(b"", reading.chunks(offset, end - offset))])


async def send_parts(
    exchange: Exchange,
    status: int,
    headers: Mapping[str, str],
    size: int,
    parts: Sequence[tuple[bytes, AsyncIterator[Piece]]],
    *,
    damaged: Callable[[], None] | None = None,
) -> web.StreamResponse:
    """Answer with several pieces in turn, each with something before it; together they have ``size`` bytes."""
    head = head_of(status, headers, size)
    if exchange.method == "HEAD" or not size:
        return await exchange.reply_at_once(head, b"")
    try:
        lead, pieces = parts[0]
        first: Piece = await anext(pieces, b"")  # an error that comes before any byte can still be told
        exchange.begin(head)
        await exchange.write(lead)
        await exchange.write(first)
        async for piece in pieces:
            await exchange.write(piece)
        for lead, pieces in parts[1:]:
            await exchange.write(lead)
            async for piece in pieces:
                await exchange.write(piece)
    except StoreError:
        if damaged is not None:
            damaged()
        raise
    return await exchange.end()


class _Incoming:
    """The pieces of a request's body, as they come; within the limits of time."""

    def __init__(self, exchange: Exchange) -> None:
        self._content = exchange.content
        self._stall_timeout_s = exchange.limits.stall_timeout_s
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._taken = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        # The time that the peer has for its next bytes; being far ahead of the rate that it must keep gives it no more.
        now = self._loop.time()
        owed_at = self._began + self._stall_timeout_s + self._taken / _RATE_MIN
        try:
            async with asyncio.timeout_at(min(owed_at, now + self._stall_timeout_s)):
                piece = await self._content.readany()
        except TimeoutError:
            raise Refusal(
                408,
                "DeadlineExceeded",
                f"the body came too slowly: {self._taken} bytes in {now - self._began:.0f} s",
                closes=True,
            ) from None
        except web.RequestPayloadError as error:
            raise Refusal(400, "ProtocolError", f"the body is malformed: {error}", closes=True) from None
        except ConnectionError as error:
            raise ProtocolError(f"the body ended early: {error}") from None
        if not piece:
            raise StopAsyncIteration
        self._taken += len(piece)
        return piece


def _announced(exchange: Exchange) -> int | None:
    """The size of the request's body, or None if it will be known at its end."""
    coding = exchange.headers.get("Content-Encoding", "identity")
    if coding.lower() != "identity":
        raise Refusal(415, "UnsupportedCoding", f"a body is taken as it is, not as {coding[:40]!r}")
    size = exchange.headers.get("Content-Length")
    return None if size is None else int(size)  # the parser has let nothing but digits through


def _check_size(size: int, max_bytes: int) -> None:
    if max_bytes and size > max_bytes:
        raise TooLarge(f"the body must have at most {max_bytes} bytes")


def _invite(exchange: Exchange) -> None:
    """Tell a peer that waits for that to send the body, and the kernel that it comes."""
    transport = exchange.connection.transport
    expected = exchange.headers.get("Expect")
    if expected is not None and expected.lower() != "100-continue":
        raise Refusal(417, "ExpectationFailed", f"this door expects nothing but 100-continue, not {expected[:40]!r}")
    if transport is None or exchange.content.is_eof():
        return
    if expected is not None and exchange.asked.version >= (1, 1):
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        # A client that sends headers and body in two segments waits for the acknowledgement of the first, which the
        # kernel would put off for 40 ms.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
