"""The HTTP door's tests run on asyncio's loop; those of peers that bend the rules on uvloop's, too."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping

import pytest
import uvloop

#: The daemon runs on uvloop, which closes, pauses and cuts off in its own way.
_ON_BOTH = {"test_hostile", "test_door", "test_eager"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Which event loops a test is run on."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in _ON_BOTH:
        loops["uvloop"] = _warm_uvloop
    return loops


def _warm_uvloop() -> asyncio.AbstractEventLoop:
    """One that has listened before: from then on libuv keeps a descriptor in hand, which is no leak."""

    async def listen() -> None:
        with tempfile.TemporaryDirectory() as directory:
            server = await asyncio.get_running_loop().create_unix_server(asyncio.Protocol, f"{directory}/s")
            server.close()
            await server.wait_closed()

    loop = uvloop.new_event_loop()
    loop.run_until_complete(listen())
    return loop
