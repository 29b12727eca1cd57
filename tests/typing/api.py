"""The public interface, written as a user would; type-checked, never run."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, assert_type

from tiered_store import (
    AsyncClient,
    Client,
    DaemonUnavailable,
    IntegrityError,
    NotFound,
    ObjectInfo,
    StoreError,
    TreeInfo,
)


def use(path: Path) -> None:
    """Every method of the synchronous client."""
    Client()
    Client("/run/store.sock", timeout_s=None)
    with Client(path, timeout_s=2.5, reconnect_s=0, on_unavailable="miss") as store:
        assert_type(store, Client)
        assert_type(store.get("k"), bytes)
        assert_type(store.get("k", offset=1, length=None, only_if_cached=True, no_promote=True), bytes)
        with store.get_view("k") as view:
            assert_type(view, memoryview)
        assert_type(store.get_view("k").info, ObjectInfo)
        assert_type(store.get_file("k", path, progress=report), ObjectInfo)
        assert_type(store.get_into("k", io.BytesIO().write), ObjectInfo)
        assert_type(store.get_many(["a", "b"]), dict[str, bytes])
        assert_type(store.get_many((key for key in "ab"), only_if_cached=True), dict[str, bytes])
        assert_type(store.put("k", b"", content_type="a/b", metadata={"c": "d"}), ObjectInfo)
        assert_type(store.put("k", bytearray()), ObjectInfo)
        assert_type(store.put("k", memoryview(b"")), ObjectInfo)
        for source in (path, str(path), b"", io.BytesIO()):
            assert_type(store.put_file("k", source, progress=report), ObjectInfo)
            assert_type(store.put_artifact(source, content_type="a/b"), str)
        with path.open("rb") as file:
            store.put_file("k", file)
        assert_type(store.put_many({"a": b""}), dict[str, ObjectInfo])
        assert_type(store.put_tree(path, stat_cache="cache", progress=report), TreeInfo)
        assert_type(store.get_tree("sha256:0", path, link_from=path, progress=report), TreeInfo)
        assert_type(store.stat("k"), ObjectInfo)
        assert_type(store.exists("k"), bool)
        assert_type(store.exists_many({"a": 1}), dict[str, bool])
        assert_type(store.list("p"), Iterator[ObjectInfo])
        assert_type(store.copy("a", "b"), ObjectInfo)
        assert_type(store.delete("k"), bool)
        assert_type(store.delete_prefix("p/"), int)
        assert_type(store.flush(timeout_s=1.0), int)
        assert_type(store.stats(), dict[str, Any])
        assert_type(store.ping(), float)
        assert_type(store.socket_path, str)


async def use_asynchronously(path: Path) -> None:
    """The same, awaited."""
    async with AsyncClient(path, on_unavailable="error") as store:
        assert_type(store, AsyncClient)
        assert_type(await store.get("k", offset=1), bytes)
        with await store.get_view("k") as view:
            assert_type(view, memoryview)
        assert_type(await store.get_file("k", path, progress=report), ObjectInfo)
        assert_type(await store.get_into("k", io.BytesIO().write), ObjectInfo)
        assert_type(await store.get_many(["a"]), dict[str, bytes])
        assert_type(await store.put("k", b"", metadata={}), ObjectInfo)
        assert_type(await store.put_file("k", io.BytesIO()), ObjectInfo)
        assert_type(await store.put_artifact(path), str)
        assert_type(await store.put_many({"a": b""}), dict[str, ObjectInfo])
        assert_type(await store.put_tree(path, stat_cache="cache", progress=report), TreeInfo)
        assert_type(await store.get_tree("sha256:0", path, link_from=path, progress=report), TreeInfo)
        assert_type(await store.stat("k"), ObjectInfo)
        assert_type(await store.exists("k"), bool)
        assert_type(await store.exists_many(["a"]), dict[str, bool])
        assert_type(store.list(), AsyncIterator[ObjectInfo])
        async for info in store.list("p"):
            assert_type(info, ObjectInfo)
        assert_type(await store.copy("a", "b"), ObjectInfo)
        assert_type(await store.delete("k"), bool)
        assert_type(await store.delete_prefix("p/"), int)
        assert_type(await store.flush(timeout_s=1.0), int)
        assert_type(await store.stats(), dict[str, Any])
        assert_type(await store.ping(), float)


def report(done: int, total: int | None) -> None:
    """A progress function."""


def look(info: ObjectInfo, error: StoreError) -> None:
    """What comes back, and what is raised."""
    assert_type(info.key, str)
    assert_type(info.size, int)
    assert_type(info.etag, str)
    assert_type(info.content_type, str | None)
    assert_type(info.metadata, dict[str, str])
    assert_type(info.modified, datetime)
    assert_type(error.message, str)
    assert_type(error.key, str | None)
    assert_type(error.retryable, bool)
    if isinstance(error, IntegrityError):
        assert_type(error.expected, str | None)
        assert_type(error.actual, str | None)
    try:
        raise error
    except (NotFound, DaemonUnavailable) as caught:
        assert_type(caught, NotFound | DaemonUnavailable)
