from __future__ import annotations

from tests.support.dialects import served_dialects
from tiered_store.errors import OriginUnavailable
from tiered_store.servers.access import AccessSettings, PeerRule, Rule, TokenRule
from tiered_store.servers.credentials import hash_of

NX = "/nx/main/v1/cache/14088252405902956419"
GRADLE = "/gradle/main/cache/" + "0123456789abcdef" * 2
ARTIFACT = "application/vnd.gradle.build-cache-artifact.v1"


async def test_what_nx_has_stored_is_not_replaced():
    async with served_dialects() as it:
        assert await it.put(NX, b"one", Content_Type="application/octet-stream") == 200
        answer = await it.http.ask("PUT", NX, b"two")
        assert (answer.status, answer.headers["Content-Type"]) == (409, "text/plain")
        assert await it.get(NX) == (200, b"one")


async def test_a_url_of_nx_that_ends_in_a_slash():
    async with served_dialects() as it:
        assert await it.put(NX.replace("/v1", "//v1"), b"x") == 200
        assert await it.get(NX) == (200, b"x")


async def test_no_write_of_nx_is_answered_with_what_it_tries_again():
    async with served_dialects() as it:
        it.build.rig.origin.fail("put", lambda: OriginUnavailable("down"))
        answer = await it.http.ask("PUT", NX, b"x")
        assert (answer.status, answer.headers["Content-Type"], answer.body) == (409, "text/plain", b"down")


async def test_gradle_sends_its_credentials_at_once():
    access = AccessSettings(
        [TokenRule(Rule("ci", "write"), hash_of("p"))], [PeerRule(Rule("else", "read"), uid=4_000_000_000)]
    )
    async with served_dialects(access=access) as it:
        said = {"Authorization": "Basic dTpw", "Content-Type": ARTIFACT}
        assert (await it.http.ask("PUT", GRADLE, b"gz", **said)).status == 200
        answer = await it.http.ask("GET", GRADLE, Accept=f"{ARTIFACT}, */*", Authorization="Basic dTpw")
        assert (answer.status, answer.headers["Content-Type"], answer.body) == (200, ARTIFACT, b"gz")
        assert await it.get(GRADLE) == (404, b"")


async def test_gradles_keys_may_be_right_below_the_instance():
    async with served_dialects() as it:
        await it.put(GRADLE, b"gz")
        assert await it.get(GRADLE.replace("/cache/", "/")) == (200, b"gz")
