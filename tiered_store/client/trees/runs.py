"""One save or one restore: the files it holds open, the plan, and what it gives. Used by both clients.

Both are context managers that block: the asyncio client enters and leaves them in a thread.
"""

from __future__ import annotations

import errno
import os
import tempfile
from types import TracebackType
from typing import BinaryIO, Self

from tiered_store.client.trees.linkstore import LinkStore
from tiered_store.client.trees.place import folds_case, open_root
from tiered_store.client.trees.restoring import Progress, Restoring, Surveyed, survey
from tiered_store.client.trees.results import TreeInfo
from tiered_store.client.trees.saving import Saving
from tiered_store.client.trees.statcache import StatCache
from tiered_store.client.trees.steps import Stop

__all__ = ["Restore", "Save"]


class Save:
    """A tree on its way into the store; the manifest is written to a file without a name.

    Args:
        path, stat_cache, progress: see ``Client.put_tree``.

    Attributes:
        plan: to be driven, once entered.
        stop: ends it early.
    """

    def __init__(
        self, path: str | os.PathLike[str], stat_cache: str | os.PathLike[str] | None, progress: Progress | None
    ) -> None:
        self.stop = Stop()
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed on leaving
        self._cache = StatCache(stat_cache)
        self.plan = Saving(os.fsencode(path), self._file.write, self._cache, self.stop, progress)

    def __enter__(self) -> Self:
        self._cache.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cache.__exit__(kind, error, trace)
        self._file.close()

    def manifest(self) -> BinaryIO:
        """The manifest, once the plan is done."""
        self._file.flush()
        self._file.seek(0)
        return open(self._file.fileno(), "rb", closefd=False)

    def result(self, key: str) -> TreeInfo:
        """What was saved.

        Args:
            key: of the manifest.
        """
        plan = self.plan
        left_out = tuple(map(os.fsdecode, plan.left_out))
        return TreeInfo(
            key, plan.files, plan.links, plan.directories, plan.bytes, plan.new_files, plan.new_bytes, left_out
        )


class Restore:
    """A tree on its way out.

    Args:
        key: of the manifest.
        manifest: its bytes.
        path, link_from, progress: see ``Client.get_tree``.

    Attributes:
        plan: to be driven, once entered.
        stop: ends it early.
    """

    plan: Restoring
    _surveyed: Surveyed

    def __init__(
        self,
        key: str,
        manifest: memoryview,
        path: str | os.PathLike[str],
        link_from: str | os.PathLike[str] | None,
        progress: Progress | None,
    ) -> None:
        self.stop = Stop()
        self._key = key
        self._manifest = manifest
        self._path = path
        self._link_from = link_from
        self._links = None if link_from is None else LinkStore(link_from)
        self._progress = progress

    def __enter__(self) -> Self:
        """Raises IntegrityError: the manifest is refused, before anything has been made. OSError: of a directory."""
        if self._link_from is not None:
            _check_apart(self._link_from, self._path)
        self._surveyed = survey(self._manifest)
        root = open_root(self._path)
        if folds_case(root):
            survey(self._manifest, folds_case=True)
        self.plan = Restoring(root, self._manifest, self._surveyed, self.stop, self._links, self._progress)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def result(self) -> TreeInfo:
        """What was restored."""
        files, links, directories, size, _ = self._surveyed
        return TreeInfo(self._key, files, links, directories, size, self.plan.new_files, self.plan.new_bytes)


def _check_apart(link_from: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Raises OSError: a tree could name files in the directory of contents, and so change what others are linked to."""
    inner, outer = (os.path.realpath(each).rstrip("/") + "/" for each in (link_from, path))
    if inner.startswith(outer):
        message = "contents that files are linked to must not be inside of the directory that is restored"
        raise OSError(errno.EINVAL, message, os.fspath(link_from))
