"""What each request means: one coroutine per opcode, from frame to reply.

They know the store and the messages; who may ask, and when, was settled by the connection.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Final

from tiered_store.errors import InvalidKey, ProtocolError, StoreError, TooLarge
from tiered_store.key import Key, parse_key, parse_prefix
from tiered_store.objects import INLINE_MAX_BYTES, Entry, ObjectInfo
from tiered_store.origins.base import Listing, PutHeaders
from tiered_store.protocol.batches import (
    ITEM_LARGE,
    decode_keys,
    decode_pairs,
    decode_texts,
    encode_batch,
    encode_stored,
    item_status,
)
from tiered_store.protocol.frames import DATA_MAX_BYTES, Flag, Frame, Opcode, encode_frame
from tiered_store.protocol.messages import (
    decode_get,
    decode_list_request,
    encode_info,
    encode_listing,
)
from tiered_store.servers.connection import Connection, Handler, Quick, encode_wire
from tiered_store.servers.transfers import Download
from tiered_store.servers.uploads import SignsOfLife, put
from tiered_store.store.reading import Reading
from tiered_store.store.spool import Staged

__all__ = ["HANDLERS", "QUICK"]

#: Bodies in one BATCH frame; the rest goes into further ones, so that neither side holds much at once.
_BATCH_BYTES: Final = 512 * 1024
#: Reads and writes of one batch that run at the same time.
_BATCH_CONCURRENCY: Final = 16
#: Keys of one batch that are looked for on disk together: some milliseconds, for which other reads of the disk wait.
_LOOK_KEYS: Final = 256
_LIST_MAX: Final = 1000
#: Leaves room for the lengths between the items and for the cursor.
_LISTING_BYTES: Final = 900 * 1024


async def _get(connection: Connection, frame: Frame) -> None:
    request = decode_get(frame)
    key = parse_key(request.key)
    flags = frame.flags
    hints = {"only_if_cached": bool(flags & Flag.ONLY_IF_CACHED), "no_promote": bool(flags & Flag.NO_PROMOTE)}
    if flags & Flag.STREAM:
        entry = connection.store.peek(key, no_promote=hints["no_promote"])
    else:
        entry = await connection.store.get(key, **hints)
    await connection.channel.writable()
    if entry is None:
        await _stream(connection, frame, connection.store.read(key, **hints))
    elif isinstance(entry.body, bytes):
        end = None if request.length is None else request.offset + request.length
        body = entry.body[request.offset : end]
        wire = entry.wire or encode_wire(entry)
        connection.reply(encode_frame(Opcode.OBJECT, frame.request_id, head=wire, body=body))
    elif flags & Flag.ACCEPT_DESCRIPTOR:
        connection.reply_descriptor(frame, entry, request.offset, request.length)
    else:
        await _stream(connection, frame, connection.store.reading(entry))


async def _stream(connection: Connection, frame: Frame, opening: Awaitable[Reading]) -> None:
    """Send an object while its bytes arrive, at the pace of this reader."""
    request = decode_get(frame)
    request_id = frame.request_id
    download = Download(connection.limits.stall_timeout_s)
    connection.transfers[request_id] = download
    reading = None
    try:
        reading = await opening
        head = encode_info(reading.info, with_key=False)
        connection.reply(encode_frame(Opcode.OBJECT_STREAM, request_id, head=head))
        async for chunk in reading.chunks(request.offset, request.length):
            sent = 0
            while sent < len(chunk):
                size = await download.take(min(len(chunk) - sent, DATA_MAX_BYTES))
                await connection.channel.writable()
                connection.reply(encode_frame(Opcode.DATA, request_id, body=chunk[sent : sent + size]))
                sent += size
        connection.reply(encode_frame(Opcode.END, request_id))
    finally:
        if reading is not None:
            reading.close()
        connection.transfers.pop(request_id, None)


def _get_many_hits(connection: Connection, frame: Frame) -> bool:
    """Answer GET_MANY in one frame and without a task, if memory has all of it; else leave it to ``_get_many``."""
    try:
        keys = decode_texts(frame.payload)
    except ProtocolError:
        return False
    bodies = connection.store.peek_bodies(keys, _BATCH_BYTES)
    if bodies is None:
        return False
    connection.reply(encode_batch(frame.request_id, range(len(bodies)), list(map(len, bodies)), bodies, final=True))
    return True


async def _get_many(connection: Connection, frame: Frame) -> None:
    """Hits first, in the order asked; what the disk tier has, and what has to be fetched, follow as they come."""
    raw_keys = decode_keys(frame.payload)
    batch = _Batch(connection, frame.request_id)
    missing: list[tuple[int, Key]] = []
    peek = connection.store.peek
    for index, text in enumerate(decode_texts(frame.payload)):
        entry = peek(text)
        if entry is None:
            try:
                missing.append((index, parse_key(raw_keys[index])))
            except InvalidKey as error:
                batch.add(index, item_status(error), b"")
        elif batch.add_entry(index, entry):
            await batch.flush()
    if missing:
        async with connection.bulky:
            rest = [
                one
                for start in range(0, len(missing), _LOOK_KEYS)
                for one in await _bring_up(connection, batch, missing[start : start + _LOOK_KEYS])
            ]
            if rest:
                await _fetch(connection, batch, rest, only_if_cached=bool(frame.flags & Flag.ONLY_IF_CACHED))
    await batch.flush(final=True)


async def _bring_up(
    connection: Connection, batch: _Batch, missing: list[tuple[int, Key]]
) -> list[tuple[int, Key, bool]]:
    """Add what the disk tier has at hand; gives the rest, and for each whether no tier has it."""
    absent: list[tuple[int, Key, bool]] = []
    while missing:
        try:
            known = await connection.store.known([key for _, key in missing])
        except StoreError:
            break  # each of the rest will say so
        left = []
        for index, key in missing:
            if key not in known:
                left.append((index, key))
            elif (entry := known.pop(key)) is None:
                absent.append((index, key, True))
            elif batch.add_entry(index, entry):
                await batch.flush()
        if len(left) == len(missing):
            break
        missing = left
    return absent + [(index, key, False) for index, key in missing]


async def _fetch(
    connection: Connection, batch: _Batch, missing: list[tuple[int, Key, bool]], *, only_if_cached: bool
) -> None:
    queue = iter(missing)

    async def work() -> None:
        for index, key, has_looked in queue:
            try:
                entry = await connection.store.get(key, only_if_cached=only_if_cached, has_looked=has_looked)
            except StoreError as error:
                batch.add(index, item_status(error), b"")
            else:
                if batch.add_entry(index, entry):
                    await batch.flush()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(_BATCH_CONCURRENCY, len(missing))):
            group.create_task(work())


class _Batch:
    """Collects the items of one GET_MANY into frames."""

    def __init__(self, connection: Connection, request_id: int) -> None:
        self._connection = connection
        self._request_id = request_id
        self._indexes: list[int] = []
        self._sizes: list[int] = []
        self._bodies: list[bytes] = []
        self._bytes = 0

    def add(self, index: int, size: int, body: bytes) -> None:
        self._indexes.append(index)
        self._sizes.append(size)
        self._bodies.append(body)
        self._bytes += len(body)

    def add_entry(self, index: int, entry: Entry) -> bool:
        """Add an object; True when it is time to flush."""
        body = entry.body if isinstance(entry.body, bytes) else b""
        size = entry.info.size
        self._indexes.append(index)
        self._sizes.append(size if len(body) == size else ITEM_LARGE)
        self._bodies.append(body)
        self._bytes += len(body)
        return self._bytes >= _BATCH_BYTES

    async def flush(self, *, final: bool = False) -> None:
        """Send what is there; while the peer does not read, the bodies are not copied into a frame yet."""
        indexes, sizes, bodies = self._indexes, self._sizes, self._bodies
        self._indexes, self._sizes, self._bodies, self._bytes = [], [], [], 0
        await self._connection.channel.writable()
        self._connection.reply(encode_batch(self._request_id, indexes, sizes, bodies, final=final))


async def _stat(connection: Connection, frame: Frame) -> None:
    info = await connection.store.stat(parse_key(frame.payload))
    connection.reply(encode_frame(Opcode.INFO, frame.request_id, head=encode_info(info)))


async def _exists(connection: Connection, frame: Frame) -> None:
    keys = [parse_key(raw) for raw in decode_keys(frame.payload)]
    found = await connection.store.exists(keys)
    connection.reply(encode_frame(Opcode.EXISTENCE, frame.request_id, body=bytes(found)))


async def _put_many(connection: Connection, frame: Frame) -> None:
    items = decode_pairs(frame.payload)
    results: list[ObjectInfo | StoreError] = [StoreError("not stored")] * len(items)
    queue = iter(enumerate(items))

    async def work() -> None:
        for index, (raw, body) in queue:
            try:
                if len(body) > INLINE_MAX_BYTES:
                    raise TooLarge(f"an object of a batch has at most {INLINE_MAX_BYTES} bytes")
                connection.store.check_size(len(body))
                key = parse_key(raw)
                staged = Staged.of_bytes(body, hashed=key.startswith("sha256:"))
                results[index] = await connection.store.put(key, staged, PutHeaders())
            except StoreError as error:
                results[index] = error

    async with asyncio.TaskGroup() as group:
        for _ in range(min(_BATCH_CONCURRENCY, len(items))):
            group.create_task(work())
    await connection.channel.writable()
    connection.reply(encode_frame(Opcode.STORED_MANY, frame.request_id, body=encode_stored(results)))


async def _delete(connection: Connection, frame: Frame) -> None:
    existed = await connection.store.delete(parse_key(frame.payload))
    connection.reply(encode_frame(Opcode.DONE, frame.request_id, extra=int(existed)))


async def _delete_prefix(connection: Connection, frame: Frame) -> None:
    prefix = parse_prefix(frame.payload)
    if not prefix:
        raise InvalidKey("an empty prefix would delete everything; name one", key="")
    count = await connection.store.delete_prefix(prefix)
    connection.reply(encode_frame(Opcode.DONE, frame.request_id, extra=count))


async def _list(connection: Connection, frame: Frame) -> None:
    prefix, cursor, limit = decode_list_request(frame)
    after = parse_key(cursor) if cursor else ""
    parsed = parse_prefix(prefix)
    async with connection.bulky:
        await connection.channel.writable()
        listing = await connection.store.list(parsed, after=after, limit=max(1, min(limit, _LIST_MAX)))
        reply = _listing(frame.request_id, listing)
        await connection.channel.writable()
        connection.reply(reply)


def _listing(request_id: int, listing: Listing) -> bytes:
    """The part of a page that fits a frame."""
    items: list[bytes] = []
    size = 0
    for info in listing.items:
        raw = encode_info(info)
        size += len(raw)
        if size > _LISTING_BYTES:  # never the first: one is far smaller
            break
        items.append(raw)
    more = listing.more or len(items) < len(listing.items)
    next_cursor = listing.items[len(items) - 1].key.encode() if more and items else b""
    return encode_listing(request_id, items, next_cursor)


async def _copy(connection: Connection, frame: Frame) -> None:
    pairs = decode_pairs(frame.payload)
    if len(pairs) != 1:
        raise ProtocolError("COPY names one source and one target")
    source, target = pairs[0]
    info = await connection.store.copy(parse_key(source), parse_key(target))
    connection.reply(encode_frame(Opcode.INFO, frame.request_id, head=encode_info(info)))


async def _flush(connection: Connection, frame: Frame) -> None:
    if frame.payload:
        raise ProtocolError("FLUSH has no fields")
    with SignsOfLife(connection, frame.request_id):
        count = await connection.store.flush(frame.extra / 1000 if frame.extra else None)
    connection.reply(encode_frame(Opcode.DONE, frame.request_id, extra=count))


async def _stats(connection: Connection, frame: Frame) -> None:
    body = json.dumps(connection.door.statistics()).encode()
    connection.reply(encode_frame(Opcode.STATISTICS, frame.request_id, body=body))


#: What can often be answered at once, and how to try.
QUICK: Final[dict[int, Quick]] = {Opcode.GET_MANY: _get_many_hits}

HANDLERS: Final[dict[int, Handler]] = {
    Opcode.GET: _get,
    Opcode.GET_MANY: _get_many,
    Opcode.STAT: _stat,
    Opcode.EXISTS: _exists,
    Opcode.PUT: put,
    Opcode.PUT_MANY: _put_many,
    Opcode.DELETE: _delete,
    Opcode.DELETE_PREFIX: _delete_prefix,
    Opcode.LIST: _list,
    Opcode.COPY: _copy,
    Opcode.STATS: _stats,
    Opcode.FLUSH: _flush,
}
