"""A link of the asyncio client, scripts of daemons that serve it, and what its failures leave behind."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.wire import ScriptedDaemon, ServerSide
from tiered_store.client import downloads
from tiered_store.client.multiplexed import MultiplexedLink
from tiered_store.protocol.frames import Frame, Opcode, encode_frame


def echo(side: ServerSide) -> None:
    """Answers every GET with its key, every PING with its bytes."""
    side.greet()
    while True:
        answer(side, side.receive())


def answer(side: ServerSide, frame: Frame) -> None:
    """A PING with its bytes, any other request with an object: its payload."""
    if frame.opcode == Opcode.PING:
        side.send(encode_frame(Opcode.PONG, frame.request_id, body=frame.payload))
    else:
        side.send_object(frame.request_id, frame.payload)


@asynccontextmanager
async def connected(*scripts: Callable[[ServerSide], object], timeout_s: float | None = 20.0) -> AsyncIterator[Any]:
    """A link, and the daemon at its other end."""
    with ScriptedDaemon(*scripts) as daemon:
        link = await MultiplexedLink.connect(daemon.path, timeout_s)
        try:
            yield link, daemon
        finally:
            link.close()


async def get(link: MultiplexedLink, key: str = "a", **options: Any) -> bytes:
    """Read an object."""
    return (await link.run(downloads.get, key, flags=0, **options)).data


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


class Kept:
    """Something that an operation's frames hold, and with them each traceback that goes through them."""

    def __call__(self, _: Any) -> Any:
        return lambda _: None


async def lost(work: Callable[[Kept], Any], error: type[BaseException]) -> bool:
    """Whether an operation that fails leaves nothing for the collector: all is gone as soon as its error is."""
    kept = Kept()
    watched = weakref.ref(kept)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(error) as caught:
            await work(kept)
        del kept
        assert watched() is not None, "the traceback does not hold what the test looks at"
        del caught
        await asyncio.sleep(0)  # the loop's own last reference
        return watched() is None
    finally:
        gc.enable()
