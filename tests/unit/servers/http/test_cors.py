from __future__ import annotations

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from tests.support.http import served_http
from tiered_store.servers.http.cors import answer_headers, preflight_headers
from tiered_store.servers.http.exchange import Mount
from tiered_store.servers.http.objects import handle_object

ORIGIN = "https://ours.example"
ORIGINS = frozenset({ORIGIN})


def headers(**named: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict({name.replace("_", "-"): value for name, value in named.items()}))


def test_nothing_is_said_where_no_origin_is_configured() -> None:
    assert answer_headers(headers(Origin=ORIGIN), ()) == {}
    assert preflight_headers("OPTIONS", headers(Origin=ORIGIN, Access_Control_Request_Method="PUT"), ()) is None


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "", "https://ours.example.evil.example"])
def test_other_pages_are_told_nothing(origin: str) -> None:
    assert answer_headers(headers(Origin=origin), ORIGINS) == {"Vary": "Origin"}
    assert preflight_headers("OPTIONS", headers(Origin=origin, Access_Control_Request_Method="PUT"), ORIGINS) is None


def test_the_answer_depends_on_the_origin_also_where_there_is_none() -> None:
    assert answer_headers(headers(), ORIGINS) == {"Vary": "Origin"}


def test_a_page_of_ours_may_read_answers() -> None:
    found = answer_headers(headers(Origin=ORIGIN), ORIGINS)
    assert found["Access-Control-Allow-Origin"] == ORIGIN
    assert "Access-Control-Allow-Credentials" not in found


def test_a_page_of_ours_may_send_what_the_door_understands() -> None:
    asked = headers(
        Origin=ORIGIN,
        Access_Control_Request_Method="PUT",
        Access_Control_Request_Headers="authorization, X-Meta-User,x-other",
    )
    found = preflight_headers("OPTIONS", asked, ORIGINS)
    assert found is not None
    assert found["Access-Control-Allow-Headers"] == "authorization, x-meta-user"
    assert "PUT" in found["Access-Control-Allow-Methods"]


@pytest.mark.parametrize(("method", "asked"), [("GET", {"Access_Control_Request_Method": "PUT"}), ("OPTIONS", {})])
def test_what_is_no_preflight(method: str, asked: dict[str, str]) -> None:
    assert preflight_headers(method, headers(Origin=ORIGIN, **asked), ORIGINS) is None


def test_a_preflight_that_asks_for_no_header() -> None:
    found = preflight_headers("OPTIONS", headers(Origin=ORIGIN, Access_Control_Request_Method="GET"), ORIGINS)
    assert found is not None
    assert "Access-Control-Allow-Headers" not in found


async def test_answers_of_the_door_carry_it() -> None:
    objects = Mount("v1/objects", handle_object)
    async with served_http(objects, cors_origins=ORIGINS) as it:
        asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "PUT"}
        assert (await it.ask("OPTIONS", "/v1/objects/a", **asked)).status == 204
        await it.ask("PUT", "/v1/objects/a", b"x")
        for target in ("/v1/objects/a", "/v1/objects/none", "/nowhere"):
            found = await it.ask("GET", target, Origin=ORIGIN)
            assert found.headers["Access-Control-Allow-Origin"] == ORIGIN
            assert "Access-Control-Allow-Origin" not in (await it.ask("GET", target, Origin="https://x")).headers
