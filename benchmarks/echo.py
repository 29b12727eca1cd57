"""The floor under every server and client in Python: an echo that does nothing, at one end in uvloop.

    python -m benchmarks.echo SIZE COUNT      prints nanoseconds per round trip, the median of COUNT

One process waits in uvloop's epoll, takes what came with one ``recv`` and answers with one ``send``; the other sends
and blocks in ``recvmsg``, as the synchronous client does. No header, no lookup, no deadline. What a small read of the
store costs beyond this is the store's own; what this costs beyond the C ping-pong is the language's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time

import uvloop

__all__ = ["PYTHON_ECHO", "echo_seconds"]

PYTHON_ECHO = "Python echo"
_REQUEST_BYTES = 40
_READ_BYTES = 64 * 1024


def echo_seconds(size: int, count: int) -> float:
    """The median round trip of ``count``, on the CPUs that the caller may use."""
    command = [sys.executable, "-m", "benchmarks.echo", str(size), str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) / 1e9


async def _serve(sock: socket.socket, size: int) -> None:
    """Answer until the other end closes."""
    loop, reply = asyncio.get_running_loop(), bytes(size)
    ended = loop.create_future()
    sock.setblocking(False)

    def readable() -> None:
        if sock.recv(_READ_BYTES):
            sock.send(reply)
        else:
            loop.remove_reader(sock.fileno())
            ended.set_result(None)

    loop.add_reader(sock.fileno(), readable)
    await ended


def _round_trips(sock: socket.socket, size: int, count: int) -> list[int]:
    request, taken = bytes(_REQUEST_BYTES), []
    for _ in range(count):
        begun = time.perf_counter_ns()
        sock.send(request)
        missing = size
        while missing:
            missing -= len(sock.recvmsg(_READ_BYTES, 64)[0])
        taken.append(time.perf_counter_ns() - begun)
    return taken


def main() -> None:
    size, count = map(int, sys.argv[1:])
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        uvloop.run(_serve(theirs, size))
        return
    theirs.close()
    _round_trips(ours, size, count // 10 + 1)
    print(round(statistics.median(_round_trips(ours, size, count))))
    ours.close()
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
