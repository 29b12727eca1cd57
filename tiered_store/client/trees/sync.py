"""Trees in the synchronous client: the methods, which load the rest when they are first used."""

from __future__ import annotations

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

__all__ = ["SyncTrees"]


class _Store(Protocol):
    """What the methods need of the client."""

    _is_lenient: bool

    def exists_many(self, keys: Iterable[str]) -> dict[str, bool]: ...
    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]: ...
    def get_view(self, key: str) -> View: ...
    def put_many(self, items: Mapping[str, bytes]) -> dict[str, ObjectInfo]: ...
    def put_file(self, key: str, source: Source) -> ObjectInfo: ...
    def put_artifact(self, source: Source, *, content_type: str | None = None) -> str: ...
    def _get_target(self, key: str, target: OpenTarget) -> ObjectInfo: ...
    def _perform(self, step: Step) -> Any: ...


class SyncTrees:
    """The part of ``Client`` that moves directory trees."""

    def put_tree(
        self: _Store,
        path: str | os.PathLike[str],
        *,
        stat_cache: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> TreeInfo:
        """Store a directory: each file as an artifact, and a manifest, which is one too and whose key is the tree's.

        Equal trees have equal keys: names, contents, links, empty directories and the right to execute count; times
        and owners do not. Links are not followed.

        Args:
            path: the directory.
            stat_cache: a file that remembers which files have not changed, made if there is none; None reads all.
            progress: called with (bytes so far, None).

        Raises:
            IntegrityError: a file changes while it is read. OSError: something cannot be read; it is named.
        """
        from tiered_store.client.trees.manifest import TREE_CONTENT_TYPE
        from tiered_store.client.trees.runs import Save
        from tiered_store.client.trees.syncdriver import drive

        with Save(path, stat_cache, progress) as run:
            try:
                drive(run.plan, self._perform, run.stop)
                key = self.put_artifact(run.manifest(), content_type=TREE_CONTENT_TYPE)
            except DaemonUnavailable:
                if not self._is_lenient:
                    raise
                key = ""
            return run.result(key)

    def get_tree(
        self: _Store,
        key: str,
        path: str | os.PathLike[str],
        *,
        link_from: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> TreeInfo:
        """Restore a directory that :meth:`put_tree` has stored.

        Nothing is written outside of ``path``, whatever the manifest says. Files that are right by their digest are
        left as they are, wrong ones are replaced, others stay. After a restore that broke off do it again.

        Args:
            key: what ``put_tree`` gave.
            path: the directory, made if need be.
            link_from: a directory of contents on the same file system; files become hard links to these, read-only,
                and what is not there is put there. None copies, by reflink where the file system can.
            progress: called with (bytes in place, total).

        Raises:
            NotFound: no such tree, or the store has lost one of its files. IntegrityError: it is no tree, or a
                hostile one. OSError: something cannot be written; it is named.
        """
        from tiered_store.client.trees.runs import Restore
        from tiered_store.client.trees.syncdriver import drive

        with self.get_view(key) as manifest, Restore(key, manifest, path, link_from, progress) as run:
            drive(run.plan, self._perform, run.stop)
            return run.result()

    def _perform(self: _Store, step: Step) -> Any:
        from tiered_store.client.trees import steps

        match step:
            case steps.Work(run):
                return run()
            case steps.Exists(keys):
                return self.exists_many(keys)
            case steps.PutMany(items):
                return self.put_many(items)
            case steps.PutFile(key, path):
                return self.put_file(key, os.fsdecode(path))
            case steps.GetMany(keys):
                return self.get_many(keys)
            case steps.GetInto(key, target):
                with CallersErrors():
                    return self._get_target(key, target)
