"""What every tier promises, tried on each of them (see tiers/base.py)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest

from tests.support.tiers import disk_rig, entry_of, open_descriptors, until
from tiered_store.key import Key
from tiered_store.objects import INLINE_MAX_BYTES, FileBody, read_body
from tiered_store.tiers.base import Tier
from tiered_store.tiers.memory import MemoryTier

MAX_BYTES = 8 * 1024 * 1024
KEY = Key("sessions/a/files/main.py")


@pytest.fixture(params=["memory", "disk"])
async def tier(request, tmp_path) -> AsyncIterator[Tier]:
    if request.param == "memory":
        memory = MemoryTier(MAX_BYTES)
        yield memory
        await memory.close()
    else:
        async with disk_rig(tmp_path / "cache", max_bytes=MAX_BYTES) as rig:
            yield rig.tier


@pytest.fixture(params=[False, True], ids=["waiting", "written"])
def settle(request, tier):
    """Whether the tier is given the time to write before it is asked."""

    async def settle():
        if request.param:
            await tier.drain()

    return settle


async def read(tier: Tier, key: str) -> bytes | None:
    entry = await tier.get(Key(key))
    return None if entry is None else read_body(entry.body)


async def test_an_unknown_key_is_nothing(tier):
    assert tier.peek(KEY) is None
    assert await tier.get(KEY) is None
    tier.discard(KEY)
    await tier.drain()
    assert await tier.get(KEY) is None


@pytest.mark.parametrize("size", [0, 1, 1000, INLINE_MAX_BYTES - 1, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, 500_000])
async def test_what_was_put_comes_back_whole(tier, settle, size):
    data = random.Random(size).randbytes(size)
    sent = entry_of(
        KEY,
        data,
        etag='"v7"',
        validated_at=1234.5,
        content_type="text/x-python",
        metadata={"user": "ä"},
        modified_ns=99,
    )
    tier.put(KEY, sent)
    await settle()
    got = await tier.get(KEY)
    assert got is not None
    assert read_body(got.body) == data
    assert got.info == sent.info
    assert got.validated_at == 1234.5


async def test_small_bodies_are_bytes_and_large_ones_files_that_can_be_mapped(tier, settle):
    tier.put(Key("small"), entry_of("small", bytes(INLINE_MAX_BYTES)))
    tier.put(Key("large"), entry_of("large", bytes(INLINE_MAX_BYTES + 1)))
    await settle()
    small, large = await tier.get(Key("small")), await tier.get(Key("large"))
    assert small is not None
    assert isinstance(small.body, bytes)
    assert large is not None
    assert isinstance(large.body, FileBody)
    assert large.body.offset % 4096 == 0


async def test_a_put_counts_at_once(tier):
    tier.put(KEY, entry_of(KEY, b"one"))
    assert await read(tier, KEY) == b"one"
    await tier.drain()
    tier.put(KEY, entry_of(KEY, b"two"))
    assert await read(tier, KEY) == b"two"
    await tier.drain()
    assert await read(tier, KEY) == b"two"


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_discard_counts_at_once(tier, settle, size):
    tier.put(KEY, entry_of(KEY, bytes(size)))
    await settle()
    await tier.get(KEY)
    tier.discard(KEY)
    assert tier.peek(KEY) is None
    assert await tier.get(KEY) is None
    await tier.drain()
    assert await tier.get(KEY) is None


@pytest.mark.parametrize("size", [10, 100_000])
async def test_an_object_that_is_too_large_still_replaces_what_was_there(tier, settle, size):
    tier.put(KEY, entry_of(KEY, bytes(size)))
    await settle()
    tier.put(KEY, entry_of(KEY, bytes(MAX_BYTES + 1)))
    assert tier.peek(KEY) is None
    await tier.drain()
    assert await tier.get(KEY) is None


async def test_keys_do_not_touch_each_other(tier, settle):
    keys = ["a", "a/b", "a/b/c", "A", "sha256:" + "0" * 64, "ä/ö"]
    for key in keys:
        tier.put(Key(key), entry_of(key, key.encode()))
    await settle()
    tier.discard(Key("a/b"))
    assert {key: await read(tier, key) for key in keys} == {key: None if key == "a/b" else key.encode() for key in keys}


async def test_a_reader_keeps_its_body_whatever_happens_to_the_entry(tier, settle):
    data = random.Random(1).randbytes(300_000)
    tier.put(KEY, entry_of(KEY, data))
    await settle()
    entry = await tier.get(KEY)
    assert entry is not None
    tier.put(KEY, entry_of(KEY, bytes(200_000)))
    await tier.drain()
    tier.discard(KEY)
    await tier.close()
    assert read_body(entry.body) == data


async def test_counters_tell_what_is_held(tier):
    assert tier.stats.max_bytes == MAX_BYTES
    empty = tier.stats.bytes
    for number in range(20):
        tier.put(Key(f"k{number}"), entry_of(f"k{number}", bytes(20_000)))
    tier.put(Key("k3"), entry_of("k3", bytes(100_000)))
    await tier.drain()
    assert tier.stats.entries == 20
    assert tier.stats.bytes - empty >= 19 * 20_000 + 100_000
    for number in range(20):
        tier.discard(Key(f"k{number}"))
    await tier.drain()
    assert tier.stats.entries == 0
    assert tier.stats.evictions == 0
    assert tier.stats.errors == 0


@pytest.mark.parametrize("size", [3000, 60_000, 200_000])
async def test_the_bound_holds_and_what_goes_is_counted(tier, size):
    count = 2 * MAX_BYTES // size
    for number in range(count):
        tier.put(Key(f"k{number}"), entry_of(f"k{number}", bytes(size)))
        assert tier.stats.bytes <= MAX_BYTES
        if not number % 20:
            await tier.drain()
    await tier.drain()
    assert 0 < tier.stats.bytes <= MAX_BYTES
    assert tier.stats.evictions > 0
    assert tier.stats.evictions + tier.stats.entries == count
    assert await read(tier, f"k{count - 1}") == bytes(size)
    assert await read(tier, "k0") is None


async def test_a_used_entry_outlives_unused_ones(tier):
    count = MAX_BYTES // 200_000 * 2
    for number in range(count):
        tier.put(Key(f"k{number}"), entry_of(f"k{number}", bytes(200_000)))
        await tier.drain()
        assert await tier.get(Key("k0")) is not None
    assert tier.stats.evictions > 0
    assert await tier.get(Key("k1")) is None


async def test_descriptors_come_back(tier):
    async def work(rounds):
        for number in range(rounds):
            key = Key(f"k{number % 7}")
            tier.put(key, entry_of(key, bytes(70_000 + number)))
            if number % 3 == 0:
                await tier.drain()
            await tier.get(key)
            if number % 5 == 0:
                tier.discard(key)
        for number in range(7):
            tier.discard(Key(f"k{number}"))
        await tier.drain()

    await work(20)  # threads and connections are there now
    before = open_descriptors()
    await work(100)
    await until(lambda: open_descriptors() <= before)  # a thread drops its reference when it likes


@pytest.mark.parametrize("seed", range(4))
async def test_the_answer_is_the_last_put_or_nothing(tier, seed):
    chance = random.Random(seed)
    model: dict[str, bytes] = {}
    kept = 0
    for number in range(300):
        key = f"k{chance.randrange(12)}"
        match chance.choice(["put", "put", "get", "get", "get", "discard", "drain"]):
            case "put":
                data = number.to_bytes(4, "big") * chance.choice([0, 1, 250, 20_000, 40_000])
                tier.put(Key(key), entry_of(key, data, etag=str(number)))
                model[key] = data
            case "get":
                data = await read(tier, key)
                assert data is None or data == model.get(key)
                kept += data is not None
            case "discard":
                tier.discard(Key(key))
                model.pop(key, None)
            case "drain":
                await tier.drain()
    assert kept > 20


async def test_a_closed_tier_answers_nothing(tier):
    tier.put(KEY, entry_of(KEY, b"data"))
    await tier.close()
    assert tier.peek(KEY) is None
    assert await tier.get(KEY) is None
