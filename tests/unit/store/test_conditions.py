"""Writes on a condition, at the store."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.store import NOTHING_SAID, Rig, store_rig
from tiered_store.errors import OriginUnavailable
from tiered_store.key import parse_key
from tiered_store.objects import ObjectInfo
from tiered_store.store.conditions import Condition, ConditionFailed
from tiered_store.store.spool import Staged

KEY, BACK = parse_key("k"), parse_key("back/k")


def is_absent(info: ObjectInfo | None) -> bool:
    return info is None


def is_version(etag: str) -> Condition:
    return lambda info: info is not None and info.etag == etag


async def put(rig: Rig, key: str, data: bytes, condition: Condition | None = None) -> ObjectInfo:
    staged = Staged.of_bytes(data, hashed=False)
    return await rig.store.put(parse_key(key), staged, NOTHING_SAID, condition=condition)


async def test_the_condition_is_judged_by_the_origin_and_not_by_a_tier() -> None:
    async with store_rig() as rig:
        await rig.there("k", b"1")
        await rig.get("k")
        newer = await rig.there("k", b"2")  # behind the daemon's back: the memory tier does not know
        assert (await put(rig, "k", b"3", is_version(newer.etag))).size == 1
        assert await rig.get("k") == b"3"


async def test_a_condition_that_fails_changes_nothing() -> None:
    async with store_rig() as rig:
        before = await put(rig, "k", b"1")
        with pytest.raises(ConditionFailed):
            await put(rig, "k", b"2", is_absent)
        with pytest.raises(ConditionFailed):
            await rig.store.delete(KEY, condition=is_absent)
        assert await rig.get("k") == b"1"
        assert (await rig.store.stat(KEY)).etag == before.etag
        assert await rig.store.delete(KEY, condition=is_version(before.etag))
        await put(rig, "k", b"3", is_absent)


async def test_two_writers_never_both_meet_one_condition() -> None:
    async with store_rig() as rig:
        gate = rig.origin.hold("put")
        writers = [asyncio.create_task(put(rig, "k", b"%d" % number, is_absent)) for number in range(3)]
        await gate.reached.wait()
        gate.open()
        results = await asyncio.gather(*writers, return_exceptions=True)
        assert sum(isinstance(result, ConditionFailed) for result in results) == 2
        assert rig.origin.calls["put"] == 1


async def test_what_waits_in_the_journal_counts(tmp_path: Path) -> None:
    async with store_rig(journal=tmp_path / "journal") as rig:
        gate = rig.origin.hold("put")
        pending = await put(rig, "back/k", b"1", is_absent)
        with pytest.raises(ConditionFailed):
            await put(rig, "back/k", b"2", is_absent)
        await put(rig, "back/k", b"3", is_version(pending.etag))
        gate.open()
        await rig.store.flush()
        assert await rig.get(BACK) == b"3"


async def test_an_origin_that_does_not_answer_is_no_condition_that_fails() -> None:
    async with store_rig() as rig:
        rig.origin.fail("stat", lambda: OriginUnavailable("down"))
        with pytest.raises(OriginUnavailable):
            await put(rig, "k", b"1", is_absent)
        assert rig.origin.calls["put"] == 0
