"""Files of the journal that count no more: what is removed first, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.support.faults import Gate
from tiered_store.key import Key
from tiered_store.store.dropped import Dropped

A, B = Key("back/a"), Key("back/b")


async def test_of_one_key_the_older_files_are_removed_before_the_newer_ones() -> None:
    """The newer one was uploaded: a crash in between must not leave the older one alone, to be uploaded over it."""
    removed: list[int] = []
    gate = Gate()

    async def remove(sequences: Sequence[int]) -> None:
        await gate.pass_through()
        removed.extend(sequences)

    dropped = Dropped(remove)
    dropped.add(B, 3)
    await gate.reached.wait()
    older = [8 * number + 1 for number in range(5)]  # a set of these and the newest does not keep their order
    for sequence in older:
        dropped.add(A, sequence)
    dropped.add(A, 48)
    assert list({*older, 48}) != [*older, 48]
    gate.open()
    await asyncio.wait_for(dropped.settle([A]), 10)
    assert removed == [3, *older, 48]
    await dropped.close()


async def test_a_removal_that_has_ended_is_not_waited_for_again() -> None:
    """In the turn of the loop in which one ends, somebody drops another file, and waits for its removal."""
    removed: list[int] = []

    async def remove(sequences: Sequence[int]) -> None:
        await asyncio.sleep(0)
        removed.extend(sequences)

    async def write(dropped: Dropped) -> None:
        while not removed:
            await asyncio.sleep(0)
        dropped.add(B, 2)  # as a write that overrules what is pending does
        await dropped.settle([B])
        assert removed == [1, 2]

    dropped = Dropped(remove)
    dropped.add(A, 1)
    await write(dropped)
    await dropped.close()
