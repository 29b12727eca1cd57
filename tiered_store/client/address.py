"""Where the daemon's socket is, and how it is named."""

from __future__ import annotations

import os

__all__ = ["SOCKET_VARIABLE", "default_socket_path"]

SOCKET_VARIABLE = "TIERED_STORE_SOCKET"


def default_socket_path() -> str:
    """The socket that client, command line and daemon agree on when nobody names one.

    ``$TIERED_STORE_SOCKET``, else ``$XDG_RUNTIME_DIR/tiered_store/store.sock``, else
    ``/run/tiered_store/store.sock``.
    """
    named = os.environ.get(SOCKET_VARIABLE)
    if named:
        return named
    runtime = os.environ.get("XDG_RUNTIME_DIR") or "/run"
    return os.path.join(runtime, "tiered_store", "store.sock")  # noqa: PTH118 - pathlib costs an import of 5 ms
