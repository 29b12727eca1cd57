"""Cold reads through a daemon from an S3 server, beside the SDKs' own reads of the same server.

Cold is what the daemon has never seen: each turn puts new objects into the bucket, behind the daemon's back and before
the clock starts. They carry the digest that a daemon writes, so ours are verified on the way.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import io
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from itertools import count
from typing import Any

from benchmarks.daemon import Daemon
from benchmarks.data import KIB, MIB, keys, payload, size_text
from benchmarks.field import Field, Placement, Turn, Values
from benchmarks.s3server import BUCKET, S3Server
from benchmarks.samples import Summary, summary
from benchmarks.table import OURS, Check, Row, at_least, at_most, ratio
from tiered_store import AsyncClient

__all__ = ["s3_crowd", "s3_large", "s3_small"]

_LARGE, _SMALL = 64 * MIB, 16 * KIB
_GETS, _IN_FLIGHT, _CALLS = 2000, 64, 32
_READERS, _CONNECTIONS = 1000, 100
_DOWNLOAD, _GET, _HTTP = "boto3 download_fileobj", "boto3 get_object", "http.client, signed before"
_SHARED, _PER_CALL, _COLD = "aioboto3, one client", "aioboto3, a client per call", "the same, cold"
_ONE, _WARM = "one reader", "as many of a warm one"
#: Nothing is to be evicted meanwhile.
_ROOM: dict[str, dict[str, object]] = {"memory": {"max_bytes": 1024 * MIB}, "disk": {"max_bytes": 8 * 1024 * MIB}}

_numbers = count()
#: Makes all preparations for reading the object of this name; what it gives does the reading.
Prepare = Callable[[str], Callable[[], object]]


class _EnoughError(Exception):
    """The first bytes are here; no more are wanted."""


def s3_large(field: Field) -> list[Row]:
    """A cold 64 MiB: until all of it is here, and until its first bytes are."""
    server = field.s3_server()
    if server is None:
        return []
    with field.running("s3-large", server.settings() | _ROOM) as daemon, daemon.answering_from("origin"):
        return _whole(field, server, daemon) + _first_byte(field, server, daemon)


def _whole(field: Field, server: S3Server, daemon: Daemon) -> list[Row]:
    def download(name: str) -> io.BytesIO:
        server.client.download_fileobj(BUCKET, name, into := io.BytesIO())
        return into

    def in_one(name: str) -> bytes:
        found: bytes = server.client.get_object(Bucket=BUCKET, Key=name)["Body"].read()
        return found

    def targets(values: Values) -> list[Check]:
        return [at_most(f"x {_DOWNLOAD}", ratio(values, _DOWNLOAD), 1.0)]

    turn = partial(_cold_turn, server, daemon)
    turns: dict[str, Turn | None] = {
        OURS: turn(lambda name: partial(daemon.client.get, name)),
        _DOWNLOAD: turn(lambda name: partial(download, name)),
        _GET: turn(lambda name: partial(in_one, name)),
    }
    title = f"cold get {size_text(_LARGE)} from S3, whole"
    return field.compare(title, turns, decides=Placement.SCHEDULER, targets=targets, unit="ms")


def _first_byte(field: Field, server: S3Server, daemon: Daemon) -> list[Row]:
    def ours(name: str) -> None:
        def enough(_: bytes) -> None:
            raise _EnoughError

        with suppress(_EnoughError):
            daemon.client.get_into(name, enough)

    def sdk(name: str) -> None:
        with server.client.get_object(Bucket=BUCKET, Key=name)["Body"] as body:
            body.read(1)

    def plain(name: str) -> Callable[[], None]:
        path = server.signed_path(name)
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        connection.connect()

        def read() -> None:
            connection.request("GET", path)
            with connection.getresponse() as response:
                response.read(1)
            connection.close()

        return read

    def targets(values: Values) -> list[Check]:
        return [at_most(f"x {_GET}", ratio(values, _GET), 1.3)]

    turn = partial(_cold_turn, server, daemon)
    turns: dict[str, Turn | None] = {
        OURS: turn(lambda name: partial(ours, name)),
        _GET: turn(lambda name: partial(sdk, name)),
        _HTTP: turn(plain),
    }
    title = f"cold get {size_text(_LARGE)} from S3, first byte"
    return field.compare(title, turns, decides=Placement.SCHEDULER, targets=targets, unit="ms")


def _cold_turn(server: S3Server, daemon: Daemon, prepare: Prepare) -> Turn:
    """One read of an object that nobody has read before. What it gives, if anything, is compared afterwards."""
    data = payload(_LARGE)
    digest = hashlib.sha256(data).hexdigest()

    def turn() -> float:
        name = f"cache/bench/cold/{next(_numbers)}"
        server.store(name, data, digest)
        read = prepare(name)
        start = time.perf_counter()
        found = read()
        spent = time.perf_counter() - start
        whole = found.getvalue() if isinstance(found, io.BytesIO) else found
        if whole is not None and whole != data:
            raise ValueError("a cold read gives other bytes than the bucket has")
        daemon.client.delete(name)
        return spent

    return turn


def s3_small(field: Field) -> list[Row]:
    """2,000 cold gets of 16 KiB, 64 in flight, beside the SDK's client that has no daemon; and the same warm."""
    server = field.s3_server()
    if server is None:
        return []
    gets = field.scale.count(_GETS)
    with field.running("s3-small", server.settings() | _ROOM) as daemon:
        crowd = _SmallGets(server, daemon, gets)
        with daemon.answering_from("origin"):
            rows = _small_cold(field, crowd, gets)
        cold = {row.placement: row.values[OURS] for row in rows}
        with daemon.answering_from("memory"):
            return rows + _small_warm(field, crowd, gets, cold)


class _SmallGets:
    """So many gets of as many objects; every contestant is an event loop of its own with so many gets in flight."""

    def __init__(self, server: S3Server, daemon: Daemon, gets: int) -> None:
        self._server, self._daemon, self._gets = server, daemon, gets
        self._data = payload(_SMALL)
        self._names: list[str] = []

    def cold(self) -> float:
        """Of new objects, through the daemon."""
        if self._names:
            self._server.remove(self._names)
        self._names = keys(self._gets, f"cache/bench/cold/{next(_numbers)}")
        self._server.store_many(self._names, self._data, hashlib.sha256(self._data).hexdigest())
        return self.warm()

    def warm(self) -> float:
        """Of those that are known by now."""
        return asyncio.run(self._ours())

    async def _ours(self) -> float:
        async with AsyncClient(socket_path=str(self._daemon.socket_path), timeout_s=120.0) as client:
            await client.ping()
            return await self._crowd(client.get, self._names)

    def shared(self) -> float:
        """Through one client of the SDK, which has as many connections."""
        return asyncio.run(self._shared())

    async def _shared(self) -> float:
        async with self._client() as client:
            return await self._crowd(partial(_read, client), self._names)

    def per_call(self) -> float:
        """Fewer of them, with a client for each: seconds for as many as the others do."""
        names = self._names[:_CALLS]

        async def get(name: str) -> bytes:
            async with self._client() as client:
                return await _read(client, name)

        return asyncio.run(self._crowd(get, names)) * self._gets / len(names)

    def _client(self) -> Any:
        return _session().client("s3", **self._server.client_arguments(), config=_async_config(self._server))

    async def _crowd(self, get: Callable[[str], Awaitable[bytes]], names: Sequence[str]) -> float:
        rest = iter(names)

        async def reader() -> None:
            for name in rest:
                if await get(name) != self._data:
                    raise ValueError("a read gives other bytes than the bucket has")

        start = time.perf_counter()
        await asyncio.gather(*(reader() for _ in range(_IN_FLIGHT)))
        return time.perf_counter() - start


async def _read(client: Any, name: str) -> bytes:
    answer = await client.get_object(Bucket=BUCKET, Key=name)
    async with answer["Body"] as body:
        data: bytes = await body.read()
    return data


def _small_cold(field: Field, crowd: _SmallGets, gets: int) -> list[Row]:
    def targets(values: Values) -> list[Check]:
        return [
            at_least(f"x the rate of {_PER_CALL}", _speed(values, _PER_CALL), 1.5),
            at_least(f"x the rate of {_SHARED}", _speed(values, _SHARED), 0.9),
        ]

    crowd.cold()  # names for whoever begins; the clients' code is loaded, and the daemon has its connections
    turns: dict[str, Turn | None] = {OURS: crowd.cold, _SHARED: crowd.shared, _PER_CALL: crowd.per_call}
    title = f"{gets:,} cold gets of {size_text(_SMALL)} from S3, {_IN_FLIGHT} in flight, per get"
    return field.compare(title, turns, decides=Placement.SCHEDULER, targets=targets, per=gets)


def _small_warm(field: Field, crowd: _SmallGets, gets: int, cold: dict[str, Summary | None]) -> list[Row]:
    rows = field.compare(
        f"{gets:,} gets of {size_text(_SMALL)}, {_IN_FLIGHT} in flight, per get, memory hit",
        {OURS: crowd.warm},
        decides=Placement.SCHEDULER,
        targets=lambda _: (),
        per=gets,
    )
    for number, row in enumerate(rows):
        values = {OURS: row.values[OURS], _COLD: cold[row.placement]}
        checks = [at_least("x the cold rate", _speed(values, _COLD), 20)]
        is_judged = row.placement == Placement.SCHEDULER.value
        rows[number] = Row(row.work, row.placement, row.unit, values, checks if is_judged else ())
    return rows


def _speed(values: Values, name: str) -> float | None:
    """Our rate over another's, of what is measured as time."""
    time_ratio = ratio(values, name)
    return 1 / time_ratio if time_ratio else None


def s3_crowd(field: Field) -> list[Row]:
    """1,000 readers of one cold 64 MiB, beside one reader of another, and as many of one that is there already.

    The last is what the machine asks of so many readers, wherever the bytes come from: a request, a reply, a map and
    its first pages for each. No reader copies, so nothing of it is the memory's bandwidth.
    """
    server = field.s3_server()
    if server is None:
        return []
    found: dict[str, list[float]] = {OURS: [], _ONE: [], _WARM: []}
    reads, sent = [], []
    data = payload(_LARGE)
    digest = hashlib.sha256(data).hexdigest()
    with field.running("s3-crowd", {**server.settings(), **_ROOM}) as daemon:
        for _ in range(field.scale.rounds):
            for name, readers in ((_ONE, 1), (OURS, _READERS)):
                key = f"cache/bench/cold/{next(_numbers)}"
                server.store(key, data, digest)
                before, sent_before = daemon.stats()["origin"]["hits"], server.sent_bytes()
                found[name].append(asyncio.run(_crowd(daemon, key, readers, data)))
                reads.append(daemon.stats()["origin"]["hits"] - before)
                sent.append((server.sent_bytes() - sent_before) / len(data))
                if name == OURS:
                    found[_WARM].append(asyncio.run(_crowd(daemon, key, readers, data)))
                daemon.client.delete(key)
    values: dict[str, Summary | None] = {name: summary(spent) for name, spent in found.items()}
    one, warm = summary(found[_ONE]).median, summary(found[_WARM]).median
    checks = [
        at_most("origin reads", max(reads), 1),
        at_most("x the object sent by the server", max(sent), 1.05),
        at_most(f"x {_ONE}, less {_WARM}", (summary(found[OURS]).median - warm) / one, 1.5),
    ]
    title = f"{_READERS:,} readers of one cold {size_text(_LARGE)} object in S3, {_CONNECTIONS} connections"
    return [Row(title, Placement.SCHEDULER.value, "s", values, checks)]


async def _crowd(daemon: Daemon, key: str, readers: int, data: bytes) -> float:
    """Seconds until the last of them has a view of all of it, and has looked at both ends."""
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(min(readers, _CONNECTIONS)):
            client = AsyncClient(socket_path=str(daemon.socket_path), timeout_s=120.0)
            clients.append(await stack.enter_async_context(client))
            await client.ping()

        async def reader(client: AsyncClient) -> None:
            with await client.get_view(key) as view:
                if len(view) != len(data) or view[:64] != data[:64] or view[-64:] != data[-64:]:
                    raise ValueError("a reader got other bytes than the bucket has")

        start = time.perf_counter()
        await asyncio.gather(*(reader(clients[number % len(clients)]) for number in range(readers)))
        return time.perf_counter() - start


def _session() -> Any:
    import aioboto3

    return aioboto3.Session()


def _async_config(server: S3Server) -> Any:
    from aiobotocore.config import AioConfig

    return AioConfig(**server.config_arguments())
