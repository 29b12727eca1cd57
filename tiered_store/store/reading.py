"""One reader of one object, at its own pace.

Three things can be behind it: an entry that is there already, a fill under way, or, where nothing on this
machine has room for the object, a read of the origin for this reader alone.

Invariant: whoever reads to the end without an exception has got the object's bytes, all of them, and
of an artifact verified ones: a reader's last piece is held back until the whole object is. A fill that starts anew
takes along those readers whom that cannot surprise: they have been told the same, and been given nothing yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from tiered_store.aio.offload import Offload
from tiered_store.errors import IntegrityError, OriginUnavailable, QuotaExceeded, StoreError
from tiered_store.key import Key, is_artifact
from tiered_store.objects import Entry, FileBody, ObjectInfo, read_body
from tiered_store.store.fill import Fill
from tiered_store.store.flow import Flow, is_same_object, own_copy
from tiered_store.store.sources import verify_artifact
from tiered_store.store.upstream import UpstreamRead

__all__ = ["PIECE_BYTES", "Reading", "SharedReading", "ThroughReading"]

#: The most a reader is given at once; what a slow one keeps in memory.
PIECE_BYTES = 256 * 1024


class Reading(Protocol):
    """One reader of one object. It must be closed, also after an error."""

    info: ObjectInfo

    @property
    def tier(self) -> str:
        """The place that answers: ``"memory"``, ``"disk"``, ``"cdn"`` or ``"origin"``."""
        ...

    @property
    def at_hand(self) -> Entry | None:
        """The whole object, where it need not be waited for."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether ``chunks`` can be asked for more than once."""
        ...

    async def entry(self) -> Entry:
        """Wait until the whole object is there, and verified; raises what its fill raised."""
        ...

    def chunks(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from ``offset`` on (``length`` of them), in pieces of at most ``PIECE_BYTES``.

        Raises:
            What the fill raised, in place of the last piece: never short, never wrong.
        """
        ...

    def close(self) -> None:
        """Leave; more than once is fine."""
        ...


class SharedReading:
    """A reader of an entry, or of a fill that any number of readers share.

    Args:
        source: the entry, or the fill; a fill counts this reader already.
        info: what is known of the object.
        offload: where files are read.
        leave: called once, when the reader of a fill has gone.
        forget: called with a key whose cached bytes cannot be read.
    """

    def __init__(
        self,
        source: Entry | Fill,
        info: ObjectInfo,
        *,
        offload: Offload,
        leave: Callable[[Fill], None],
        forget: Callable[[Key], None],
    ) -> None:
        self.info = info
        self._source = source
        self._offload = offload
        self._leave = leave
        self._forget = forget
        self._flow = source.flow if isinstance(source, Fill) else None
        self._has_begun = False
        self._closed = False

    @property
    def tier(self) -> str:
        """See :class:`Reading`."""
        return self._source.tier

    @property
    def at_hand(self) -> Entry | None:
        """See :class:`Reading`."""
        return self._source if isinstance(self._source, Entry) else None

    @property
    def is_shared(self) -> bool:
        """See :class:`Reading`."""
        return True

    async def entry(self) -> Entry:
        """See :class:`Reading`."""
        if isinstance(self._source, Entry):
            return self._source
        entry = await self._source.entry()
        flow = self._flow
        if flow is not None and flow.given_up is not None and not is_same_object(entry.info, self.info):
            raise own_copy(flow.given_up)
        return entry

    def chunks(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """See :class:`Reading`."""
        end = self.info.size if length is None else min(self.info.size, offset + length)
        return _Pieces(self, offset, end)

    def close(self) -> None:
        """See :class:`Reading`."""
        if not self._closed:
            self._closed = True
            if isinstance(self._source, Fill):
                self._leave(self._source)

    async def piece(self, offset: int, end: int, *, last_is_held: bool) -> bytes:
        """At least one byte from ``offset`` on; if ``last_is_held``, the last one only of a complete object."""
        fill = self._source
        if isinstance(fill, Entry):
            return await self._of_entry(fill, offset, end)
        flow = self._flow
        while flow is not None:
            there = min(end, await flow.grown(offset))
            until = min(there, offset + PIECE_BYTES)
            if flow.spool is not None and not (last_is_held and until == end):
                try:
                    piece = await flow.read(offset, until - offset)
                except (OSError, ValueError):
                    pass  # the flow came to its end while we read, and its file is gone
                else:
                    self._has_begun = True
                    return piece
            await flow.over()
            if flow.given_up is None:
                break
            flow = await self._turn_to_next(fill, flow.given_up)
        entry = await fill.entry()
        self._has_begun = True
        return await self._of_entry(entry, offset, end)

    async def _turn_to_next(self, fill: Fill, given_up: StoreError) -> Flow | None:
        """The next try of the fill, for a reader whom its beginning cannot surprise. Raises why it was begun."""
        if self._has_begun:
            raise own_copy(given_up)
        if not is_same_object(await fill.opened(), self.info):
            raise own_copy(given_up)
        self._flow = fill.flow
        return self._flow

    async def _of_entry(self, entry: Entry, offset: int, end: int) -> bytes:
        length = min(PIECE_BYTES, end - offset)
        body = entry.body
        try:
            if isinstance(body, FileBody) and not body.is_memory:
                return await self._offload.run(read_body, body, offset, length)
            return read_body(body, offset, length)
        except (OSError, EOFError) as error:
            self._forget(Key(entry.info.key))
            raise OriginUnavailable(
                f"the cached copy could not be read to its end ({error}); it has been dropped", key=entry.info.key
            ) from error


class _Pieces:
    """The iterator behind ``chunks``: not a generator, so that one that is left half-way needs no finalizer."""

    def __init__(self, reading: SharedReading, offset: int, end: int) -> None:
        self._reading = reading
        self._offset = offset
        self._end = end
        # A range that ends inside an ordinary object is right whatever becomes of the rest.
        info = reading.info
        self._last_is_held = end == info.size or is_artifact(info.key)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._offset >= self._end:
            raise StopAsyncIteration
        piece = await self._reading.piece(self._offset, self._end, last_is_held=self._last_is_held)
        self._offset += len(piece)
        return piece


class ThroughReading:
    """A reader of the origin itself, for an object that nothing on this machine has room to collect.

    It serves one reader, once, and keeps nothing.

    Args:
        read: the open read.
        offload: where artifacts are hashed.
        leave: called once, when the reader has gone; it closes the read.
        condemn: called with the key of an artifact whose bytes are wrong.
    """

    def __init__(
        self, read: UpstreamRead, *, offload: Offload, leave: Callable[[], None], condemn: Callable[[Key], None]
    ) -> None:
        self.info = read.info
        self._read = read
        self._offload = offload
        self._leave: Callable[[], None] | None = leave
        self._condemn = condemn

    @property
    def tier(self) -> str:
        """See :class:`Reading`."""
        return "origin"

    @property
    def at_hand(self) -> Entry | None:
        """Never."""
        return None

    @property
    def is_shared(self) -> bool:
        """See :class:`Reading`."""
        return False

    async def entry(self) -> Entry:
        """Raises QuotaExceeded."""
        raise QuotaExceeded(
            "there is no room on this machine for the whole object; it can only be streamed", key=self.info.key
        )

    async def chunks(self, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """See :class:`Reading`. An artifact is read and hashed from its start to its end."""
        size = self.info.size
        end = size if length is None else min(size, offset + length)
        digest = hashlib.sha256() if is_artifact(self.info.key) else None
        position, held = 0, b""
        while position < (size if digest is not None else end):
            chunk = await self._read.next()
            if digest is not None:
                await self._offload.run(digest.update, chunk)
            wanted = chunk[max(0, offset - position) : max(0, end - position)]
            position += len(chunk)
            for start in range(0, len(wanted), PIECE_BYTES):
                if held:
                    yield held
                held = wanted[start : start + PIECE_BYTES]
        if position == size:
            await self._read.next()  # raises if anything follows
        if digest is not None:
            try:
                verify_artifact(Key(self.info.key), digest.hexdigest())
            except IntegrityError:
                self._condemn(Key(self.info.key))
                raise
        if held:
            yield held

    def close(self) -> None:
        """See :class:`Reading`."""
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()
