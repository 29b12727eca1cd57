"""One request and its answer, as handlers see it.

Handlers know the store and what their path means; rights, bodies and errors are the same for all of them and are
here, in ``bodies`` and in ``problems``. Invariant: a handler answers exactly once, by what it returns.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from aiohttp import web
from multidict import CIMultiDictProxy, istr

from tiered_store.build.entry import Place
from tiered_store.servers.access import Grant, Right
from tiered_store.servers.http.connection import Connection
from tiered_store.servers.http.files import Files
from tiered_store.servers.http.limits import HttpLimits
from tiered_store.servers.http.problems import PROBLEM_TYPE, Refusal, problem_of
from tiered_store.servers.http.rights import granted_place, refusal_of_right
from tiered_store.servers.http.target import Target, parse_query
from tiered_store.store.store import Store

__all__ = ["Exchange", "Handler", "Mount", "Mounts", "answer"]

JSON_TYPE: Final = "application/json"
_QUALIFIERS: Final = (
    istr("Range"),
    istr("If-None-Match"),
    istr("If-Match"),
    istr("If-Modified-Since"),
    istr("If-Unmodified-Since"),
)
_SERVER: Final = "tiered_store"


class Exchange:
    """One request, to be answered by ``return await exchange.reply(...)`` or a function of ``bodies``.

    Attributes:
        request: aiohttp's.
        store: what is served.
        limits: of the door.
        method: such as ``"GET"``.
        path: what follows the mount's prefix, decoded, without a slash before it.
        headers: of the request.
        files: where files are read.
        grant: what the sender may do.
        headers_of_all: what every answer to it carries.
    """

    __slots__ = (
        "_query",
        "files",
        "grant",
        "headers",
        "headers_of_all",
        "limits",
        "method",
        "path",
        "request",
        "store",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        *,
        store: Store,
        limits: HttpLimits,
        grant: Grant,
        files: Files,
        headers_of_all: Mapping[str, str],
    ) -> None:
        self.request = request
        self.store = store
        self.limits = limits
        self.method = request.method
        self.path = ""
        self.headers: CIMultiDictProxy[str] = request.headers
        self.files = files
        self.grant = grant
        self.headers_of_all = headers_of_all
        self._query = ""

    def aim(self, path: str, query: str) -> None:
        """It is known what the request is for."""
        self.path = path
        self._query = query

    @property
    def has_query(self) -> bool:
        """Whether there is one."""
        return bool(self._query)

    @property
    def is_plain_get(self) -> bool:
        """Whether it asks for a whole object, whatever the sender has already: what most requests are."""
        headers = self.headers
        return self.method == "GET" and not any(name in headers for name in _QUALIFIERS)

    def query(self) -> dict[str, str]:
        """The fields of the query by name. Raises Refusal for one that is malformed."""
        return parse_query(self._query)

    def require(self, right: Right, key: str = "") -> None:
        """Ask whether the sender may do this with ``key`` (of a listing: its prefix). Raises Refusal."""
        if not self.grant.may(right, key):
            raise refusal_of_right(self.grant)

    def require_any(self, right: Right) -> None:
        """Ask whether the sender may do this with any key at all. Raises Refusal."""
        if not self.grant.may_any(right):
            raise refusal_of_right(self.grant)

    def require_all(self, right: Right, prefix: str) -> None:
        """Ask whether the sender may do this with every key that begins with ``prefix``. Raises Refusal."""
        if not self.grant.may_all(right, prefix):
            raise refusal_of_right(self.grant)

    def place(self, dialect: str, instance: str, right: Right) -> Place:
        """Where the sender's entries of a build cache are. Raises Refusal, as build tools understand it."""
        return granted_place(self.grant, dialect, instance, right)

    def refuse_method(self, *allowed: str) -> Refusal:
        """The answer to a method that this path does not have; to be raised."""
        text = ", ".join(allowed)
        return Refusal(405, "MethodNotAllowed", f"this path takes {text}", headers={"Allow": text})

    async def reply(
        self, status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None, *, closes: bool = False
    ) -> web.StreamResponse:
        """Answer with a body that is at hand, or none. To a HEAD only its size is sent."""
        response = web.Response(status=status, body=body, headers=headers)
        if closes:
            response.force_close()
        await self.begin(response)
        await response.write_eof()
        return response

    async def begin(self, response: web.StreamResponse) -> None:
        """Send the head of an answer."""
        response.headers["Server"] = _SERVER
        if self.headers_of_all:
            response.headers.update(self.headers_of_all)
        if cast("Connection", self.request.protocol).is_last:
            response.force_close()
        await response.prepare(self.request)

    async def reply_json(self, value: Any, *, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
        """Answer with a document."""
        return await self.reply(200, json.dumps(value).encode(), {"Content-Type": JSON_TYPE, **(headers or {})})

    async def reply_problem(self, refusal: Refusal) -> web.StreamResponse:
        """Answer with a problem document."""
        headers = {"Content-Type": PROBLEM_TYPE, **refusal.headers}
        return await self.reply(refusal.status, problem_of(refusal), headers, closes=refusal.closes)

    def abort(self) -> None:
        """End the connection in the middle of an answer, so that the peer sees that it is not whole."""
        transport = self.request.transport
        if transport is not None:
            transport.abort()


Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]


async def answer(exchange: Exchange, table: Mapping[str, Handler]) -> web.StreamResponse:
    """Answer by method. Raises Refusal for one that is not in the table."""
    handler = table.get(exchange.method)
    if handler is None:
        raise exchange.refuse_method(*table)
    return await handler(exchange)


@dataclass(frozen=True, slots=True)
class Mount:
    """Who answers for the paths below a prefix.

    Attributes:
        prefix: one or two segments, such as ``"v1/objects"`` or ``"ccache"``.
        handle: answers; ``exchange.path`` is what follows the prefix.
        joins_slashes: whether slashes that stand together count as one, for tools that glue URLs; else they are
            refused.
    """

    prefix: str
    handle: Handler
    joins_slashes: bool = False


class Mounts:
    """All mounts of a door.

    Raises:
        ValueError: two have the same prefix.
    """

    def __init__(self, *mounts: Mount) -> None:
        self._table: dict[str, Mount] = {}
        for mount in mounts:
            if mount.prefix in self._table:
                raise ValueError(f"two mounts at {mount.prefix!r}")
            self._table[mount.prefix] = mount

    def find(self, target: Target) -> tuple[Mount, str]:
        """The mount of a path, and what follows its prefix.

        Raises:
            Refusal: there is none, or it does not take slashes that stand together.
        """
        first, _, rest = target.path.partition("/")
        second, _, beyond = rest.partition("/")
        mount = self._table.get(f"{first}/{second}")
        if mount is not None:
            rest = beyond
        else:
            mount = self._table.get(first)
        if mount is None:
            raise Refusal(404, "NoSuchPath", "nothing is served at this path")
        if target.has_double_slash and not mount.joins_slashes:
            raise Refusal(400, "BadTarget", "a path must not contain an empty segment ('//')")
        return mount, rest
