from __future__ import annotations

import pytest

from tests.support.dialects import served_dialects
from tiered_store.build.entry import Place
from tiered_store.servers.http.dialects.ccache import name_of
from tiered_store.servers.http.problems import Refusal

KEY = "35c3b1990d41a0b2c1d2e3f405162738495a6b7c"
OLD = "35c3bkqj546iabn5pp00lptrps4dq6jgq"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"{KEY[:2]}/{KEY[2:]}", f"35/{KEY[2:]}"),
        (KEY, f"35/{KEY[2:]}"),
        (f"ac/{KEY}{KEY[:24]}", f"35/{KEY[2:]}"),
        (f"{OLD[:2]}/{OLD[2:]}", f"35/{OLD[2:]}"),
        (OLD, f"35/{OLD[2:]}"),
    ],
)
def test_a_key_has_one_name_in_all_layouts(path, name):
    assert name_of(path) == name


@pytest.mark.parametrize(
    "path",
    ["", "3", "35", "35/", "35/c", "35//c3", "a/b/c", "35/" + "a" * 127, "35/zz", "35/AB"],
)
def test_what_is_no_key(path):
    with pytest.raises(Refusal):
        name_of(path)


async def test_what_one_layout_stores_the_others_find_and_so_does_a_door_of_its_own():
    async with served_dialects() as it:
        assert await it.put(f"/ccache/main/ac/{KEY}{KEY[:24]}", b"result") == 200
        assert await it.get(f"/ccache/main/{KEY}") == (200, b"result")
        assert await it.get(f"/ccache/main/35/{KEY[2:]}") == (200, b"result")
        assert await it.build.get(Place("ccache", "main"), f"35/{KEY[2:]}") == b"result"


async def test_what_is_there_is_replaced_and_removed():
    async with served_dialects() as it:
        await it.put(f"/ccache/main/{KEY}", b"damaged in ccache's own eyes")
        assert await it.put(f"/ccache/main/{KEY}", b"result") == 200
        assert await it.get(f"/ccache/main/{KEY}") == (200, b"result")
        assert (await it.http.ask("DELETE", f"/ccache/main/{KEY}")).status == 200
        assert (await it.http.ask("DELETE", f"/ccache/main/{KEY}")).status == 404
        assert await it.get(f"/ccache/main/{KEY}") == (404, b"")
