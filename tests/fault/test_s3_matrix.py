"""Every fault between the daemon and an S3 server, for every kind of request, with small objects and with large ones.

In each cell the answer is right or an error of the store's, in time; nothing is left behind; and once the fault is
gone the next request works. The daemon is in this process, so that its tasks and descriptors can be counted.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.faultproxy import FaultProxy
from tests.support.links import until
from tests.support.matrix import Subject, direct, subject
from tests.support.origins import NOTHING_SAID, list_all, put_all, read_all
from tests.support.processes import MIB
from tests.support.s3 import PROGRAMS, S3Server, shared_server
from tests.support.s3faults import FAULTS, HARMLESS, HOPELESS, PARTIAL
from tiered_store import AsyncClient, IntegrityError, OriginUnavailable, StoreError
from tiered_store.origins.s3 import S3Origin
from tiered_store.origins.s3settings import S3Settings

SMALL, ONE_PART, LARGE = 1024, 5 * MIB, 16 * MIB
#: More than one page.
MANY = 1005
#: What a caller waits during a fault, in seconds; where all must go well, as long as it takes on a busy machine.
PATIENCE_S, MUCH_PATIENCE_S = 1.5, 60.0
#: After this a request counts as hanging.
HANGING_S = 20.0
#: A cell in which the fault met nothing that it changes.
UNTOUCHED = "untouched"


@dataclass(frozen=True)
class World:
    """What one request finds, the bucket behind all that is between, and the versions before and after a put."""

    client: AsyncClient
    bucket: S3Origin
    old: bytes
    new: bytes


def some(seed: str, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


COLD = {"cold/small": some("small", SMALL), "cold/large": some("large", LARGE)}
FEW = [f"few/{number}" for number in range(3)]
LONG = [f"long/{number:04}" for number in range(MANY)]
PREFIX = [f"gone/all/{number}" for number in range(5)]
PUTS = {"put/small": SMALL, "put/one-part": ONE_PART, "put/parts": LARGE}


async def get(world: World, key: str) -> None:
    assert await world.client.get(key) == COLD[key]


async def put(world: World, key: str) -> None:
    info = await world.client.put(key, world.new, metadata={"is": "new"})
    assert info.size == len(world.new)
    assert await read_all(world.bucket, key) == world.new


async def listing(world: World, names: list[str]) -> None:
    prefix = names[0].partition("/")[0] + "/"
    assert [info.key async for info in world.client.list(prefix)] == names


async def delete(world: World, _: str) -> None:
    await world.client.delete("gone/one")
    assert "gone/one" not in await list_all(world.bucket, "gone/")


async def delete_prefix(world: World, _: str) -> None:
    await world.client.delete_prefix("gone/all/")
    assert await list_all(world.bucket, "gone/all/") == []


#: Each makes its request and judges the answer.
REQUESTS: dict[str, tuple[Callable[[World, Any], Awaitable[None]], Any]] = {
    "get small": (get, "cold/small"),
    "get large": (get, "cold/large"),
    "put small": (put, "put/small"),
    "put one part": (put, "put/one-part"),
    "put in parts": (put, "put/parts"),
    "list a page": (listing, FEW),
    "list pages": (listing, LONG),
    "delete": (delete, ""),
    "delete prefix": (delete_prefix, ""),
}


class Tally:
    """How the cells went."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], str] = {}

    def lines(self) -> Iterator[str]:
        """All that there is to say, a line for each fault."""
        outcomes = Counter(self.cells.values())
        right, untouched = outcomes["right"], outcomes[UNTOUCHED]
        errors = len(self.cells) - right - untouched
        yield f"S3 fault matrix: {len(self.cells)} cells, {right} right, {errors} errors, {untouched} {UNTOUCHED}"
        for fault in dict.fromkeys(fault for fault, _ in self.cells):
            outcomes = Counter(outcome for (row, _), outcome in self.cells.items() if row == fault)
            yield f"  {fault}: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    tally = Tally()
    yield tally
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("", *tally.lines(), sep="\n")


@pytest.fixture(scope="module")
def server() -> S3Server:
    return shared_server(os.environ.get("MATRIX_S3", PROGRAMS[0]))


@pytest.fixture(scope="module")
def settings(server: S3Server) -> S3Settings:
    """A bucket with what is read and listed, and never changed."""
    settings = replace(server.settings(part_bytes=ONE_PART), read_timeout_s=10.0)

    async def fill() -> None:
        async with direct(settings) as bucket:
            for key, data in COLD.items():
                await bucket.put(key, data, NOTHING_SAID)
            await put_all(bucket, FEW + LONG)

    asyncio.run(fill())
    return settings


async def a_world(bucket: S3Origin, client: AsyncClient, request: str) -> World:
    """An old version of what will be overwritten, which the daemon has seen; what will be deleted."""
    about = REQUESTS[request][1]
    world = World(client, bucket, some("old", 2000), some(request, PUTS[about]) if request.startswith("put") else b"")
    if world.new:
        await client.put(about, world.old)
    elif "delete" in request:
        await put_all(bucket, ["gone/one", *PREFIX])
    return world


async def outcome_of(world: World, request: str) -> str:
    """What the caller is told; a wrong answer, or none within all bounds, fails the test."""
    ask, about = REQUESTS[request]
    try:
        async with asyncio.timeout(HANGING_S):
            await ask(world, about)
    except StoreError as error:
        return type(error).__name__
    return "right"


async def heal(world: World, proxy: FaultProxy, request: str) -> None:
    """The fault is gone: what is there is whole, and the request works (a breaker may take a moment to see that)."""
    proxy.set()
    key = REQUESTS[request][1]
    async with asyncio.timeout(HANGING_S):
        if request.startswith("put"):
            await settled(world, key)
        while await outcome_of(world, request) != "right":
            await asyncio.sleep(0.05)
    if request.startswith("put"):
        assert await world.client.get(key) == world.new


async def settled(world: World, key: str) -> None:
    """Wait until what a put has left is one of the two versions, whole.

    A server that lost its client may need a moment. rclone's shows the beginning of the old version meanwhile, as long
    as the new one; nor does it hold bytes against their signature, but what it then has is given to nobody.
    """
    while True:
        try:
            if await read_all(world.bucket, key) in {world.old, world.new}:
                return
        except IntegrityError:
            return
        except OriginUnavailable:
            pass
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_request(fault: str, tmp_path: Path, server: S3Server, settings: S3Settings, tally: Tally) -> None:
    proxy = FaultProxy(server.port)
    try:
        async with subject(tmp_path / "d", settings, proxy) as daemon, direct(settings) as bucket:
            outcomes = {request: await cell(daemon, bucket, proxy, fault, request) for request in REQUESTS}
        tally.cells |= {(fault, request): outcome for request, outcome in outcomes.items()}
        if fault in HARMLESS:
            assert set(outcomes.values()) == {"right"}, outcomes
        if fault in HOPELESS:
            assert "right" not in outcomes.values(), outcomes
    finally:
        proxy.close()


async def cell(daemon: Subject, bucket: S3Origin, proxy: FaultProxy, fault: str, request: str) -> str:
    """One request during one fault, and what follows; what its caller was told."""
    patience_s = MUCH_PATIENCE_S if fault in HARMLESS else PATIENCE_S
    async with (
        AsyncClient(daemon.socket_path) as client,
        AsyncClient(daemon.socket_path, timeout_s=patience_s) as hasty,
    ):
        world = await a_world(bucket, client, request)
        bitten = proxy.bitten
        proxy.set(FAULTS[fault])
        outcome = await outcome_of(replace(world, client=hasty), request)
        if proxy.bitten == bitten and outcome != "DeadlineExceeded":  # there was nothing for the fault to change
            assert (outcome, fault in PARTIAL) == ("right", True), (request, outcome)
            outcome = UNTOUCHED
        assert outcome != "StoreError", "an error that nobody has thought of"
        await heal(world, proxy, request)
    await nothing_left(daemon, request)
    return outcome


async def nothing_left(daemon: Subject, request: str) -> None:
    """Work for a request that has been answered may go on for a moment, but no longer."""
    try:
        async with asyncio.timeout(HANGING_S):
            await until(lambda: not daemon.left_behind())
    except TimeoutError:
        raise AssertionError(f"after {request}: {daemon.left_behind()}") from None
