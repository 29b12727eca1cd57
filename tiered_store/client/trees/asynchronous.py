"""Trees in the asyncio client: the methods, which load the rest when they are first used."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from tiered_store.client.callers import CallersErrors
from tiered_store.errors import DaemonUnavailable

if TYPE_CHECKING:
    from tiered_store.client.bodies import Progress, Source, View
    from tiered_store.client.targets import OpenTarget
    from tiered_store.client.trees.results import TreeInfo
    from tiered_store.client.trees.steps import Step
    from tiered_store.objects import ObjectInfo

__all__ = ["AsyncTrees"]


class _Store(Protocol):
    """What the methods need of the client."""

    _is_lenient: bool

    async def exists_many(self, keys: Iterable[str]) -> dict[str, bool]: ...
    async def get_many(self, keys: Iterable[str]) -> dict[str, bytes]: ...
    async def get_view(self, key: str) -> View: ...
    async def put_many(self, items: Mapping[str, bytes]) -> dict[str, ObjectInfo]: ...
    async def put_file(self, key: str, source: Source) -> ObjectInfo: ...
    async def put_artifact(self, source: Source, *, content_type: str | None = None) -> str: ...
    async def _get_target(self, key: str, target: OpenTarget) -> ObjectInfo: ...
    async def _perform(self, step: Step) -> Any: ...


class AsyncTrees:
    """The part of ``AsyncClient`` that moves directory trees."""

    async def put_tree(
        self: _Store,
        path: str | os.PathLike[str],
        *,
        stat_cache: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> TreeInfo:
        """Store a directory; see ``Client.put_tree``. ``progress`` is called from another thread."""
        from tiered_store.client.trees.asyncdriver import drive, entered
        from tiered_store.client.trees.manifest import TREE_CONTENT_TYPE
        from tiered_store.client.trees.runs import Save

        async with entered(Save(path, stat_cache, progress)) as run:
            try:
                await drive(run.plan, self._perform, run.stop)
                manifest = await asyncio.to_thread(run.manifest)
                key = await self.put_artifact(manifest, content_type=TREE_CONTENT_TYPE)
            except DaemonUnavailable:
                if not self._is_lenient:
                    raise
                key = ""
            return run.result(key)

    async def get_tree(
        self: _Store,
        key: str,
        path: str | os.PathLike[str],
        *,
        link_from: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> TreeInfo:
        """Restore a directory; see ``Client.get_tree``. ``progress`` is called from another thread."""
        from tiered_store.client.trees.asyncdriver import drive, entered
        from tiered_store.client.trees.runs import Restore

        with await self.get_view(key) as manifest:
            async with entered(Restore(key, manifest, path, link_from, progress)) as run:
                await drive(run.plan, self._perform, run.stop)
                return run.result()

    async def _perform(self: _Store, step: Step) -> Any:
        from tiered_store.client.trees import steps

        match step:
            case steps.Exists(keys):
                return await self.exists_many(keys)
            case steps.PutMany(items):
                return await self.put_many(items)
            case steps.PutFile(key, path):
                return await self.put_file(key, os.fsdecode(path))
            case steps.GetMany(keys):
                return await self.get_many(keys)
            case steps.GetInto(key, target):
                with CallersErrors():
                    return await self._get_target(key, target)
            case steps.Work():
                raise AssertionError("the driver does this itself")
