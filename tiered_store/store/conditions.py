"""Conditions on what a key holds before a write of it: "only if there is nothing", "only if it is still this version".

They are judged by the origin's word, or the journal's, while the key's lock is held. So two writes through one daemon
never both succeed on the same condition. A write that somebody else makes at the origin between the question and the
write is not seen: an origin has no such operation in common with the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from tiered_store.objects import ObjectInfo

__all__ = ["Condition", "ConditionFailed"]

#: Whether a write may be made, given what the key holds now, or None.
Condition: TypeAlias = Callable[[ObjectInfo | None], bool]


class ConditionFailed(Exception):
    """The key holds something else than the writer expected; nothing was changed."""
