"""A daemon with callers of every kind, and what each may do: the table that tests of rights go by.

A new dialect is a line in ``DIALECTS``; a new caller one in ``CALLERS``, which says in its own words what it may do, so
that the table is not the rule's code once more.
"""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tiered_store.servers.credentials import hash_of

__all__ = ["CALLERS", "CONTENT", "DIALECTS", "Answer", "Caller", "Dialect", "ask", "settings"]

CONTENT = b"what is behind a tool's key"
_DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        name: and the token, if it has one.
        rule: the token's, without name and hash; None for a caller without a known token.
        reads: beginnings of keys that it may read.
        writes: those that it may write.
        lists: prefixes that it may list.
        cache_reads: instances whose build caches it may read.
        cache_writes: those that it may write.
    """

    name: str
    rule: Mapping[str, Any] | None
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    cache_reads: frozenset[str] = frozenset()
    cache_writes: frozenset[str] = frozenset()
    is_admin: bool = False

    @property
    def is_known(self) -> bool:
        """Whether the daemon knows its token."""
        return self.rule is not None


_PLAIN = ("open/", "ci/", "sha256:")
_ALL = (*_PLAIN, "build/", "quarantine/")
_BOTH = frozenset({"repo", "other"})
_REPO = frozenset({"repo"})

CALLERS = [
    Caller("", None),
    Caller("unknown", None),
    Caller("reader", {"role": "read"}, _PLAIN, cache_reads=_BOTH),
    Caller("writer", {"role": "write"}, _PLAIN, _PLAIN, cache_reads=_BOTH, cache_writes=_BOTH),
    Caller("lister", {"role": "read", "can_list": True}, _PLAIN, lists=_PLAIN, cache_reads=_BOTH),
    Caller(
        "ci", {"role": "write", "can_list": True, "prefixes": ["ci/"], "instances": []}, ("ci/",), ("ci/",), ("ci/",)
    ),
    Caller(
        "origin-names",
        {"role": "write", "can_list": True, "prefixes": ["artifacts/", "artifacts"], "instances": []},
        ("artifacts/",),
        ("artifacts/",),
        ("artifacts/",),
    ),
    Caller("nothing", {"role": "write", "can_list": True, "prefixes": [], "instances": []}),
    Caller("artifacts", {"role": "read", "prefixes": ["sha256:"], "instances": []}, ("sha256:",)),
    Caller("cache-reader", {"role": "read", "prefixes": [], "instances": ["repo"]}, cache_reads=_REPO),
    Caller("cache", {"role": "write", "prefixes": [], "instances": ["repo"]}, cache_reads=_REPO, cache_writes=_REPO),
    Caller(
        "pr",
        {"role": "write", "prefixes": [], "instances": ["repo"], "quarantine": True},
        cache_reads=_REPO,
        cache_writes=_REPO,
    ),
    Caller("root", {"role": "admin"}, _ALL, _ALL, _ALL, _BOTH, _BOTH, is_admin=True),
]


@dataclass(frozen=True)
class Dialect:
    """A build tool's paths.

    Attributes:
        path: of an entry, with the instance to be filled in, and for most a number that makes another key.
        stored: the status of a write.
        numbers: whether ``path`` takes a number.
    """

    path: str
    stored: int = 200
    refused: int = 403
    numbers: bool = True

    def at(self, instance: str, number: int) -> str:
        """The path of an entry."""
        return self.path.format(instance=instance, number=number)


#: ``number`` has eight hex digits.
DIALECTS = {
    "ccache": Dialect("/ccache/{instance}/ab/{number:08x}" + "0" * 30),
    "ccache-bazel": Dialect("/ccache/{instance}/ac/{number:08x}" + "0" * 32 + "{number:08x}" + "0" * 16),
    "sccache": Dialect("/sccache/{instance}/9/b/e/{number:08x}"),
    "s3": Dialect("/s3/{instance}/9/b/e/s3-{number:08x}"),
    "bazel-ac": Dialect("/bazel/{instance}/ac/{number:08x}" + "0" * 56),
    "bazel-cas": Dialect("/bazel/{instance}/cas/" + _DIGEST, numbers=False),
    "turbo": Dialect("/turbo/{instance}/v8/artifacts/{number:08x}?slug=team", stored=202),
    "nx": Dialect("/nx/{instance}/v1/cache/{number}"),
    "gradle": Dialect("/gradle/{instance}/cache/{number:08x}"),
}


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        headers: in lower case, without those that say when.
    """

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str]


def settings(port: int) -> dict[str, Any]:
    """A configuration that knows all callers."""
    tokens = [
        {"name": caller.name, "hash": f"sha256:{hash_of(caller.name)}", **caller.rule}
        for caller in CALLERS
        if caller.rule is not None
    ]
    return {"http": {"port": port}, "access": {"tokens": tokens}, "origin": {"backend": "memory"}}


def ask(
    connection: http.client.HTTPConnection, caller: Caller, method: str, target: str, body: bytes | None = None
) -> Answer:
    """Send a request as a caller would; ``target`` goes out as it stands."""
    headers = {"Authorization": f"Bearer {caller.name}"} if caller.name else {}
    connection.request(method, target, body, headers)
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    when = {"date", "server-timing", "last-modified"}
    return Answer(response.status, response.read(), {n: v for n, v in found.items() if n not in when})
