"""What ccache's requests mean, asked over a socket."""

from __future__ import annotations

import os
import struct

import pytest

from tests.support.origins import pattern
from tests.support.tooldoors import CRSH_KEY, Talker, asked, crsh_door, crsh_put
from tiered_store.build.entry import Place
from tiered_store.errors import OriginUnavailable, QuotaExceeded
from tiered_store.servers.access import AccessSettings, PeerRule, Rule
from tiered_store.servers.crsh.codec import GREETING, NO_GREETING, Operation
from tiered_store.servers.crsh.session import CrshSettings
from tiered_store.servers.serial import SerialLimits

LARGE = pattern(300_000)
DONE, NOTHING = b"\x00", b"\x01"


async def greeted(it) -> Talker:
    client = await it.connect()
    assert await client.hear(len(GREETING)) == GREETING
    return client


async def value_of(client: Talker, key: bytes = CRSH_KEY) -> bytes | None:
    await client.say(asked(Operation.GET, key))
    if await client.hear(1) == NOTHING:
        return None
    (size,) = struct.unpack("=Q", await client.hear(8))
    return await client.hear(size)


async def failure(client: Talker) -> str:
    kind, size = await client.hear(2)
    assert kind == 2
    return (await client.hear(size)).decode()


@pytest.mark.parametrize("value", [b"", b"small", pattern(65_536), LARGE], ids=["none", "small", "bound", "large"])
async def test_what_was_put_comes_back(value):
    async with crsh_door() as it:
        client = await greeted(it)
        assert await value_of(client) is None
        await client.say(crsh_put(value))
        assert await client.hear(1) == DONE
        for _ in range(2):
            assert await value_of(client) == value


async def test_its_keys_are_those_of_ccaches_http_storage():
    async with crsh_door(CrshSettings(instance="team")) as it:
        client = await greeted(it)
        digits = CRSH_KEY.hex()
        await it.build.put(Place("ccache", "team"), f"{digits[:2]}/{digits[2:]}", b"by http")
        assert await value_of(client) == b"by http"


@pytest.mark.parametrize("value", [b"second", LARGE], ids=["small", "large"])
async def test_what_is_there_stays_unless_it_may_be_replaced(value):
    async with crsh_door() as it:
        client = await greeted(it)
        await client.say(crsh_put(b"first") + crsh_put(value, overwrite=False))
        assert await client.hear(2) == DONE + NOTHING
        assert await value_of(client) == b"first"
        await client.say(crsh_put(value))
        assert await client.hear(1) == DONE
        assert await value_of(client) == value


async def test_existence_and_removal():
    async with crsh_door() as it:
        client = await greeted(it)
        await client.say(asked(Operation.EXISTS) + asked(Operation.REMOVE) + crsh_put(b"v") + asked(Operation.EXISTS))
        assert await client.hear(6) == b"\x00\x00" + NOTHING + DONE + b"\x00\x01"
        await client.say(asked(Operation.REMOVE) + asked(Operation.EXISTS))
        assert await client.hear(3) == DONE + b"\x00\x00"


async def test_who_is_there():
    async with crsh_door(CrshSettings(name="tiered_store 1")) as it:
        client = await greeted(it)
        await client.say(b"\x04")
        assert await client.hear(16) == b"\x0etiered_store 1\x00"


@pytest.mark.parametrize("key", [b"", b"x", b"x" * 65, b"x" * 255])
async def test_a_key_that_is_no_hash_is_refused(key):
    async with crsh_door() as it:
        client = await greeted(it)
        for request in (asked(Operation.GET, key), asked(Operation.EXISTS, key), crsh_put(LARGE, key)):
            await client.say(request)
            assert "a key has 2 to 64 bytes" in await failure(client)
        assert await value_of(client) is None


class TestStop:
    async def test_is_refused(self):
        async with crsh_door() as it:
            client = await greeted(it)
            await client.say(b"\x03")
            assert "crsh.allow_stop" in await failure(client)
            assert await value_of(client) is None

    async def test_is_passed_on_where_it_is_allowed(self):
        stops: list[bool] = []
        async with crsh_door(CrshSettings(stop=lambda: stops.append(True))) as it:
            client = await greeted(it)
            await client.say(b"\x03")
            assert await client.hear(1) == DONE
            assert stops == [True]

    async def test_is_for_administrators(self):
        writers = AccessSettings(peers=(PeerRule(Rule("me", "write"), uid=os.getuid()),))
        async with crsh_door(CrshSettings(stop=lambda: pytest.fail("stopped")), writers) as it:
            client = await greeted(it)
            await client.say(b"\x03")
            assert "crsh.allow_stop" in await failure(client)


class TestRights:
    async def test_a_door_for_readers(self):
        async with crsh_door(CrshSettings(read_only=True)) as it:
            digits = CRSH_KEY.hex()
            await it.build.put(Place("ccache", "default"), f"{digits[:2]}/{digits[2:]}", b"v")
            client = await greeted(it)
            for request in (crsh_put(b"w"), crsh_put(LARGE), asked(Operation.REMOVE)):
                await client.say(request)
                assert "crsh.read_only" in await failure(client)
            assert await value_of(client) == b"v"

    async def test_to_whoever_may_see_nothing_everything_is_a_miss(self):
        nobody = AccessSettings(peers=(PeerRule(Rule("nobody", "write", instances=frozenset({"x"}))),))
        async with crsh_door(access=nobody) as it:
            digits = CRSH_KEY.hex()
            await it.build.put(Place("ccache", "default"), f"{digits[:2]}/{digits[2:]}", b"v")
            client = await greeted(it)
            assert await value_of(client) is None
            await client.say(asked(Operation.EXISTS) + crsh_put(b"w"))
            assert await client.hear(2) == b"\x00\x00"
            assert "may not store anything" in await failure(client)

    async def test_whoever_is_not_let_in_learns_that_there_is_nothing_to_be_had(self):
        async with crsh_door(limits=SerialLimits(max_connections=1)) as it:
            await greeted(it)
            second = await it.connect()
            assert await second.rest() == NO_GREETING
            assert it.door.statistics()["refused"] == 1


class TestFaults:
    async def test_an_origin_that_is_down_is_a_miss(self):
        async with crsh_door() as it:
            it.build.rig.origin.fail("open", lambda: OriginUnavailable("down"))
            client = await greeted(it)
            assert await value_of(client) is None

    @pytest.mark.parametrize("value", [b"v", LARGE], ids=["small", "large"])
    async def test_no_room_is_an_error_and_the_connection_goes_on(self, value):
        async with crsh_door() as it:
            it.build.rig.origin.fail("put", lambda: QuotaExceeded("full"))
            client = await greeted(it)
            await client.say(crsh_put(value))
            assert (await failure(client)).startswith("full")
            assert await value_of(client) is None
