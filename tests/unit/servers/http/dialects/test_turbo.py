from __future__ import annotations

import json

import pytest

from tests.support.dialects import served_dialects
from tiered_store.build.cache import BuildLimits
from tiered_store.build.entry import Place
from tiered_store.servers.access import AccessSettings
from tiered_store.servers.http.dialects import turbo

ROOT = "/turbo/main/v8/artifacts"
HASH = "0123456789abcdef"


async def test_the_cache_says_that_it_is_there():
    async with served_dialects() as it:
        answer = await it.http.ask("GET", f"{ROOT}/status?slug=team")
        assert (answer.status, json.loads(answer.body)) == (200, {"status": "enabled"})
        assert answer.headers["Content-Type"] == "application/json"


async def test_what_turbo_says_of_an_artifact_comes_back_with_it():
    said = {"x-artifact-duration": "527", "x-artifact-tag": "c2lnbmVk", "x-artifact-sha": "abc"}
    async with served_dialects() as it:
        answer = await it.http.ask("PUT", f"{ROOT}/{HASH}?slug=team", b"zstd", **said)
        assert (answer.status, json.loads(answer.body)) == (202, {"urls": [f"{ROOT}/{HASH}"]})
        for method in ("GET", "HEAD"):
            answer = await it.http.ask(method, f"{ROOT}/{HASH}?teamId=other")
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert {name: answer.headers[name] for name in said} == said


async def test_events_are_taken():
    events = [{"sessionId": "1", "source": "REMOTE", "event": "HIT", "hash": HASH, "duration": 5}]
    async with served_dialects() as it:
        assert (await it.http.ask("POST", f"{ROOT}/events?slug=t", json.dumps(events).encode())).status == 200


async def test_many_are_asked_for_at_once():
    async with served_dialects() as it:
        await it.put(f"{ROOT}/{HASH}", b"zstd", x_artifact_duration="500", x_artifact_tag="tag")
        await it.put(f"{ROOT}/aa", b"", x_artifact_duration="soon")
        answer = await it.http.ask("POST", f"{ROOT}?slug=t", json.dumps({"hashes": [HASH, "bb", "aa"]}).encode())
        assert (answer.status, json.loads(answer.body)) == (
            200,
            {
                HASH: {"size": 4, "taskDurationMs": 500, "tag": "tag"},
                "bb": None,
                "aa": {"size": 0, "taskDurationMs": 0, "tag": None},
            },
        )


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"hashes": 1}', b'{"hashes": [1]}', b'{"hashes": ["a/b"]}', b"\xff"]
)
async def test_a_question_that_is_none(body):
    async with served_dialects() as it:
        answer = await it.http.ask("POST", ROOT, body)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "BadRequest")


async def test_questions_are_bounded(monkeypatch):
    monkeypatch.setattr(turbo, "_HASHES_MAX", 1)
    monkeypatch.setattr(turbo, "_DOCUMENT_MAX_BYTES", 50)
    async with served_dialects() as it:
        assert (await it.http.ask("POST", ROOT, b'{"hashes": ["a", "b"]}')).status == 413
        assert (await it.http.ask("POST", ROOT, b'{"hashes": ["a"]}' + b" " * 50)).status == 413


async def test_a_slow_origin_is_waited_for_once_and_not_once_per_question():
    async with served_dialects(BuildLimits(read_timeout_s=0.05)) as it:
        await it.put(f"{ROOT}/{HASH}", b"zstd")
        gate = it.build.rig.origin.hold("open")
        asked = [HASH, *(f"{number:04x}" for number in range(200))]
        answer = await it.http.ask("POST", ROOT, json.dumps({"hashes": asked}).encode())
        found = json.loads(answer.body)
        assert (answer.status, list(found)) == (200, asked)
        assert [name for name, said in found.items() if said] == [HASH]
        assert it.build.rig.origin.calls["open"] < 2 * 32
        gate.open()


async def test_a_preflight_lets_the_token_come():
    async with served_dialects(access=AccessSettings()) as it:
        answer = await it.http.ask("OPTIONS", f"{ROOT}/{HASH}?slug=t", Access_Control_Request_Method="GET")
        assert answer.status == 200
        assert "Authorization" in answer.headers["Access-Control-Allow-Headers"]
        assert "Access-Control-Allow-Origin" not in answer.headers  # which would let browsers' pages in


async def test_refusals_are_turbos():
    async with served_dialects(BuildLimits(max_entry_bytes=1)) as it:
        answer = await it.http.ask("PUT", f"{ROOT}/{HASH}", b"zstd")
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (413, "TooLarge")


async def test_headers_that_are_long_are_cut():
    async with served_dialects() as it:
        assert await it.put(f"{ROOT}/{HASH}", b"z", x_artifact_tag="t" * 4000) == 202
        answer = await it.http.ask("GET", f"{ROOT}/{HASH}")
        assert len(answer.headers["x-artifact-tag"]) == 1024


async def test_what_is_kept_cannot_end_a_line():
    """An administrator may have written an entry by its key."""
    async with served_dialects() as it:
        await it.build.put(
            Place("turbo", "main"), HASH, b"z", {"x-artifact-tag": "a\r\nX-Evil: 1", "x-artifact-sha": "abc"}
        )
        answer = await it.http.ask("GET", f"{ROOT}/{HASH}")
        assert (answer.status, answer.headers.get("x-artifact-sha")) == (200, "abc")
        assert {"x-artifact-tag", "X-Evil"} & set(answer.headers) == set()
