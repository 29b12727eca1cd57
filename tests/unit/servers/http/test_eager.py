"""Reads that are answered in the turn of the loop that has read them, and what aiohttp must be like for that."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from aiohttp.http_parser import HttpRequestParser

from tests.support.doors import eventually
from tests.support.http import ServedHttp, served_http
from tests.support.store import settle
from tiered_store.servers.http.api import api_mounts

API = api_mounts(dict)
GET = b"GET /v1/objects/%b HTTP/1.1\r\nHost: h\r\n\r\n"
HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: h\r\n\r\n"
MANY = 100
LARGE_BYTES = 60_000


class FakeTransport(asyncio.Transport):
    """One that sends nothing anywhere, for a peer at this socket."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._sock if name == "socket" else default

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


def tasks_of(it: ServedHttp) -> int:
    """How many requests have been given to a task of aiohttp's."""
    return it.door._server.requests_count


async def leave(it: ServedHttp, writer: asyncio.StreamWriter) -> None:
    """Close a connection, and see it gone at both ends."""
    writer.close()
    await writer.wait_closed()
    await eventually(lambda: not it.door.connections)


async def test_the_parser_is_the_one_in_c() -> None:
    assert HttpRequestParser.__module__ == "aiohttp._http_parser"


async def test_what_is_at_hand_is_answered_without_a_task() -> None:
    async with served_http(*API) as it:
        await it.rig.there("k", b"there")
        assert await it.rig.get("k") == b"there"
        reader, writer = await asyncio.open_unix_connection(it.path)
        for _ in range(MANY):
            writer.write(GET % b"k")
            assert b" 200 OK" in await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(5) == b"there"
        writer.write(b"HEAD" + HEALTH[3:])
        assert b" 200 OK" in await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET /none HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b" 404 " in await reader.readuntil(b"}")
        assert tasks_of(it) == 0
        # Of many requests that nobody has taken, as it thinks, aiohttp's parser would give the first of these only.
        writer.write(HEALTH + HEALTH)
        for _ in range(2):
            await reader.readuntil(b'"ok"}')
        await leave(it, writer)
        assert it.door.stats.requests == MANY + 4


async def test_what_has_to_wait_goes_on_in_a_task() -> None:
    async with served_http(*API) as it:
        await it.rig.there("k", b"there")
        gate = it.rig.origin.hold("open")
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(GET % b"k")
        await gate.reached.wait()
        writer.write(HEALTH)  # waits for its turn, however quick it would be
        await settle()
        gate.open()
        answer = await reader.readuntil(b'"ok"}')
        assert answer.index(b"there") < answer.index(b'"ok"')
        assert tasks_of(it) == 2
        writer.write(HEALTH)
        await reader.readuntil(b'"ok"}')
        await leave(it, writer)
        assert tasks_of(it) == 2


async def test_what_comes_with_something_else_or_is_no_read_takes_its_way() -> None:
    async with served_http(*API) as it:
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(HEALTH + HEALTH)
        for _ in range(2):
            await reader.readuntil(b'"ok"}')
        assert tasks_of(it) == 2
        writer.write(b"PUT /v1/objects/k HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
        assert b" 200 OK" in await reader.readuntil(b"}")
        writer.write(b"GET /v1/health HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
        await reader.readuntil(b'"ok"}')
        assert tasks_of(it) == 4
        writer.write(b"GET /v1/health HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await reader.readuntil(b'"ok"}')
        assert tasks_of(it) == 5
        await leave(it, writer)


async def test_a_request_in_two_pieces_and_the_beginning_of_another_behind_it() -> None:
    async with served_http(*API) as it:
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(HEALTH[:20])
        connection = await eventually(lambda: next(iter(it.door._connections), None))
        await eventually(lambda: connection._head_since is not None)
        writer.write(HEALTH[20:] + HEALTH[:20])
        await reader.readuntil(b'"ok"}')
        assert connection._head_since is None
        writer.write(HEALTH[20:])
        await reader.readuntil(b'"ok"}')
        await leave(it, writer)
        assert tasks_of(it) == 0


async def test_every_answer_puts_off_the_end_of_a_silent_connection() -> None:
    async with served_http(*API) as it:
        reader, writer = await asyncio.open_unix_connection(it.path)
        connection = await eventually(lambda: next(iter(it.door._connections), None))
        connection._next_keepalive_close_time = 0.0
        writer.write(HEALTH)
        await reader.readuntil(b'"ok"}')
        put_off_to = connection._next_keepalive_close_time
        await leave(it, writer)
        assert put_off_to > 0.0


async def test_a_connection_ends_when_its_peer_wants_it() -> None:
    async with served_http(*API) as it:
        answer = await it.raw(HEALTH.replace(b"Host: h", b"Host: h\r\nConnection: close"))
        assert answer.endswith(b'"ok"}')
        assert b"Connection: close\r\n" in answer
        assert tasks_of(it) == 0


async def test_an_answer_that_was_begun_for_a_peer_that_has_gone_is_ended() -> None:
    """Before aiohttp had a turn to go on with it."""
    async with served_http(*API) as it:
        await it.rig.there("k", b"there")
        gate = it.rig.origin.hold("open")
        connection = it.door._server()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            connection.connection_made(FakeTransport(ours))
            connection.data_received(GET % b"k")
            was_serving = connection.is_serving
            connection.connection_lost(None)
        assert was_serving
        await eventually(lambda: not connection.is_serving)
        await eventually(lambda: not it.door._running)
        assert tasks_of(it) == 0
        gate.open()


async def test_a_peer_that_does_not_read_is_not_answered_for_ever() -> None:
    async with served_http(*API) as it:
        await it.rig.there("k", bytes(LARGE_BYTES))
        await it.rig.get("k")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(it.path)
            for _ in range(MANY):
                peer.send(GET % b"k")
                await settle()
            connection = next(iter(it.door._connections))
            assert connection.is_stalled
            assert it.door.stats.requests < MANY
            assert connection.transport.get_write_buffer_size() < 4 * LARGE_BYTES
        await eventually(lambda: not it.door.connections)
