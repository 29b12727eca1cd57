"""Blocking calls off the loop: one small fixed pool of threads per owner, with a bounded queue.

Knows nothing of caches. A hop to a thread and back costs some 40 microseconds under uvloop, so callers
hand over whole pieces of work, not single system calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

__all__ = ["Offload"]

P = ParamSpec("P")
T = TypeVar("T")


class Offload:
    """A pool that runs blocking functions for the event loop.

    A caller that is cancelled stops waiting at once, but its function runs to its end: a thread cannot
    be interrupted. What such a function opens must therefore close itself when nobody takes it
    (a ``Descriptor``), and what it changes must be right whether or not somebody still waits.

    Args:
        threads: how many functions run at the same time.
        name: prefix of the threads' names.
        max_queued: how many callers may wait for a thread; more wait before they are queued.
    """

    def __init__(self, threads: int, name: str, *, max_queued: int = 1024) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._slots = asyncio.Semaphore(threads + max_queued)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function(*args, **kwargs)`` in a thread; its result or exception is the caller's."""
        async with self._slots:
            future = self._pool.submit(function, *args, **kwargs)
            try:
                return await asyncio.wrap_future(future)
            finally:
                # An exception holds this frame and the future holds the exception: without this, what a failed
                # function was given (bodies, descriptors) would live until the garbage collector comes by.
                del future

    async def close(self) -> None:
        """Wait for running functions and end the threads; queued ones that nobody awaits still run."""
        loop = asyncio.get_running_loop()
        # shutdown(wait=True) blocks, so it runs in a thread of the loop's own.
        await loop.run_in_executor(None, self._pool.shutdown)
