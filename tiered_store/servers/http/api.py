"""The object API's paths: which method of which path is answered by whom, and what concerns many objects or none."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import takewhile
from typing import Any, Final

from aiohttp import web

from tiered_store.errors import InvalidKey
from tiered_store.key import parse_key, parse_prefix
from tiered_store.objects import ObjectInfo
from tiered_store.servers.access import beyond_hidden
from tiered_store.servers.http.bodies import receive_small
from tiered_store.servers.http.exchange import Exchange, Handler, Mount, answer
from tiered_store.servers.http.fields import described
from tiered_store.servers.http.objects import handle_artifact, handle_object
from tiered_store.servers.http.openapi import description
from tiered_store.servers.http.problems import Refusal
from tiered_store.servers.http.rights import Right

__all__ = ["api_mounts"]

_PAGE_MAX: Final = 1000
#: Some ten thousand keys of usual length.
_DOCUMENT_MAX_BYTES: Final = 1024 * 1024
_KEYS_MAX: Final = 10_000


def api_mounts(statistics: Callable[[], Mapping[str, object]]) -> tuple[Mount, ...]:
    """All of ``/v1``.

    Args:
        statistics: what ``/v1/stats`` answers.
    """

    async def stats(exchange: Exchange) -> web.StreamResponse:
        exchange.require(Right.ADMIN)
        return await exchange.reply_json(statistics())

    return (
        Mount("v1/objects", _objects, ends_in_key=True),
        Mount("v1/artifacts", handle_artifact),
        Mount("v1/exists", _alone({"POST": _exists})),
        Mount("v1/copy", _alone({"POST": _copy})),
        Mount("v1/health", _alone({"GET": _health, "HEAD": _health})),
        Mount("v1/stats", _alone({"GET": stats, "HEAD": stats})),
        Mount("v1/openapi.json", _alone({"GET": _described_api, "HEAD": _described_api})),
    )


def _objects(exchange: Exchange) -> Awaitable[web.StreamResponse]:
    """``/v1/objects`` and what is below it."""
    return handle_object(exchange) if exchange.path else answer(exchange, _OF_ALL)


def _alone(table: Mapping[str, Handler]) -> Handler:
    """A path with nothing below it."""

    def handle(exchange: Exchange) -> Awaitable[web.StreamResponse]:
        if exchange.path:
            raise Refusal(404, "NoSuchPath", "nothing is served at this path")
        return answer(exchange, table)

    return handle


async def _list(exchange: Exchange) -> web.StreamResponse:
    """A page of a listing: those objects that the sender may read."""
    query = exchange.query()
    prefix = parse_prefix(query.get("prefix", ""))
    exchange.require(Right.LIST, prefix)
    after, limit = _after(query.get("cursor", "")), _limit(query.get("limit", ""))
    shown, more = await _page(exchange, prefix, after, limit)
    cursor = base64.urlsafe_b64encode(shown[-1].key.encode()).decode() if more else None
    return await exchange.reply_json({"objects": described(shown), "cursor": cursor})


async def _page(exchange: Exchange, prefix: str, after: str, limit: int) -> tuple[list[ObjectInfo], bool]:
    """Objects of a listing that the sender may read, and whether there may be more.

    As many as were asked for, if there are so many: a page with gaps would tell, for any key that somebody puts into a
    cursor, how many hidden ones follow it.
    """
    may_read = partial(exchange.grant.may, Right.READ)
    shown: list[ObjectInfo] = []
    hidden = after if after and not may_read(after) else ""
    while True:
        after = beyond_hidden(hidden) if hidden else after
        page = await exchange.store.list(prefix, after=after, limit=limit - len(shown))
        hidden = next((info.key for info in page.items if not may_read(info.key)), "")
        shown += takewhile(lambda info: may_read(info.key), page.items)
        if not hidden:  # else it goes on behind what is hidden, of which there are few stretches
            return shown, page.more and bool(page.items)


def _after(cursor: str) -> str:
    if not cursor:
        return ""
    try:
        return parse_key(base64.b64decode(cursor.encode(), altchars=b"-_", validate=True))
    except (ValueError, InvalidKey):
        raise Refusal(400, "BadCursor", "the cursor is not one that a listing gave") from None


def _limit(text: str) -> int:
    if not text:
        return _PAGE_MAX
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text)):
        raise Refusal(400, "BadQuery", "limit must be a whole number from 1 on")
    return min(int(text), _PAGE_MAX)


async def _delete_prefix(exchange: Exchange) -> web.StreamResponse:
    prefix = parse_prefix(exchange.query().get("prefix", ""))
    if not prefix:
        raise InvalidKey("an empty prefix would delete everything; name one", key="")
    exchange.require(Right.LIST, prefix)  # it tells how many there were, and removes what the sender does not know of
    exchange.require_all(Right.DELETE, prefix)
    return await exchange.reply_json({"deleted": await exchange.store.delete_prefix(prefix)})


async def _exists(exchange: Exchange) -> web.StreamResponse:
    exchange.require_any(Right.READ)  # before a body of a megabyte is taken
    names = (await _document(exchange)).get("keys")
    if not isinstance(names, list) or len(names) > _KEYS_MAX:
        raise Refusal(400, "BadDocument", f'the body must be {{"keys": [...]}} with at most {_KEYS_MAX} keys')
    keys = [parse_key(_text(name)) for name in names]
    for key in keys:
        exchange.require(Right.READ, key)
    return await exchange.reply_json({"exists": await exchange.store.exists(keys)})


async def _copy(exchange: Exchange) -> web.StreamResponse:
    exchange.require_any(Right.WRITE)
    document = await _document(exchange)
    source, target = (parse_key(_text(document.get(name))) for name in ("source", "target"))
    exchange.require(Right.READ, source)
    exchange.require(Right.WRITE, target)
    info = await exchange.store.copy(source, target)
    return await exchange.reply_json(described([info])[0])


async def _health(exchange: Exchange) -> web.StreamResponse:
    """Whether the daemon answers; everybody may know that."""
    return await exchange.reply_json({"status": "ok"})


async def _described_api(exchange: Exchange) -> web.StreamResponse:
    """What this API is; everybody may know that."""
    return await exchange.reply_json(description())


async def _document(exchange: Exchange) -> dict[str, Any]:
    """The request's body, a JSON object."""
    raw = await receive_small(exchange, _DOCUMENT_MAX_BYTES)
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refusal(400, "BadDocument", "the body must be a JSON object")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Refusal(400, "BadDocument", "keys must be texts")
    return value


_OF_ALL: Final[Mapping[str, Handler]] = {"GET": _list, "HEAD": _list, "DELETE": _delete_prefix}
