"""The object API over HTTP."""

from __future__ import annotations

import asyncio
import email
import hashlib
import json
from email.policy import HTTP

import aiohttp
import pytest

from tests.support.http import served_http
from tests.support.store import artifact_of, until
from tiered_store.errors import OriginUnavailable
from tiered_store.servers.http.api import api_mounts

API = api_mounts(lambda: {"counters": 1})
LARGE = bytes(range(256)) * 4000


async def test_what_is_put_is_got() -> None:
    async with served_http(*API) as it:
        for data in (b"", b"small", b"large" * 100_000):
            put = await it.ask("PUT", "/v1/objects/a/b%20c", data, Content_Type="text/x", x_meta_who="J%C3%BCrgen")
            assert put.status == 200
            said = json.loads(put.body)
            assert (said["key"], said["size"], said["metadata"]) == ("a/b c", len(data), {"who": "Jürgen"})
            for _ in range(2):  # what is rendered once is the same the second time
                got = await it.ask("GET", "/v1/objects/a/b%20c")
                assert (got.status, got.body) == (200, data)
                assert (got.headers["Content-Type"], got.headers["x-meta-who"]) == ("text/x", "J%C3%BCrgen")
                assert got.headers["ETag"] == put.headers["ETag"] == said["etag"]
                assert got.headers["X-Tier"] == "memory"
                assert got.headers["Server-Timing"].startswith("memory;dur=")
            head = await it.ask("HEAD", "/v1/objects/a/b%20c")
            assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(data)))
            assert await it.rig.get("a/b c") == data


async def test_a_cold_object_is_streamed_while_it_comes() -> None:
    async with served_http(*API) as it:
        await it.rig.there("cold", LARGE * 4)
        gate = it.rig.origin.hold("chunk:1", "cold")
        async with it.session.get("http://door/v1/objects/cold") as response:
            assert (response.status, response.headers["X-Tier"]) == (200, "origin")
            gate.open()
            assert await response.read() == LARGE * 4


async def test_a_head_of_a_cold_object_moves_no_bytes() -> None:
    async with served_http(*API) as it:
        await it.rig.there("cold", LARGE)
        head = await it.ask("HEAD", "/v1/objects/cold")
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(LARGE)))
        assert it.rig.counter("fills") == 0


async def test_conditions_of_a_cold_object_move_no_bytes() -> None:
    async with served_http(*API) as it:
        info = await it.rig.there("cold", LARGE)
        same = await it.ask("GET", "/v1/objects/cold", If_None_Match=f'"{info.etag}"')
        assert (same.status, same.body, same.headers["ETag"]) == (304, b"", f'"{info.etag}"')
        other = await it.ask("GET", "/v1/objects/cold", If_Match='"other"')
        assert (other.status, json.loads(other.body)["code"]) == (412, "PreconditionFailed")
        assert it.rig.counter("fills") == 0
        assert (await it.ask("GET", "/v1/objects/cold", If_None_Match='"other"')).body == LARGE


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("size", [1000, 300_000])
async def test_ranges(warm: bool, size: int) -> None:
    data = LARGE[:size]
    async with served_http(*API) as it:
        await it.rig.there("k", data)
        if warm:
            await it.rig.get("k")
        one = await it.ask("GET", "/v1/objects/k", Range="bytes=10-19")
        assert (one.status, one.body, one.headers["Content-Range"]) == (206, data[10:20], f"bytes 10-19/{size}")
        last = await it.ask("GET", "/v1/objects/k", Range="bytes=-5")
        assert (last.status, last.body) == (206, data[-5:])
        beyond = await it.ask("GET", "/v1/objects/k", Range=f"bytes={size}-")
        assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{size}")
        old = await it.ask("GET", "/v1/objects/k", Range="bytes=0-1", If_Range='"other"')
        assert (old.status, old.body) == (200, data)
        head = await it.ask("HEAD", "/v1/objects/k", Range="bytes=0-1")
        assert (head.status, head.headers["Content-Length"]) == (200, str(size))


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("size", [1000, 300_000])
async def test_several_ranges(warm: bool, size: int) -> None:
    data = LARGE[:size]
    async with served_http(*API) as it:
        await it.rig.there("k", data)
        if warm:
            await it.rig.get("k")
        got = await it.ask("GET", "/v1/objects/k", Range="bytes=0-9, 500-599, -1")
        assert got.status == 206
        head = f"Content-Type: {got.headers['Content-Type']}\r\n\r\n".encode()
        parts = list(email.message_from_bytes(head + got.body, policy=HTTP).iter_parts())
        assert [part["Content-Range"] for part in parts] == [
            f"bytes 0-9/{size}",
            f"bytes 500-599/{size}",
            f"bytes {size - 1}-{size - 1}/{size}",
        ]
        assert [len(part.get_payload(decode=True)) for part in parts] == [10, 100, 1]  # type: ignore[arg-type]
        assert data[500:600] in got.body


async def test_only_what_is_cached_on_request() -> None:
    async with served_http(*API) as it:
        await it.rig.there("cold", b"x")
        for method in ("GET", "HEAD"):
            assert (await it.ask(method, "/v1/objects/cold", Cache_Control="only-if-cached")).status == 504
        await it.rig.get("cold")
        assert (await it.ask("GET", "/v1/objects/cold", Cache_Control="only-if-cached")).body == b"x"


async def test_to_be_saved_under_a_name() -> None:
    async with served_http(*API) as it:
        await it.rig.there("a/b.txt", b"x")
        for target, name in (("?download", "b.txt"), ("?download=c", "c")):
            got = await it.ask("GET", "/v1/objects/a/b.txt" + target)
            assert (got.body, got.headers["Content-Disposition"].split('"')[1]) == (b"x", name)
        assert "Content-Disposition" not in (await it.ask("GET", "/v1/objects/a/b.txt")).headers


async def test_a_write_on_a_condition() -> None:
    async with served_http(*API) as it:
        target = "/v1/objects/k"
        assert (await it.ask("PUT", target, b"1", If_Match="*")).status == 412
        first = await it.ask("PUT", target, b"1", If_None_Match="*")
        assert first.status == 200
        assert (await it.ask("PUT", target, b"2", If_None_Match="*")).status == 412
        second = await it.ask("PUT", target, b"2", If_Match=first.headers["ETag"])
        assert second.status == 200
        assert (await it.ask("PUT", target, b"3", If_Match=first.headers["ETag"])).status == 412
        assert (await it.ask("DELETE", target, If_Match=first.headers["ETag"])).status == 412
        assert await it.rig.get("k") == b"2"
        assert (await it.ask("DELETE", target, If_Match=second.headers["ETag"])).status == 204
        assert (await it.ask("PUT", target, b"1", If_Unmodified_Since="Sat, 01 Jan 2000 00:00:00 GMT")).status == 501


async def test_of_two_writes_on_one_condition_one_is_made() -> None:
    async with served_http(*API) as it:
        gate = it.rig.origin.hold("put")
        puts = [asyncio.create_task(it.ask("PUT", "/v1/objects/k", b"%d" % n, If_None_Match="*")) for n in range(4)]
        await gate.reached.wait()
        gate.open()
        answers = [answer.status for answer in await asyncio.gather(*puts)]
        assert sorted(answers) == [200, 412, 412, 412]
        assert await it.rig.get("k") == b"%d" % answers.index(200)


async def test_deletes() -> None:
    async with served_http(*API) as it:
        for key in ("a/1", "a/2", "b"):
            await it.rig.there(key, b"x")
        assert (await it.ask("DELETE", "/v1/objects/b")).status == 204
        assert (await it.ask("DELETE", "/v1/objects/b")).status == 404
        assert (await it.ask("DELETE", "/v1/objects")).status == 400
        assert json.loads((await it.ask("DELETE", "/v1/objects?prefix=a/")).body) == {"deleted": 2}
        assert (await it.ask("GET", "/v1/objects/a/1")).status == 404


async def test_listings_in_pages() -> None:
    async with served_http(*API) as it:
        for number in range(5):
            await it.rig.there(f"a/{number}", b"x" * number)
        await it.rig.there("b", b"")
        found, cursor = [], ""
        while cursor is not None:
            page = json.loads((await it.ask("GET", f"/v1/objects?prefix=a/&limit=2&cursor={cursor}")).body)
            assert len(page["objects"]) <= 2
            found += [(item["key"], item["size"]) for item in page["objects"]]
            cursor = page["cursor"]
        assert found == [(f"a/{number}", number) for number in range(5)]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "limit=-1", "cursor=!", "cursor=Li4=", "prefix=..%2f", "a=1&a=2"]
)
async def test_listings_that_are_refused(query: str) -> None:
    async with served_http(*API) as it:
        assert (await it.ask("GET", f"/v1/objects?{query}")).status == 400


async def test_many_questions_at_once() -> None:
    async with served_http(*API) as it:
        await it.rig.there("a", b"x")
        answer = await it.ask("POST", "/v1/exists", json.dumps({"keys": ["a", "b", "a"]}).encode())
        assert json.loads(answer.body) == {"exists": [True, False, True]}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"keys": 1}', b'{"keys": [1]}', b'{"keys": ["../a"]}', b"[" * 9999]
)
async def test_questions_that_are_none(body: bytes) -> None:
    async with served_http(*API) as it:
        assert (await it.ask("POST", "/v1/exists", body)).status == 400


async def test_copies() -> None:
    async with served_http(*API) as it:
        await it.rig.there("a", b"x")
        done = await it.ask("POST", "/v1/copy", b'{"source": "a", "target": "b"}')
        assert (done.status, json.loads(done.body)["key"]) == (200, "b")
        assert await it.rig.get("b") == b"x"
        assert (await it.ask("POST", "/v1/copy", b'{"source": "none", "target": "b"}')).status == 404
        assert (await it.ask("POST", "/v1/copy", b'{"source": "a"}')).status == 400


async def test_artifacts() -> None:
    async with served_http(*API) as it:
        for data in (b"small", LARGE):
            key = artifact_of(data)
            made = await it.ask("PUT", "/v1/artifacts", data)
            assert (made.status, json.loads(made.body)["key"]) == (200, key)
            assert (await it.ask("PUT", f"/v1/artifacts/{key}", data)).status == 200
            wrong = await it.ask("PUT", f"/v1/artifacts/{key}", data + b"!")
            problem = json.loads(wrong.body)
            assert (wrong.status, problem["code"]) == (422, "IntegrityError")
            assert problem["actual"] == hashlib.sha256(data + b"!").hexdigest()
            got = await it.ask("GET", f"/v1/objects/{key}")
            assert got.body == data
            assert "immutable" in got.headers["Cache-Control"]
        assert (await it.ask("PUT", "/v1/artifacts/a", b"x")).status == 400


async def test_health_and_numbers() -> None:
    async with served_http(*API) as it:
        assert json.loads((await it.ask("GET", "/v1/health")).body) == {"status": "ok"}
        assert json.loads((await it.ask("GET", "/v1/stats")).body) == {"counters": 1}


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", "/v1/objects/none", 404, "NotFound"),
        ("GET", "/v1/objects/a/", 400, "InvalidKey"),
        ("GET", "/v1/objects/sha256:x", 400, "InvalidKey"),
        ("PUT", "/v1/objects/artifacts/sha256/ab/x", 400, "InvalidKey"),
        ("GET", "/v1/objects//a", 400, "BadTarget"),
        ("GET", "/none", 404, "NoSuchPath"),
        ("GET", "/", 404, "NoSuchPath"),
        ("GET", "/v1/health/x", 404, "NoSuchPath"),
        ("PATCH", "/v1/objects/a", 405, "MethodNotAllowed"),
        ("DELETE", "/v1/stats", 405, "MethodNotAllowed"),
    ],
)
async def test_an_error_is_a_problem_document(method: str, target: str, status: int, code: str) -> None:
    async with served_http(*API) as it:
        got = await it.ask(method, target)
        assert got.headers["Content-Type"] == "application/problem+json"
        problem = json.loads(got.body)
        assert (got.status, problem["status"], problem["code"]) == (status, status, code)
        assert problem["detail"]
        assert ("Allow" in got.headers) == (status == 405)


async def test_an_origin_that_fails_is_no_missing_object() -> None:
    async with served_http(*API) as it:
        it.rig.origin.fail("open", lambda: OriginUnavailable("down"))
        got = await it.ask("GET", "/v1/objects/a")
        assert (got.status, json.loads(got.body)["retryable"]) == (503, True)
        assert "Retry-After" in got.headers


async def test_an_object_that_breaks_off_ends_the_connection() -> None:
    async with served_http(*API) as it:
        await it.rig.there("k", LARGE * 4)
        gate = it.rig.origin.hold("chunk:2", "k")
        async with it.session.get("http://door/v1/objects/k") as response:
            assert response.status == 200
            it.rig.origin.fail("chunk:3", lambda: OriginUnavailable("down"))
            gate.open()
            with pytest.raises(aiohttp.ClientError):
                await response.read()


async def test_a_reader_who_goes_away_ends_the_fill() -> None:
    async with served_http(*API) as it:
        await it.rig.there("k", LARGE * 4)
        it.rig.origin.hold("chunk:1", "k")
        response = await it.session.get("http://door/v1/objects/k")
        response.close()
        await until(lambda: it.rig.counter("fills_cancelled") == 1)
