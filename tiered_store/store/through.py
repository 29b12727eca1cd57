"""A read of the origin for one reader alone, where nothing on this machine has room to collect the object."""

from __future__ import annotations

from collections.abc import Callable

from tiered_store.aio.limits import ByteBudget
from tiered_store.aio.offload import Offload
from tiered_store.aio.tasks import TaskSet
from tiered_store.key import Key
from tiered_store.origins.base import CHUNK_BYTES
from tiered_store.store.reading import ThroughReading
from tiered_store.store.upstream import Upstream

__all__ = ["read_through"]

#: What such a reader holds: one chunk read, one being sent.
_BYTES = 2 * CHUNK_BYTES


async def read_through(
    upstream: Upstream,
    key: Key,
    *,
    budget: ByteBudget,
    offload: Offload,
    closers: TaskSet,
    condemn: Callable[[Key], None],
) -> ThroughReading:
    """Start such a read.

    Args:
        upstream: the origin.
        key: of the object.
        budget: what the reader holds counts here.
        offload: where artifacts are hashed.
        closers: where the read is closed once the reader has gone.
        condemn: called with the key of an artifact whose bytes are wrong.

    Raises:
        As ``Origin.open``.
    """
    taken = await budget.take(_BYTES)
    try:
        read = await upstream.open(key)
        assert read is not None  # only a conditional read answers None
    except BaseException:
        budget.give(taken)
        raise

    def leave() -> None:
        budget.give(taken)
        closers.start(read.close())

    return ThroughReading(read, offload=offload, leave=leave, condemn=condemn)
