"""Both clients behind one blocking interface, so that a test is written once and runs for either."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Self

from tiered_store import AsyncClient, Client

__all__ = ["KINDS", "AnyClient", "AsyncAsSync", "connect", "some_bytes"]

KINDS = ("sync", "async")


class AsyncAsSync:
    """An ``AsyncClient`` whose methods block; each call runs its event loop as long as it takes."""

    def __init__(self, socket_path: str | Path, **options: Any) -> None:
        self.client = AsyncClient(socket_path, **options)
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.client, name)
        if not callable(value):
            return value
        return lambda *args, **kwargs: self._runner.run(_finished(value, args, kwargs))

    def run(self, work: Callable[[AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine that uses the client on its loop."""
        return self._runner.run(work(self.client))

    def close(self) -> None:
        """Close the client and its loop."""
        self._runner.run(self.client.close())
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


AnyClient = Client | AsyncAsSync


async def _finished(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = method(*args, **kwargs)
    if isinstance(result, AsyncIterator):
        return [item async for item in result]
    return await result


def connect(kind: str, socket_path: str | Path, **options: Any) -> Any:
    """A client of this kind; ``Any``, because the two have the same methods but not the same type."""
    return Client(socket_path, **options) if kind == "sync" else AsyncAsSync(socket_path, **options)


def some_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes without any repetition, the same for the same arguments."""
    return random.Random(f"{size} {seed}").randbytes(size)
