"""Whole connections of the small doors, over a real store, under mutated commands and garbage.

The invariant, whatever one peer sends: no exception reaches the event loop, and none of ours ends a connection; when
the peer has said its last, the connection ends; nothing that was collected for it is left; and another connection on
the same door is answered correctly all the while.

`TIERED_STORE_FUZZ_S` sets how long each runs (3 seconds by default), `TIERED_STORE_FUZZ_SEED` where it starts; a
failure names its seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.fuzz.test_fuzz_codec import SEED, fuzz_seconds, mutated
from tests.support.doors import eventually
from tests.support.tooldoors import ServedDoor, Talker, array, asked, crsh_door, crsh_put, resp_door
from tiered_store.build.cache import BuildLimits
from tiered_store.servers.crsh.codec import GREETING, Operation

_LARGE = b"v" * 70_000
RESP = [
    array("GET", "k"),
    array("SET", "k", "v", "EX", "100", "NX"),
    array("SET", "large", _LARGE),
    array("SETEX", "k", "9", _LARGE),
    array("MGET", "k", "large", "large"),
    array("EXISTS", "k", "k"),
    array("DEL", "k"),
    array("HELLO", "3", "AUTH", "default", "x", "SETNAME", "y"),
    array("CLIENT", "SETINFO", "LIB-NAME", "x"),
    array("SELECT", "3"),
    array("QUIT"),
    b"PING\r\nget k\r\n",
]
CRSH = [
    asked(Operation.GET),
    crsh_put(b"v"),
    crsh_put(_LARGE),
    crsh_put(_LARGE, overwrite=False),
    asked(Operation.EXISTS),
    asked(Operation.REMOVE),
    b"\x03",
    b"\x04",
]


async def _play(it: ServedDoor, golden: list[bytes], dice: random.Random) -> None:
    client = await it.connect()
    for _ in range(dice.randrange(1, 10)):
        piece = mutated(dice.choice(golden), dice) if dice.random() < 0.9 else dice.randbytes(dice.randrange(60))
        with contextlib.suppress(ConnectionError):
            await client.say(piece)
        for _ in range(dice.randrange(3)):
            await asyncio.sleep(0)
    if dice.random() < 0.5 and not client.writer.is_closing():
        with contextlib.suppress(OSError):
            client.writer.write_eof()
        with contextlib.suppress(ConnectionError):
            await client.rest()
    client.writer.close()
    await eventually(lambda: it.door.connections <= 1)


async def _fuzz(
    it: ServedDoor, golden: list[bytes], check: Callable[[], Awaitable[None]], log: pytest.LogCaptureFixture
) -> None:
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    deadline = time.monotonic() + fuzz_seconds(3.0)
    count = 0
    while count < 100 or time.monotonic() < deadline:
        try:
            await _play(it, golden, random.Random(SEED + count))
            await check()
            assert not faults
            assert "connection failed" not in log.text
        except Exception as error:
            raise AssertionError(f"found with TIERED_STORE_FUZZ_SEED={SEED + count}: {error!r}") from error
        count += 1
    await eventually(lambda: not it.build.rig.store._staging._uploads.uploads)


async def test_resp(caplog: pytest.LogCaptureFixture) -> None:
    async with resp_door(build=BuildLimits(read_timeout_s=60.0, max_entry_bytes=10 * 2**20)) as it:
        good = await it.connect()
        assert await good.ask("SET", "mine", "v") == "+OK"

        async def check() -> None:
            assert await good.ask("GET", "mine") == b"v"

        await _fuzz(it, RESP, check, caplog)


async def test_crsh(caplog: pytest.LogCaptureFixture) -> None:
    async with crsh_door() as it:
        good: Talker = await it.connect()
        mine = crsh_put(b"v", b"mine")
        await good.say(mine)
        assert await good.hear(len(GREETING) + 1) == GREETING + b"\x00"

        async def check() -> None:
            await good.say(asked(Operation.GET, b"mine"))
            assert (await good.hear(10))[9:] == b"v"

        await _fuzz(it, CRSH, check, caplog)
