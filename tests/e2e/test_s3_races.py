"""Changes at the origin while the daemon reads from it, by others and by its own clients; two daemons on one bucket."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.faultproxy import Fault, FaultProxy, Request
from tests.support.matrix import direct, s3_section
from tests.support.origins import NOTHING_SAID
from tests.support.processes import MIB
from tests.support.s3 import PROGRAMS, S3Server, shared_server
from tiered_store import Client, NotFound, StoreError
from tiered_store.origins.s3settings import S3Settings

Start = Callable[..., RunningDaemon]
KEY = "sessions/large"
#: Several ranges.
OLD, NEW = (random.Random(seed).randbytes(16 * MIB) for seed in ("old", "new"))
TTL_S = 1.0


@pytest.fixture(params=PROGRAMS)
def server(request: pytest.FixtureRequest) -> S3Server:
    return shared_server(str(request.param))


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    proxy = FaultProxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def settings(server: S3Server) -> S3Settings:
    return server.settings(part_bytes=5 * MIB)


def config_of(settings: S3Settings, proxy: FaultProxy, **policy: object) -> dict[str, Any]:
    waits = {"connect_timeout_s": 10, "read_timeout_s": 10}
    said: dict[str, Any] = {"origin": {"backend": "s3"}, "s3": s3_section(settings, proxy.url, **waits)}
    return said | ({"policies": [{"prefix": "sessions/", **policy}]} if policy else {})


def behind_its_back(settings: S3Settings, key: str, data: bytes) -> None:
    """Somebody else puts an object, as this program would."""

    async def put() -> None:
        async with direct(settings) as origin:
            await origin.put(key, data, NOTHING_SAID)

    asyncio.run(put())


def is_later_range(request: Request) -> bool:
    span = request.fields.get("range", "")
    return request.method == "GET" and bool(span) and not span.startswith("bytes=0-")


def interrupted(client: Client, proxy: FaultProxy, change: Callable[[], object]) -> bytes | StoreError:
    """Read the object; when its first bytes are here, and no more can come yet, do something. What the reader got."""
    moment = threading.Event()
    proxy.set(Fault(only=is_later_range, until=moment))
    pieces: list[bytes] = []

    def write(piece: bytes) -> None:
        pieces.append(piece)
        if not moment.is_set():
            change()
            moment.set()

    error = None
    try:
        client.get_into(KEY, write)
    except StoreError as caught:
        error = caught
    finally:
        proxy.set()
    assert moment.is_set(), f"it did not begin to read: {error}"
    return b"".join(pieces) if error is None else error


def test_an_overwrite_behind_the_daemons_back(daemon_factory: Start, settings: S3Settings, proxy: FaultProxy) -> None:
    """The reader has the beginning of a version that is no more: no end of another one is put behind it."""
    behind_its_back(settings, KEY, OLD)
    client = daemon_factory(config_of(settings, proxy)).client()
    got = interrupted(client, proxy, lambda: behind_its_back(settings, KEY, NEW))
    assert isinstance(got, StoreError), "the rest of the old version was nowhere to be had"
    assert got.retryable
    assert client.get(KEY) == NEW
    assert client.get(KEY) == NEW


def test_a_put_during_a_fill(daemon_factory: Start, settings: S3Settings, proxy: FaultProxy) -> None:
    behind_its_back(settings, KEY, OLD)
    daemon = daemon_factory(config_of(settings, proxy))
    got = interrupted(daemon.client(), proxy, lambda: daemon.client().put(KEY, NEW))
    assert got in {OLD, NEW} if isinstance(got, bytes) else got.retryable
    client = daemon.client()
    assert client.get(KEY) == NEW
    assert client.get(KEY, only_if_cached=True) == NEW


def test_a_delete_during_a_fill(daemon_factory: Start, settings: S3Settings, proxy: FaultProxy) -> None:
    behind_its_back(settings, KEY, OLD)
    daemon = daemon_factory(config_of(settings, proxy))
    got = interrupted(daemon.client(), proxy, lambda: daemon.client().delete(KEY))
    assert got == OLD if isinstance(got, bytes) else got.retryable
    client = daemon.client()
    for options in ({}, {"only_if_cached": True}):
        with pytest.raises(NotFound):
            client.get(KEY, **options)
    assert not client.exists(KEY)


def seen(client: Client, key: str) -> bytes | None:
    try:
        return client.get(key)
    except NotFound:
        return None


def assert_follows(client: Client, key: str, old: bytes | None, new: bytes | None, acknowledged_s: float) -> None:
    """The other daemon's change shows at the latest when the ttl is over, and what it showed once it keeps showing."""
    shown = False
    while True:
        asked_s = time.monotonic()
        found = seen(client, key)
        if found == new:
            if asked_s > acknowledged_s + TTL_S:
                return
            shown = True
            continue
        assert found == old, "neither the old version nor the new one"
        assert not shown, "the old version came back"
        assert asked_s <= acknowledged_s + TTL_S, "the old version, after its time to live"


@pytest.mark.parametrize("size", [500, 300_000])
def test_two_daemons_on_one_bucket(daemon_factory: Start, settings: S3Settings, proxy: FaultProxy, size: int) -> None:
    config = config_of(settings, proxy, ttl_s=TTL_S, negative_ttl_s=TTL_S)
    one, other = daemon_factory(config).client(), daemon_factory(config).client()
    versions = [random.Random(number).randbytes(size + number) for number in range(3)]
    key, before = "sessions/shared", None
    assert seen(other, key) is None
    for version in (*versions, None, versions[0]):
        if version is None:
            assert one.delete(key)
        else:
            one.put(key, version)
        acknowledged_s = time.monotonic()
        assert seen(one, key) == version  # its own writes it sees at once
        assert_follows(other, key, before, version, acknowledged_s)
        before = version


def test_the_other_daemons_old_version_is_never_a_new_one(
    daemon_factory: Start, settings: S3Settings, proxy: FaultProxy
) -> None:
    """Equal bytes with other metadata are another version, too."""
    config = config_of(settings, proxy, ttl_s=TTL_S)
    one, other = daemon_factory(config).client(), daemon_factory(config).client()
    for number in range(3):
        info = one.put("sessions/x", b"same bytes", metadata={"number": str(number)})
        acknowledged_s = time.monotonic()
        while True:
            asked_s, found = time.monotonic(), other.stat("sessions/x")
            if found.etag == info.etag:
                assert found.metadata == info.metadata
                break
            assert asked_s <= acknowledged_s + TTL_S
            assert found.metadata == {"number": str(number - 1)}
