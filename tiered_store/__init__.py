"""A tiered caching store behind a unix socket: memory, disk and origin, with zero-copy reads.

``Client`` and ``AsyncClient`` have the same methods. Importing this package loads neither the daemon nor
its dependencies, and ``asyncio`` only with ``AsyncClient``: a CI job that only reads must start in
milliseconds.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; importing ``typing`` for that costs a third of a bare start
if TYPE_CHECKING:
    from typing import Any

    from tiered_store.client.asynchronous import AsyncClient
    from tiered_store.client.sync import Client
    from tiered_store.client.trees.results import TreeInfo
    from tiered_store.errors import (
        DaemonUnavailable,
        DeadlineExceeded,
        IntegrityError,
        InvalidKey,
        KeyConflict,
        NotFound,
        OriginUnavailable,
        PermissionDenied,
        ProtocolError,
        QuotaExceeded,
        StoreError,
        TooLarge,
    )
    from tiered_store.objects import ObjectInfo

#: The one place that says it: the build reads this line, and a source tree that was never installed has it too.
__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Client",
    "DaemonUnavailable",
    "DeadlineExceeded",
    "IntegrityError",
    "InvalidKey",
    "KeyConflict",
    "NotFound",
    "ObjectInfo",
    "OriginUnavailable",
    "PermissionDenied",
    "ProtocolError",
    "QuotaExceeded",
    "StoreError",
    "TooLarge",
    "TreeInfo",
]


def __getattr__(name: str) -> Any:
    """Load what is asked for when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "Client":
        from tiered_store.client.sync import Client

        return Client
    if name == "AsyncClient":
        from tiered_store.client.asynchronous import AsyncClient

        return AsyncClient
    if name == "ObjectInfo":
        from tiered_store.objects import ObjectInfo

        return ObjectInfo
    if name == "TreeInfo":
        from tiered_store.client.trees.results import TreeInfo

        return TreeInfo
    from tiered_store import errors

    return getattr(errors, name)
