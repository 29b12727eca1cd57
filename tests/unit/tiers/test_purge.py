"""Purges over plain HTTP, and the bounds within which writes wait for them (in the store: test_sources.py)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.cdn import FakeCdn, Served, fake_cdn, hung_up, status, well
from tests.support.faults import ManualClock
from tests.support.store import settle
from tiered_store.aio.breaker import Breaker
from tiered_store.aio.outages import Outage
from tiered_store.stats import CdnStats
from tiered_store.tiers.cdnsettings import CdnSettings
from tiered_store.tiers.purge import HttpPurger, PurgeFailed, Purges


@pytest.fixture
async def cdn() -> AsyncIterator[FakeCdn]:
    async with fake_cdn() as server:
        yield server


@pytest.fixture
async def purger(cdn: FakeCdn) -> AsyncIterator[HttpPurger]:
    made = HttpPurger(cdn.settings(headers={"X-Token": "t"}))
    made.start()
    yield made
    await made.close()


async def test_the_method_is_purge_and_headers_go_along(cdn: FakeCdn, purger: HttpPurger) -> None:
    await purger.purge("a/b c")
    await purger.purge("ü")
    assert cdn.purged == ["a/b c", "ü"]
    assert cdn.asked[0].headers["x-token"] == "t"
    assert cdn.accepted == 1


async def test_another_url(cdn: FakeCdn) -> None:
    made = HttpPurger(CdnSettings("http://127.0.0.1:1/x", purge_url=cdn.settings().base_url))
    made.start()
    await made.purge("a")
    assert cdn.purged == ["a"]
    await made.close()


@pytest.mark.parametrize("line", ["200 OK", "201 Created", "404 Not Found", "410 Gone"])
async def test_what_is_an_answer(cdn: FakeCdn, purger: HttpPurger, line: str) -> None:
    cdn.behave = status(line)
    await purger.purge("a")


@pytest.mark.parametrize("line", ["301 Moved", "403 Forbidden", "405 Not Allowed", "500 No"])
async def test_what_is_none(cdn: FakeCdn, purger: HttpPurger, line: str) -> None:
    cdn.behave = status(line, Location="http://127.0.0.1:1/")
    with pytest.raises(PurgeFailed, match=line[:3]):
        await purger.purge("a")


async def test_a_connection_that_ends(cdn: FakeCdn, purger: HttpPurger) -> None:
    cdn.behave = hung_up
    with pytest.raises(PurgeFailed):
        await purger.purge("a")


async def test_an_answer_is_taken_to_its_end(cdn: FakeCdn, purger: HttpPurger) -> None:
    """A cache that forgets by fetching anew has to be let finish."""
    cdn.objects["a"] = Served(bytes(10**6))

    async def renew(cdn: FakeCdn, asked, writer) -> bool:  # type: ignore[no-untyped-def]
        asked.method = "GET"
        return await well(cdn, asked, writer)

    cdn.behave = renew
    await purger.purge("a")
    await purger.purge("a")
    assert cdn.accepted == 1


class Held:
    """A purger whose purges wait."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.go = asyncio.Event()

    def start(self) -> None:
        pass

    async def purge(self, name: str) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
        finally:
            self.running -= 1

    async def close(self) -> None:
        pass


async def test_so_many_at_once_and_no_more() -> None:
    held, stats, clock = Held(), CdnStats(), ManualClock()
    purges = Purges(held, 60, stats, Outage("purges", clock, place="the cdn"), Breaker(clock=clock))
    work = [asyncio.create_task(purges.purge([f"{number}/{n}" for n in range(30)])) for number in range(3)]
    await settle(30)
    assert held.running == 16
    held.go.set()
    await asyncio.gather(*work)
    assert (held.most, stats.purges, stats.purge_errors) == (16, 90, 0)


async def test_one_that_is_cancelled_tells_nothing() -> None:
    held, stats, clock = Held(), CdnStats(), ManualClock()
    breaker = Breaker(failures=1, clock=clock)
    purges = Purges(held, 60, stats, Outage("purges", clock, place="the cdn"), breaker)
    work = asyncio.create_task(purges.purge(["a", "b"]))
    await settle(30)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert held.running == 0
    assert breaker.is_closed
    held.go.set()
    await purges.purge(["a"])
    assert (stats.purges, stats.purge_errors) == (1, 0)
