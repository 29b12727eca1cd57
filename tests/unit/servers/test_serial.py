"""Connections that do one thing after the other: order, bounds, time, and how they end."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.support.doors import eventually
from tests.support.origins import pattern
from tests.support.tooldoors import CRSH_KEY, ServedDoor, array, asked, crsh_door, crsh_put, resp_door
from tiered_store.build.entry import Place
from tiered_store.servers.crsh.codec import GREETING, Operation
from tiered_store.servers.resp.names import name_of
from tiered_store.servers.serial import SerialLimits

LARGE = pattern(3_000_000)
SMALL = SerialLimits(max_connections=2, idle_timeout_s=100.0, stall_timeout_s=10.0, write_buffer_bytes=64 * 1024)


async def put(it: ServedDoor, key: bytes, value: bytes) -> None:
    await it.build.put(Place("resp", "default"), name_of(key), value)


async def test_replies_keep_the_order_of_the_commands():
    async with resp_door() as it:
        await put(it, b"here", b"1")
        held = it.build.rig.origin.hold("open")
        client = await it.connect()
        await client.say(array("GET", "cold") + array("GET", "here") + array("PING"))
        await eventually(held.reached.is_set)
        held.open()
        assert [await client.reply() for _ in range(3)] == [None, b"1", "+PONG"]


@pytest.mark.parametrize("kind", ["resp", "crsh"])
async def test_a_file_that_cannot_be_read_ends_the_connection_and_is_not_found_again(kind, monkeypatch):
    def unreadable(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    async with resp_door() if kind == "resp" else crsh_door() as it:
        place = Place("resp", "default") if kind == "resp" else Place("ccache", "default")
        name = name_of(b"k") if kind == "resp" else CRSH_KEY.hex()[:2] + "/" + CRSH_KEY.hex()[2:]
        await it.build.put(place, name, LARGE)
        client = await it.connect()
        with monkeypatch.context() as patched:
            patched.setattr("tiered_store.servers.serial.read_body", unreadable)
            await client.say(array("GET", "k") if kind == "resp" else asked(Operation.GET, CRSH_KEY))
            await client.rest()
        assert it.build.cache.counters()[place.dialect]["damaged"] == 1
        assert await it.build.cache.get(place, name) is not None


async def test_a_command_that_waits_holds_nobody_else_up():
    async with resp_door() as it:
        await put(it, b"here", b"1")
        held = it.build.rig.origin.hold("open")
        slow, quick = await it.connect(), await it.connect()
        await slow.say(array("GET", "cold"))
        await eventually(held.reached.is_set)
        assert await quick.ask("GET", "here") == b"1"
        held.open()
        assert await slow.reply() is None


async def test_ten_thousand_commands_at_once():
    async with resp_door() as it:
        await put(it, b"k", b"v" * 100)
        client = await it.connect()
        saying = asyncio.create_task(client.say(array("GET", "k") * 10_000))
        for _ in range(10_000):
            assert await client.reply() == b"v" * 100
        await saying
        assert it.door.statistics()["requests"] == 10_000


async def test_a_peer_that_does_not_read_is_not_answered_further():
    async with resp_door(limits=SMALL) as it:
        await put(it, b"k", b"v" * 60_000)
        client = await it.connect()
        client.writer.transport.pause_reading()
        (connection,) = await eventually(lambda: it.connections)
        client.writer.write(array("GET", "k") * 5_000)  # 300 MB, if all of them were answered
        await eventually(lambda: connection.channel.is_congested)
        assert connection.channel._buffered < 2 * SMALL.write_buffer_bytes + 60_000
        assert it.door.statistics()["requests"] < 100
        it.check(SMALL.stall_timeout_s - 1)
        assert it.connections
        it.check(SMALL.stall_timeout_s + 1)
        assert not it.connections


async def test_a_large_value_goes_at_the_pace_of_its_reader():
    async with resp_door(limits=SMALL) as it:
        await put(it, b"k", LARGE)
        client = await it.connect()
        client.writer.transport.pause_reading()
        await client.say(array("MGET", "k", "k", "k"))
        (connection,) = await eventually(lambda: it.connections)
        await eventually(lambda: connection.channel.is_congested)
        assert connection.channel._buffered < 1_000_000
        client.writer.transport.resume_reading()
        assert await client.reply() == [LARGE] * 3


class TestGone:
    async def test_in_the_middle_of_a_value(self):
        async with resp_door() as it:
            client = await it.connect()
            await client.say(array("SET", "k", LARGE)[:2_000_000])
            staging = it.build.rig.store._staging
            await eventually(lambda: staging._uploads.uploads)
            client.writer.close()
            await eventually(lambda: not it.connections)
            await eventually(lambda: not staging._uploads.uploads)
            assert await it.build.get(Place("resp", "default"), name_of(b"k")) is None

    async def test_while_an_answer_is_sought(self):
        async with resp_door() as it:
            held = it.build.rig.origin.hold("open")
            client = await it.connect()
            await client.say(array("GET", "cold"))
            await eventually(held.reached.is_set)
            (connection,) = it.connections
            connection.close()
            await connection.finished()
            assert not it.connections
            held.open()


class TestTime:
    async def test_whoever_owes_the_rest_of_a_command_is_told_and_left(self):
        async with resp_door(limits=SMALL) as it:
            client = await it.connect()
            await client.say(b"*2\r\n$3\r\nGET\r\n")
            (connection,) = await eventually(lambda: it.connections)
            await eventually(lambda: connection._reader.is_midway)
            it.check(SMALL.stall_timeout_s - 1)
            assert it.connections
            it.check(SMALL.stall_timeout_s + 1)
            assert (await client.rest()).startswith(b"-ERR Protocol error: a command stalled for 10 s")

    async def test_whoever_asks_nothing_is_left_in_the_end(self):
        async with crsh_door(limits=SMALL) as it:
            client = await it.connect()
            await client.hear(len(GREETING))
            it.check(SMALL.idle_timeout_s - 1)
            assert it.connections
            it.check(SMALL.idle_timeout_s + 1)
            assert await client.rest() == b""

    async def test_whoever_waits_for_us_owes_nothing(self):
        async with resp_door(limits=SMALL) as it:
            held = it.build.rig.origin.hold("open")
            client = await it.connect()
            await client.say(array("GET", "cold") + b"*2\r\n")
            await eventually(held.reached.is_set)
            it.check(1000.0)
            assert it.connections
            held.open()
            assert await client.reply() is None


class TestDrain:
    async def test_an_idle_peer_is_let_go(self):
        async with crsh_door() as it:
            client = await it.connect()
            await client.hear(len(GREETING))
            assert await it.door.drain(5.0)
            assert await client.rest() == b""
            with pytest.raises(OSError):
                await it.connect()

    async def test_a_command_under_way_is_answered(self):
        async with crsh_door() as it:
            held = it.build.rig.origin.hold("put")
            client = await it.connect()
            await client.say(crsh_put(b"v"))
            await eventually(held.reached.is_set)
            draining = asyncio.create_task(it.door.drain(5.0))
            held.open()
            assert await client.rest() == GREETING + b"\x00"
            assert await draining

    async def test_a_value_on_its_way_may_come_to_its_end(self):
        async with resp_door() as it:
            client = await it.connect()
            whole = array("SET", "k", LARGE)
            await client.say(whole[:2_000_000])
            (connection,) = await eventually(lambda: it.connections)
            await eventually(lambda: connection._intake)
            draining = asyncio.create_task(it.door.drain(5.0))
            await client.say(whole[2_000_000:])
            assert await client.rest() == b"+OK\r\n"
            assert await draining

    async def test_what_takes_too_long_is_cut_off(self):
        async with crsh_door() as it:
            held = it.build.rig.origin.hold("open")
            client = await it.connect()
            await client.say(asked(Operation.GET))
            await eventually(held.reached.is_set)
            assert not await it.door.drain(0.01)
            assert await client.rest() == GREETING
            held.open()


async def test_a_fault_of_ours_costs_one_connection(monkeypatch, caplog):
    async with crsh_door() as it:
        client, other = await it.connect(), await it.connect()
        for each in (client, other):
            await each.hear(len(GREETING))
        with monkeypatch.context() as patch:
            patch.setattr(it.build.cache, "head", lambda *_: 1 / 0)
            await client.say(asked(Operation.EXISTS))
            assert await client.rest() == b""
        await other.say(asked(Operation.EXISTS, CRSH_KEY))
        assert await other.hear(2) == b"\x00\x00"
        assert "connection failed" in caplog.text


async def test_nonsense_ends_a_connection_with_a_reason():
    async with resp_door() as it:
        client = await it.connect()
        await client.say(array("PING") + b"*x\r\n" + array("PING"))
        assert await client.rest() == b"+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n"
        assert it.door.statistics()["malformed"] == 1


async def test_one_peer_too_many_is_told_so():
    async with resp_door(limits=SMALL) as it:
        for _ in range(2):
            assert await (await it.connect()).ask("PING") == "+PONG"
        assert b"2 connections (resp.max_connections)" in await (await it.connect()).rest()
        assert it.door.statistics()["connections"] == 2


async def test_half_a_farewell_is_a_farewell():
    async with resp_door() as it:
        client = await it.connect()
        await client.say(array("PING"))
        sock: socket.socket = client.writer.get_extra_info("socket")
        await client.reply()
        sock.shutdown(socket.SHUT_WR)
        assert await client.rest() == b""
