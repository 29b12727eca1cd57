"""Who may not ask learns nothing, not even by the time it takes: nothing is looked up for a refusal."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.authorization import DIALECTS
from tests.support.build import build_rig
from tests.support.http import ServedHttp, door_over, served_http
from tiered_store.build.entry import Place
from tiered_store.key import artifact_key
from tiered_store.servers.access import AccessSettings, PeerRule, Rule
from tiered_store.servers.http.api import api_mounts
from tiered_store.servers.http.dialects.mounts import dialect_mounts

KEY = artifact_key("0" * 64)
NOTHING = AccessSettings(peers=[PeerRule(Rule("me", "write", prefixes=("mine/",), instances=frozenset()))])
REQUESTS: list[tuple[str, str, bytes | None]] = [
    ("GET", "/v1/objects/k", None),
    ("HEAD", "/v1/objects/k", None),
    ("GET", f"/v1/objects/{KEY}", None),
    ("GET", "/v1/objects/build/nx/repo/k", None),
    ("GET", f"/v1/objects/artifacts/sha256/00/{'0' * 64}", None),
    ("PUT", "/v1/objects/k", b"x"),
    ("PUT", f"/v1/artifacts/{KEY}", b"x"),
    ("PUT", "/v1/artifacts", b"x"),
    ("DELETE", "/v1/objects/k", None),
    ("DELETE", f"/v1/objects/{KEY}", None),
    ("GET", "/v1/objects?prefix=", None),
    ("DELETE", "/v1/objects?prefix=k", None),
    ("POST", "/v1/exists", b'{"keys": ["mine/a", "k"]}'),
    ("POST", "/v1/copy", b'{"source": "k", "target": "mine/a"}'),
    ("POST", "/v1/copy", b'{"source": "mine/a", "target": "k"}'),
    ("GET", "/v1/stats", None),
]


def asked(it: ServedHttp) -> Any:
    """All that the store has counted, and all that the origin was asked."""
    numbers: dict[str, Any] = it.rig.store.stats()
    tiers = [(numbers[tier]["hits"], numbers[tier]["misses"]) for tier in ("memory", "disk")]
    return tiers, numbers["negative_hits"], dict(it.rig.origin.calls)


@pytest.mark.parametrize(("method", "target", "body"), REQUESTS)
@pytest.mark.parametrize("is_there", [True, False])
async def test_of_the_object_api(method: str, target: str, body: bytes | None, is_there: bool) -> None:
    async with served_http(*api_mounts(dict), access=NOTHING) as it:
        if is_there:
            await it.rig.there("k", b"x")
            await it.rig.get("k")
        before = asked(it)
        for headers in ({}, {"If-None-Match": "*"}, {"Range": "bytes=0-0", "Cache-Control": "only-if-cached"}):
            assert (await it.ask(method, target, body, **headers)).status == 403
        assert asked(it) == before


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("name", list(DIALECTS))
async def test_of_build_caches(name: str, method: str) -> None:
    async with build_rig() as build, door_over(build.rig, dialect_mounts(build.cache), access=NOTHING) as it:
        await build.put(Place("nx", "repo"), "1", b"content")
        before = asked(it)
        answer = await it.ask(method, DIALECTS[name].at("repo", 1), b"x" if method == "PUT" else None)
        assert answer.status in ({404} if method in {"GET", "HEAD"} else {403, 404, 405})
        assert asked(it) == before
