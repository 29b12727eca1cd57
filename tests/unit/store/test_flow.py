"""The first bytes can be read before the spool has them."""

import asyncio

import pytest

from tests.support.store import settle
from tiered_store.objects import ObjectInfo
from tiered_store.store.flow import Flow


class Spooled:
    def __init__(self):
        self.data = b""

    @property
    def written(self):
        return len(self.data)

    async def read(self, offset, length):
        return self.data[offset : offset + length]


async def test_the_head_is_there_until_the_spool_has_it():
    spool = Spooled()
    flow = Flow(ObjectInfo("a", 100, "1"), spool, b"first")
    assert await flow.grown(0) == 5
    assert await flow.read(1, 3) == b"irs"
    waiting = asyncio.create_task(flow.grown(5))
    await settle()
    assert not waiting.done()
    spool.data, flow.head = b"first second", b""
    flow.tell()
    assert await waiting == 12
    assert await flow.read(3, 5) == b"st se"


async def test_nothing_can_be_read_behind_the_end():
    flow = Flow(ObjectInfo("a", 100, "1"), Spooled(), b"first")
    flow.end()
    assert await flow.grown(0) == 0
    with pytest.raises(ValueError, match="over"):
        await flow.read(0, 5)
