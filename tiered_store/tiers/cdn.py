"""The cdn tier: a read-only source below the disk and above the origin, over HTTP.

By the law of tiers it may have nothing, fail or lie, and none of that is its reader's error: ``open`` gives a read or
nothing, and a read that breaks is a ``ReadFault``, after which the reader goes on with the origin. A cdn that fails
again and again is left alone for a while, and so is one that gives wrong bytes again and again; a name about which it
lied, or which a write has changed, is not asked for.

Invariant: no more connections for reads than configured, and nobody waits for one while it holds one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from tiered_store.aio.breaker import Breaker, Pass
from tiered_store.aio.outages import Outage
from tiered_store.aio.ranges import Tokens
from tiered_store.stats import CdnStats
from tiered_store.tiers.base import ReadFault
from tiered_store.tiers.cdnread import CdnRead, begin_read
from tiered_store.tiers.cdnrequests import Absent, Requests, Shut
from tiered_store.tiers.cdnsession import said
from tiered_store.tiers.cdnsettings import CdnSettings
from tiered_store.tiers.distrust import Distrusted
from tiered_store.tiers.purge import Purger, Purges

__all__ = ["CdnTier"]

_PLACE: Final = "the cdn"
#: How long one that lies is left alone, in seconds: at first, and at most. What makes it lie is mostly a wrong
#: configuration, which no second heals, and each try may cost a whole object.
_LIAR_S: Final = 30.0
_LIAR_MAX_S: Final = 600.0


class CdnTier:
    """A CDN before the same objects as the origin.

    Args:
        settings: where, and how much.
        purger: how it is made to forget, or None.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        settings: CdnSettings,
        purger: Purger | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._stats = CdnStats()
        self._health = Breaker(clock=clock)
        self._honesty = Breaker(open_s=_LIAR_S, max_open_s=_LIAR_MAX_S, clock=clock)
        self._requests = Requests(settings, self._health)
        self._outage = Outage("reads", clock, place=_PLACE)
        self._distrusted = Distrusted(clock)
        self._tokens = Tokens(settings.parts_at_once)
        # A read has one connection from its start to its end; those of the ranges ahead come with their tokens.
        self._places = asyncio.Semaphore(settings.max_connections - settings.parts_at_once)
        self._purges: Purges | None = None
        if purger is not None:
            outage = Outage("purges", clock, place=_PLACE)
            self._purges = Purges(purger, settings.timeout_s, self._stats, outage, Breaker(clock=clock))

    @property
    def stats(self) -> CdnStats:
        """Live counters."""
        self._stats.breaker_opened = self._health.opened + self._honesty.opened
        self._stats.breaker_open = not (self._health.is_closed and self._honesty.is_closed)
        return self._stats

    async def start(self) -> None:
        """Make ready; nobody is asked, and a CDN that is down keeps nothing from starting."""
        self._requests.start()
        if self._purges is not None:
            self._purges.start()

    async def open(self, name: str) -> CdnRead | None:
        """Start to read an object; None if the cdn has it not, or cannot say. Never raises."""
        if self._distrusted.holds(name):
            self._stats.skipped += 1
            return None
        trust = await self._admitted()
        if trust is None:
            self._stats.skipped += 1
            return None
        read: CdnRead | None = None
        try:
            read = await begin_read(name, self._requests, self._settings.part_bytes, self._tokens)
            read.owner = _Owner(self, name, trust)
        except Shut:
            self._stats.skipped += 1
        except Absent:
            self._stats.misses += 1
            self.answered()
        except Exception as error:
            self._stats.misses += 1
            self.failed("open", error)
        else:
            self._stats.hits += 1
            self.answered()
        finally:
            if read is None:
                trust.abandoned()
                self._places.release()
        return read

    async def _admitted(self) -> Pass | None:
        """A pass and a connection for one read, or neither."""
        trust = self._honesty.enter()
        if trust is None:
            return None
        has_place = False
        try:
            has_place = await self._place()
        finally:
            if not has_place:  # also when cancelled: a pass that is lost would let nobody pass again
                trust.abandoned()
        return trust if has_place else None

    async def _place(self) -> bool:
        """Wait for a connection, as long as an answer may take; whether there is one. Its lack is nobody's fault."""
        if not self._places.locked():
            await self._places.acquire()
            return True
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._places.acquire()
        except TimeoutError:
            return False
        return True

    def distrust(self, name: str) -> None:
        """What the cdn has under this name may be wrong or old: do not ask for it, for a while."""
        self._distrusted.add(name)

    async def purge(self, names: Sequence[str]) -> None:
        """Make the cdn forget objects, where that is configured; returns when it has, or when time is up."""
        if self._purges is not None:
            await self._purges.purge(names)

    async def close(self) -> None:
        """Close all connections; reads must have been closed."""
        try:
            await self._requests.close()
        finally:
            if self._purges is not None:
                await self._purges.close()

    def received(self, size: int) -> None:
        """Bytes came, of whatever read."""
        self._stats.bytes_read += size

    def failed(self, operation: str, error: Exception) -> None:
        """A request failed, or a read broke."""
        self._stats.errors += 1
        reason = error if isinstance(error, ReadFault) else ReadFault(said(error))
        self._outage.failed(operation, reason)

    def answered(self) -> None:
        """A request was answered."""
        if self._outage.is_on:
            self._outage.answered()

    def ended(self, name: str, trust: Pass, *, is_right: bool | None) -> None:
        """A read was closed."""
        self._places.release()
        if is_right:
            trust.succeeded()
        elif is_right is None:
            trust.abandoned()
        else:
            trust.failed()
            self._stats.lies += 1
            self.failed("verify", ReadFault(f"other bytes than they must be for {name}"))
            self.distrust(name)


class _Owner:
    """What one read tells its tier; implements ``ReadOwner``."""

    __slots__ = ("_name", "_tier", "_trust")

    def __init__(self, tier: CdnTier, name: str, trust: Pass) -> None:
        self._tier = tier
        self._name = name
        self._trust = trust

    def received(self, size: int) -> None:
        self._tier.received(size)

    def broke(self, error: ReadFault) -> None:
        self._tier.failed("read", error)

    def ended(self, *, is_right: bool | None) -> None:
        self._tier.ended(self._name, self._trust, is_right=is_right)
