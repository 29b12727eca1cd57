"""sccache, by WebDAV at ``/sccache/<name>/`` and by as much of S3 as it speaks at ``/s3/<name>/``; both see the same.

WebDAV: before it writes, sccache asks whether the collections above the object are there, and makes those that are not.
Here every path that ends in a slash is a collection, so that it asks once and makes none. Whatever is answered, nothing
is told of what is stored.

S3: path-style GET and PUT; whose request it is was found out from its signature's access key (``credentials``).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

from aiohttp import web

from tiered_store.build.cache import BuildCache
from tiered_store.servers.access import Right
from tiered_store.servers.http.dialects.common import forget, give, keep, mounted, writable
from tiered_store.servers.http.exchange import Exchange, Mount
from tiered_store.servers.http.problems import Refusal

__all__ = ["sccache_mount", "sccache_s3_mount"]

_DIALECT: Final = "sccache"
_XML: Final = {"Content-Type": "application/xml; charset=utf-8"}
#: What opendal, which sccache stands on, reads of a collection.
_COLLECTION: Final = (
    '<?xml version="1.0" encoding="utf-8"?>'
    '<D:multistatus xmlns:D="DAV:"><D:response><D:href>{href}</D:href><D:propstat><D:prop>'
    "<D:resourcetype><D:collection/></D:resourcetype>"
    "<D:getlastmodified>Mon, 01 Jan 2024 00:00:00 GMT</D:getlastmodified>"
    "</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>"
)


def sccache_mount(cache: BuildCache) -> Mount:
    """The WebDAV form, over a build cache."""

    async def answer(exchange: Exchange, instance: str, path: str) -> web.StreamResponse:
        method = exchange.method
        if method == "PROPFIND":
            return await _describe(exchange, f"/sccache/{instance}/{path}")
        if method == "MKCOL":
            return await exchange.reply(201)
        if method == "OPTIONS":
            return await exchange.reply(200, b"", {"DAV": "1", "Allow": "GET, HEAD, PUT, DELETE, PROPFIND, MKCOL"})
        return await _answer_object(exchange, cache, instance, path)

    return mounted("sccache", answer)


def sccache_s3_mount(cache: BuildCache) -> Mount:
    """The S3 form, over a build cache; the instance is the bucket."""

    async def answer(exchange: Exchange, instance: str, path: str) -> web.StreamResponse:
        return await _answer_object(exchange, cache, instance, path)

    return mounted("s3", answer, faults=_refuse_as_s3)


async def _describe(exchange: Exchange, path: str) -> web.StreamResponse:
    if not path.endswith("/"):
        return await exchange.reply(404)  # of objects it asks by GET alone
    body = _COLLECTION.format(href=escape(quote(path)))
    return await exchange.reply(207, body.encode(), _XML)


async def _answer_object(exchange: Exchange, cache: BuildCache, instance: str, path: str) -> web.StreamResponse:
    method = exchange.method
    if method in {"GET", "HEAD"}:
        return await give(exchange, cache, exchange.place(_DIALECT, instance, Right.READ), path)
    if method == "PUT":
        await keep(exchange, cache, writable(exchange, cache, _DIALECT, instance), path)
        return await exchange.reply(200)
    if method == "DELETE":
        return await forget(exchange, cache, writable(exchange, cache, _DIALECT, instance), path)
    raise exchange.refuse_method("GET", "HEAD", "PUT", "DELETE")


async def _refuse_as_s3(exchange: Exchange, refusal: Refusal) -> web.StreamResponse:
    code = {403: "AccessDenied", 413: "EntityTooLarge", 503: "ServiceUnavailable"}.get(refusal.status, refusal.code)
    body = f"<Error><Code>{escape(code)}</Code><Message>{escape(refusal.detail)}</Message></Error>"
    return await exchange.reply(refusal.status, body.encode(), {**refusal.headers, **_XML}, closes=refusal.closes)
