"""Telling a CDN to forget objects: the protocol, and plain HTTP's way of it.

``PURGE`` on an object's URL is what Varnish, Squid and nginx with a purge module or a rule of its own understand;
commercial CDNs have interfaces of their own, each of which would be one more ``Purger``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import aiohttp
from yarl import URL

from tiered_store.aio.breaker import Breaker
from tiered_store.aio.outages import Outage
from tiered_store.stats import CdnStats
from tiered_store.tiers.cdnsession import open_session, said
from tiered_store.tiers.cdnsettings import CdnSettings

__all__ = ["HttpPurger", "PurgeFailed", "Purger", "Purges"]

#: Purges under way at once, over all writes.
_AT_ONCE: Final = 16
#: It forgot the object, or had none.
_DONE: Final = frozenset({404, 410, *range(200, 300)})


class PurgeFailed(Exception):
    """The CDN may still have the object; the message says why."""


class Purger(Protocol):
    """A way to make a CDN forget."""

    def start(self) -> None:
        """Called once, in the event loop, before the first purge."""
        ...

    async def purge(self, name: str) -> None:
        """Return when the CDN has said that it gives this object out no more. How long it takes, the caller bounds.

        Raises:
            PurgeFailed.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class HttpPurger:
    """The method PURGE on the object's URL; implements ``Purger``.

    Args:
        settings: where, and with which headers.
    """

    def __init__(self, settings: CdnSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    def start(self) -> None:
        """See ``Purger.start``."""
        self._session = open_session(self._settings.headers)

    async def purge(self, name: str) -> None:
        """See ``Purger.purge``."""
        assert self._session is not None
        url = URL(self._settings.url_to_purge(name), encoded=True)
        try:
            async with self._session.request("PURGE", url, allow_redirects=False) as response:
                status = response.status
                async for _ in response.content.iter_any():
                    pass  # mostly nothing; what makes nginx forget is to fetch the object anew, to its end
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PurgeFailed(said(error)) from None
        if status not in _DONE:
            raise PurgeFailed(f"the answer is {status}")

    async def close(self) -> None:
        """See ``Purger.close``."""
        if self._session is not None:
            await self._session.close()


class Purges:
    """The purges that writes wait for: bounded in number and in time, counted, and never a write's failure.

    A CDN that takes no purges costs a write the timeout, and after a few of them nothing: the breaker.

    Args:
        purger: how it is done.
        timeout_s: for each, in seconds.
        stats: purges and purge_errors move here.
        outage: where failures are told.
        breaker: left alone by the reads' failures.
    """

    def __init__(self, purger: Purger, timeout_s: float, stats: CdnStats, outage: Outage, breaker: Breaker) -> None:
        self._purger = purger
        self._timeout_s = timeout_s
        self._stats = stats
        self._outage = outage
        self._breaker = breaker
        self._places = asyncio.Semaphore(_AT_ONCE)

    def start(self) -> None:
        """Make ready, in the event loop."""
        self._purger.start()

    async def purge(self, names: Sequence[str]) -> None:
        """Make the CDN forget objects, or note that it did not."""
        await asyncio.sleep(0)  # what follows has to run in a task, see aio/eager.py
        if len(names) == 1:
            await self._one(names[0])
            return
        left = iter(names)

        async def work() -> None:
            for name in left:
                await self._one(name)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(names))):
                group.create_task(work())

    async def _one(self, name: str) -> None:
        async with self._places:
            passing = self._breaker.enter()
            if passing is None:
                self._stats.purge_errors += 1
                return
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._purger.purge(name)
            except asyncio.CancelledError:
                passing.abandoned()
                raise
            except Exception as error:
                passing.failed()
                self._stats.purge_errors += 1
                reason = said(error) if isinstance(error, TimeoutError) else str(error)
                self._outage.failed("purge", PurgeFailed(f"{name}: {reason}"))
            else:
                passing.succeeded()
                self._stats.purges += 1
                if self._outage.is_on:
                    self._outage.answered()

    async def close(self) -> None:
        """Close all connections."""
        await self._purger.close()
