"""The object API over HTTP."""

from __future__ import annotations

import json

from tests.support.http import served_http
from tiered_store.servers.http.exchange import Mount
from tiered_store.servers.http.objects import handle_object

OBJECTS = Mount("v1/objects", handle_object)


async def test_what_is_put_is_got() -> None:
    async with served_http(OBJECTS) as it:
        for data in (b"", b"small", b"large" * 100_000):
            put = await it.ask("PUT", "/v1/objects/a/b%20c", data, Content_Type="text/x")
            assert put.status == 200
            got = await it.ask("GET", "/v1/objects/a/b%20c")
            assert (got.status, got.body) == (200, data)
            assert got.headers["Content-Type"] == "text/x"
            assert got.headers["ETag"] == put.headers["ETag"]
            assert await it.rig.get("a/b c") == data


async def test_a_cold_object_is_streamed() -> None:
    async with served_http(OBJECTS) as it:
        await it.rig.there("cold", b"z" * 3_000_000)
        got = await it.ask("GET", "/v1/objects/cold")
        assert got.body == b"z" * 3_000_000


async def test_an_error_is_a_problem_document() -> None:
    async with served_http(OBJECTS) as it:
        got = await it.ask("GET", "/v1/objects/none")
        assert got.status == 404
        assert got.headers["Content-Type"] == "application/problem+json"
        problem = json.loads(got.body)
        assert (problem["code"], problem["key"], problem["status"]) == ("NotFound", "none", 404)
