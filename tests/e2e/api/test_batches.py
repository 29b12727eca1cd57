"""Many keys at once: batches, listings, prefixes, copies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.clients import AsyncAsSync, some_bytes
from tests.support.daemon import RunningDaemon
from tiered_store import AsyncClient, InvalidKey, KeyConflict, NotFound, TooLarge
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.protocol.batches import MAX_BATCH_KEYS

TOO_LARGE = 24 * 2**20 + 1  # see conftest.py


def test_many_are_put_and_got(store: Any, prefix: str) -> None:
    items = {f"{prefix}{n}": some_bytes(n % 50, n) for n in range(MAX_BATCH_KEYS + 100)}
    stored = store.put_many(items)
    assert {key: info.size for key, info in stored.items()} == {key: len(data) for key, data in items.items()}
    assert store.get_many(items) == items
    assert store.get_many(iter(items)) == items


def test_batches_larger_than_a_frame(store: Any, prefix: str) -> None:
    items = {f"{prefix}{n}": some_bytes(INLINE_MAX_BYTES, n) for n in range(40)}
    assert store.put_many(items).keys() == items.keys()
    assert store.get_many(items) == items


def test_large_objects_among_small_ones(store: Any, prefix: str) -> None:
    items = {f"{prefix}{n}": some_bytes(INLINE_MAX_BYTES + n - 2, n) for n in range(4)}
    assert store.put_many(items).keys() == items.keys()
    assert store.get_many(items) == items


def test_keys_as_long_as_keys_may_be(store: Any, prefix: str) -> None:
    def longest(number: int) -> str:
        segments = "/".join(["ä" * 100] * 4)
        return (f"{prefix}{number}/{segments}/".encode() + b"z" * 1024)[:1024].decode()

    items = {longest(n): b"x" for n in range(150)}
    assert store.put_many(items).keys() == items.keys()
    assert store.get_many(items) == items
    assert all(store.exists_many(items).values())
    assert [info.key for info in store.list(prefix)] == sorted(items, key=str.encode)


def test_missing_keys_are_left_out(store: Any, prefix: str) -> None:
    store.put_many({f"{prefix}a": b"1", f"{prefix}b": b""})
    assert store.get_many([f"{prefix}none", f"{prefix}b", f"{prefix}a"]) == {f"{prefix}a": b"1", f"{prefix}b": b""}
    assert store.get_many([]) == {}
    assert store.put_many({}) == {}
    assert store.exists_many([]) == {}


def test_a_key_named_twice(store: Any, prefix: str) -> None:
    store.put(f"{prefix}a", b"1")
    assert store.get_many([f"{prefix}a"] * 3) == {f"{prefix}a": b"1"}
    assert store.exists_many([f"{prefix}a"] * 3) == {f"{prefix}a": True}


def test_only_what_is_cached(store: Any, daemon: RunningDaemon, prefix: str) -> None:
    (daemon.data_dir / "origin" / prefix).mkdir()
    (daemon.data_dir / "origin" / prefix / "cold").write_bytes(b"x")
    store.put(f"{prefix}warm", b"y")
    assert store.get_many([f"{prefix}cold", f"{prefix}warm"], only_if_cached=True) == {f"{prefix}warm": b"y"}


def test_existence(store: Any, daemon: RunningDaemon, prefix: str) -> None:
    (daemon.data_dir / "origin" / prefix).mkdir()
    (daemon.data_dir / "origin" / prefix / "cold").write_bytes(b"x")
    store.put(f"{prefix}warm", b"y")
    answers = store.exists_many([f"{prefix}{name}" for name in ("none", "cold", "warm")])
    assert answers == {f"{prefix}none": False, f"{prefix}cold": True, f"{prefix}warm": True}


class TestFaultsInBatches:
    """One bad item costs nobody else, and its error is as clear as that of a single request."""

    @pytest.mark.parametrize(
        ("bad", "rule"),
        [
            ("a//b", "empty segment"),
            ("../x", "'.' or '..' segment"),
            ("x" * 1025, "at most 1024 bytes, this one has 1025"),
            ("ä" * 513, "at most 1024 bytes, this one has 1026"),
            ("x" * 70_000, "at most 1024 bytes, this one has 70000"),
            ("x\ud800", "valid UTF-8"),
        ],
    )
    def test_a_bad_key_among_good_ones(self, store: Any, prefix: str, bad: str, rule: str) -> None:
        good = {f"{prefix}{n}": b"%d" % n for n in range(4)}
        items = dict([*good.items()][:2]) | {bad: b"bad"} | good
        with pytest.raises(InvalidKey, match=rule):
            store.put_many(items)
        assert store.get_many(good) == good
        with pytest.raises(InvalidKey, match=rule):
            store.get_many(items)
        with pytest.raises(InvalidKey, match=rule):
            store.exists_many(items)
        assert store.get_many(good) == good

    def test_all_are_tried_before_the_first_error_is_raised(self, store: Any, prefix: str) -> None:
        large = bytes(INLINE_MAX_BYTES + 1)
        items = {
            f"{prefix}a": b"1",
            f"{prefix}a/below": b"small",
            f"{prefix}large/../x": large,
            f"{prefix}huge": bytes(TOO_LARGE),
            f"{prefix}b": large,
            f"{prefix}c": b"2",
        }
        store.put(f"{prefix}a", b"")
        with pytest.raises(KeyConflict) as caught:
            store.put_many(items)
        assert caught.value.key == f"{prefix}a/below"
        assert [info.key for info in store.list(prefix)] == [f"{prefix}{name}" for name in "abc"]

    def test_an_object_over_the_limit(self, store: Any, prefix: str) -> None:
        with pytest.raises(TooLarge, match=f"at most {TOO_LARGE - 1} bytes, this one has {TOO_LARGE}") as caught:
            store.put_many({f"{prefix}x": bytes(TOO_LARGE), f"{prefix}y": b"1"})
        assert caught.value.key in {f"{prefix}x", None}
        assert store.get(f"{prefix}y") == b"1"


@pytest.fixture(scope="module")
def three_thousand(daemon: RunningDaemon) -> list[str]:
    """Keys of a listing of several pages, in byte order; the files are put there by hand."""
    keys = [f"listing/{n % 37:02}/é{n}" for n in range(2998)] + ["listing/05.txt", "listing/05!"]
    for key in keys:
        path = daemon.data_dir / "origin" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return sorted(keys, key=str.encode)


def test_a_listing_is_in_byte_order_and_whole(store: Any, three_thousand: list[str]) -> None:
    assert [info.key for info in store.list("listing/")] == three_thousand


@pytest.mark.parametrize("start", ["listing/05", "listing/05/", "listing/05/é1", "listing/none", "listing/05/é"])
def test_a_prefix_ends_anywhere(store: Any, three_thousand: list[str], start: str) -> None:
    assert [info.key for info in store.list(start)] == [key for key in three_thousand if key.startswith(start)]


def test_a_listing_can_be_left_half_way(daemon: RunningDaemon, three_thousand: list[str]) -> None:
    with daemon.client() as client:
        listing = iter(client.list("listing/"))
        assert next(listing).key == three_thousand[0]
        assert client.get(three_thousand[0]) == b"x"
        assert next(listing).key == three_thousand[1]


MUCH = {f"name-{n}": "\u2603" * 400 for n in range(3)}  # three bytes each


@pytest.fixture(scope="module")
def much_metadata(daemon: RunningDaemon) -> list[str]:
    """Keys of objects of whose information less than 300 fit a frame."""
    keys = [f"described/{n:03}" for n in range(300)]

    async def put_all(client: AsyncClient) -> None:
        await asyncio.gather(*(client.put(key, b"", metadata=MUCH) for key in keys))

    with AsyncAsSync(daemon.socket_path) as client:
        client.run(put_all)
    return keys


def test_a_listing_of_much_metadata_fits_its_frames(store: Any, much_metadata: list[str]) -> None:
    infos = list(store.list("described/"))
    assert [info.key for info in infos] == much_metadata
    assert all(info.metadata == MUCH for info in infos)


def test_listing_artifacts(store: Any) -> None:
    keys = {store.put_artifact(some_bytes(9, n)) for n in range(20)}
    listed = [info.key for info in store.list("sha256:")]
    assert keys <= set(listed)
    assert listed == sorted(listed)
    one = min(keys)
    assert [info.key for info in store.list(one[:20])] == [key for key in listed if key.startswith(one[:20])]


@pytest.mark.parametrize(("bad", "rule"), [("/x", "must not start with"), ("a//b", "empty segment"), ("../", "'..'")])
def test_a_prefix_that_no_key_has(store: Any, bad: str, rule: str) -> None:
    with pytest.raises(InvalidKey, match=rule):
        list(store.list(bad))
    with pytest.raises(InvalidKey, match=rule):
        store.delete_prefix(bad)


def test_a_prefix_is_deleted(store: Any, daemon: RunningDaemon, prefix: str) -> None:
    store.put_many({f"{prefix}s/{n}": b"x" for n in range(100)})
    store.put_many({f"{prefix}s2": b"x", f"{prefix}r/x": b"x"})
    for n in range(1000):  # more than a page of them
        (daemon.data_dir / "origin" / prefix / "s" / f"by-hand-{n}").write_bytes(b"x")
    assert store.delete_prefix(f"{prefix}s/") == 1100
    assert store.delete_prefix(f"{prefix}s/") == 0
    assert [info.key for info in store.list(prefix)] == [f"{prefix}r/x", f"{prefix}s2"]
    assert not any(store.exists_many([f"{prefix}s/{n}" for n in range(10)]).values())
    with pytest.raises(NotFound):
        store.get(f"{prefix}s/1")


def test_deleting_everything_by_accident_is_refused(store: Any, prefix: str) -> None:
    store.put(f"{prefix}x", b"1")
    with pytest.raises(InvalidKey, match="empty prefix would delete everything"):
        store.delete_prefix("")
    assert store.exists(f"{prefix}x")


class TestCopy:
    """``copy``: bytes, type and metadata, inside the origin."""

    @pytest.mark.parametrize("size", [0, 5, 2**20 + 3])
    def test_it_copies_all_there_is(self, store: Any, prefix: str, size: int) -> None:
        data = some_bytes(size)
        source = store.put(f"{prefix}a", data, content_type="a/b", metadata={"c": "d"})
        store.put(f"{prefix}b", b"what was there")
        copied = store.copy(f"{prefix}a", f"{prefix}b")
        assert (copied.key, copied.size) == (f"{prefix}b", size)
        assert (copied.content_type, copied.metadata) == (source.content_type, source.metadata)
        assert store.get(f"{prefix}b") == data
        assert store.stat(f"{prefix}b") == copied
        store.put(f"{prefix}a", b"changed")
        assert store.get(f"{prefix}b") == data

    def test_an_artifact_to_a_path(self, store: Any, prefix: str) -> None:
        key = store.put_artifact(b"of an artifact")
        store.copy(key, f"{prefix}b")
        assert store.get(f"{prefix}b") == b"of an artifact"

    def test_what_cannot_be_copied(self, store: Any, prefix: str) -> None:
        store.put(f"{prefix}a", b"1")
        with pytest.raises(NotFound) as missing:
            store.copy(f"{prefix}none", f"{prefix}b")
        assert missing.value.key == f"{prefix}none"
        with pytest.raises(InvalidKey, match="not by a copy"):
            store.copy(f"{prefix}a", f"sha256:{'0' * 64}")
        with pytest.raises(InvalidKey, match="empty segment"):
            store.copy(f"{prefix}a", f"{prefix}//b")
        with pytest.raises(KeyConflict):
            store.copy(f"{prefix}a", f"{prefix}a/b")
        assert [info.key for info in store.list(prefix)] == [f"{prefix}a"]

    def test_onto_itself(self, store: Any, prefix: str) -> None:
        store.put(f"{prefix}a", b"1", metadata={"x": "y"})
        store.copy(f"{prefix}a", f"{prefix}a")
        assert store.get(f"{prefix}a") == b"1"
        assert store.stat(f"{prefix}a").metadata == {"x": "y"}
