"""Reading many keys of the disk tier by one look: the answers of single reads, or none."""

from __future__ import annotations

import asyncio
import hashlib
import threading

import pytest

from tests.support.tiers import disk_rig, entry_of, object_files
from tiered_store.key import Key, artifact_key
from tiered_store.objects import read_body
from tiered_store.tiers import volume as volumes
from tiered_store.tiers.faults import Kind, TierFault

LARGE = 200_000
KEYS = [Key(f"k{number}") for number in range(5)]


@pytest.fixture
async def rig(tmp_path):
    async with disk_rig(tmp_path / "cache") as rig:
        yield rig


async def store(rig, *keys, data=b"old"):
    for key in keys:
        rig.tier.put(key, entry_of(key, data))
    await rig.tier.drain()


def bodies(found):
    return {key: None if entry is None else read_body(entry.body) for key, entry in found.items()}


class Held:
    """A look that waits in its thread."""

    def __init__(self, monkeypatch, volume):
        self.entered, self.go_on = threading.Event(), threading.Event()
        original = volume.lookup_many

        def lookup_many(*arguments):
            found = original(*arguments)
            self.entered.set()
            assert self.go_on.wait(30)
            return found

        monkeypatch.setattr(volume, "lookup_many", lookup_many)


@pytest.mark.parametrize("is_written", [False, True])
async def test_entries_and_misses_are_told_apart(rig, is_written):
    await store(rig, KEYS[1])
    rig.tier.put(KEYS[0], entry_of(KEYS[0], b"new"))
    rig.tier.discard(KEYS[1])
    if is_written:
        await rig.tier.drain()
    found = await rig.tier.get_many(KEYS[:3], ())
    assert bodies(found) == {KEYS[0]: b"new", KEYS[1]: None, KEYS[2]: None}
    assert len(rig.tier._recent) == is_written


async def test_large_ones_are_left_to_a_read_of_their_own(rig):
    await store(rig, KEYS[0], data=bytes(LARGE))
    await store(rig, KEYS[1])
    assert bodies(await rig.tier.get_many(KEYS[:2], ())) == {KEYS[1]: b"old"}
    assert await rig.read(KEYS[0]) == bytes(LARGE)


async def test_a_look_reads_so_many_bytes_and_leaves_the_rest(rig, monkeypatch):
    monkeypatch.setattr(volumes, "_LOOK_BYTES", 2500)
    await store(rig, *KEYS, data=bytes(1000))
    left, looks = list(KEYS), 0
    while left:
        found = await rig.tier.get_many(left, ())
        assert all(entry is not None for entry in found.values())
        left = [key for key in left if key not in found]
        looks += 1
    assert looks == 2


@pytest.mark.parametrize("change", ["put", "discard"])
async def test_what_a_write_has_overtaken_is_left_out(rig, monkeypatch, change):
    await store(rig, *KEYS)
    held = Held(monkeypatch, rig.tier._volume)
    reading = asyncio.ensure_future(rig.tier.get_many(KEYS, ()))
    await asyncio.to_thread(held.entered.wait, 30)
    if change == "put":
        rig.tier.put(KEYS[2], entry_of(KEYS[2], b"new"))
    else:
        rig.tier.discard(KEYS[2])
    await rig.tier.drain()
    held.go_on.set()
    assert bodies(await reading) == {key: b"old" for key in KEYS if key != KEYS[2]}
    assert await rig.read(KEYS[2]) == (b"new" if change == "put" else None)
    assert rig.tier._reads._looks == []


async def test_a_tier_that_is_set_aside_meanwhile_answers_nothing(rig, monkeypatch):
    await store(rig, *KEYS)
    held = Held(monkeypatch, rig.tier._volume)
    reading = asyncio.ensure_future(rig.tier.get_many(KEYS, ()))
    await asyncio.to_thread(held.entered.wait, 30)
    rig.tier._upkeep.report(TierFault(Kind.FAULTY, "test"))
    assert bodies(await rig.tier.get_many(KEYS[:1], ())) == {KEYS[0]: None}
    held.go_on.set()
    assert await reading == {}


async def test_a_cancelled_reader_leaves_nothing(rig, monkeypatch):
    await store(rig, *KEYS)
    held = Held(monkeypatch, rig.tier._volume)
    reading = asyncio.ensure_future(rig.tier.get_many(KEYS, ()))
    await asyncio.to_thread(held.entered.wait, 30)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    held.go_on.set()
    assert rig.tier._reads._looks == []


async def test_few_looks_are_under_way_at_a_time_and_the_others_begin_later(rig, monkeypatch):
    await store(rig, *KEYS)
    held = Held(monkeypatch, rig.tier._volume)
    readings = [asyncio.ensure_future(rig.tier.get_many(KEYS, ())) for _ in range(5)]
    await asyncio.to_thread(held.entered.wait, 30)
    assert len(rig.tier._reads._looks) == 2
    rig.tier.put(KEYS[2], entry_of(KEYS[2], b"new"))
    held.go_on.set()
    found = [bodies(answer) for answer in await asyncio.gather(*readings)]
    assert [answer.get(KEYS[2]) for answer in found] == [None, None, b"new", b"new", b"new"]
    assert rig.tier._reads._looks == []


@pytest.mark.parametrize("damage", ["UPDATE Cache SET value = x'00'", "UPDATE Cache SET mode = 4"])
async def test_a_damaged_row_is_that_keys_miss(rig, damage):
    await store(rig, *KEYS)
    index = rig.tier._volume._index
    await rig.tier._writer.run(lambda: index._writer._sql(damage + " WHERE key = 'k2'"))
    found = await rig.tier.get_many(KEYS, ())
    assert bodies(found) == {key: None if key == KEYS[2] else b"old" for key in KEYS}
    assert rig.corrupt == [KEYS[2]]
    await rig.tier.drain()
    assert rig.tier.stats.entries == 4


async def test_a_fault_is_left_to_single_reads_which_know_whose_it_is(rig, monkeypatch):
    def fail(*_):
        raise TierFault(Kind.FAULTY, "test")

    await store(rig, *KEYS[:2])
    rig.tier.put(KEYS[2], entry_of(KEYS[2], b"waits"))
    monkeypatch.setattr(rig.tier._volume, "lookup_many", fail)
    assert bodies(await rig.tier.get_many(KEYS[:3], ())) == {KEYS[2]: b"waits"}
    assert rig.tier.stats.errors == 0
    assert rig.tier._reads._looks == []


async def test_what_is_too_old_is_a_miss(rig):
    await store(rig, *KEYS[:2])
    rig.tier._upkeep.marks = type(rig.tier._upkeep.marks)(deny_epoch=2**62)
    assert bodies(await rig.tier.get_many(KEYS[:2], ())) == {KEYS[0]: None, KEYS[1]: None}


async def test_artifacts_are_hashed_where_that_is_asked_for(rig):
    good, other, bad = (artifact_key(hashlib.sha256(data).hexdigest()) for data in (b"good", b"other", b"bad"))
    for key, data in [(good, b"good"), (other, b"other"), (bad, b"not it"), (KEYS[0], b"path")]:
        rig.tier.put(key, entry_of(key, data))
    await rig.tier.drain()
    found = await rig.tier.get_many([good, other, bad, KEYS[0]], {good, bad, KEYS[0]})
    assert {key for key, entry in found.items() if entry.is_verified} == {good}
    assert object_files(rig.path) == []
