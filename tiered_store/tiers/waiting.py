"""What overrules the disk: changes that wait to be written, and who is reading meanwhile. Loop-only, no I/O.

A put or discard counts from the moment it is made, long before a thread has written it: whoever reads asks
here first, and a read that was under way when its key changed must not answer. The invariant: all of it
is bounded, and no bound is kept by forgetting a discard silently.
"""

from __future__ import annotations

from tiered_store.key import Key
from tiered_store.objects import Entry

__all__ = ["Look", "Reads", "Ticket", "Waiting", "WaitingRoom"]

#: What a key costs in the tables here, besides its text.
_KEY_OVERHEAD_BYTES = 200


class Waiting:
    """One change that is not written yet: an entry, or None for a tombstone."""

    __slots__ = ("cost", "entry", "sequence")

    def __init__(self, entry: Entry | None, cost: int, sequence: int) -> None:
        self.entry = entry
        self.cost = cost
        self.sequence = sequence


class WaitingRoom:
    """Changes in the order in which they are to be written, one per key, the last one.

    Args:
        max_bytes: of bodies that live in memory (bytes and memfds).
        max_entries: of entries.
        max_files: of entries that hold a descriptor.
        max_tombstone_bytes: of keys that wait to be forgotten; over it the room says so, see ``overflows``.
    """

    def __init__(self, *, max_bytes: int, max_entries: int, max_files: int, max_tombstone_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_entries = max_entries
        self._max_files = max_files
        self._max_tombstone_bytes = max_tombstone_bytes
        self._bytes = 0
        self._entries = 0
        self._files = 0
        self._tombstone_bytes = 0
        self.sequence = 0
        #: Read directly by the tier's ``peek``, where a call would cost as much as the look-up.
        self.by_key: dict[Key, Waiting] = {}

    @property
    def oldest(self) -> int | None:
        """The sequence number of the change that waits longest, or None."""
        for waiting in self.by_key.values():
            return waiting.sequence
        return None

    @property
    def is_plenty(self) -> bool:
        """Whether so much waits that a batch is worth while at once, and before there is no room left."""
        return len(self.by_key) >= self._max_entries // 16 or self._bytes >= self._max_bytes // 8

    @property
    def overflows(self) -> bool:
        """Whether there are more tombstones than may be kept."""
        return self._tombstone_bytes > self._max_tombstone_bytes

    def put(self, key: Key, entry: Entry) -> bool:
        """Let an entry wait, or a tombstone where there is no room for it; tells which."""
        old = self.by_key.pop(key, None)
        if old is not None:
            self._forget(key, old)
        body = entry.body
        cost = len(body) if isinstance(body, bytes) else body.size if body.is_memory else 0
        # One body over the bound may wait when nothing else does: it is in memory already.
        fits = (self._bytes + cost <= self._max_bytes or self._bytes == 0) and self._entries < self._max_entries
        if fits and not isinstance(body, bytes):
            fits = self._files < self._max_files
        if not fits:
            self._bury(key)
            return False
        self.sequence += 1
        self.by_key[key] = Waiting(entry, cost, self.sequence)
        self._bytes += cost
        self._entries += 1
        self._files += not isinstance(body, bytes)
        return True

    def discard(self, key: Key) -> None:
        """Let a tombstone wait."""
        old = self.by_key.pop(key, None)
        if old is not None:
            self._forget(key, old)
        self._bury(key)

    def batch(self, max_entries: int, max_bytes: int) -> list[tuple[Key, Waiting]]:
        """The changes to write next; they keep waiting until :meth:`written` or :meth:`declined`."""
        batch: list[tuple[Key, Waiting]] = []
        size = 0
        for key, waiting in self.by_key.items():
            entry = waiting.entry
            body_size = entry.info.size if entry is not None else 0
            if batch and (len(batch) >= max_entries or size + body_size > max_bytes):
                break
            batch.append((key, waiting))
            size += body_size
        return batch

    def written(self, key: Key, waiting: Waiting) -> bool:
        """The change is on disk; tells whether it was still the last word on its key."""
        if self.by_key.get(key) is not waiting:
            return False
        del self.by_key[key]
        self._forget(key, waiting)
        return True

    def declined(self, key: Key, waiting: Waiting) -> None:
        """The entry could not be written: what is on disk under the key must go all the same."""
        if waiting.entry is not None and self.by_key.get(key) is waiting:
            self.discard(key)

    def drop_tombstones(self) -> None:
        """Forget them; for a caller that denies everything older on disk instead."""
        for key, waiting in [(key, waiting) for key, waiting in self.by_key.items() if waiting.entry is None]:
            del self.by_key[key]
            self._forget(key, waiting)

    def clear(self) -> None:
        """Forget everything."""
        self.by_key.clear()
        self._bytes = self._entries = self._files = self._tombstone_bytes = 0

    def _bury(self, key: Key) -> None:
        self.sequence += 1
        cost = _KEY_OVERHEAD_BYTES + len(key)
        self.by_key[key] = Waiting(None, cost, self.sequence)
        self._tombstone_bytes += cost

    def _forget(self, key: Key, waiting: Waiting) -> None:
        entry = waiting.entry
        if entry is None:
            self._tombstone_bytes -= waiting.cost
        else:
            self._bytes -= waiting.cost
            self._entries -= 1
            self._files -= not isinstance(entry.body, bytes)


class Ticket:
    """A read under way. ``is_overtaken`` once its key was put or discarded meanwhile."""

    __slots__ = ("is_overtaken", "readers")

    def __init__(self) -> None:
        self.readers = 0
        self.is_overtaken = False


class Look:
    """A read of many keys under way, whichever they are.

    Attributes:
        overtaken: the keys that were put or discarded meanwhile, and others.
        is_overtaken: whether everything was.
    """

    __slots__ = ("is_overtaken", "overtaken")

    def __init__(self) -> None:
        self.overtaken: set[Key] = set()
        self.is_overtaken = False


class Reads:
    """Reads under way by key, so that none answers with what was replaced while it waited."""

    def __init__(self) -> None:
        self._tickets: dict[Key, Ticket] = {}
        self._looks: list[Look] = []

    def __len__(self) -> int:
        return len(self._tickets)

    def begin(self, key: Key) -> Ticket:
        """A read starts."""
        ticket = self._tickets.get(key)
        if ticket is None:
            ticket = self._tickets[key] = Ticket()
        ticket.readers += 1
        return ticket

    def end(self, key: Key, ticket: Ticket) -> None:
        """It is over, whatever became of it."""
        ticket.readers -= 1
        if not ticket.readers and self._tickets.get(key) is ticket:
            del self._tickets[key]

    def begin_many(self) -> Look:
        """A read of many keys starts. A few of them may be under way at a time: each write goes through them all."""
        look = Look()
        self._looks.append(look)
        return look

    def end_many(self, look: Look) -> None:
        """It is over, whatever became of it."""
        self._looks.remove(look)

    def overtake(self, key: Key) -> None:
        """The key changes: reads that began before must not answer."""
        for look in self._looks:
            look.overtaken.add(key)
        if self._tickets:
            ticket = self._tickets.pop(key, None)
            if ticket is not None:
                ticket.is_overtaken = True

    def overtake_all(self) -> None:
        """Everything changes."""
        for look in self._looks:
            look.is_overtaken = True
        for ticket in self._tickets.values():
            ticket.is_overtaken = True
        self._tickets.clear()
