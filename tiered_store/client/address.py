"""Where the daemon's socket is, and how it is named."""

from __future__ import annotations

import os

__all__ = ["SOCKET_VARIABLE", "SYSTEM_SOCKET", "default_socket_path", "socket_path_of"]

SOCKET_VARIABLE = "TIERED_STORE_SOCKET"
#: Of a daemon that serves the whole machine.
SYSTEM_SOCKET = "/run/tiered_store/store.sock"


def default_socket_path(system: str = SYSTEM_SOCKET) -> str:
    """The socket to use when nobody names one, looked up now.

    ``$TIERED_STORE_SOCKET``, else ``$XDG_RUNTIME_DIR/tiered_store/store.sock``, where a user's own daemon listens,
    else ``/run/tiered_store/store.sock``. The last is also taken where the user's own does not exist and it does.
    A relative ``$XDG_RUNTIME_DIR`` is ignored, as by the daemon.

    Args:
        system: the last of them.
    """
    named = os.environ.get(SOCKET_VARIABLE)
    if named:
        return named
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not runtime.startswith("/"):
        return system
    own = os.path.join(runtime, "tiered_store", "store.sock")  # noqa: PTH118 - pathlib costs an import of 5 ms
    return system if not os.path.exists(own) and os.path.exists(system) else own  # noqa: PTH110 - as above


def socket_path_of(named: str | bytes | os.PathLike[str] | None) -> str:
    """The socket that is meant: the one named, or the default; a ``~`` at its start is the home directory.

    Raises:
        TypeError: no path. ValueError: empty, or with a NUL character in it.
    """
    path = default_socket_path() if named is None else os.fsdecode(named)
    if not path or "\0" in path:
        raise ValueError(f"the socket's path must not be empty or contain a NUL character: {path!r}")
    return os.path.expanduser(path)  # noqa: PTH111 - as above
