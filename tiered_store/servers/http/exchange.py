"""One request and its answer, as handlers see it.

Handlers know the store and what their path means; rights, bodies and errors are the same for all of them and are
here, in ``bodies`` and in ``problems``. Invariant: a handler answers exactly once, by what it returns.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.http import HttpVersion
from multidict import CIMultiDictProxy, istr

from tiered_store.build.entry import Place
from tiered_store.servers.access import Grant, Right
from tiered_store.servers.http.connection import Connection
from tiered_store.servers.http.files import Files, Piece
from tiered_store.servers.http.heads import Heads, date_line, has_no_body, head_of, lines_of
from tiered_store.servers.http.limits import HttpLimits
from tiered_store.servers.http.problems import PROBLEM_TYPE, Refusal, problem_of
from tiered_store.servers.http.rights import granted_place, refusal_of_right
from tiered_store.servers.http.target import ALL_PLAIN, Target, parse_query
from tiered_store.store.reading import PIECE_BYTES
from tiered_store.store.store import Store

__all__ = ["Asked", "Exchange", "Handler", "Mount", "Mounts", "answer"]

JSON_TYPE: Final = "application/json"
# As the headers keep their names: found without being folded first.
_RANGE, _IF_NONE_MATCH, _IF_MATCH = istr("Range"), istr("If-None-Match"), istr("If-Match")
_IF_MODIFIED, _IF_UNMODIFIED = istr("If-Modified-Since"), istr("If-Unmodified-Since")
_NO_FIELDS: Final[Mapping[str, str]] = {}


class _Answered(web.StreamResponse):
    """What aiohttp is given for an answer that has been sent already: it only looks at ``keep_alive``."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._is_kept = keep_alive

    @property
    def keep_alive(self) -> bool:
        """Whether another request may follow."""
        return self._is_kept

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing is left to be sent."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to be sent."""


_KEPT: Final = _Answered(keep_alive=True)
_CLOSED: Final = _Answered(keep_alive=False)


class Asked(NamedTuple):
    """A request without its body.

    Attributes:
        method: such as ``"GET"``.
        target: as it was sent.
        headers: all of them.
        version: of HTTP.
        keep_alive: whether another request may follow it.
    """

    method: str
    target: str
    headers: CIMultiDictProxy[str]
    version: HttpVersion
    keep_alive: bool


class Exchange:
    """One request, to be answered by ``return await exchange.reply(...)`` or a function of ``bodies``.

    Attributes:
        connection: where it came in.
        asked: what the sender has sent before the body.
        content: the request's body, as it comes.
        store: what is served.
        limits: of the door.
        method: such as ``"GET"``.
        path: what follows the mount's prefix, decoded, without a slash before it.
        headers: of the request.
        files: where files are read.
        grant: what the sender may do.
        headers_of_all: what every answer to it carries.
        heads: the heads of answers with whole objects.
        has_begun: whether some of the answer has been sent.
    """

    __slots__ = (
        "_closes",
        "_query",
        "asked",
        "connection",
        "content",
        "files",
        "grant",
        "has_begun",
        "headers",
        "headers_of_all",
        "heads",
        "limits",
        "method",
        "path",
        "store",
    )

    def __init__(
        self,
        connection: Connection,
        asked: Asked,
        content: StreamReader,
        *,
        store: Store,
        limits: HttpLimits,
        grant: Grant,
        files: Files,
        heads: Heads,
        headers_of_all: Mapping[str, str],
    ) -> None:
        self.connection = connection
        self.asked = asked
        self.content = content
        self.method = asked.method
        self.headers = asked.headers
        self.store = store
        self.limits = limits
        self.path = ""
        self.files = files
        self.grant = grant
        self.headers_of_all = headers_of_all
        self.heads = heads
        self.has_begun = False
        self._query = ""
        self._closes = False

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
        if self.method != "GET" or self._query:
            return False
        headers = self.headers
        return not (
            _RANGE in headers
            or _IF_NONE_MATCH in headers
            or _IF_MATCH in headers
            or _IF_MODIFIED in headers
            or _IF_UNMODIFIED in headers
        )

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
        size = None if has_no_body(status) else len(body)
        return await self.reply_at_once(head_of(status, headers or _NO_FIELDS, size), body, closes=closes)

    async def reply_at_once(self, head: bytes, body: bytes, *, closes: bool = False) -> web.StreamResponse:
        """As :meth:`reply`, with a head from ``heads``."""
        last = self._end_of_head(closes=closes)
        self._write(head + date_line() + (last + body if self.method != "HEAD" else last))
        if self.connection.is_stalled:
            await self.connection.writable()
        return _CLOSED if self._closes else _KEPT

    def begin(self, head: bytes) -> None:
        """Send the head of an answer whose body follows by :meth:`write`."""
        self._write(head + date_line() + self._end_of_head(closes=False))

    async def write(self, piece: Piece) -> None:
        """Send a piece of the body; returns when more may be sent. Waiting is the back-pressure."""
        if self.connection.is_secret and len(piece) > PIECE_BYTES:
            # TLS copies all of what it is given, several times: a view of a map is not for nothing there.
            for start in range(0, len(piece), PIECE_BYTES):
                self._write(piece[start : start + PIECE_BYTES])
                await self.connection.writable()
        elif piece:
            self._write(piece)
            await self.connection.writable()

    async def end(self) -> web.StreamResponse:
        """The answer is whole."""
        await self.connection.writable()
        return _CLOSED if self._closes else _KEPT

    def _end_of_head(self, *, closes: bool) -> bytes:
        """What depends on the connection, and the empty line."""
        extra = b""
        self._closes = closes or self.connection.is_last or not self.asked.keep_alive
        if self._closes:
            extra = b"Connection: close\r\n"
        elif self.asked.version < HttpVersion11:
            extra = b"Connection: keep-alive\r\n"
        if self.headers_of_all:
            extra += lines_of(self.headers_of_all).encode()
        return extra + b"\r\n"

    def _write(self, data: Piece) -> None:
        transport = self.connection.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the peer has gone")
        self.has_begun = True
        transport.write(data)

    async def reply_json(self, value: Any, *, headers: Mapping[str, str] | None = None) -> web.StreamResponse:
        """Answer with a document."""
        return await self.reply(200, json.dumps(value).encode(), {"Content-Type": JSON_TYPE, **(headers or {})})

    async def reply_problem(self, refusal: Refusal) -> web.StreamResponse:
        """Answer with a problem document."""
        headers = {"Content-Type": PROBLEM_TYPE, **refusal.headers}
        answered = await self.reply(refusal.status, problem_of(refusal), headers, closes=refusal.closes)
        if refusal.closes:
            self.connection.force_close()  # what the peer sends next is not even read
        return answered

    def abort(self) -> web.StreamResponse:
        """End the connection in the middle of an answer, so that the peer sees that it is not whole."""
        self.connection.abort()
        return _CLOSED


Handler = Callable[[Exchange], Awaitable[web.StreamResponse]]


def answer(exchange: Exchange, table: Mapping[str, Handler]) -> Awaitable[web.StreamResponse]:
    """Answer by method. Raises Refusal for one that is not in the table."""
    handler = table.get(exchange.method)
    if handler is None:
        raise exchange.refuse_method(*table)
    return handler(exchange)


@dataclass(frozen=True, slots=True)
class Mount:
    """Who answers for the paths below a prefix.

    Attributes:
        prefix: one or two segments, such as ``"v1/objects"`` or ``"ccache"``.
        handle: answers; ``exchange.path`` is what follows the prefix.
        joins_slashes: whether slashes that stand together count as one, for tools that glue URLs; else they are
            refused.
        ends_in_key: whether what follows the prefix is a key, in which an escaped slash means a slash; elsewhere there
            is nothing at a path with one.
    """

    prefix: str
    handle: Handler
    joins_slashes: bool = False
    ends_in_key: bool = False


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
            Refusal: there is none, or it does not take slashes that stand together or are escaped.
        """
        first, _, rest = target.path.partition("/")
        second, _, beyond = rest.partition("/")
        mount = self._table.get(f"{first}/{second}")
        if mount is not None:
            rest = beyond
        else:
            mount = self._table.get(first)
        if mount is None or (target.plain_segments < ALL_PLAIN and not _takes(mount, target)):
            raise Refusal(404, "NoSuchPath", "nothing is served at this path")
        if target.has_double_slash and not mount.joins_slashes:
            raise Refusal(400, "BadTarget", "a path must not contain an empty segment ('//')")
        return mount, rest


def _takes(mount: Mount, target: Target) -> bool:
    """Whether a mount takes a path's escaped slashes: all in the key, and none in the prefix."""
    return mount.ends_in_key and target.plain_segments > mount.prefix.count("/")
