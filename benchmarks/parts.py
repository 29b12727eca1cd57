"""``python -m benchmarks.parts``: what a small read costs, part by part, in one process.

The parts are the program's own code with the socket, or the store, replaced; "system calls" is the socket alone.
What is left of a whole read (``make bench``, get 1 KiB) is the event loop, and the two processes taking turns on a CPU.
"""

from __future__ import annotations

import asyncio
import os
import socket
import timeit
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import uvloop

from benchmarks.data import payload
from tiered_store.aio.rights import ANCILLARY_BYTES, CLOEXEC
from tiered_store.client.link import Link
from tiered_store.client.pool import Pool
from tiered_store.objects import Entry, ObjectInfo
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.protocol.frames import HEADER, Opcode
from tiered_store.protocol.messages import encode_info
from tiered_store.servers.connection import Connection
from tiered_store.servers.limits import NativeLimits, RequestBytes
from tiered_store.servers.sockets import PeerCredentials
from tiered_store.store.limits import StoreLimits
from tiered_store.store.policy import Policies
from tiered_store.store.store import Store
from tiered_store.tiers.memory import MemoryTier

_KEY = "cache/object"
_BODY = payload(1024)
_REPEAT, _NUMBER = 7, 20_000


def main() -> None:
    """Print the table."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = [*_system_calls(), *_client(), *uvloop.run(_server())]
    print("a read of 1 KiB from memory, one process, one CPU, best of seven, us")
    for name, microseconds in rows:
        print(f"  {name:<58}{microseconds:6.2f}")


def _best(work: Callable[[], object]) -> float:
    return min(timeit.repeat(work, number=_NUMBER, repeat=_REPEAT)) / _NUMBER * 1e6


def _reply(request_id: int) -> bytes:
    head = encode_info(ObjectInfo(_KEY, len(_BODY), "etag"), "memory", with_key=False)
    return HEADER.pack(len(head) + len(_BODY), Opcode.OBJECT, 0, len(head), request_id, 0) + head + _BODY


def _system_calls() -> list[tuple[str, float]]:
    client, server = socket.socketpair()
    request, reply = bytes(16) + _KEY.encode(), _reply(1)

    def exchange() -> None:
        client.sendall(request)
        server.recv(65536)
        server.send(reply)
        client.recvmsg(72 * 1024, ANCILLARY_BYTES, CLOEXEC)

    with client, server:
        return [("four system calls: send, recv, send, recvmsg", _best(exchange))]


def _client() -> list[tuple[str, float]]:
    """``Link.fetch`` and the pool round it, with a socket that answers at once."""
    link = Link.__new__(Link)
    replies = {number: _reply(number) for number in range(_REPEAT * _NUMBER * 2 + 2)}
    state: dict[str, Any] = {
        "request_id": 0,
        "is_proven": True,
        "_timeout_s": 30.0,
        "_shortened_s": None,
        "_sendall": lambda data: None,
        "_recvmsg": lambda size, ancillary, flags: (replies[link.request_id], [], 0, None),
    }
    for name, value in state.items():
        setattr(link, name, value)
    pool = Pool("/nowhere", 30.0, 1.0)
    alone = _best(lambda: link.fetch(_KEY, 4, 30_000))
    link.request_id = 0
    pool._idle.append(link)  # noqa: SLF001 - its parts are what is measured
    pooled = _best(lambda: pool.use(Link.fetch, _KEY, 4, 30_000))
    return [("client: codec and deadline (Link.fetch)", alone), ("client: with the pool (Pool.use)", pooled)]


async def _server() -> list[tuple[str, float]]:
    """A connection of the native door whose channel sends nowhere, on a real store."""
    memory = MemoryTier(64_000_000)
    store = Store(memory=memory, disk=None, origin=MemoryOrigin(), policies=Policies(), limits=StoreLimits())
    info = ObjectInfo(_KEY, len(_BODY), "etag")
    memory.put(cast("Any", _KEY), Entry(info, _BODY, validated_at=0.0, fresh_until=1e18, tier="memory"))
    ours, peers = socket.socketpair()
    door = SimpleNamespace(
        store=store,
        limits=NativeLimits(),
        request_bytes=RequestBytes(),
        name="",
        gone=lambda connection: None,
        statistics=dict,
    )
    peer = PeerCredentials(os.getpid(), os.getuid(), os.getgid())
    connection = Connection(ours, door, peer, handlers={}, quick={}, opened_at=asyncio.get_running_loop().time())
    connection._is_open = True  # noqa: SLF001
    channel = connection.channel
    channel._sock = cast("Any", SimpleNamespace(send=len))  # noqa: SLF001
    request = HEADER.pack(len(_KEY), Opcode.GET, 4, 0, 7, 30_000) + _KEY.encode()
    rows = [
        ("server: lookup in the memory tier (MemoryTier.peek)", _best(lambda: memory.peek(cast("Any", _KEY)))),
        ("server: lookup and freshness (Store.peek)", _best(lambda: store.peek(_KEY))),
        ("server: codec, lookup, reply", _best(lambda: connection._data_received(request, []))),  # noqa: SLF001
    ]
    channel._sock = ours  # noqa: SLF001
    connection.close()
    peers.close()
    await store.close()
    return rows


if __name__ == "__main__":
    main()
