"""What the instances of one dialect are to whoever connects: where its keys are, and whether it may store any.

Each connection asks, and a compiler's cache makes one for every file that is compiled; so answers are remembered.
"""

from __future__ import annotations

from typing import Final

from tiered_store.build.entry import Place
from tiered_store.servers.access import Grant, Right

__all__ = ["Instances"]

_KNOWN_MAX: Final = 1024


class Instances:
    """The instances of a dialect.

    Args:
        dialect: which.
        read_only: whether nobody may store anything, whatever a grant says.
    """

    def __init__(self, dialect: str, *, read_only: bool) -> None:
        self._dialect = dialect
        self._read_only = read_only
        # By identity, so the grant is kept too: there are as many as rules, and a few instances.
        self._known: dict[tuple[int, str], tuple[Grant, Place | None, bool]] = {}

    def of(self, grant: Grant, instance: str) -> tuple[Place | None, bool]:
        """Where a caller's keys are, or None where it may not read them; and whether it may store any."""
        known = self._known.get((id(grant), instance))
        if known is None:
            if len(self._known) >= _KNOWN_MAX:  # of rules that have been replaced, as a rule
                self._known.clear()
            place = grant.place(self._dialect, instance, Right.READ)
            may_store = not self._read_only and grant.place(self._dialect, instance, Right.WRITE) is not None
            known = self._known[id(grant), instance] = (grant, place, may_store and place is not None)
        return known[1], known[2]
