"""What holds for every dialect: the rules of one server that serves all tools."""

from __future__ import annotations

import hashlib
import json
import logging

import pytest

from tests.support.dialects import served_dialects
from tests.support.origins import pattern
from tests.support.store import artifact_of
from tiered_store.build.cache import BuildLimits
from tiered_store.build.entry import Place
from tiered_store.errors import OriginUnavailable, QuotaExceeded
from tiered_store.key import name_of_key, parse_key
from tiered_store.origins.base import PutHeaders
from tiered_store.servers.access import AccessSettings, Rule, TokenRule
from tiered_store.servers.credentials import hash_of
from tiered_store.servers.http.files import Files

DATA = pattern(300_000)
SMALL = b"content"
NAME = hashlib.sha256(DATA).hexdigest()
SMALL_NAME = hashlib.sha256(SMALL).hexdigest()
HEX = "0123456789abcdef" * 4

#: By dialect: a path, and the status of a write.
PATHS = {
    "ccache": (f"/ccache/main/ab/{HEX[:38]}", 200),
    "sccache": (f"/sccache/main/p/9/b/e/{HEX}", 200),
    "s3": (f"/s3/main/p/9/b/e/{HEX}", 200),
    "bazel-ac": (f"/bazel/main/ac/{HEX}", 200),
    "bazel-cas": (f"/bazel/main/cas/{NAME}", 200),
    "turbo": (f"/turbo/main/v8/artifacts/{HEX[:16]}?slug=team", 202),
    "nx": ("/nx/main/v1/cache/14088252405902956419", 200),
    "gradle": (f"/gradle/main/cache/{HEX[:32]}", 200),
}
EACH = pytest.mark.parametrize(("path", "stored"), PATHS.values(), ids=list(PATHS))


@EACH
async def test_what_was_put_is_given(path, stored):
    async with served_dialects() as it:
        assert await it.get(path) == (404, b"")
        assert (await it.http.ask("HEAD", path)).status == 404
        assert await it.put(path, DATA) == stored
        assert await it.get(path) == (200, DATA)
        answer = await it.http.ask("HEAD", path)
        assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(DATA)))


@EACH
async def test_instances_do_not_meet(path, stored):
    async with served_dialects() as it:
        await it.put(path, DATA)
        assert (await it.get(path.replace("/main/", "/other/", 1)))[0] == 404


@EACH
async def test_slashes_that_stand_together_are_one(path, stored):
    async with served_dialects() as it:
        assert await it.put(path.replace("/main/", "/main//", 1), DATA) == stored
        assert await it.get(path) == (200, DATA)


@EACH
async def test_a_damaged_tier_is_repaired_within_the_read(path, stored):
    async with served_dialects() as it:
        await it.put(path, DATA)
        entry = it.build.rig.memory.peek(parse_key(artifact_of(DATA)))
        entry.body, entry.is_verified = SMALL, False
        assert await it.get(path) == (200, DATA)


@EACH
async def test_damage_is_not_there(path, stored):
    async with served_dialects(memory_bytes=0) as it:
        await it.put(path, DATA)
        name = name_of_key(parse_key(artifact_of(DATA)))
        await it.build.rig.origin.inner.put(name, b"\xff" + DATA[1:], PutHeaders())
        assert await it.get(path) == (404, b"")
        assert await it.put(path, DATA) == stored
        assert await it.get(path) == (200, DATA)


@EACH
async def test_an_origin_that_is_down_has_nothing(path, stored):
    async with served_dialects(memory_bytes=0) as it:
        await it.put(path, DATA)
        it.build.rig.origin.fail("open", lambda: OriginUnavailable("down"))
        it.build.rig.origin.fail("stat", lambda: OriginUnavailable("down"))
        assert await it.get(path) == (404, b"")
        assert (await it.http.ask("HEAD", path)).status == 404


@EACH
async def test_a_slow_origin_has_nothing(path, stored):
    async with served_dialects(BuildLimits(read_timeout_s=0.01), memory_bytes=0) as it:
        await it.put(path, DATA)
        gate = it.build.rig.origin.hold("open")
        assert await it.get(path) == (404, b"")
        gate.open()


#: What a write is answered with that the origin refuses, by dialect; and one without the right.
REFUSED = {
    "ccache": (507, 403, 413),
    "sccache": (507, 403, 413),
    "s3": (507, 403, 413),
    "bazel-ac": (403, 403, 413),
    "bazel-cas": (403, 403, 413),
    "turbo": (507, 403, 413),
    "nx": (409, 403, 409),
    "gradle": (507, 403, 413),
}


@pytest.mark.parametrize("dialect", PATHS)
async def test_writes_that_cannot_be_stored(dialect):
    path, _ = PATHS[dialect]
    full, _, large = REFUSED[dialect]
    async with served_dialects(BuildLimits(max_entry_bytes=len(DATA))) as it:
        it.build.rig.origin.fail("put", lambda: QuotaExceeded("full"))
        assert await it.put(path, DATA) == full
        assert await it.get(path) == (404, b"")
        assert await it.put(path, DATA + b"x") == large
        assert it.build.cache.counters()["sccache" if dialect == "s3" else dialect]["refused"] == 2


@pytest.mark.parametrize("dialect", PATHS)
async def test_those_who_may_not(dialect):
    """A reader's write is forbidden, and nothing is there for somebody who may not even read."""
    path, stored = PATHS[dialect]
    known = [
        TokenRule(Rule("ci", "write", instances=frozenset({"main"})), hash_of("w")),
        TokenRule(Rule("dev", "read", instances=frozenset({"main"})), hash_of("r")),
        TokenRule(Rule("other", "write", instances=frozenset({"elsewhere"})), hash_of("o")),
    ]
    access = AccessSettings(tokens=known)
    async with served_dialects(access=access) as it:
        assert await it.put(path, DATA, Authorization="Bearer r") == REFUSED[dialect][1]
        assert await it.put(path, DATA, Authorization="Bearer o") == REFUSED[dialect][1]
        assert await it.put(path, DATA, Authorization="Bearer w") == stored
        assert await it.get(path, Authorization="Bearer r") == (200, DATA)
        assert await it.get(path, Authorization="Bearer o") == (404, b"")
        assert (await it.http.ask("HEAD", path, Authorization="Bearer o")).status == 404


@EACH
async def test_what_a_writer_in_quarantine_stores_is_seen_by_that_writer_alone(path, stored):
    known = [
        TokenRule(Rule("ci", "write"), hash_of("ci")),
        TokenRule(Rule("pr-7", "write", quarantine=True), hash_of("pr")),
        TokenRule(Rule("pr-8", "write", quarantine=True), hash_of("other")),
    ]
    async with served_dialects(access=AccessSettings(tokens=known)) as it:
        assert await it.put(path, DATA, Authorization="Bearer pr") == stored
        assert await it.get(path, Authorization="Bearer pr") == (200, DATA)
        for token in ("ci", "other"):
            assert await it.get(path, Authorization=f"Bearer {token}") == (404, b"")
        assert await it.put(path, DATA, Authorization="Bearer ci") == stored
        for token in ("ci", "pr", "other"):
            assert await it.get(path, Authorization=f"Bearer {token}") == (200, DATA)


@EACH
@pytest.mark.parametrize("method", ["PATCH", "LOCK"])
async def test_methods_that_there_are_not(path, stored, method):
    async with served_dialects() as it:
        answer = await it.http.ask(method, path)
        assert (answer.status, "GET" in answer.headers["Allow"]) == (405, True)


@pytest.mark.parametrize("prefix", ["ccache", "sccache", "s3", "bazel", "turbo", "nx", "gradle"])
@pytest.mark.parametrize(
    "rest",
    [
        "",
        "/",
        "/main",
        "/main/",
        "/main/%2e%2e/other/x",
        "/../main/x",
        "/main/a%00b",
        "/main/%5cx",
        "/ma in/x",
        "/.hidden/x",
        "/main/.tiered_store/x",
        "/main/" + "a" * 2000,
        f"/{'m' * 65}/ab/{HEX}",
    ],
)
async def test_paths_that_lead_nowhere(prefix, rest):
    async with served_dialects() as it:
        for method in ("GET", "PUT", "HEAD"):
            answer = await it.http.ask(
                method, f"/{prefix}{rest.replace(' ', '%20')}", b"x" if method == "PUT" else None
            )
            assert 400 <= answer.status < 500, (method, answer)
        assert it.build.rig.origin.calls["put"] == 0


@EACH
async def test_a_coded_body_is_not_taken(path, stored):
    async with served_dialects() as it:
        status = await it.put(path, DATA, Content_Encoding="gzip")
        assert status in {415, 409}
        assert await it.get(path) == (404, b"")


@EACH
async def test_a_body_in_chunks_is_taken(path, stored):
    async def pieces():
        yield DATA[:1000]
        yield DATA[1000:]

    async with served_dialects() as it:
        answer = await it.http.ask("PUT", path, pieces())
        assert answer.status == stored
        assert await it.get(path) == (200, DATA)


async def test_a_bug_in_a_read_is_a_miss(monkeypatch):
    async with served_dialects() as it:
        monkeypatch.setattr(it.build.cache, "get", lambda *_: 1 / 0)
        assert await it.get(PATHS["nx"][0]) == (404, b"")
        monkeypatch.setattr(it.build.cache, "put", lambda *_, **__: 1 / 0)
        assert await it.put(PATHS["nx"][0], b"x") == 409
        answer = await it.http.ask("PUT", PATHS["gradle"][0], b"x")
        assert (answer.status, json.loads(answer.body)["code"]) == (500, "StoreError")


async def test_a_body_that_breaks_off_is_no_whole_one(monkeypatch, caplog):
    """The head of the answer is out: the connection must not look as if all had come."""
    caplog.set_level(logging.CRITICAL, "tiered_store.http")  # a record's traceback would hold the file
    async with served_dialects() as it:
        await it.put(PATHS["ccache"][0], DATA)

        async def broken(files, body, offset, size):
            if offset:
                raise OriginUnavailable("the disk fails")
            return DATA[:size]

        monkeypatch.setattr("tiered_store.servers.http.files._VIEW_BYTES", len(DATA) // 2)
        monkeypatch.setattr(Files, "read", broken)
        answer = await it.http.raw(f"GET {PATHS['ccache'][0]} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert len(answer.partition(b"\r\n\r\n")[2]) < len(DATA)


@EACH
async def test_a_file_that_cannot_be_read_is_not_found_again(path, stored, monkeypatch):
    """It was sound when it was hashed; without this every reader would meet it until the tier forgets it."""
    async with served_dialects() as it:
        await it.put(path, DATA)

        async def unreadable(*_):
            raise OriginUnavailable("the disk fails")

        with monkeypatch.context() as patched:
            patched.setattr(Files, "read", unreadable)
            assert await it.get(path) == (404, b"")
        assert it.build.rig.memory.peek(parse_key(artifact_of(DATA))) is None
        assert sum(counters["damaged"] for counters in it.build.cache.counters().values()) == 1
        assert await it.get(path) == (200, DATA)


def test_a_place_of_a_dialect_is_a_place_of_its_own():
    assert len({Place(dialect, "main").prefix for dialect in PATHS}) == len(PATHS)
