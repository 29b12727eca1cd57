"""The command gocacheprog, in two ways: at once, for go commands, and as one of the command line's, for people.

The first loads neither click nor a client, and so does this module.
"""

from __future__ import annotations

import os
import sys

from tiered_store.gocache.options import options_of, read
from tiered_store.gocache.program import serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["run_quickly"]


def run_quickly(arguments: Sequence[str]) -> None:
    """Serve a go command, and end the process; returns where the command line has to be asked what was meant."""
    given = read(arguments)
    if given is None:
        return
    try:
        options = options_of(given, os.environ)
    except ValueError:
        return
    sys.exit(serve(options, configured))


def configured() -> str | None:
    """The socket that the environment or the configuration names; None leaves it to the client."""
    if not (os.environ.get("TIERED_STORE_CONFIG") or os.environ.get("TIERED_STORE_SERVER__SOCKET")):
        return None
    from tiered_store.cli.session import configured_socket

    return configured_socket()
