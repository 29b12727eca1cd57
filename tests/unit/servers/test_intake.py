from __future__ import annotations

import pytest

from tests.support.build import build_rig
from tests.support.origins import pattern
from tiered_store.build.cache import BuildLimits
from tiered_store.errors import PermissionDenied, ProtocolError, TooLarge
from tiered_store.objects import read_body
from tiered_store.servers.intake import Intake

PIECES = [pattern(60_000)] * 10
SIZE = sum(map(len, PIECES))


async def fill(intake: Intake) -> None:
    for piece in PIECES:
        await intake.write(piece)


async def test_a_value_becomes_whole():
    async with build_rig() as build:
        intake = Intake(build.cache.spool, SIZE)
        await fill(intake)
        staged = await intake.finish()
        assert read_body(staged.body) == b"".join(PIECES)
        del staged  # which holds a file open
        await intake.abort()


async def test_what_is_not_wanted_is_dropped():
    async with build_rig() as build:
        intake = Intake(build.cache.spool, SIZE, PermissionDenied("no"))
        await fill(intake)
        with pytest.raises(PermissionDenied, match="no"):
            await intake.finish()
        assert build.rig.store._staging._uploads.uploads == 0


async def test_what_is_too_large_is_dropped():
    async with build_rig(BuildLimits(max_entry_bytes=SIZE - 1)) as build:
        intake = Intake(build.cache.spool, SIZE)
        await fill(intake)
        with pytest.raises(TooLarge):
            await intake.finish()


async def test_a_fault_in_the_middle_is_told_at_the_end():
    async with build_rig() as build:
        intake = Intake(build.cache.spool, SIZE - 1)
        await fill(intake)
        with pytest.raises(TooLarge):
            await intake.finish()
        assert build.rig.store._staging._uploads.uploads == 0


async def test_what_is_given_up_gives_everything_back():
    async with build_rig() as build:
        intake = Intake(build.cache.spool, SIZE)
        await intake.write(PIECES[0])
        await intake.abort()
        await intake.abort()
        assert build.rig.store._staging._uploads.uploads == 0


async def test_a_value_that_ends_early_is_none():
    async with build_rig() as build:
        intake = Intake(build.cache.spool, SIZE)
        await intake.write(PIECES[0])
        with pytest.raises(ProtocolError):
            await intake.finish()
        await intake.abort()
