"""Entries out of the objects that they are, each decoded once: decoding takes as long as all else of a hit.

Knows no place and no store. Invariant: what is given for an object is what its own bytes say.
"""

from __future__ import annotations

from typing import Final

from tiered_store.build.entry import ToolEntry, decode_entry
from tiered_store.key import Key
from tiered_store.objects import Entry

__all__ = ["Decoder"]

#: Some 10 MiB at most, together with the next.
_MAX_KNOWN: Final = 4096
#: Longer ones, with long headers, are few, and are decoded each time.
_KNOWN_MAX_BYTES: Final = 1024


class Decoder:
    """Decodes entries, and remembers the last of them.

    Args:
        max_known: how many; the one decoded longest ago is forgotten first.
    """

    def __init__(self, *, max_known: int = _MAX_KNOWN) -> None:
        self._max_known = max_known
        self._known: dict[Key, tuple[bytes, ToolEntry]] = {}

    def entry_of(self, key: Key, held: Entry) -> ToolEntry:
        """What an object says as an entry. Raises ValueError if it is none."""
        body = held.body
        if not isinstance(body, bytes):
            raise ValueError("too large to be an entry of a build cache")  # noqa: TRY004 - a fault of the data
        known = self._known.get(key)
        if known is not None and known[0] is body:
            return known[1]
        entry = decode_entry(body)
        self._known.pop(key, None)
        if len(body) <= _KNOWN_MAX_BYTES:
            if len(self._known) >= self._max_known:
                del self._known[next(iter(self._known))]
            self._known[key] = body, entry
        return entry
