"""What Redis' commands mean, asked over a socket."""

from __future__ import annotations

import os

import pytest

from tests.support.origins import pattern
from tests.support.tooldoors import array, resp_door
from tiered_store.build.cache import BuildLimits
from tiered_store.build.entry import Place
from tiered_store.errors import OriginUnavailable, QuotaExceeded
from tiered_store.servers.access import AccessSettings, PeerRule, Rule, TokenRule
from tiered_store.servers.credentials import hash_of
from tiered_store.servers.resp.names import name_of
from tiered_store.servers.resp.session import RespSettings
from tiered_store.servers.resp.values import SetOptions, Values

LARGE = pattern(300_000)
#: A peer that may do nothing without a token.
LOCKED = AccessSettings(
    tokens=(
        TokenRule(Rule("ci", "write"), hash_of("secret")),
        TokenRule(Rule("reader", "read"), hash_of("look")),
        TokenRule(Rule("other", "write", instances=frozenset({"other"})), hash_of("elsewhere")),
    ),
    peers=(PeerRule(Rule("nobody", "read", instances=frozenset()), uid=os.getuid()),),
)


@pytest.mark.parametrize(
    "value", [b"", b"a\r\nb\x00\xff", pattern(65_536), LARGE], ids=["none", "odd", "bound", "large"]
)
async def test_what_was_set_comes_back(value):
    async with resp_door() as it:
        client = await it.connect()
        assert await client.ask("SET", "ccache:key", value) == "+OK"
        for _ in range(2):  # out of what the put left, and as a hit
            assert await client.ask("get", "ccache:key") == value
        assert await client.ask("GET", "ccache:kez") is None


async def test_a_value_is_the_caches_own():
    async with resp_door(RespSettings(instance="team")) as it:
        client = await it.connect()
        await client.ask("SET", "k", "v")
        assert await it.build.get(Place("resp", "team"), name_of(b"k")) == b"v"


async def test_many_keys():
    async with resp_door() as it:
        client = await it.connect()
        await client.ask("SET", "a", "1")
        await client.ask("SET", "b", LARGE)
        assert await client.ask("MGET", "a", "x", "b", "a") == [b"1", None, LARGE, b"1"]
        assert await client.ask("EXISTS", "a", "x", "b", "a") == 3
        assert await client.ask("DEL", "a", "x", "a") == 1
        assert await client.ask("EXISTS", "a", "b") == 1
        assert await client.ask("MGET", "a") == [None]


async def test_databases_do_not_meet():
    async with resp_door() as it:
        client = await it.connect()
        await client.ask("SET", "k", "0")
        assert await client.ask("SELECT", "15") == "+OK"
        assert await client.ask("GET", "k") is None
        await client.ask("SET", "k", "15")
        assert await it.build.get(Place("resp", "default.15"), name_of(b"k")) == b"15"
        await client.ask("SELECT", "0")
        assert await client.ask("GET", "k") == b"0"
        for wrong in ("16", "-1", "x", "9" * 5000):
            assert (await client.ask("SELECT", wrong)).startswith("-ERR ")


class TestConditions:
    async def test_only_new_and_only_old(self):
        async with resp_door() as it:
            client = await it.connect()
            assert await client.ask("SET", "k", "1", "XX") is None
            assert await client.ask("SET", "k", "1", "NX") == "+OK"
            assert await client.ask("SET", "k", "2", "nx") is None
            assert await client.ask("GET", "k") == b"1"
            assert await client.ask("SET", "k", LARGE, "xx") == "+OK"
            assert await client.ask("GET", "k") == LARGE

    async def test_a_large_value_that_is_not_wanted_leaves_nothing(self):
        async with resp_door() as it:
            client = await it.connect()
            assert await client.ask("SET", "k", LARGE, "XX") is None
            assert await client.ask("GET", "k") is None

    @pytest.mark.parametrize(
        "options",
        [["NX", "XX"], ["EX"], ["EX", "0"], ["EX", "-1"], ["EX", "x"], ["GET"], ["EX", "1", "PX", "1"], ["KEEPTTL"]],
    )
    async def test_options_that_are_not_understood_are_refused(self, options):
        async with resp_door() as it:
            client = await it.connect()
            assert (await client.ask("SET", "k", "v", *options)).startswith("-ERR ")
            assert await client.ask("GET", "k") is None


class TestTime:
    async def test_a_value_over_its_time_is_a_miss(self):
        async with resp_door() as it:
            now = 1_000_000.0
            values = Values(it.build.cache, Place("resp", "default"), wall=lambda: now)
            assert await values.put(b"k", b"v", SetOptions(lifetime_ms=1500))
            assert await values.get(b"k") is not None
            now += 1.499
            assert values.peek(b"k") is not None
            now += 0.001
            assert values.peek(b"k") is None
            assert await values.get(b"k") is None
            assert await values.count([b"k"]) == 0
            assert await values.put(b"k", b"w", SetOptions(only_new=True))
            found = await values.get(b"k")
            assert found is not None
            assert found.body == b"w"

    @pytest.mark.parametrize(
        "words", [("SETEX", "k", "100", "v"), ("SET", "k", "v", "PX", "100000"), ("SET", "k", "v", "EX", "100")]
    )
    async def test_it_is_kept_with_the_entry(self, words):
        async with resp_door() as it:
            client = await it.connect()
            assert await client.ask(*words) == "+OK"
            assert await client.ask("GET", "k") == b"v"
            entry = await it.build.cache.head(Place("resp", "default"), name_of(b"k"))
            assert entry is not None
            assert int(entry.headers["expires-ms"]) - entry.stored_ns / 1e6 == pytest.approx(100_000, abs=5000)

    @pytest.mark.parametrize("seconds", ["0", "-5", "x", "1.5", "9" * 16, "9" * 300])
    async def test_what_is_no_time_is_refused(self, seconds):
        async with resp_door() as it:
            client = await it.connect()
            assert (await client.ask("SETEX", "k", seconds, LARGE)).startswith("-ERR ")
            assert await client.ask("PING") == "+PONG"


async def test_about_the_connection():
    async with resp_door(RespSettings(version="1.2.3")) as it:
        client, other = await it.connect(), await it.connect()
        assert await client.ask("PING") == "+PONG"
        assert await client.ask("PING", "hi") == b"hi"
        assert await client.ask("CLIENT", "SETINFO", "LIB-NAME", "test") == "+OK"
        assert await client.ask("CLIENT", "SETNAME", "me") == "+OK"
        assert await client.ask("CLIENT", "GETNAME") == b"me"
        assert await client.ask("CLIENT", "ID") != await other.ask("CLIENT", "ID")
        assert await client.ask("COMMAND", "DOCS") == []
        assert await client.ask("COMMAND", "COUNT") == 14
        await client.ask("GET", "x")
        told = (await client.ask("INFO")).decode().splitlines()
        assert {"tiered_store_version:1.2.3", "keyspace_misses:1", "keyspace_hits:0"} <= set(told)
        for words in (["FLUSHALL"], ["KEYS", "*"], ["CLIENT", "KILL"], ["GET"], ["GET", "a", "b"], ["SETEX", "k", "1"]):
            assert (await client.ask(*words)).startswith("-ERR ")
        await client.say(array("QUIT") + array("PING"))
        assert await client.rest() == b"+OK\r\n"


async def test_both_versions_of_the_protocol():
    async with resp_door() as it:
        client = await it.connect()
        second = await client.ask("HELLO", "2", "SETNAME", "me")
        assert second[second.index(b"proto") + 1] == 2
        assert await client.ask("CLIENT", "GETNAME") == b"me"
        await client.say(array("HELLO", "3"))
        assert (await client.line()).startswith(b"%7")
        for _ in range(14):
            await client.reply()
        await client.say(array("GET", "nothing"))
        assert await client.line() == b"_"
        assert await client.ask("HELLO", "4") == "-NOPROTO unsupported protocol version"
        assert (await client.ask("HELLO", "2", "WHAT")).startswith("-ERR syntax")


class TestRights:
    async def test_a_stranger_may_only_say_who_it_is(self):
        async with resp_door(access=LOCKED) as it:
            client = await it.connect()
            for words in (["GET", "k"], ["SET", "k", "v"], ["INFO"], ["SELECT", "1"], ["PING"], ["EVIL"]):
                assert await client.ask(*words) == "-NOAUTH Authentication required."
            assert (await client.ask("AUTH", "wrong")).startswith("-WRONGPASS ")
            assert (await client.ask("AUTH", "root", "secret")).startswith("-WRONGPASS ")
            assert (await client.ask("AUTH", "elsewhere")).startswith("-WRONGPASS ")
            assert (await client.ask("HELLO", "3")).startswith("-NOAUTH ")
            await client.say(array("SET", "k", LARGE)[:40])
            assert (await client.rest()).startswith(b"-ERR Protocol error")

    async def test_a_token_is_a_password(self):
        async with resp_door(access=LOCKED) as it:
            writer, reader, third = await it.connect(), await it.connect(), await it.connect()
            assert await writer.ask("AUTH", "secret") == "+OK"
            assert await writer.ask("SET", "k", LARGE) == "+OK"
            assert await reader.ask("AUTH", "default", "look") == "+OK"
            assert await reader.ask("GET", "k") == LARGE
            for words in (["SET", "k", "v"], ["SET", "k", LARGE], ["SETEX", "k", "9", "v"], ["DEL", "k"]):
                assert (await reader.ask(*words)).startswith("-NOPERM ")
            assert (await third.ask("HELLO", "2", "AUTH", "default", "nonsense")).startswith("-WRONGPASS ")
            assert len(await third.ask("HELLO", "2", "AUTH", "default", "secret")) == 14

    async def test_where_anybody_may_any_word_will_do(self):
        async with resp_door() as it:
            client = await it.connect()
            assert await client.ask("AUTH", "whatever") == "+OK"
            assert await client.ask("SET", "k", "v") == "+OK"

    async def test_a_door_for_readers(self):
        async with resp_door(RespSettings(read_only=True)) as it:
            await it.build.put(Place("resp", "default"), name_of(b"k"), b"v")
            client = await it.connect()
            assert await client.ask("GET", "k") == b"v"
            for words in (["SET", "k", "v"], ["SET", "k", LARGE], ["DEL", "k"]):
                assert (await client.ask(*words)).startswith("-READONLY ")
            assert await client.ask("GET", "k") == b"v"

    async def test_what_is_written_in_quarantine_stays_there(self):
        mine = Rule("pr-7", "write", quarantine=True)
        access = AccessSettings(tokens=(TokenRule(mine, hash_of("pr")),))
        async with resp_door(access=access) as it:
            pull_request, other = await it.connect(), await it.connect()
            await other.ask("SET", "seen", "1")
            await pull_request.ask("AUTH", "pr")
            await pull_request.ask("SET", "k", "evil")
            assert await pull_request.ask("MGET", "k", "seen") == [b"evil", b"1"]
            assert await other.ask("GET", "k") is None


class TestFaults:
    async def test_an_origin_that_is_down_is_a_miss(self):
        async with resp_door() as it:
            it.build.rig.origin.fail("open", lambda: OriginUnavailable("down"))
            it.build.rig.origin.fail("stat", lambda: OriginUnavailable("down"))
            client = await it.connect()
            assert await client.ask("MGET", "k", "l") == [None, None]
            assert await client.ask("EXISTS", "k") == 0

    async def test_an_origin_that_is_silent_keeps_a_command_of_many_keys_no_longer_than_one_read(self):
        async with resp_door(build=BuildLimits(read_timeout_s=0.01)) as it:
            client = await it.connect()
            assert await client.ask("SET", "here", "v") == "+OK"
            assert await client.ask("GET", "here") == b"v"
            it.build.rig.origin.hold("open")
            it.build.rig.origin.hold("stat")
            failed = it.build.stats(Place("resp", "default")).failed
            absent = [f"k{number}" for number in range(200)]
            assert await client.ask("MGET", *absent, "here") == [None] * 200 + [b"v"]
            assert await client.ask("EXISTS", *absent, "here") <= 1
            assert it.build.stats(Place("resp", "default")).failed < failed + 100

    @pytest.mark.parametrize("value", [b"v", LARGE], ids=["small", "large"])
    async def test_no_room_is_an_error_and_the_connection_goes_on(self, value):
        async with resp_door() as it:
            it.build.rig.origin.fail("put", lambda: QuotaExceeded("full"))
            client = await it.connect()
            assert (await client.ask("SET", "k", value)).startswith("-ERR full")
            assert await client.ask("GET", "k") is None
            it.build.rig.origin.heal()
            assert await client.ask("SET", "k", value) == "+OK"

    async def test_what_is_too_large_is_dropped_and_said(self):
        async with resp_door(build=BuildLimits(max_entry_bytes=200_000)) as it:
            client = await it.connect()
            assert "at most 200000 bytes" in await client.ask("SET", "k", LARGE)
            assert await client.ask("PING") == "+PONG"


def test_names_are_safe_and_no_two_keys_share_one():
    keys = [b"", b".", b"..", b"a", b"a/b", b"a//b", b"/a", b"%61", b"A", b"\x00", b"\xff", b".tiered_store", b"a b"]
    keys += [b"x" * 200, b"x" * 201, b"x" * 70_000, "é".encode(), b"%sha256-" + b"0" * 64]
    names = {name_of(key) for key in keys}
    assert len(names) == len(keys)
    for name in names:
        Place("resp", "default").key(name)
        assert max(map(len, name.split("/"))) <= 200
