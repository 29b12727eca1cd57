import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.faults import FaultyOrigin
from tests.support.store import NOTHING_SAID
from tiered_store.key import Key, key_of_name, name_of_key
from tiered_store.objects import metadata_bytes
from tiered_store.origins.base import PutHeaders
from tiered_store.origins.memory import MemoryOrigin
from tiered_store.stats import OriginStats
from tiered_store.store.backlog import Backlog
from tiered_store.store.listing import list_keys
from tiered_store.store.upstream import Upstream

DIGESTS = ["00" * 32, "0a" + "ff" * 31, "ab" + "00" * 31, "ab" + "11" * 31, "ff" * 32]
PATHS = [
    "a",
    "art",
    "artifacts/a",
    "artifacts/sha255",
    "artifacts/sha2560",
    "artifacts/zz",
    "sha",
    "sha256",
    "sha257",
    "z/é",
    "z/\U0001f600",
]
#: Names that others may have put there, which are no keys, or no artifacts.
JUNK = ["artifacts/sha256/junk", "artifacts/sha256/ab/short", "sha256:junk", ".tiered_store/x", "a//b"]
KEYS = [Key(path) for path in PATHS] + [Key("sha256:" + digest) for digest in DIGESTS]


async def origin_of(keys: list[Key], junk: list[str]) -> Upstream:
    origin = MemoryOrigin()
    for name in [*junk, *(name_of_key(key) for key in keys)]:
        await origin.put(name, b"", NOTHING_SAID)
    return Upstream(origin, OriginStats())


async def pages(upstream: Upstream, prefix: str, after: str, limit: int) -> list[str]:
    found: list[str] = []
    more = True
    while more:
        page = await list_keys(upstream, Backlog(), prefix, after=after, limit=limit)
        assert len(page.items) <= limit
        assert page.items or not page.more
        found += [info.key for info in page.items]
        more, after = page.more, found[-1] if found else ""
    return found


async def test_artifacts_stand_where_their_keys_sort() -> None:
    upstream = await origin_of(KEYS, JUNK)
    assert await pages(upstream, "", "", 1000) == sorted(KEYS, key=lambda key: key.encode())


async def test_what_is_below_the_artifacts_directory_is_no_path() -> None:
    upstream = await origin_of(KEYS, JUNK)
    assert await pages(upstream, "artifacts/sha256/", "", 10) == []
    assert await pages(upstream, "artifacts/sha256/ab/", "", 10) == []
    assert await pages(upstream, "artifacts/", "", 10) == [k for k in sorted(PATHS) if k.startswith("artifacts/")]
    assert all(key_of_name(name) is None or name.startswith("artifacts/sha256/") for name in JUNK)


async def test_the_artifacts_directory_is_jumped_over() -> None:
    origin = FaultyOrigin(MemoryOrigin())
    for number in range(3000):
        await origin.inner.put(f"artifacts/sha256/ab/ab{number:062x}", b"", NOTHING_SAID)
    await origin.inner.put("azimuth", b"", NOTHING_SAID)
    page = await list_keys(Upstream(origin, OriginStats()), Backlog(), "a", after="", limit=10)
    assert [info.key for info in page.items] == ["azimuth"]
    assert origin.calls["list"] == 2  # before the directory and behind it


@given(
    keys=st.sets(st.sampled_from(KEYS)),
    junk=st.sets(st.sampled_from(JUNK)),
    prefix=st.sampled_from(
        [
            "",
            "a",
            "art",
            "artifacts/",
            "s",
            "sha256",
            "sha256:",
            "sha256:0",
            "sha256:ab",
            "sha256:ab1",
            "sha257",
            "z/",
            "~",
        ]
    ),
    after=st.sampled_from(
        ["", "a", "b", "artifacts/sha256/ab", "sha256:", "sha256:a", "sha256:ab", "sha256:zz", "zzz", *KEYS]
    ),
    limit=st.integers(1, 8),
)
@settings(max_examples=300, deadline=None)
async def test_every_page_of_every_prefix(keys: set[Key], junk: set[str], prefix: str, after: str, limit: int) -> None:
    upstream = await origin_of(list(keys), list(junk))
    expected = sorted((k for k in keys if k.startswith(prefix) and k > after), key=lambda key: key.encode())
    assert await pages(upstream, prefix, after, limit) == expected


@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_more_is_exact(limit: int) -> None:
    upstream = await origin_of(KEYS[:7], JUNK)
    page = await list_keys(upstream, Backlog(), "", after="", limit=limit)
    assert page.more == (limit < 7)


async def test_a_page_ends_where_the_metadata_gets_long() -> None:
    """A thousand objects may have 16 MiB of it; and ``more`` stays exact."""
    origin = MemoryOrigin()
    names = [f"n/{number:04}" for number in range(300)]
    for name in names:
        await origin.put(name, b"", PutHeaders(None, {"m": "v" * 16_000}))
    upstream = Upstream(origin, OriginStats())
    found: list[str] = []
    more = True
    while more:
        page = await list_keys(upstream, Backlog(), "n/", after=found[-1] if found else "", limit=1000)
        assert sum(metadata_bytes(info.content_type, info.metadata) for info in page.items) < 1_100_000
        more = page.more
        found += [info.key for info in page.items]
    assert found == names
