"""Peers that break the rules of HTTP, or bend them: each costs itself its connection, and nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import pytest

from tests.support.doors import eventually
from tests.support.faults import FakeDisk
from tests.support.http import ServedHttp, served_http
from tests.support.store import settle, until
from tiered_store.servers.http.api import api_mounts
from tiered_store.servers.http.limits import HttpLimits
from tiered_store.store.limits import StoreLimits

API = api_mounts(dict)
GET = b"GET /v1/health HTTP/1.1\r\nHost: h\r\n\r\n"
PUT = b"PUT /v1/objects/k HTTP/1.1\r\nHost: h\r\n"
LARGE = bytes(range(256)) * 4000
PATIENT = HttpLimits(stall_timeout_s=0.05)


def statuses(answer: bytes) -> list[int]:
    """Of all answers in what a connection gave."""
    return [int(part[:3]) for part in answer.replace(b"HTTP/1.0 ", b"HTTP/1.1 ").split(b"HTTP/1.1 ")[1:]]


async def only_connection(it: ServedHttp):
    (connection,) = await eventually(lambda: it.door._connections)
    return connection


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v1/health",
        b"GET /v1/health ",
        b"GET /v1/health HTTP/0.9",
        b"GET /v1/health HTTP/2.0",
        b"GET /v1/health HTTP/1.2",
        b"GET /v1/health HTTP/3",
        b"GET /v1/health HTTP/11.1",
        b"PRI * HTTP/2.0",
        b"OPTIONS /v1/health HTTP/0.9",
    ],
)
async def test_versions_that_are_not_spoken_here(line: bytes) -> None:
    async with served_http(*API, cors_origins=["https://a.example"]) as it:
        answer = await it.raw(
            line + b"\r\nOrigin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n\r\n" + GET
        )
        assert statuses(answer) == [400]
        assert b'status": "ok' not in answer


async def test_a_line_without_a_version_and_nothing_else() -> None:
    async with served_http(*API) as it:
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(b"GET /v1/health\r\n\r\n")
        assert statuses(await reader.read()) == [400]
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"Content-Length: +5\r\n\r\nhello",
        b"Content-Length: 5, 5\r\n\r\nhello",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 99999999999999999999999\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b" folded: x\r\n\r\n",
        b"no colon\r\n\r\n",
        b"a\x00b: c\r\n\r\n",
        b"a: b\x00c\r\n\r\n",
        b"a: b\rX: c\r\n\r\n",
        b": nameless\r\n\r\n",
    ],
)
async def test_what_two_readers_could_take_for_two_things_ends_the_connection(head: bytes) -> None:
    """No request that is hidden behind it is answered."""
    async with served_http(*API) as it:
        answer = await it.raw(PUT + head + GET * 2)
        assert statuses(answer) == [400]
        assert b"application/problem+json" in answer
        assert b"Server: tiered_store\r\n" in answer  # and not what it is made of, with all versions
        assert (await it.ask("GET", "/v1/objects/k")).status == 404


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431),
        (b"GET /v1/health HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 431),
        (b"GET /v1/health HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 500 + b"\r\n", 400),
        (b"GET /v1/health HTTP/3.7\r\nHost: h\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100, 400),
        (b"GE\x00T /v1/health HTTP/1.1\r\n\r\n", 400),
        (b"CONNECT host:443 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 400),
        (b"GET nonsense HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET http://u@h/v1/health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 400),
        (b"GET http://h/v1/health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 200),
        (b"GET /v1/health HTTP/1.0\r\n\r\n", 200),
        (b"GET /v1/health HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 400),
    ],
)
async def test_requests_that_are_none_and_some_odd_ones_that_are(data: bytes, status: int) -> None:
    async with served_http(*API) as it:
        assert statuses(await it.raw(data)) == [status]


async def test_requests_in_one_piece_are_answered_in_order() -> None:
    async with served_http(*API) as it:
        await it.rig.there("a", b"first")
        last = b"GET /v1/objects/none HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        answer = await it.raw(b"GET /v1/objects/a HTTP/1.1\r\nHost: h\r\n\r\n" + GET + last)
        assert statuses(answer) == [200, 200, 404]
        assert answer.index(b"first") < answer.index(b'"ok"') < answer.index(b"NotFound")


async def test_an_old_client_may_keep_its_connection() -> None:
    async with served_http(*API) as it:
        request = b"GET /v1/health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        answer = await it.raw(request + request.replace(b"keep-alive", b"close"))
        assert statuses(answer) == [200, 200]
        assert answer.count(b"Connection: keep-alive") == 1


async def test_a_peer_that_waits_to_be_asked_for_its_body() -> None:
    async with served_http(*API) as it:
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(PUT + b"Content-Length: 5\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        assert statuses(await reader.read()) == [200]
        writer.close()
        assert await it.rig.get("k") == b"hello"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 5\r\nExpect: miracles\r\n", 417),
        (b"Content-Length: 5\r\nContent-Encoding: gzip\r\n", 415),
        (b"Content-Length: 101\r\nExpect: 100-continue\r\n", 413),
        (b"Content-Length: 5\r\nContent-Range: bytes 0-4/10\r\n", 400),
        (b"Content-Length: 5\r\nx-meta-a: " + b"a" * 900 + b"\r\n", 431),
    ],
)
async def test_bodies_that_are_refused_before_they_come(head: bytes, status: int) -> None:
    limits = HttpLimits(max_metadata_bytes=256)
    async with served_http(*API, limits=limits, store_limits=StoreLimits(max_object_bytes=100)) as it:
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(PUT + head + b"\r\n")
        assert statuses(await reader.readuntil(b"\r\n\r\n")) == [status]
        writer.close()


async def test_a_body_without_a_size_is_bounded_too() -> None:
    async with served_http(*API, store_limits=StoreLimits(max_object_bytes=100)) as it:
        head = PUT + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk, end = b"32\r\n" + b"x" * 50 + b"\r\n", b"0\r\n\r\n"
        assert statuses(await it.raw(head + chunk * 3 + end)) == [413]
        assert statuses(await it.raw(head + chunk * 2 + end)) == [200]
        assert await it.rig.get("k") == b"x" * 100


@pytest.mark.parametrize("chunk", [b"zz\r\nx", b"-1\r\nx", b"5\r\nhellooo\r\n", b"ffffffffffffffffff\r\nx"])
async def test_chunks_that_are_none_leave_nothing(chunk: bytes, tmp_path) -> None:
    async with served_http(*API, disk=FakeDisk(tmp_path)) as it:
        lead = b"%x\r\n" % len(LARGE) + LARGE + b"\r\n"
        answer = await it.raw(PUT + b"Transfer-Encoding: chunked\r\n\r\n" + lead + chunk + GET)
        assert statuses(answer)[:1] in ([400], [])
        await until(lambda: it.rig.disk.spools == 0)
        assert (await it.ask("GET", "/v1/objects/k")).status == 404


@pytest.mark.parametrize(
    ("size", "sent"), [(10, b""), (10, b"x"), (10_000_000, b""), (10_000_000, b"x"), (10_000_000, LARGE)]
)
async def test_a_body_that_ends_early_leaves_nothing(size: int, sent: bytes, tmp_path) -> None:
    async with served_http(*API, disk=FakeDisk(tmp_path)) as it:
        _, writer = await asyncio.open_unix_connection(it.path)
        writer.write(PUT + b"Content-Length: %d\r\n\r\n" % size + sent)
        await writer.drain()
        connection = await only_connection(it)
        await eventually(lambda: connection.is_serving)
        writer.close()
        await eventually(lambda: not it.door.connections)
        await until(lambda: it.rig.disk.spools == 0)
        assert it.rig.origin.calls["put"] == 0
        assert (await it.ask("GET", "/v1/objects/k")).status == 404


@pytest.mark.parametrize("sent", [b"x", LARGE])
async def test_a_body_that_stalls_is_given_up(sent: bytes, tmp_path) -> None:
    async with served_http(*API, limits=PATIENT, disk=FakeDisk(tmp_path)) as it:
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(PUT + b"Content-Length: 10000000\r\n\r\n" + sent)
        answer = await reader.readuntil(b"}")
        assert statuses(answer) == [408]
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "DeadlineExceeded"
        writer.close()
        await until(lambda: it.rig.disk.spools == 0)


async def test_headers_that_do_not_end_are_given_up() -> None:
    async with served_http(*API) as it:
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(b"GET /v1/health HTTP/1.1\r\nHost:")
        connection = await only_connection(it)
        await eventually(lambda: connection._head_since is not None)
        now = asyncio.get_running_loop().time()
        for second in range(10):  # a byte now and then does not help
            writer.write(b" ")
            await settle()
            connection.check(now + second)
        assert it.door.connections == 1
        connection.check(now + 11)
        assert statuses(await reader.read()) == [408]
        writer.close()


async def test_a_connection_that_answered_well_is_not_taken_for_one_that_owes_headers() -> None:
    async with served_http(*API) as it:
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(GET)
        await reader.readuntil(b"}")
        connection = await only_connection(it)
        connection.check(asyncio.get_running_loop().time() + 60)
        writer.write(GET)
        assert statuses(await reader.readuntil(b"}")) == [200]
        writer.close()


async def test_the_rest_of_a_body_that_was_refused_is_not_taken_for_headers() -> None:
    async with served_http(*API) as it:
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(PUT + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\n")
        assert statuses(await reader.readuntil(b"}")) == [415]
        writer.write(b"he")
        connection = await only_connection(it)
        await settle()
        writer.write(b"llo")
        await eventually(lambda: connection._waiter is not None)
        connection.check(asyncio.get_running_loop().time() + 11)
        writer.write(b"GET")
        await eventually(lambda: connection._head_since is not None)
        writer.write(GET[3:])
        assert statuses(await reader.readuntil(b"}")) == [200]
        writer.close()


async def test_a_connection_that_asks_nothing_is_closed() -> None:
    async with served_http(*API, limits=HttpLimits(keepalive_timeout_s=0.05)) as it:
        assert await it.raw(b"") == b""
        assert (await it.ask("GET", "/v1/health")).status == 200


FIELDS = b"".join(b"X-%d: %s\r\n" % (number, b"a" * 1000) for number in range(90))


@pytest.mark.parametrize("size", [200, 5_000, 1_000_000])
async def test_headers_that_are_too_large_together(size: int) -> None:
    """Each of them is within its bound."""
    async with served_http(*API) as it:
        reader, writer = await asyncio.open_unix_connection(str(it.path))
        head = GET.removesuffix(b"\r\n") + FIELDS + b"\r\n"
        for start in range(0, len(head), size):
            if not writer.is_closing():
                writer.write(head[start : start + size])
            await asyncio.sleep(0)
        said = b"HTTP/1.1 431"
        with contextlib.suppress(ConnectionError):  # whoever still sends may miss the answer
            said = await asyncio.wait_for(reader.read(), 10)
        assert statuses(said) == [431]
        writer.close()
        assert (await it.ask("GET", "/v1/health")).status == 200


async def test_as_much_metadata_as_there_may_be_is_not_too_large() -> None:
    async with served_http(*API) as it:
        named = {f"x-meta-{number}": "%C3%A9" * 1200 for number in range(6)}
        assert (await it.ask("PUT", "/v1/objects/k", b"x", **named)).status == 200


async def test_headers_that_are_too_large_behind_a_request_that_is_answered() -> None:
    """They are not collected, and not answered into the middle of what is being said."""
    async with served_http(*API) as it:
        await it.rig.there("k", LARGE)
        reader, writer = await asyncio.open_unix_connection(str(it.path), limit=1024)
        writer.write(b"GET /v1/objects/k HTTP/1.1\r\nHost: h\r\n\r\n")
        connection = await only_connection(it)
        await eventually(lambda: connection.is_serving)
        for _ in range(40):
            writer.write(GET.removesuffix(b"\r\n") + FIELDS + b"\r\n")
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await asyncio.wait_for(reader.read(), 10)
        assert b"431" not in answer.partition(b"\r\n\r\n")[0]
        assert not it.door._connections
        writer.close()


async def test_a_body_is_no_header_however_its_pieces_fall() -> None:
    async with served_http(*API) as it:
        body = b"x" * 200_000
        put = b"PUT /v1/objects/k HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n" + body
        for size in (1_000, 40_000, 300_000):
            reader, writer = await asyncio.open_unix_connection(str(it.path))
            twice = put + put + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            for start in range(0, len(twice), size):
                writer.write(twice[start : start + size])
                await asyncio.sleep(0)
            assert statuses(await asyncio.wait_for(reader.read(), 10)) == [200, 200, 200]
            writer.close()


async def test_a_peer_that_does_not_read_is_cut_off_and_one_that_reads_slowly_is_not() -> None:
    async with served_http(*API, memory_bytes=256 * 1024 * 1024) as it:
        await it.rig.there("k", LARGE * 20)
        await it.rig.get("k")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(it.path)
            peer.setblocking(False)
            peer.send(b"GET /v1/objects/k HTTP/1.1\r\nHost: h\r\n\r\n")
            connection = await only_connection(it)
            await eventually(lambda: connection._stalled_since is not None)
            now = asyncio.get_running_loop().time()
            connection.check(now + 1)
            for step in range(1, 4):  # every piece that it reads gives it as much time again
                peer.recv(300_000)
                await settle(50)
                connection.check(now + 29 * step)
            assert it.door.connections == 1
            connection.check(now + 29 * 3 + 31)
            await eventually(lambda: not it.door.connections)


async def test_one_connection_too_many_is_told_so() -> None:
    async with served_http(*API, limits=HttpLimits(max_connections=1)) as it:
        reader, writer = await asyncio.open_unix_connection(it.path)
        writer.write(GET)
        await reader.readuntil(b"}")
        refused = await it.raw(b"")
        assert statuses(refused) == [503]
        assert b"http.max_connections" in refused
        writer.write(GET)
        assert statuses(await reader.readuntil(b"}")) == [200]
        writer.close()
        await eventually(lambda: not it.door.connections)
        assert (await it.ask("GET", "/v1/health")).status == 200
