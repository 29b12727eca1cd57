"""Turborepo's remote cache, ``/turbo/<name>/v8/artifacts``.

What comes in the headers of an artifact is given back with it: its duration, and its tag, which is the signature that
turbo checks where that is configured. The team in the query says nothing here; the instance separates.

https://turborepo.dev/docs/openapi/artifacts
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from tiered_store.build.cache import BuildCache
from tiered_store.build.entry import ToolEntry
from tiered_store.servers.access import Right
from tiered_store.servers.http.bodies import receive_small
from tiered_store.servers.http.dialects.common import give, keep, mounted, writable
from tiered_store.servers.http.exchange import JSON_TYPE, Exchange, Mount
from tiered_store.servers.http.problems import Refusal

__all__ = ["turbo_mount"]

_DIALECT: Final = "turbo"
_ROOT: Final = "v8/artifacts"
_HASH: Final = re.compile(r"[0-9A-Za-z_\-]{1,128}\Z")
#: Kept with an artifact, and given back.
_KEPT: Final = ("x-artifact-duration", "x-artifact-tag", "x-artifact-sha", "x-artifact-dirty-hash")
_VALUE_MAX_CHARACTERS: Final = 1024
#: What turbo says of a run, and what it asks for at once.
_DOCUMENT_MAX_BYTES: Final = 4 * 1024 * 1024
_HASHES_MAX: Final = 10_000
#: Without ``Authorization`` in it turbo would leave its token out of the request that it has asked about.
_PREFLIGHT: Final = {
    "Allow": "GET, HEAD, PUT, POST, OPTIONS",
    "Access-Control-Allow-Methods": "GET, HEAD, PUT, POST, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, User-Agent, " + ", ".join(_KEPT),
}


def turbo_mount(cache: BuildCache) -> Mount:
    """The dialect, over a build cache."""

    async def answer(exchange: Exchange, instance: str, path: str) -> web.StreamResponse:
        if exchange.method == "OPTIONS":
            return await exchange.reply(200, b"", _PREFLIGHT)
        if path == f"{_ROOT}/status" and exchange.method in {"GET", "HEAD"}:
            return await exchange.reply_json({"status": "enabled"})
        if path == f"{_ROOT}/events" and exchange.method == "POST":
            exchange.place(_DIALECT, instance, Right.READ)  # else anybody could send megabytes
            await receive_small(exchange, _DOCUMENT_MAX_BYTES)  # of a run, for whoever counts them
            return await exchange.reply(200)
        if path == _ROOT and exchange.method == "POST":
            return await _query(exchange, cache, instance)
        return await _answer_artifact(exchange, cache, instance, path)

    return mounted("turbo", answer, faults=_refuse)


async def _answer_artifact(exchange: Exchange, cache: BuildCache, instance: str, path: str) -> web.StreamResponse:
    name = path.removeprefix(f"{_ROOT}/")
    if name == path or not _HASH.match(name):
        raise Refusal(404, "NoSuchPath", f"nothing is served at this path; artifacts are below {_ROOT}/")
    if exchange.method in {"GET", "HEAD"}:
        return await give(exchange, cache, exchange.place(_DIALECT, instance, Right.READ), name, headers=_given_back)
    if exchange.method != "PUT":
        raise exchange.refuse_method("GET", "HEAD", "PUT", "POST", "OPTIONS")
    place = writable(exchange, cache, _DIALECT, instance)
    await keep(exchange, cache, place, name, _kept(exchange.headers))
    body = json.dumps({"urls": [f"/turbo/{instance}/{path}"]}).encode()
    return await exchange.reply(202, body, {"Content-Type": JSON_TYPE})


async def _query(exchange: Exchange, cache: BuildCache, instance: str) -> web.StreamResponse:
    """Which of many artifacts there are."""
    place = exchange.place(_DIALECT, instance, Right.READ)
    try:
        hashes = json.loads(await receive_small(exchange, _DOCUMENT_MAX_BYTES))["hashes"]
        if not isinstance(hashes, list) or not all(isinstance(name, str) and _HASH.match(name) for name in hashes):
            raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refusal(400, "BadRequest", 'the body must be {"hashes": [...]}') from None
    if len(hashes) > _HASHES_MAX:
        raise Refusal(413, "TooLarge", f"at most {_HASHES_MAX} hashes are asked for at once")
    found = await cache.heads(place, hashes)
    return await exchange.reply_json({name: entry and _description(entry) for name, entry in found.items()})


def _description(entry: ToolEntry) -> Any:
    duration = entry.headers.get("x-artifact-duration", "0")
    return {
        "size": entry.size,
        "taskDurationMs": int(duration) if duration.isdecimal() and len(duration) < 16 else 0,
        "tag": entry.headers.get("x-artifact-tag"),
    }


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    said = {name: headers.get(name, "")[:_VALUE_MAX_CHARACTERS] for name in _KEPT}
    return {name: value for name, value in said.items() if _is_plain(value)}


def _given_back(headers: Mapping[str, str]) -> Mapping[str, str]:
    # An entry may have been written in another way than by a header: nothing in it may end a line.
    return {name: value for name, value in headers.items() if name in _KEPT and _is_plain(value)}


def _is_plain(value: str) -> bool:
    return value != "" and value.isascii() and value.isprintable()


async def _refuse(exchange: Exchange, refusal: Refusal) -> web.StreamResponse:
    body = json.dumps({"error": {"code": refusal.code, "message": refusal.detail}}).encode()
    headers = {**refusal.headers, "Content-Type": JSON_TYPE}
    return await exchange.reply(refusal.status, body, headers, closes=refusal.closes)
