from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from tests.support.dialects import served_dialects
from tiered_store.build.cache import BuildLimits
from tiered_store.servers.access import AccessSettings, PeerRule, Rule, TokenRule
from tiered_store.servers.credentials import hash_of

KEY = "9/b/e/" + "9be8" * 16
#: So that the socket itself gives nobody a right.
SOMEBODY_ELSE = PeerRule(Rule("else", "read"), uid=4_000_000_000)
ALLPROP = b'<?xml version="1.0" encoding="utf-8" ?><D:propfind xmlns:D="DAV:"><D:allprop/></D:propfind>'


async def test_what_sccache_does_at_its_start_and_for_a_miss():
    async with served_dialects() as it:
        base = "/sccache/main/pre/fix"
        assert await it.get(f"{base}/.sccache_check") == (404, b"")
        for path in (f"{base}/", f"{base}/9/b/e/"):
            answer = await it.http.ask("PROPFIND", path, ALLPROP, depth="0", Content_Type="application/xml")
            assert answer.status == 207
            response = ET.fromstring(answer.body).find("{DAV:}response")
            assert response is not None
            assert response.findtext("{DAV:}href") == path
            assert response.find("{DAV:}propstat/{DAV:}prop/{DAV:}resourcetype/{DAV:}collection") is not None
        for _ in range(2):
            assert await it.put(f"{base}/.sccache_check", b"Hello, World!") == 200
        assert await it.get(f"{base}/.sccache_check") == (200, b"Hello, World!")
        assert await it.put(f"{base}/{KEY}", b"PK object") == 200
        assert await it.get(f"{base}/{KEY}") == (200, b"PK object")
        assert (await it.http.ask("DELETE", f"{base}/{KEY}")).status == 200


async def test_collections_need_not_be_made_but_can_be():
    async with served_dialects() as it:
        assert (await it.http.ask("MKCOL", "/sccache/main/pre/")).status == 201
        assert (await it.http.ask("PROPFIND", "/sccache/main/")).status == 207
        assert (await it.http.ask("PROPFIND", f"/sccache/main/{KEY}")).status == 404
        answer = await it.http.ask("OPTIONS", "/sccache/main/")
        assert "PROPFIND" in answer.headers["Allow"]
        assert it.build.rig.origin.calls["put"] == 0


async def test_a_name_in_a_description_is_escaped():
    async with served_dialects() as it:
        answer = await it.http.ask("PROPFIND", "/sccache/main/a%20%3Cb%3E&c/")
        assert ET.fromstring(answer.body).findtext("{DAV:}response/{DAV:}href") == "/sccache/main/a%20%3Cb%3E%26c/"


async def test_both_forms_see_the_same():
    async with served_dialects() as it:
        await it.put(f"/sccache/main/{KEY}", b"object")
        assert await it.get(f"/s3/main/{KEY}") == (200, b"object")


async def test_the_access_key_of_a_signature_is_the_token():
    access = AccessSettings([TokenRule(Rule("ci", "write"), hash_of("tst_w"))], [SOMEBODY_ELSE])
    signed = "AWS4-HMAC-SHA256 Credential={}/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00"
    async with served_dialects(access=access) as it:
        answer = await it.http.ask("PUT", f"/s3/main/{KEY}", b"x", Authorization=signed.format("other"))
        assert (answer.status, b"<Code>AccessDenied</Code>" in answer.body) == (403, True)
        assert await it.put(f"/s3/main/{KEY}", b"x", Authorization=signed.format("tst_w")) == 200
        assert await it.get(f"/s3/main/{KEY}") == (404, b"")
        assert await it.get(f"/s3/main/{KEY}", Authorization=signed.format("tst_w")) == (200, b"x")


@pytest.mark.parametrize(("size", "code"), [(11, b"EntityTooLarge")])
async def test_errors_of_s3_are_xml(size, code):
    async with served_dialects(BuildLimits(max_entry_bytes=10)) as it:
        answer = await it.http.ask("PUT", f"/s3/main/{KEY}", b"x" * size)
        assert ET.fromstring(answer.body).findtext("Code") == code.decode()
