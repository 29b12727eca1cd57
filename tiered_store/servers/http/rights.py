"""What a request may do: the seam between the door and whoever decides about rights."""

from __future__ import annotations

import enum
from typing import Any, Protocol

__all__ = ["OPEN_GATE", "Gate", "Right"]


class Right(enum.Enum):
    """What can be allowed."""

    READ = "read"
    WRITE = "write"
    LIST = "list"
    ADMIN = "admin"


class Gate(Protocol):
    """Decides."""

    def require(self, request: Any, right: Right, key: str) -> None:
        """Return if the sender of a request may do this with a key (of a listing: with its prefix).

        Raises:
            Refusal: it may not, or has not said who it is.
        """
        ...


class _OpenGate:
    def require(self, request: Any, right: Right, key: str) -> None:
        """Everybody who can connect may do everything: the socket's mode decides."""


OPEN_GATE = _OpenGate()
