"""Writes: put, delete, copy. The origin decides; the tiers follow it.

Order of every write: take the key's lock, ask the origin, let the write overtake the key's flights, bring
the tiers in line, acknowledge. From the moment the origin is asked, this runs in a task of the store's:
a client that goes away must not leave origin and tiers with different objects.

Where a policy says ``write_back``, a put is acknowledged when the journal has it, and no lock of its waits for the
origin: talking to the origin about a key takes a second lock, always behind the first, which such a put leaves alone
and its upload takes. Other writes drop what is pending for their key, durably, before they are acknowledged.

Invariant: once a write is acknowledged, the tiers hold what the origin holds, or will hold once the journal is
uploaded, or nothing; where the origin's answer did not come, they hold nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from tiered_store.aio.limits import KeyedLocks
from tiered_store.aio.tasks import TaskSet, WorkCancelled
from tiered_store.errors import (
    DaemonUnavailable,
    IntegrityError,
    InvalidKey,
    KeyConflict,
    NotFound,
    TooLarge,
)
from tiered_store.key import ARTIFACT_DIRECTORY, Key, artifact_key, digest_of, is_artifact
from tiered_store.objects import Body, Entry, ObjectInfo, body_size, metadata_bytes
from tiered_store.origins.base import PutHeaders
from tiered_store.stats import StoreStats
from tiered_store.store.backlog import Backlog
from tiered_store.store.cache import Cache
from tiered_store.store.conditions import Condition, ConditionFailed
from tiered_store.store.damage import KnownDamage
from tiered_store.store.flights import Flights
from tiered_store.store.freshness import Freshness
from tiered_store.store.listing import list_keys
from tiered_store.store.negative import NegativeCache
from tiered_store.store.pendingputs import Pending
from tiered_store.store.sources import Sources
from tiered_store.store.spool import Staged
from tiered_store.store.staging import Staging
from tiered_store.store.upstream import Upstream

__all__ = ["Writes"]

T = TypeVar("T")

#: How many objects ``delete_prefix`` lists and deletes at once: S3's bound for one request.
_PAGE_KEYS = 1000
#: The origin said no before it changed anything: what the tiers hold is still right. QuotaExceeded and
#: PermissionDenied are not among them: a full or failing disk may say so when the new object is in its place already.
_REFUSALS = (InvalidKey, KeyConflict, NotFound, TooLarge)


class Writes:
    """Everything that changes the origin.

    Args:
        upstream: the origin.
        staging: computes digests that are missing.
        cache: the tiers.
        freshness: dates what was written.
        negative: remembered misses, which a write ends.
        damage: artifacts with wrong bytes at the origin, which a put repairs.
        backlog: puts that the origin does not have yet.
        stats: uploads and uploads_skipped move here.
        sources: the cdn before the origin, which a write makes forget.
        flights: what a write overtakes.
        max_metadata_bytes: bound of content type and user metadata.
        max_running: writes under way at once; further ones wait. It also bounds those whose callers have gone,
            which nobody else counts.
    """

    def __init__(
        self,
        upstream: Upstream,
        staging: Staging,
        cache: Cache,
        freshness: Freshness,
        negative: NegativeCache,
        damage: KnownDamage,
        stats: StoreStats,
        *,
        sources: Sources,
        backlog: Backlog,
        flights: Sequence[Flights[Any]],
        max_metadata_bytes: int,
        max_running: int,
    ) -> None:
        self._upstream = upstream
        self._staging = staging
        self._cache = cache
        self._freshness = freshness
        self._negative = negative
        self._damage = damage
        self._sources = sources
        self._flights = flights
        self._stats = stats
        self._backlog = backlog
        self._max_metadata_bytes = max_metadata_bytes
        self._locks = KeyedLocks()
        self.origin_locks = KeyedLocks()
        self._tasks = TaskSet("a write")
        self._places = asyncio.Semaphore(max_running)
        self._journal_places = asyncio.Semaphore(max_running)  # those of the origin may all be waiting for it
        self.completed = 0  # lets a reader know whether anything was written while it asked the origin

    async def put(
        self,
        key: Key | None,
        staged: Staged,
        headers: PutHeaders,
        *,
        write_back: bool = False,
        condition: Condition | None = None,
    ) -> ObjectInfo:
        """Store an upload; without a key, as the artifact that it is.

        ``write_back``: the journal may acknowledge it, where there is one, whatever the key's policy says.
        ``condition``: on what the key holds before; see ``conditions.py`` for what it can promise.

        Raises:
            InvalidKey: a path below the artifacts' directory. TooLarge: too much metadata.
            IntegrityError: not the bytes that the artifact key says. ConditionFailed. Others from ``Origin.put``.
        """
        _check_metadata(headers, self._max_metadata_bytes, key)
        if key is None or is_artifact(key):
            key = await self._verified(key, staged)
        _refuse_artifact_path(key)
        await self._locks.acquire(key)
        places = self._journal_places if self._is_written_back(key, asked=write_back) else self._places
        put = partial(self._put, key, staged.body, staged.crc, headers, places)
        return await self._to_the_end(self._if(condition, key, put), [key], places)

    async def delete(self, key: Key, *, condition: Condition | None = None) -> bool:
        """Remove an object; tells whether it existed. Raises InvalidKey, ConditionFailed, and as ``Origin.delete``."""
        _refuse_artifact_path(key)
        await self._locks.acquire(key)
        return await self._to_the_end(self._if(condition, key, partial(self._delete, [key])), [key], self._places) > 0

    async def delete_prefix(self, prefix: str) -> int:
        """Remove every object whose key starts with ``prefix``, page by page; gives how many there were.

        Raises:
            As ``Origin.list`` and ``Origin.delete``; the pages before are deleted then.
        """
        _refuse_artifact_path(prefix)
        deleted, after, more = 0, "", True
        while more:
            page = await list_keys(self._upstream, self._backlog, prefix, after=after, limit=_PAGE_KEYS)
            if not page.items:
                break
            keys = [Key(info.key) for info in page.items]
            after, more = keys[-1], page.more
            held = await self._locks.acquire_all(keys)
            deleted += await self._to_the_end(self._delete(keys), held, self._places)
        return deleted

    async def copy(self, source: Key, target: Key) -> ObjectInfo:
        """Copy inside the origin; from the journal what is only there.

        Raises:
            InvalidKey: the target is an artifact or a path below the artifacts' directory: only a put
                verifies. NotFound: no source. IntegrityError: the source is an artifact that is known to have
                wrong bytes at the origin. Others as ``Origin.copy``.
        """
        _refuse_artifact_path(target)
        if is_artifact(target):
            raise InvalidKey("an artifact is made by putting its bytes, which are verified, not by a copy", key=target)
        await self._locks.acquire(target)
        return await self._to_the_end(self._copy(source, target), [target], self._places)

    async def close(self, timeout_s: float) -> None:
        """Wait for running writes; cancel those that take longer."""
        await self._tasks.wait(timeout_s)
        await self._tasks.cancel()

    async def upload(self, key: Key, body: Body, headers: PutHeaders) -> ObjectInfo:
        """See that the origin has a pending put; the caller holds the key's origin lock. Raises as ``Origin.put``."""
        info = await self._existing_artifact(key, body_size(body)) if is_artifact(key) else None
        return await self._sent(key, body, headers) if info is None else self._skipped(info)

    async def uploaded(self, pending: Pending, info: ObjectInfo) -> None:
        """The origin has a pending put, and the caller holds the key's origin lock: cdn, tiers and backlog follow."""

        def is_current() -> bool:
            return self._backlog.get(pending.key) is pending

        await self._sources.written(pending.key)
        if await self._cache.renew(pending.key, pending.info.etag, info, is_current):
            self._overtake(pending.key)
            self._backlog.uploaded(pending)

    def _is_written_back(self, key: Key, *, asked: bool = False) -> bool:
        return self._backlog.is_on and (asked or self._freshness.policies.of(key).write_back)

    async def _to_the_end(self, work: Coroutine[Any, Any, T], held: Sequence[str], places: asyncio.Semaphore) -> T:
        """Run a write whose locks are held; it ends, and lets go of them, also when the caller does not wait.

        A caller that goes away while the write waits for its place has changed nothing.
        """
        try:
            await places.acquire()
        except BaseException:
            work.close()
            self._locks.release_all(held)
            raise

        def ended() -> None:
            places.release()
            self._locks.release_all(held)

        try:
            return await self._tasks.to_the_end(work, then=ended)
        except WorkCancelled:
            raise DaemonUnavailable("the daemon stopped before the origin had answered") from None

    async def _if(self, condition: Condition | None, key: Key, write: Callable[[], Awaitable[T]]) -> T:
        """Make a write, whose key is locked, if what the key holds meets the condition."""
        if condition is not None and not condition(await self._held(key)):
            raise ConditionFailed
        return await write()

    async def _held(self, key: Key) -> ObjectInfo | None:
        """What the key holds, by the word of those who must not forget."""
        pending = self._backlog.get(key)
        if pending is not None:
            return pending.info
        try:
            return await self._upstream.stat(key)
        except NotFound:
            return None

    async def _put(
        self, key: Key, body: Body, crc: int | None, headers: PutHeaders, places: asyncio.Semaphore
    ) -> ObjectInfo:
        """Acknowledge with the journal where that is asked for and possible, else go to the origin."""
        if self._is_written_back(key, asked=places is self._journal_places):
            pending = self._backlog.get(key) if is_artifact(key) else None
            if pending is not None and await self._backlog.body(pending) is not None:  # the same bytes, and sound ones
                return self._skipped(pending.info)
            pending = await self._backlog.put(key, body, headers, crc)
            if pending is not None:
                return self._installed(pending.info, body, crc)
        if places is self._places:
            return await self._put_through(key, body, crc, headers)
        async with self._places:
            return await self._put_through(key, body, crc, headers)

    async def _put_through(self, key: Key, body: Body, crc: int | None, headers: PutHeaders) -> ObjectInfo:
        await self.origin_locks.acquire(key)
        try:
            info = await self._existing_artifact(key, body_size(body)) if is_artifact(key) else None
            if info is None:
                try:
                    info = await self._sent(key, body, headers)
                except BaseException as error:
                    self._failed([key], error)
                    raise
            else:
                self._skipped(info)
                held = self._cache.peek(key)
                if held is not None and held.info == info and key not in self._backlog:
                    return info  # nothing has changed anywhere: spare the disk tier a second copy
            self._installed(info, body, crc)
            await self._overrule([key], self._sources.written(key))
            return info
        finally:
            self.origin_locks.release(key)

    async def _sent(self, key: Key, body: Body, headers: PutHeaders) -> ObjectInfo:
        info = await self._upstream.put(key, body, headers)
        self._stats.uploads += 1
        self._damage.forget(key)
        return info

    def _skipped(self, info: ObjectInfo) -> ObjectInfo:
        self._stats.uploads_skipped += 1
        return info

    def _installed(self, info: ObjectInfo, body: Body, crc: int | None) -> ObjectInfo:
        """The put is through: the tiers have it, too."""
        key = Key(info.key)
        self._overtake(key)
        entry = Entry(info, body, validated_at=0.0, crc=crc)
        self._freshness.stamp(entry)
        self._cache.install(key, entry)
        return info

    async def _overrule(self, keys: Sequence[Key], purge: Awaitable[None]) -> None:
        """A write is through at the origin: nothing that was pending before it may come back, by a crash either.

        Args:
            keys: of the write.
            purge: makes the cdn forget, too; does not raise.
        """
        self._backlog.overruled(keys)
        await purge
        try:
            await self._backlog.settle(keys)
        except BaseException as error:
            self._failed(keys, error)
            raise

    async def _existing_artifact(self, key: Key, size: int) -> ObjectInfo | None:
        """What the origin knows of an artifact that it has: its bytes are those at hand, so they need no upload.

        The tiers are not asked, although it would be quicker: what they hold may be gone from the origin
        (deleted there by somebody else), and then an upload that was skipped is a put that is lost.
        Damaged bytes are not those at hand: the upload repairs them. What the origin said a moment ago counts.
        """
        if self._damage.holds(key) or self._negative.holds(key):  # whoever has just asked was told that there is none
            return None
        try:
            info = self._upstream.known(key) or await self._upstream.stat(key)
        except NotFound:
            return None
        return info if info.size == size else None

    async def _delete(self, keys: Sequence[Key]) -> int:
        held = await self.origin_locks.acquire_all(keys)
        try:
            pending = [key for key in keys if key in self._backlog]
            others = [key for key in keys if key not in self._backlog]
            try:
                count = await self._upstream.delete(others) if others else 0
                if pending:  # they existed, whether or not the origin knows them
                    await self._upstream.delete(pending)
                    count += len(pending)
            except BaseException as error:
                self._failed(keys, error)
                raise
            for key in keys:
                self._overtake(key)
                self._damage.forget(key)
                self._cache.forget(key)
            await self._overrule(keys, self._sources.deleted(keys))
            return count
        finally:
            self.origin_locks.release_all(held)

    async def _copy(self, source: Key, target: Key) -> ObjectInfo:
        while (pending := self._backlog.get(source)) is not None:
            body = await self._backlog.verified_body(pending)
            if body is not None:
                headers = PutHeaders(pending.info.content_type, pending.info.metadata)
                return await self._put(target, body, pending.record.crc, headers, self._places)
        if self._damage.holds(source):
            raise IntegrityError(
                "the origin holds other bytes than the digest says; putting the artifact again repairs it",
                key=source,
                expected=digest_of(source),
                source="origin",
            )
        await self.origin_locks.acquire(target)
        try:
            try:
                info = await self._upstream.copy(source, target)
            except BaseException as error:
                self._failed([target], error)
                raise
            self._overtake(target)
            # The bytes stay where they are until somebody reads them.
            self._cache.forget(target)
            await self._overrule([target], self._sources.written(target))
            return info
        finally:
            self.origin_locks.release(target)

    def _overtake(self, key: Key) -> None:
        """A write has completed at the origin: what is in the air for this key is of yesterday."""
        self.completed += 1
        self._negative.forget(key)
        self._sources.overtake(key)
        for flights in self._flights:
            flights.overtake(key)

    def _failed(self, keys: Sequence[Key], error: BaseException) -> None:
        """A write failed. Unless the origin refused all of it, nobody knows what the origin holds now."""
        if len(keys) == 1 and isinstance(error, _REFUSALS):
            return
        for key in keys:
            self._overtake(key)
            self._cache.forget(key)

    async def _verified(self, key: Key | None, staged: Staged) -> Key:
        """The artifact key of an upload; raises IntegrityError if another one was promised."""
        if staged.digest is None:
            staged.digest = await self._staging.digest(staged.body)
        if key is not None and digest_of(key) != staged.digest:
            raise IntegrityError(
                "the bytes do not have the digest of their key",
                key=key,
                expected=digest_of(key),
                actual=staged.digest,
                source="client",
            )
        return artifact_key(staged.digest)


def _refuse_artifact_path(text: str) -> None:
    if text.startswith(ARTIFACT_DIRECTORY):
        raise InvalidKey(f"what is below {ARTIFACT_DIRECTORY} is written by its 'sha256:' key", key=text)


def _check_metadata(headers: PutHeaders, max_bytes: int, key: str | None) -> None:
    if not headers.metadata and headers.content_type is None:
        return
    size = metadata_bytes(headers.content_type, headers.metadata)
    if size > max_bytes:
        raise TooLarge(f"content type and metadata must have at most {max_bytes} bytes, these have {size}", key=key)
