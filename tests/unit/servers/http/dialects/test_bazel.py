from __future__ import annotations

import hashlib

import pytest

from tests.support.dialects import ServedDialects, served_dialects
from tests.support.reapi import action_result, tree
from tiered_store.build.actionresult import EMPTY_DIGEST
from tiered_store.key import artifact_key, name_of_key
from tiered_store.origins.base import PutHeaders

ACTION = "ab" * 32
OUTPUT = b"built\n"
DIGEST = hashlib.sha256(OUTPUT).hexdigest()


async def put_blob(it: ServedDialects, data: bytes) -> str:
    name = hashlib.sha256(data).hexdigest()
    assert await it.put(f"/bazel/main/cas/{name}", data) == 200
    return name


async def test_a_result_is_given_while_all_it_names_is_there():
    async with served_dialects() as it:
        directory = await put_blob(it, tree([DIGEST]))
        result = action_result({"out": DIGEST}, {"d": directory}, stdout=EMPTY_DIGEST)
        assert await it.put(f"/bazel/main/ac/{ACTION}", result) == 200
        assert await it.get(f"/bazel/main/ac/{ACTION}") == (404, b"")
        await put_blob(it, OUTPUT)
        assert await it.get(f"/bazel/main/ac/{ACTION}") == (200, result)
        head = await it.http.ask("HEAD", f"/bazel/main/ac/{ACTION}")
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(result)))
        await it.build.rig.store.delete(artifact_key(DIGEST))
        assert await it.get(f"/bazel/main/ac/{ACTION}") == (404, b"")
        assert (await it.http.ask("HEAD", f"/bazel/main/ac/{ACTION}")).status == 404


async def test_a_result_whose_file_was_found_damaged_at_the_origin_is_given_no_more():
    async with served_dialects(memory_bytes=0) as it:
        await put_blob(it, OUTPUT)
        await it.put(f"/bazel/main/ac/{ACTION}", action_result({"out": DIGEST}))
        await it.build.rig.origin.inner.put(name_of_key(artifact_key(DIGEST)), b"Built\n", PutHeaders())
        assert await it.get(f"/bazel/main/cas/{DIGEST}") == (404, b"")
        assert await it.get(f"/bazel/main/ac/{ACTION}") == (404, b"")
        await put_blob(it, OUTPUT)
        assert (await it.get(f"/bazel/main/ac/{ACTION}"))[0] == 200
        assert await it.get(f"/bazel/main/cas/{DIGEST}") == (200, OUTPUT)


async def test_what_other_instances_have_does_not_count():
    async with served_dialects() as it:
        assert await it.put(f"/bazel/other/cas/{DIGEST}", OUTPUT) == 200
        await it.put(f"/bazel/main/ac/{ACTION}", action_result({"out": DIGEST}))
        assert await it.get(f"/bazel/main/ac/{ACTION}") == (404, b"")


@pytest.mark.parametrize("body", [b"\xcc\xac\x01\x00 of ccache", b'{"of":"moon"}'])
async def test_results_of_other_tools_come_back_as_they_are(body):
    async with served_dialects() as it:
        assert await it.put(f"/bazel/main/ac/{ACTION}", body) == 200
        assert await it.get(f"/bazel/main/ac/{ACTION}") == (200, body)


async def test_an_empty_result_is_never_given():
    async with served_dialects() as it:
        await it.put(f"/bazel/main/ac/{ACTION}", b"")
        assert await it.get(f"/bazel/main/ac/{ACTION}") == (404, b"")


async def test_the_empty_blob_is_always_there():
    async with served_dialects() as it:
        answer = await it.http.ask("GET", f"/bazel/main/cas/{EMPTY_DIGEST}")
        assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "0", b"")
        assert await it.put(f"/bazel/main/cas/{EMPTY_DIGEST}", b"") == 200
        assert it.build.rig.origin.calls["put"] == 0


async def test_content_must_have_its_name():
    async with served_dialects() as it:
        assert await it.put(f"/bazel/main/cas/{DIGEST}", b"other\n") == 422
        assert await it.get(f"/bazel/main/cas/{DIGEST}") == (404, b"")
        assert it.build.cache.counters()["bazel-cas"]["refused"] == 1


@pytest.mark.parametrize(
    "path", ["cas/abc", f"cas/{DIGEST.upper()}", f"cas/{DIGEST}/x", f"{DIGEST}", f"x/{DIGEST}", "ac/"]
)
async def test_names_that_are_none(path):
    async with served_dialects() as it:
        assert await it.put(f"/bazel/main/{path}", b"x") == 400
        assert (await it.get(f"/bazel/main/{path}"))[0] == 404
