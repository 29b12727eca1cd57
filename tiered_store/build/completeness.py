"""Whether all that an action result names is there, asked before it is given out.

Bazel fails a build whose action result came from the cache, and one of whose files did not. So a result is a miss
unless everything it names exists: the files, standard output and error, and the files in output directories. All of it
is in use at that moment, so that what a build is about to fetch is not what a tier forgets next.

Bodies that are no action result are given out as they are, except for the empty one: that reads as a result of an
action that has made nothing.
"""

from __future__ import annotations

from typing import Final

from tiered_store.aio.together import all_true
from tiered_store.build.actionresult import EMPTY_DIGEST, read_action_result, read_tree
from tiered_store.build.cache import BuildCache
from tiered_store.build.entry import Place
from tiered_store.objects import Body, body_size

__all__ = ["is_usable"]

#: Larger ones are no action results that Bazel would take, nor trees: read into memory they are a burden.
_MESSAGE_MAX_BYTES: Final = 64 * 1024 * 1024
_TREES_AT_ONCE: Final = 8


async def is_usable(cache: BuildCache, contents: Place, result: Body) -> bool:
    """Whether what is behind a key of actions may be given out; not if that is not known in the time of a read.

    Args:
        cache: where it came from.
        contents: where what it names is, by digest.
        result: the body, verified.
    """
    return await cache.judge(contents, _is_usable(cache, contents, result))


async def _is_usable(cache: BuildCache, contents: Place, result: Body) -> bool:
    if not body_size(result):
        return False
    if body_size(result) > _MESSAGE_MAX_BYTES:
        return True  # of whatever kind it is, it is no action result
    try:
        named = await cache.parse(read_action_result, result)
    except (OverflowError, OSError, EOFError):
        return False
    if named is None:
        return True

    async def is_whole(tree: str) -> bool:
        if tree == EMPTY_DIGEST:
            return True
        found = await cache.get(contents, tree)
        if found is None or found.entry.size > _MESSAGE_MAX_BYTES:
            return False
        try:
            names = await cache.parse(read_tree, found.body)
        except (ValueError, OverflowError, OSError, EOFError):
            return False
        return await cache.has_all(contents, _but_empty(names))

    return await cache.has_all(contents, _but_empty(named.blobs)) and await all_true(
        is_whole, dict.fromkeys(named.trees), at_once=_TREES_AT_ONCE
    )


def _but_empty(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name != EMPTY_DIGEST]
