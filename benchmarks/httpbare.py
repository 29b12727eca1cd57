"""Bare aiohttp handlers on uvloop: the floor under the HTTP door, and the ways there are to send a file's bytes.

    python -m benchmarks.httpbare SOCKET SIZE WAY

Every request, whatever its path, is answered with SIZE bytes by one WAY:

- ``bytes``: a ``web.Response`` with bytes that are there; what every handler of aiohttp's users does;
- ``pread``: read from a memfd piece by piece, and written;
- ``threads``: as ``pread``, each piece read in a thread;
- ``map``: the memfd is mapped, and views of the map are written;
- ``mapped``: as ``map``, with one map for all requests;
- ``sendfile``: the head is written, then the kernel copies from the memfd to a dup of the connection's socket.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop
from aiohttp import web

from benchmarks.data import payload
from tiered_store.aio.heap import keep_freed_memory

__all__ = ["WAYS"]

WAYS = ("bytes", "pread", "threads", "map", "mapped", "sendfile")
_PIECE_BYTES = 256 * 1024

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def _handler(way: str, size: int) -> Handler:
    data = payload(size)
    file = os.memfd_create("bench")
    os.write(file, data)
    mapped = memoryview(mmap.mmap(file, size, prot=mmap.PROT_READ))
    pool = ThreadPoolExecutor(4)
    loop = asyncio.get_running_loop()

    async def send_bytes(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=data)

    async def begin(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(size)})
        await response.prepare(request)
        return response

    async def send_pread(request: web.BaseRequest) -> web.StreamResponse:
        response = await begin(request)
        for offset in range(0, size, _PIECE_BYTES):
            await response.write(os.pread(file, min(_PIECE_BYTES, size - offset), offset))
        return response

    async def send_threads(request: web.BaseRequest) -> web.StreamResponse:
        response = await begin(request)
        for offset in range(0, size, _PIECE_BYTES):
            piece = await loop.run_in_executor(pool, os.pread, file, min(_PIECE_BYTES, size - offset), offset)
            await response.write(piece)
        return response

    async def send_map(request: web.BaseRequest) -> web.StreamResponse:
        return await send_view(request, memoryview(mmap.mmap(file, size, prot=mmap.PROT_READ)))

    async def send_mapped(request: web.BaseRequest) -> web.StreamResponse:
        return await send_view(request, mapped)

    async def send_view(request: web.BaseRequest, view: memoryview) -> web.StreamResponse:
        response = await begin(request)
        for offset in range(0, size, _PIECE_BYTES):
            await response.write(view[offset : offset + _PIECE_BYTES])
        return response

    async def send_file(request: web.BaseRequest) -> web.StreamResponse:
        response = await begin(request)
        assert request.transport is not None
        sock = os.dup(request.transport.get_extra_info("socket").fileno())
        try:
            offset = 0
            while offset < size:
                try:
                    offset += os.sendfile(sock, file, offset, size - offset)
                except BlockingIOError:
                    await _writable(loop, sock)
        finally:
            os.close(sock)
        return response

    handlers = (send_bytes, send_pread, send_threads, send_map, send_mapped, send_file)
    return dict(zip(WAYS, handlers, strict=True))[way]


async def _writable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready = loop.create_future()
    loop.add_writer(descriptor, ready.set_result, None)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


async def _serve(path: str, size: int, way: str) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(path)
        listening.listen(64)
        await loop.create_unix_server(web.Server(_handler(way, size), access_log=None), sock=listening)
        await stop.wait()


if __name__ == "__main__":
    keep_freed_memory()  # as the daemon does
    Path(sys.argv[1]).unlink(missing_ok=True)
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
