"""The object API: ``/v1/objects/{key}``."""

from __future__ import annotations

from aiohttp import web

from tiered_store.key import is_artifact, parse_key
from tiered_store.objects import ObjectInfo
from tiered_store.origins.base import PutHeaders
from tiered_store.servers.http.bodies import receive, send, stream
from tiered_store.servers.http.exchange import Exchange
from tiered_store.servers.http.rights import Right

__all__ = ["handle_object"]


async def handle_object(exchange: Exchange) -> web.StreamResponse:
    """``/v1/objects/{key}``."""
    method = exchange.method
    if method == "GET":
        return await _get(exchange)
    if method == "PUT":
        return await _put(exchange)
    raise exchange.refuse_method("GET", "HEAD", "PUT", "DELETE")


async def _get(exchange: Exchange) -> web.StreamResponse:
    key = parse_key(exchange.path)
    exchange.require(Right.READ, key)
    entry = exchange.store.peek(key)
    if entry is not None:
        return await send(exchange, 200, _headers(entry.info), entry.body)
    reading = await exchange.store.read(key)
    try:
        return await stream(exchange, 200, _headers(reading.info), reading)
    finally:
        reading.close()


async def _put(exchange: Exchange) -> web.StreamResponse:
    key = parse_key(exchange.path)
    exchange.require(Right.WRITE, key)
    staged = await receive(exchange, hashed=is_artifact(key))
    info = await exchange.store.put(key, staged, PutHeaders(exchange.headers.get("Content-Type")))
    return await exchange.reply(200, b"", {"ETag": f'"{info.etag}"'})


def _headers(info: ObjectInfo) -> dict[str, str]:
    return {"Content-Type": info.content_type or "application/octet-stream", "ETag": f'"{info.etag}"'}
