"""Listings by key: path keys under their own name, artifacts as ``sha256:`` keys, in byte order.

The origin sorts *names*. In the order of *keys* all artifacts stand together where ``sha256:`` sorts
among the paths, so the name space is walked in four stretches: the paths before the artifacts'
directory, those behind it up to ``sha256:``, the artifacts, and the rest. The artifacts' directory is
jumped over, not read and thrown away: it may hold millions. Puts that wait for their upload are merged in; they
are looked up before the origin is asked, so that one that gets there meanwhile is not missed in both places.

Invariant: every page is sorted, no key comes twice, and ``more`` is exact.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from tiered_store.key import ARTIFACT_DIRECTORY, ARTIFACT_PREFIX, is_artifact, key_of_name
from tiered_store.objects import ObjectInfo, metadata_bytes
from tiered_store.origins.base import LISTING_METADATA_BYTES, Listing
from tiered_store.store.backlog import Backlog
from tiered_store.store.upstream import Upstream

__all__ = ["list_keys"]

#: Sorts behind every other character, in code points as in UTF-8.
_LAST = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Names that start with ``prefix``, sort after ``after`` and, where ``before`` is not empty, before that."""

    prefix: str
    after: str
    before: str


async def list_keys(upstream: Upstream, backlog: Backlog, prefix: str, *, after: str, limit: int) -> Listing:
    """One page of objects whose key starts with ``prefix`` and sorts after ``after``.

    At most ``limit``; fewer, with ``more``, where their metadata exceeds ``LISTING_METADATA_BYTES``.

    Raises:
        OriginUnavailable, PermissionDenied: from the origin.
    """
    pending = deque(backlog.listed(prefix, after=after, limit=limit + 1))
    found: list[ObjectInfo] = []
    room = LISTING_METADATA_BYTES
    async with aclosing(_merged(_walk_all(upstream, prefix, after, limit + 1), pending)) as walk:
        async for info in walk:
            if len(found) == limit or room < 0:  # one more than fits: that is how we know that there is more
                return Listing(found, more=True)
            found.append(info)
            room -= metadata_bytes(info.content_type, info.metadata)
    return Listing(found, more=False)


async def _merged(
    walk: AsyncGenerator[ObjectInfo, None], pending: deque[ObjectInfo]
) -> AsyncGenerator[ObjectInfo, None]:
    """Both in the order of keys; of a key that is in both, what is pending, which is newer."""
    async with aclosing(walk):
        async for info in walk:
            while pending and pending[0].key < info.key:
                yield pending.popleft()
            yield pending.popleft() if pending and pending[0].key == info.key else info
    while pending:
        yield pending.popleft()


async def _walk_all(upstream: Upstream, prefix: str, after: str, wanted: int) -> AsyncGenerator[ObjectInfo, None]:
    """At most ``wanted`` of the origin's objects."""
    for stretch in _stretches(prefix, after):
        async with aclosing(_walk(upstream, stretch, wanted)) as walk:
            async for info in walk:
                wanted -= 1
                yield info
        if wanted <= 0:
            return


async def _walk(upstream: Upstream, stretch: _Stretch, wanted: int) -> AsyncGenerator[ObjectInfo, None]:
    """At most ``wanted`` objects of a stretch; names that are no keys stay invisible."""
    after = stretch.after
    more = True
    while more and wanted > 0:
        page = await upstream.list(stretch.prefix, after=after, limit=wanted)
        more = page.more and bool(page.items)
        for info in page.items:
            after = info.key
            if stretch.before and after >= stretch.before:
                return
            key = key_of_name(after)
            if key is not None and is_artifact(key) == stretch.prefix.startswith(ARTIFACT_DIRECTORY):
                wanted -= 1
                yield info.renamed(key)


def _stretches(prefix: str, after: str) -> Iterator[_Stretch]:
    """The name space under a prefix, in the order of keys."""
    yield from _paths(prefix, after, "", ARTIFACT_DIRECTORY)
    yield from _paths(prefix, after, ARTIFACT_DIRECTORY + _LAST, ARTIFACT_PREFIX)
    common = min(len(prefix), len(ARTIFACT_PREFIX))
    if prefix[:common] == ARTIFACT_PREFIX[:common] and after < ARTIFACT_PREFIX + _LAST:
        digits = prefix[len(ARTIFACT_PREFIX) :]
        behind = after[len(ARTIFACT_PREFIX) :] if after.startswith(ARTIFACT_PREFIX) else ""
        yield _Stretch(_artifact_name(digits), _artifact_name(behind) if behind else "", "")
    yield from _paths(prefix, after, ARTIFACT_PREFIX + _LAST, "")


def _paths(prefix: str, after: str, low: str, high: str) -> Iterator[_Stretch]:
    """The paths between ``low`` and ``high`` (empty: no end), if any can be there."""
    low = max(low, after)
    if (high and max(prefix, low) >= high) or prefix + _LAST <= low:
        return
    yield _Stretch(prefix, low, high)


def _artifact_name(digits: str) -> str:
    """The beginning of an artifact's name at the origin, from the beginning of its digest."""
    return f"{ARTIFACT_DIRECTORY}{digits[:2]}/{digits}" if len(digits) >= 2 else ARTIFACT_DIRECTORY + digits
