"""One object of the object API: read, put and deleted, under ``/v1/objects/{key}`` and ``/v1/artifacts``."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from functools import partial
from typing import Final

from aiohttp import web

from tiered_store.errors import DeadlineExceeded, NotFound
from tiered_store.key import ARTIFACT_PREFIX, Key, is_artifact, parse_key
from tiered_store.objects import Entry, ObjectInfo, body_size, metadata_bytes, read_body
from tiered_store.servers.http.bodies import receive, send, send_parts, stream
from tiered_store.servers.http.conditions import FAILED, has_conditions, range_holds, read_status, write_condition
from tiered_store.servers.http.exchange import Exchange, Handler, answer
from tiered_store.servers.http.fields import described, disposition, etag_of, object_fields, put_headers
from tiered_store.servers.http.files import Piece
from tiered_store.servers.http.problems import Refusal
from tiered_store.servers.http.ranges import Span, content_range, framed, parse_ranges
from tiered_store.servers.http.rights import Right
from tiered_store.store.reading import Reading

__all__ = ["handle_artifact", "handle_object"]

#: A 304 carries what a cache may have to renew, and nothing about bytes that it does not send.
_OF_304: Final = ("ETag", "Last-Modified", "Cache-Control")


def handle_object(exchange: Exchange) -> Awaitable[web.StreamResponse]:
    """``/v1/objects/{key}``."""
    return answer(exchange, _OF_OBJECT)


def handle_artifact(exchange: Exchange) -> Awaitable[web.StreamResponse]:
    """``/v1/artifacts`` and ``/v1/artifacts/sha256:...``."""
    return answer(exchange, _OF_ARTIFACT)


async def _get(exchange: Exchange) -> web.StreamResponse:
    """``GET`` and ``HEAD``."""
    began = time.perf_counter()
    path = exchange.path
    # What is no key is found nowhere, and refused below.
    entry = exchange.store.peek(path) if exchange.grant.may(Right.READ, path) else None
    if entry is not None and isinstance(entry.body, bytes) and exchange.is_plain_get:
        head = exchange.heads.of(entry.info, exchange.store.policy) + _tier_lines(entry.tier, began)
        return await exchange.reply_at_once(head, entry.body)
    key = parse_key(path)
    exchange.require(Right.READ, key)
    if entry is not None:
        fields = _fields(exchange, key, entry.info, entry.tier, began)
        status = read_status(exchange.headers, entry.info)
        if status != 200:
            return await _without_body(exchange, status, fields)
        return await _send_entry(exchange, fields, entry)
    only_if_cached = "only-if-cached" in exchange.headers.get("Cache-Control", "").lower()
    try:
        if exchange.method == "HEAD" or has_conditions(exchange.headers):
            info = await exchange.store.stat(key) if not only_if_cached else await _cached_info(exchange, key)
            fields = _fields(exchange, key, info, None, began)
            status = read_status(exchange.headers, info)
            if status != 200:
                return await _without_body(exchange, status, fields)
            if exchange.method == "HEAD":
                return await _head(exchange, fields, info)
        reading = await exchange.store.read(key, only_if_cached=only_if_cached)
    except NotFound as error:
        if only_if_cached:  # RFC 9111, section 5.2.1.7
            raise DeadlineExceeded(error.message, key=key) from error
        raise
    try:
        fields = _fields(exchange, key, reading.info, reading.tier, began)
        # What is read may be newer than what was asked about.
        status = read_status(exchange.headers, reading.info) if has_conditions(exchange.headers) else 200
        if status != 200:
            return await _without_body(exchange, status, fields)
        if reading.at_hand is not None:
            return await _send_entry(exchange, fields, reading.at_hand)
        return await _stream(exchange, fields, reading)
    finally:
        reading.close()


async def _cached_info(exchange: Exchange, key: Key) -> ObjectInfo:
    return (await exchange.store.get(key, only_if_cached=True)).info


def _fields(exchange: Exchange, key: Key, info: ObjectInfo, tier: str | None, began: float) -> dict[str, str]:
    fields = object_fields(info, exchange.store.policy(key))
    if tier is not None:
        fields["X-Tier"] = tier
        fields["Server-Timing"] = f"{tier};dur={(time.perf_counter() - began) * 1000:.3f}"
    if exchange.has_query:
        name = exchange.query().get("download")
        if name is not None:
            fields["Content-Disposition"] = disposition(key, name)
    return fields


def _tier_lines(tier: str, began: float) -> bytes:
    return f"X-Tier: {tier}\r\nServer-Timing: {tier};dur={(time.perf_counter() - began) * 1000:.3f}\r\n".encode()


async def _without_body(exchange: Exchange, status: int, fields: dict[str, str]) -> web.StreamResponse:
    if status == 412:
        raise FAILED
    return await exchange.reply(status, b"", {name: fields[name] for name in _OF_304})


async def _head(exchange: Exchange, fields: dict[str, str], info: ObjectInfo) -> web.StreamResponse:
    """Answer a HEAD, as the GET without its bytes; a range means something for a GET only."""
    return await send_parts(exchange, 200, fields, info.size, ())


def _spans(exchange: Exchange, info: ObjectInfo) -> list[Span] | None:
    asked = exchange.headers.get("Range")
    if asked is None or exchange.method != "GET" or not range_holds(exchange.headers, info):
        return None
    return parse_ranges(asked, info.size)


async def _send_entry(exchange: Exchange, fields: dict[str, str], entry: Entry) -> web.StreamResponse:
    """Answer with a whole object, or with ranges of it."""
    body, info = entry.body, entry.info
    damaged = partial(exchange.store.condemn, Key(info.key))
    spans = _spans(exchange, info)
    if spans is None:
        return await send(exchange, 200, fields, body, damaged=damaged)
    if len(spans) == 1:
        fields["Content-Range"] = content_range(spans[0], info.size)
        return await send(exchange, 206, fields, body, *spans[0], damaged=damaged)

    def pieces(span: Span) -> AsyncIterator[Piece]:
        if isinstance(body, bytes):
            return _Once(read_body(body, *span))
        return exchange.files.pieces(body, span.offset, span.offset + span.length)

    return await _send_spans(exchange, fields, body_size(body), [(span, pieces(span)) for span in spans])


async def _stream(exchange: Exchange, fields: dict[str, str], reading: Reading) -> web.StreamResponse:
    """Answer with an object, or with ranges of it, while it comes."""
    spans = _spans(exchange, reading.info)
    if spans is None:
        return await stream(exchange, 200, fields, reading)
    size = reading.info.size
    if len(spans) == 1:
        fields["Content-Range"] = content_range(spans[0], size)
        return await stream(exchange, 206, fields, reading, *spans[0])
    if not reading.is_shared:  # it can be read once only, and to send more than was asked for is allowed
        return await stream(exchange, 200, fields, reading)
    return await _send_spans(exchange, fields, size, [(span, reading.chunks(*span)) for span in spans])


async def _send_spans(
    exchange: Exchange, fields: dict[str, str], size: int, spans: Sequence[tuple[Span, AsyncIterator[Piece]]]
) -> web.StreamResponse:
    boundary = secrets.token_hex(16)
    parts, end, total = framed([span for span, _ in spans], size, fields["Content-Type"], boundary)
    fields["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    bodies = [(part.head, pieces) for part, (_, pieces) in zip(parts, spans, strict=True)]
    return await send_parts(exchange, 206, fields, total, [*bodies, (end, _Once(b""))])


class _Once:
    """An iterator over one piece, or over none where it is empty."""

    def __init__(self, piece: bytes) -> None:
        self._piece = piece

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self

    async def __anext__(self) -> Piece:
        piece, self._piece = self._piece, b""
        if not piece:
            raise StopAsyncIteration
        return piece


async def _put_object(exchange: Exchange) -> web.StreamResponse:
    """``PUT``: the body becomes the object."""
    key = parse_key(exchange.path)
    exchange.require(Right.WRITE, key)
    return await _put(exchange, key)


async def _put_artifact(exchange: Exchange) -> web.StreamResponse:
    """``PUT /v1/artifacts``: the key is made from the bytes; with a key behind it, they must be that artifact's."""
    if not exchange.path:
        exchange.require_all(Right.WRITE, ARTIFACT_PREFIX)
        return await _put(exchange, None)
    key = parse_key(exchange.path)
    if not is_artifact(key):
        raise Refusal(400, "InvalidKey", "an artifact key is 'sha256:' and 64 lowercase hex digits")
    exchange.require(Right.WRITE, key)
    return await _put(exchange, key)


async def _put(exchange: Exchange, key: Key | None) -> web.StreamResponse:
    if "Content-Range" in exchange.headers:  # RFC 9110, section 14.4: taken as a whole it would be a wrong object
        raise Refusal(400, "BadHeader", "an object is put as a whole; Content-Range has no meaning here")
    headers = put_headers(exchange.headers)
    condition = write_condition(exchange.headers)
    size, limit = metadata_bytes(headers.content_type, headers.metadata), exchange.limits.max_metadata_bytes
    if size > limit:
        raise Refusal(431, "TooLarge", f"content type and metadata have {size} bytes, more than the limit of {limit}")
    staged = await receive(exchange, hashed=key is None or is_artifact(key))
    info = await exchange.store.put(key, staged, headers, condition=condition)
    return await exchange.reply_json(described([info])[0], headers={"ETag": etag_of(info)})


async def _delete(exchange: Exchange) -> web.StreamResponse:
    """``DELETE``."""
    key = parse_key(exchange.path)
    exchange.require(Right.DELETE, key)
    if not await exchange.store.delete(key, condition=write_condition(exchange.headers)):
        raise NotFound("no such object", key=key)
    return await exchange.reply(204)


_OF_OBJECT: Final[Mapping[str, Handler]] = {"GET": _get, "HEAD": _get, "PUT": _put_object, "DELETE": _delete}
_OF_ARTIFACT: Final[Mapping[str, Handler]] = {"PUT": _put_artifact}
