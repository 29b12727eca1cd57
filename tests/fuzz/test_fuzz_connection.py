"""A whole connection of the native door, over a real store, under mutated golden frames and garbage.

The invariant, whatever one peer sends, in whatever pieces and with whatever descriptors:

- no exception reaches the event loop, and no request fails with an internal error;
- nothing hangs: when the peer has gone, its connection and its requests end;
- memory and descriptors are bounded, while it is there and afterwards;
- another connection on the same door still answers PING and GET correctly.

`TIERED_STORE_FUZZ_S` sets how long it runs (6 seconds by default), `TIERED_STORE_FUZZ_SEED` where it starts; a
failure names its seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.test_fuzz_codec import SEED, fuzz_seconds, mutated
from tests.support.doors import Peer, Served, eventually, served
from tests.support.origins import memfd_body, open_descriptors, pattern
from tests.support.store import settle
from tests.support.wire import GOLDEN
from tiered_store.objects import INLINE_MAX_BYTES, Descriptor
from tiered_store.protocol.frames import HEADER_BYTES, MAX_FRAME_BYTES, Flag, Opcode, encode_frame
from tiered_store.protocol.messages import PutRequest, encode_hello, encode_put
from tiered_store.servers.limits import NativeLimits
from tiered_store.store.limits import StoreLimits

FRAMES = [bytes.fromhex(entry["hex"]) for entry in GOLDEN]
LIMITS = NativeLimits(max_in_flight=16, write_buffer_bytes=256 * 1024)
STORE_LIMITS = StoreLimits(max_object_bytes=4 << 20, spool_memory_bytes=16 << 20)
KEYS = ["a/b", "a", "small", "large", "huge", "sha256:", "none"]


def _request(dice: random.Random) -> bytes:
    """A request that makes sense, so that the deeper rooms are reached as well."""
    number, key = dice.randrange(1, 8), dice.choice(KEYS)
    kind = dice.randrange(6)
    if kind == 0:
        flags = dice.choice([0, Flag.ACCEPT_DESCRIPTOR, Flag.STREAM, Flag.STREAM | Flag.NO_PROMOTE])
        return encode_frame(Opcode.GET, number, body=key.encode(), flags=flags, extra=dice.choice([0, 0, 1, 1000]))
    if kind == 1:
        size = dice.choice([None, 0, 5, 100_000, 2**40])
        flags = dice.choice([0, Flag.STREAM, Flag.DESCRIPTOR])
        body = bytes(size) if not flags and size in {0, 5, 100_000} else b""
        return encode_put(number, PutRequest(key.encode(), size, None, {}), body=body, flags=flags)
    if kind == 2:
        return encode_frame(Opcode.DATA, number, body=bytes(dice.choice([0, 1, 5, 100_000])))
    opcode = dice.choice([Opcode.END, Opcode.WINDOW, Opcode.CANCEL, Opcode.DESCRIPTOR, Opcode.STATS, Opcode.PING])
    return encode_frame(opcode, number, extra=dice.choice([0, 1, 100_000, 0xFFFFFFFF]))


def _message(dice: random.Random) -> bytes:
    choice = dice.random()
    if choice < 0.03:
        return dice.randbytes(dice.randrange(200))
    if choice < 0.06:
        body = dice.randbytes(16) * ((MAX_FRAME_BYTES - dice.randrange(20)) // 16)
        return encode_frame(dice.choice([Opcode.PING, Opcode.PUT_MANY, Opcode.GET_MANY]), 5, body=body)
    return mutated(dice.choice(FRAMES), dice) if choice < 0.5 else _request(dice)


@contextmanager
def _files(directory: Path) -> Iterator[list[int]]:
    """Descriptors of all kinds."""
    with contextlib.ExitStack() as stack:
        reader, writer = os.pipe()
        numbers = [reader, writer, os.open(directory, os.O_RDONLY), os.open("/dev/null", os.O_RDWR)]
        for number in numbers:
            stack.callback(os.close, number)
        owned: list[Descriptor] = [memfd_body(data).descriptor for data in (b"", b"hello", pattern(100_000))]
        for descriptor in owned:
            stack.callback(descriptor.close)
        yield numbers + [descriptor.fd for descriptor in owned]


async def _send(peer: Peer, data: bytes, files: list[int]) -> None:
    """As much as the door takes at once; it owes a peer that does not read nothing more."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.05):
            await peer.send(data, *files)


def _check_bounds(peer: Peer) -> None:
    connection = peer.connection
    assert len(connection._reader._pending) <= HEADER_BYTES + MAX_FRAME_BYTES + 65_536
    assert len(connection._descriptors) <= 4
    assert len(connection.in_flight) <= LIMITS.max_in_flight
    assert len(connection._backlog) <= 2 * 65_536 // HEADER_BYTES
    # One reply beyond the bound for the frame in hand, and one for each request that had just been let through.
    assert connection.channel._buffered <= LIMITS.write_buffer_bytes + 4 * MAX_FRAME_BYTES


async def _play(it: Served, dice: random.Random, files: list[int]) -> None:
    """One peer, from its connection to its end."""
    peer = await it.connect(hello=False)
    if dice.random() < 0.95:
        await peer.send(encode_hello("fuzz"))
    with contextlib.suppress(ConnectionError):
        for _ in range(dice.randrange(1, 20)):
            data = b"".join(_message(dice) for _ in range(dice.choice([1, 1, 2, 10])))
            while data and not peer.connection.channel.is_closed:
                size = dice.choice([1, 8, 16, 100, 70_000, len(data)])
                piece, data = data[:size], data[size:]
                passed = [dice.choice(files) for _ in range(dice.choice([1, 1, 2, 6]))] if dice.random() < 0.1 else []
                await _send(peer, piece, passed)
                if dice.random() < 0.1:
                    await settle(3)
                if dice.random() < 0.3:
                    peer.read()
                    peer.frames.clear()
                    peer.descriptors.clear()
                _check_bounds(peer)
        if dice.random() < 0.5:
            await settle(20)
            peer.read()
    peer.sock.close()
    peer.frames.clear()
    peer.descriptors.clear()
    # While a peer's requests wait, the door does not read: that the peer has gone shows by the door's clock.
    connection = peer.connection
    if connection._backlog:
        connection.check(connection._loop.time() + 1000)
    await eventually(lambda: connection.channel.is_closed and not connection.in_flight)
    assert not connection.transfers
    assert not connection._descriptors
    it.peers.remove(peer)


async def test_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    deadline = time.monotonic() + fuzz_seconds(6.0)
    with _files(tmp_path) as files:
        async with served(LIMITS, store_limits=STORE_LIMITS) as it:
            for key, size in (("small", 100), ("large", INLINE_MAX_BYTES + 1), ("huge", 3 << 20)):
                await it.rig.there(key, pattern(size))
            count = 0
            level = rss = 0
            while count < 60 or time.monotonic() < deadline:
                seed = SEED + count
                try:
                    await _play(it, random.Random(seed), files)
                    assert unhandled == []
                    failed = [record.getMessage() for record in caplog.records if record.exc_info]
                    assert failed == [], caplog.text
                    if count % 20 == 19:
                        assert await it.is_well()
                except Exception as error:
                    raise AssertionError(f"found with TIERED_STORE_FUZZ_SEED={seed}: {error!r}") from error
                count += 1
                if count == 40:  # warm: tiers and origin hold what they will
                    await settle(50)
                    level, rss = open_descriptors(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            assert await it.is_well()
            await eventually(lambda: open_descriptors() <= level + 30)  # objects in memory have theirs
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss < 128 * 1024
