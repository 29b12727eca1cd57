"""``python -m benchmarks.parts``: what the smallest operations cost, part by part, in one process.

The parts are the program's own code with the socket, or the store, replaced; "system calls" is the kernel alone.
What is left of a whole read (``make bench``, get 1 KiB) is the event loop, and the two processes taking turns on a CPU,
after which each finds the other's code and data in the CPU's caches.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import timeit
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import uvloop

from benchmarks.data import MIB, payload
from tiered_store.aio.rights import ANCILLARY_BYTES, CLOEXEC, own_descriptors, rights_of
from tiered_store.client.link import Link
from tiered_store.client.pool import Pool
from tiered_store.objects import Descriptor, Entry, FileBody, ObjectInfo
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.protocol.batches import encode_keys
from tiered_store.protocol.frames import HEADER, Flag, Opcode, encode_frame
from tiered_store.protocol.messages import PutRequest, encode_get, encode_info, encode_put
from tiered_store.servers.connection import Connection
from tiered_store.servers.limits import NativeLimits, RequestBytes
from tiered_store.servers.requests import HANDLERS, QUICK
from tiered_store.servers.sockets import PeerCredentials
from tiered_store.store.limits import StoreLimits
from tiered_store.store.policy import Policies
from tiered_store.store.store import Store
from tiered_store.tiers.memory import MemoryTier

_KEY = "cache/object"
_BODY = payload(1024)
_MANY = [f"cache/object/{number:03}" for number in range(100)]
_VIEWED = "cache/view"
_VIEWED_BYTES = 64 * MIB
_REPEAT, _NUMBER = 7, 20_000


def main() -> None:
    """Print the table."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rows = [*_system_calls(), *_client(), *uvloop.run(_server())]
    print("1 KiB from memory unless it says otherwise; one process, one CPU, best of seven, us")
    for name, microseconds in rows:
        print(f"  {name:<58}{microseconds:6.2f}")


def _best(work: Callable[[], object], number: int = _NUMBER) -> float:
    return min(timeit.repeat(work, number=number, repeat=_REPEAT)) / number * 1e6


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
        file = _memory_file()

        def pass_file() -> None:
            server.sendmsg([request], rights_of(file))
            [received] = own_descriptors(client.recvmsg(72 * 1024, ANCILLARY_BYTES, CLOEXEC)[1])
            received.close()

        def map_file() -> None:
            with mmap.mmap(file.fd, _VIEWED_BYTES, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
                mapped[0], mapped[-1]

        return [
            ("four system calls: send, recv, send, recvmsg", _best(exchange)),
            ("a descriptor: sendmsg, recvmsg, close", _best(pass_file)),
            ("a view of 64 MiB: mmap, two page faults, munmap", _best(map_file)),
        ]


def _memory_file() -> Descriptor:
    file = Descriptor(os.memfd_create("parts", os.MFD_CLOEXEC))
    os.pwrite(file.fd, b"x", 0)
    os.pwrite(file.fd, b"x", _VIEWED_BYTES - 1)
    return file


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
    memory = MemoryTier(1024 * MIB)
    store = Store(memory=memory, disk=None, origin=MemoryOrigin(), policies=Policies(), limits=StoreLimits())
    for key in (_KEY, *_MANY):
        _keep(memory, key, _BODY, len(_BODY))
    _keep(memory, _VIEWED, FileBody(_memory_file(), 0, _VIEWED_BYTES, is_memory=True), _VIEWED_BYTES)
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
    now = asyncio.get_running_loop().time()
    connection = Connection(ours, cast("Any", door), peer, handlers=HANDLERS, quick=QUICK, opened_at=now)
    connection._is_open = True  # noqa: SLF001
    channel = connection.channel
    channel._sock = cast("Any", SimpleNamespace(send=len, sendmsg=lambda buffers, rights: len(buffers[0])))  # noqa: SLF001

    def answer(request: bytes, number: int = _NUMBER) -> float:
        return _best(lambda: connection._data_received(request, []), number)  # noqa: SLF001

    flags = Flag.ACCEPT_DESCRIPTOR
    many = encode_frame(Opcode.GET_MANY, 7, body=encode_keys([key.encode() for key in _MANY]))
    put = encode_put(7, PutRequest(b"cache/put", len(_BODY), None, {}), body=_BODY)
    rows = [
        ("server: lookup in the memory tier (MemoryTier.peek)", _best(lambda: memory.peek(cast("Any", _KEY)))),
        ("server: lookup and freshness (Store.peek)", _best(lambda: store.peek(_KEY))),
        ("server: a get: codec, lookup, reply", answer(encode_get(7, _KEY.encode(), flags=flags))),
        ("server: a view: codec, lookup, reply by descriptor", answer(encode_get(7, _VIEWED.encode(), flags=flags))),
        ("server: get_many of 100", answer(many, _NUMBER // 100)),
        ("server: a put, origin in memory, no disk tier", answer(put, _NUMBER // 10)),
    ]
    channel._sock = ours  # noqa: SLF001
    connection.close()
    peers.close()
    await store.close()
    return rows


def _keep(memory: MemoryTier, key: str, body: bytes | FileBody, size: int) -> None:
    entry = Entry(ObjectInfo(key, size, "etag"), body, validated_at=0.0, fresh_until=1e18, tier="memory")
    memory.put(cast("Any", key), entry)


if __name__ == "__main__":
    main()
