"""What a connection of the native door needs of the door; the door itself is in ``native``."""

from __future__ import annotations

from typing import Any, Protocol

from tiered_store.servers.limits import NativeLimits, RequestBytes
from tiered_store.store.store import Store

__all__ = ["Door"]


class Door(Protocol):
    """What a connection needs of the door it came through."""

    store: Store
    limits: NativeLimits
    request_bytes: RequestBytes
    name: str

    def gone(self, connection: Any) -> None:
        """The connection has ended."""
        ...

    def statistics(self) -> dict[str, object]:
        """What STATS answers."""
        ...
