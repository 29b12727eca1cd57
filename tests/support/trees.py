# Names are bytes, which pathlib does not know.
# ruff: noqa: PTH101, PTH102, PTH115, PTH123, PTH208, PTH211
"""Directory trees to save and restore, and a store to do it with that is a dict."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.support.wire import as_received, info
from tiered_store.client.bodies import View, bytes_of
from tiered_store.client.trees.asynchronous import AsyncTrees
from tiered_store.client.trees.sync import SyncTrees
from tiered_store.errors import IntegrityError, NotFound
from tiered_store.objects import INLINE_MAX_BYTES, ObjectInfo

#: A file: its bytes and whether it is executable. A link: its target. A directory: its entries.
Tree = dict[bytes, "tuple[bytes, bool] | bytes | Tree"]


def key_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def make(path: Path | bytes, tree: Tree) -> None:
    """A directory with exactly these entries."""
    root = os.fsencode(path)
    os.mkdir(root)
    for name, entry in tree.items():
        below = root + b"/" + name
        if isinstance(entry, dict):
            make(below, entry)
        elif isinstance(entry, bytes):
            os.symlink(entry, below)
        else:
            data, executable = entry
            with open(below, "wb") as file:
                file.write(data)
            os.chmod(below, 0o755 if executable else 0o644)


def found(path: Path | bytes) -> Tree:
    """What is there."""
    root = os.fsencode(path)
    tree: Tree = {}
    for name in os.listdir(root):
        below = root + b"/" + name
        mode = os.lstat(below).st_mode
        if stat.S_ISDIR(mode):
            tree[name] = found(below)
        elif stat.S_ISLNK(mode):
            tree[name] = os.readlink(below)
        else:
            with open(below, "rb") as file:
                tree[name] = file.read(), bool(mode & 0o100)
    return tree


class DictStore(SyncTrees):
    """The methods of a client that trees need.

    Attributes:
        objects: what is stored.
        puts: keys, in the order they were stored.
    """

    _is_lenient = False

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.objects: dict[str, bytes] = {} if objects is None else objects
        self.puts: list[str] = []

    def exists_many(self, keys: Iterable[str]) -> dict[str, bool]:
        return {key: key in self.objects for key in keys}

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        return {key: self.objects[key] for key in keys if key in self.objects}

    def get_view(self, key: str) -> View:
        return View(as_received(info(key, len(self._data(key))), self._data(key)))

    def put_many(self, items: Mapping[str, bytes]) -> dict[str, ObjectInfo]:
        assert all(len(data) <= INLINE_MAX_BYTES for data in items.values())
        return {key: self._put(key, data) for key, data in items.items()}

    def put_file(self, key: str, source: Any) -> ObjectInfo:
        return self._put(key, Path(source).read_bytes())

    def put_artifact(self, source: Any, *, content_type: str | None = None) -> str:
        data = source.read()
        return self._put(key_of(data), data).key

    def _put(self, key: str, data: bytes) -> ObjectInfo:
        if key_of(data) != key:
            raise IntegrityError("other bytes", key=key, source="client")
        self.puts.append(key)
        self.objects[key] = data
        return info(key, len(data))

    def _data(self, key: str) -> bytes:
        if key not in self.objects:
            raise NotFound("no object under this key", key=key)
        return self.objects[key]

    def _get_target(self, key: str, target: Any) -> ObjectInfo:
        data = self._data(key)
        received = as_received(info(key, len(data)), data)
        target.take(received)
        assert bytes_of(received) == data
        return received.info


class AsyncDictStore(AsyncTrees):
    """The same for the asyncio client."""

    _is_lenient = False

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.store = DictStore(objects)

    async def exists_many(self, keys: Iterable[str]) -> dict[str, bool]:
        return self.store.exists_many(keys)

    async def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        return self.store.get_many(keys)

    async def get_view(self, key: str) -> View:
        return self.store.get_view(key)

    async def put_many(self, items: Mapping[str, bytes]) -> dict[str, ObjectInfo]:
        return self.store.put_many(items)

    async def put_file(self, key: str, source: Any) -> ObjectInfo:
        return self.store.put_file(key, source)

    async def put_artifact(self, source: Any, *, content_type: str | None = None) -> str:
        return self.store.put_artifact(source, content_type=content_type)

    async def _get_target(self, key: str, target: Any) -> ObjectInfo:
        return self.store._get_target(key, target)
