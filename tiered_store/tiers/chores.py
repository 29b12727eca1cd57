"""Work of the disk tier that is done a piece at a time: writing down what was used, and auditing the directory.

Loop-only; a piece is one call to the writing thread. Each chore knows how far it has come. Whether now is the time for
a piece, and what a fault means, is ``upkeep.py``'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from tiered_store.aio.offload import Offload
from tiered_store.tiers.faults import TierFault
from tiered_store.tiers.openfiles import Recent
from tiered_store.tiers.volume import Done, Volume

__all__ = ["Auditing", "Touching"]

#: How often recency is written. A key costs some 150 us, so only the last few thousand of each period
#: count (``Recent``): reading fast must not make the writing thread busy.
_TOUCH_S = 30.0
_TOUCH_BATCH = 256


class Touching:
    """Writes down which keys were used lately, once in a period."""

    def __init__(self, recent: Recent, volume: Volume, writer: Offload, *, clock: Callable[[], float]) -> None:
        self._recent = recent
        self._volume = volume
        self._writer = writer
        self._clock = clock
        self._began_at = clock()
        self._left = 0

    def is_due(self) -> bool:
        """Whether keys of this period are left; begins the next period when it is time."""
        now = self._clock()
        if now - self._began_at >= _TOUCH_S:
            self._began_at, self._left = now, len(self._recent)
        return self._left > 0

    async def step(self) -> None:
        """Write some of them. Raises TierFault."""
        keys = self._recent.take(min(_TOUCH_BATCH, self._left))
        self._left -= len(keys) or self._left
        await self._writer.run(self._volume.touch, keys)

    async def write_all(self, may_go_on: Callable[[], bool]) -> None:
        """Write all that were used until now, for as long as ``may_go_on``. Raises TierFault."""
        for _ in range(0, len(self._recent), _TOUCH_BATCH):
            if may_go_on():
                await self._writer.run(self._volume.touch, self._recent.take(_TOUCH_BATCH))


class Auditing:
    """Goes through the directory in steps, once after each opening that asks for it.

    Args:
        volume: audits.
        writer: its thread.
        take: told what a step has changed.

    Attributes:
        is_due: whether an audit has to begin, or to go on.
    """

    def __init__(self, volume: Volume, writer: Offload, take: Callable[[Done], None]) -> None:
        self._volume = volume
        self._writer = writer
        self._take = take
        self._audit: Iterator[None] | None = None
        self._is_rebuilding = False
        self.is_due = False

    def opened(self, *, is_due: bool, is_rebuilding: bool) -> None:
        """The volume was opened: what has to be done now, whatever was before."""
        self._audit, self.is_due, self._is_rebuilding = None, is_due, is_rebuilding

    def interrupt(self) -> None:
        """Begin again from the start, when it goes on."""
        self._audit = None

    async def step(self, deny_epoch: int) -> float:
        """Do a piece; gives how long to rest when there is nothing else to do, in seconds: as long as it took.

        Args:
            deny_epoch: files of earlier epochs are not adopted.

        Raises:
            TierFault: it begins again when the fault is over.
        """
        began = time.perf_counter()
        if self._audit is None:
            self._audit = await self._writer.run(self._volume.audit, rebuild=self._is_rebuilding, deny_epoch=deny_epoch)
        audit = self._audit
        try:
            done = await self._writer.run(self._volume.step, audit)
        except TierFault:
            self._audit = None
            raise
        if audit is not self._audit:  # interrupted meanwhile
            return 0.0
        if done is None:
            self._audit, self.is_due, self._is_rebuilding = None, False, False
        else:
            self._take(done)
        return max(0.001, time.perf_counter() - began)
