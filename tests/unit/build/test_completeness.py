from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

import pytest

from tests.support.build import BuildRig, build_rig
from tests.support.reapi import action_result, tree
from tiered_store.build import completeness
from tiered_store.build.actionresult import EMPTY_DIGEST
from tiered_store.build.completeness import is_usable
from tiered_store.build.entry import Place
from tiered_store.errors import OriginUnavailable
from tiered_store.key import artifact_key

CAS = Place("bazel-cas", "main")


@pytest.fixture
async def build() -> AsyncIterator[BuildRig]:
    async with build_rig() as rig:
        yield rig


async def blob(build: BuildRig, data: bytes) -> str:
    name = hashlib.sha256(data).hexdigest()
    await build.put(CAS, name, data)
    return name


async def test_a_result_is_usable_while_all_it_names_is_there(build):
    names = [await blob(build, data) for data in (b"a", b"b", b"out", b"err", b"in a directory")]
    directory = await blob(build, tree([names[4]], [[EMPTY_DIGEST]]))
    result = action_result({"a": names[0], "b": names[1]}, {"d": directory}, stdout=names[2], stderr=names[3])
    assert await is_usable(build.cache, CAS, result)
    for name in (*names, directory):
        content = artifact_key(name)
        body = await build.rig.get(content)
        await build.rig.store.delete(content)
        assert not await is_usable(build.cache, CAS, result), name
        await blob(build, body)
        assert await is_usable(build.cache, CAS, result)


async def test_what_a_result_names_is_in_use_when_it_is_asked_about():
    """What a build is about to fetch is not what the tier forgets next."""
    async with build_rig(memory_bytes=200_000) as build:
        named, unnamed = await blob(build, b"named"), await blob(build, b"unnamed")
        for number in range(500):
            await blob(build, b"%d" % number * 500)
            assert await is_usable(build.cache, CAS, action_result({"a": named}))
        assert build.rig.memory.peek(artifact_key(named)) is not None
        assert build.rig.memory.peek(artifact_key(unnamed)) is None


async def test_the_empty_blob_is_always_there(build):
    assert await is_usable(build.cache, CAS, action_result({"a": EMPTY_DIGEST}, {"d": EMPTY_DIGEST}))


@pytest.mark.parametrize("body", [b"\xcc\xac\x01 of ccache", b'{"of": "moon"}', b"x" * 10_000])
async def test_what_is_no_action_result_is_given_out(build, body):
    assert await is_usable(build.cache, CAS, body)


async def test_what_could_be_taken_for_an_empty_result_is_not(build):
    assert not await is_usable(build.cache, CAS, b"")


async def test_a_tree_that_is_none_makes_the_result_unusable(build):
    name = await blob(build, b"\x08 no tree")
    assert not await is_usable(build.cache, CAS, action_result({}, {"d": name}))


async def test_a_fault_makes_the_result_unusable(build):
    name = await blob(build, b"a")
    build.rig.store.condemn(CAS.key(name))
    build.rig.origin.fail("open", lambda: OriginUnavailable("down"))
    assert not await is_usable(build.cache, CAS, action_result({"a": name}))


async def test_bounds(build, monkeypatch):
    name = await blob(build, tree([await blob(build, b"a")] * 10))
    result = action_result({}, {"d": name})
    assert await is_usable(build.cache, CAS, result)
    monkeypatch.setattr(completeness, "_MESSAGE_MAX_BYTES", len(result))
    assert not await is_usable(build.cache, CAS, result)  # its tree is too large
    monkeypatch.setattr(completeness, "_MESSAGE_MAX_BYTES", len(result) - 1)
    assert await is_usable(build.cache, CAS, result)  # this can be no action result
    monkeypatch.undo()
    monkeypatch.setattr("tiered_store.build.actionresult.NAMES_MAX", 0)
    assert not await is_usable(build.cache, CAS, result)
