"""Objects one at a time: what is put comes back, whole, in part, as a view, with what is known of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.clients import some_bytes
from tests.support.daemon import RunningDaemon
from tiered_store import NotFound
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.origins.base import CHUNK_BYTES
from tiered_store.protocol.frames import DATA_MAX_BYTES, HEADER_BYTES, MAX_FRAME_BYTES

#: The largest object that the memory tier of these tests keeps, but for its overhead (see conftest.py).
MEMORY_SHARE = 2 * 2**20
#: Where something changes: inline or by descriptor, one read of a socket, one frame, one piece, one chunk.
THRESHOLDS = sorted(
    {
        0,
        1,
        *(INLINE_MAX_BYTES + step for step in (-HEADER_BYTES, -1, 0, 1)),
        *(DATA_MAX_BYTES + step for step in (-1, 0, 1)),
        *(MAX_FRAME_BYTES + step for step in (-1, 0, 1)),
        *(CHUNK_BYTES + step for step in (-1, 0, 1)),
        *(MEMORY_SHARE + step for step in (-4096, -1, 0, 1)),
    }
)


@pytest.mark.parametrize("size", THRESHOLDS)
def test_an_object_of_any_size_comes_back(store: Any, prefix: str, size: int) -> None:
    data = some_bytes(size)
    stored = store.put(f"{prefix}x", data)
    assert (stored.key, stored.size) == (f"{prefix}x", size)
    assert store.get(f"{prefix}x") == data
    with store.get_view(f"{prefix}x") as view:
        assert view.nbytes == size
        assert view == data
    assert store.get_many([f"{prefix}x"]) == {f"{prefix}x": data}
    assert store.stat(f"{prefix}x") == stored


@pytest.mark.parametrize("size", THRESHOLDS)
def test_a_cold_object_of_any_size_comes_back(store: Any, daemon: RunningDaemon, prefix: str, size: int) -> None:
    """From the origin through a fill, then from a tier, in every form of reply."""
    data = some_bytes(size, 1)
    for name in ("whole", "streamed", "seen"):
        path = daemon.data_dir / "origin" / prefix / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    assert store.get(f"{prefix}whole") == data
    pieces: list[bytes] = []
    assert store.get_into(f"{prefix}streamed", pieces.append).size == size
    assert b"".join(pieces) == data
    with store.get_view(f"{prefix}seen") as view:
        assert view == data
    assert store.get(f"{prefix}streamed") == data


@pytest.mark.parametrize("size", [10, INLINE_MAX_BYTES + 1, 3 * CHUNK_BYTES + 7])
@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, 0),
        (0, 1),
        (0, 5),
        (3, None),
        (3, 4),
        (9, 1),
        (9, 100),
        (10, None),
        (4097, 70_000),
        (10**12, 5),
        (10**12, None),
    ],
)
def test_a_range_is_a_slice(store: Any, prefix: str, size: int, offset: int, length: int | None) -> None:
    data = some_bytes(size)
    store.put(f"{prefix}x", data)
    expected = data[offset:] if length is None else data[offset : offset + length]
    assert store.get(f"{prefix}x", offset=offset, length=length) == expected


@pytest.mark.parametrize("size", [10, 3 * CHUNK_BYTES + 7])
def test_a_range_of_a_cold_object_is_a_slice(store: Any, daemon: RunningDaemon, prefix: str, size: int) -> None:
    data = some_bytes(size)
    path = daemon.data_dir / "origin" / prefix / "x"
    path.parent.mkdir()
    path.write_bytes(data)
    assert store.get(f"{prefix}x", offset=size - 4, length=2) == data[size - 4 : size - 2]


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1), (-5, 3)])
def test_a_negative_range_is_refused(store: Any, prefix: str, offset: int, length: int | None) -> None:
    store.put(f"{prefix}x", b"0123456789")
    with pytest.raises(ValueError, match="must not be negative"):
        store.get(f"{prefix}x", offset=offset, length=length)
    assert store.get(f"{prefix}x") == b"0123456789"


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [5, INLINE_MAX_BYTES + 1])
def test_bytes_of_any_kind_can_be_put(store: Any, prefix: str, make: Any, size: int) -> None:
    data = some_bytes(size)
    store.put(f"{prefix}x", make(data))
    assert store.get(f"{prefix}x") == data


def test_a_memoryview_of_wider_items_is_stored_by_its_bytes(store: Any, prefix: str) -> None:
    data = some_bytes(4 * INLINE_MAX_BYTES)
    for count in (8, len(data)):
        assert store.put(f"{prefix}x", memoryview(data)[:count].cast("I")).size == count
        assert store.get(f"{prefix}x") == data[:count]


def test_a_put_replaces_bytes_type_and_metadata(store: Any, prefix: str) -> None:
    first = store.put(f"{prefix}x", b"one", content_type="text/plain", metadata={"user": "7"})
    second = store.put(f"{prefix}x", b"two!")
    assert store.get(f"{prefix}x") == b"two!"
    assert (second.content_type, second.metadata) == (None, {})
    assert first.etag != second.etag
    assert store.stat(f"{prefix}x") == second


@pytest.mark.parametrize("size", [0, 3, INLINE_MAX_BYTES + 1])
@pytest.mark.parametrize(
    ("content_type", "metadata"),
    [
        (None, {"user": "7"}),
        ("", {}),
        ("text/plain; charset=utf-8", {"": "", "größe": "naïve \u2603", "b": "x" * 500}),
    ],
)
def test_type_and_metadata_come_back_wherever_they_are_asked_for(
    store: Any, prefix: str, size: int, content_type: str | None, metadata: dict[str, str]
) -> None:
    stored = store.put(f"{prefix}x", bytes(size), content_type=content_type, metadata=metadata)
    assert (stored.content_type, stored.metadata) == (content_type, metadata)
    assert store.stat(f"{prefix}x") == stored
    assert list(store.list(prefix)) == [stored]
    view = store.get_view(f"{prefix}x")
    with view:
        assert view.info == stored


def test_information_is_plain_and_dated(store: Any, prefix: str) -> None:
    before = datetime.now(UTC)
    info = store.put(f"{prefix}x", b"abc")
    assert info.modified.tzinfo is UTC
    assert abs((info.modified - before).total_seconds()) < 60
    assert info.etag


def test_a_deleted_object_is_gone(store: Any, prefix: str) -> None:
    store.put(f"{prefix}x", b"abc")
    assert store.exists(f"{prefix}x") is True
    assert store.delete(f"{prefix}x") is True
    assert store.exists(f"{prefix}x") is False
    assert store.delete(f"{prefix}x") is False
    for read in (store.get, store.get_view, store.stat):
        with pytest.raises(NotFound) as caught:
            read(f"{prefix}x")
        assert caught.value.key == f"{prefix}x"


def test_a_miss_is_forgotten_by_a_put(store: Any, prefix: str) -> None:
    with pytest.raises(NotFound):
        store.get(f"{prefix}x")
    store.put(f"{prefix}x", b"there now")
    assert store.get(f"{prefix}x") == b"there now"


def test_hints(store: Any, daemon: RunningDaemon, prefix: str) -> None:
    path = daemon.data_dir / "origin" / prefix / "x"
    path.parent.mkdir()
    path.write_bytes(b"cold")
    with pytest.raises(NotFound, match="no tier has this object"):
        store.get(f"{prefix}x", only_if_cached=True)
    before = store.stats()["memory"]["entries"]
    assert store.get(f"{prefix}x", no_promote=True) == b"cold"
    assert store.stats()["memory"]["entries"] == before
    assert store.get(f"{prefix}x", only_if_cached=True) == b"cold"  # from disk
    with store.get_view(f"{prefix}x", only_if_cached=True, no_promote=True) as view:
        assert view == b"cold"


class TestViews:
    """``get_view``: no copy, and safe for as long as anybody holds a piece of it."""

    SIZES = pytest.mark.parametrize("size", [4, INLINE_MAX_BYTES + 1, 3 * CHUNK_BYTES])

    @SIZES
    def test_a_slice_outlives_the_block(self, store: Any, prefix: str, size: int) -> None:
        data = some_bytes(size)
        store.put(f"{prefix}x", data)
        with store.get_view(f"{prefix}x") as view:
            tail = view[size // 2 :]
        assert tail == data[size // 2 :]
        store.delete(f"{prefix}x")
        assert tail[-1] == data[-1]

    @SIZES
    def test_a_view_keeps_its_version(self, store: Any, prefix: str, size: int) -> None:
        old, new = some_bytes(size), some_bytes(size, 1)
        store.put(f"{prefix}x", old)
        with store.get_view(f"{prefix}x") as view:
            store.put(f"{prefix}x", new)
            assert view == old
            assert store.get(f"{prefix}x") == new
            assert view == old

    @SIZES
    def test_a_view_cannot_be_written(self, store: Any, prefix: str, size: int) -> None:
        store.put(f"{prefix}x", bytes(size))
        with store.get_view(f"{prefix}x") as view:
            assert view.readonly
            with pytest.raises(TypeError):
                view[0] = 1

    def test_a_view_that_was_left_is_released(self, store: Any, prefix: str) -> None:
        store.put(f"{prefix}x", bytes(INLINE_MAX_BYTES + 1))
        with store.get_view(f"{prefix}x") as view:
            pass
        with pytest.raises(ValueError, match="released"):
            view[0]

    def test_a_view_needs_no_block(self, store: Any, prefix: str) -> None:
        store.put(f"{prefix}x", bytes(INLINE_MAX_BYTES + 1))
        view = store.get_view(f"{prefix}x")
        assert view.info.size == INLINE_MAX_BYTES + 1
        view.close()
        view.close()


def test_a_view_outlives_its_client(daemon: RunningDaemon, prefix: str) -> None:
    data = some_bytes(CHUNK_BYTES)
    with daemon.client() as store:
        store.put(f"{prefix}x", data)
        view = store.get_view(f"{prefix}x")
    with view as seen:
        assert seen == data


def test_the_daemon_answers_for_itself(store: Any, daemon: RunningDaemon) -> None:
    assert 0 < store.ping() < 30
    stats = store.stats()
    for tier in ("memory", "disk"):
        assert {"hits", "misses", "errors", "bytes", "entries", "max_bytes", "evictions"} <= stats[tier].keys()
    for place in ("cdn", "origin"):
        assert {"hits", "misses", "errors", "bytes_read"} <= stats[place].keys()
    assert {"fills", "coalesced", "corrupt", "stale_served", "connections", "uptime_s", "rss_bytes"} <= stats.keys()
    assert stats["pid"] == daemon.process.pid
