"""Where a fill reads from: the cdn where it may be asked, and the origin, which has the last word.

An object is read from the cdn as far as that gives it, and from the origin from there on, if the origin proves to have
the same version. Knows policies and digests; who waits for the bytes is the fill's business. Invariants: what ends
without an exception is the object that the origin has, as far as that can be known: an artifact, and whatever else
has a digest, by its digest; a fault or a lie of the cdn is never the error that a reader gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tiered_store.errors import IntegrityError, OriginUnavailable, StoreError
from tiered_store.key import Key, digest_of, is_artifact, name_of_key
from tiered_store.objects import ObjectInfo
from tiered_store.origins.base import ObjectChanged
from tiered_store.stats import CdnStats, StoreStats
from tiered_store.store.policy import Policies
from tiered_store.store.upstream import Upstream, UpstreamRead
from tiered_store.tiers.base import ReadFault

__all__ = ["CdnPlace", "PlaceRead", "SourceRead", "Sources", "StartAnew", "verify_artifact"]


class PlaceRead(Protocol):
    """An object being read from the cdn, of one version; to be closed."""

    info: ObjectInfo
    digest: str | None

    async def next(self) -> bytes:
        """The next bytes; none at the end. Raises ReadFault."""
        ...

    def condemn(self) -> None:
        """The bytes, or their number, are not what they must be."""
        ...

    async def close(self) -> None:
        """Give the connections back; more than once is fine."""
        ...


class CdnPlace(Protocol):
    """The cdn tier, by names, as the store needs it."""

    @property
    def stats(self) -> CdnStats:
        """Live counters."""
        ...

    async def open(self, name: str) -> PlaceRead | None:
        """Start to read; None if the cdn has it not, or cannot say. Never raises."""
        ...

    def distrust(self, name: str) -> None:
        """Do not ask for this name, for a while."""
        ...

    async def purge(self, names: Sequence[str]) -> None:
        """Make the cdn forget, as far as it can be made to. Never raises."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class StartAnew(Exception):
    """What was read so far cannot be made a whole; another try from the beginning may.

    Attributes:
        error: what a reader gets who cannot start anew.
    """

    def __init__(self, error: StoreError) -> None:
        super().__init__(str(error))
        # Its traceback would keep alive what the frames below hold: buffers, descriptors.
        self.error = error.with_traceback(None)


class Sources:
    """The cdn before the origin, by keys.

    Args:
        upstream: the origin.
        cdn: the cdn tier, or None.
        policies: for which keys the cdn may answer.
        stats: corrupt moves here when the cdn lies.
    """

    def __init__(self, upstream: Upstream, cdn: CdnPlace | None, policies: Policies, stats: StoreStats) -> None:
        self._upstream = upstream
        self._cdn = cdn
        self._policies = policies
        self._stats = stats

    async def open(self, key: Key, *, if_none_match: str | None = None, origin_only: bool = False) -> SourceRead | None:
        """Start to read; None if the origin still has that etag, of which nobody else is asked.

        Raises:
            NotFound, OriginUnavailable, PermissionDenied: from the origin.
        """
        if self._cdn is not None and if_none_match is None and not origin_only and self._is_for_cdn(key):
            from_cdn = await self._cdn.open(name_of_key(key))
            if from_cdn is not None:
                return SourceRead(key, self._upstream, self._stats, cdn=from_cdn, place=self._cdn)
        read = await self._upstream.open(key, if_none_match=if_none_match)
        return None if read is None else SourceRead(key, self._upstream, self._stats, origin=read)

    @property
    def cdn_stats(self) -> CdnStats:
        """The counters of the cdn; zeros where there is none."""
        return CdnStats() if self._cdn is None else self._cdn.stats

    def _is_for_cdn(self, key: Key) -> bool:
        policy = self._policies.of(key)
        return policy.immutable if policy.cdn is None else policy.cdn

    def overtake(self, key: Key) -> None:
        """A write of the key has completed: what the cdn has is of yesterday, until it has been purged everywhere."""
        if self._cdn is not None and not is_artifact(key) and self._is_for_cdn(key):
            self._cdn.distrust(name_of_key(key))

    async def written(self, key: Key) -> None:
        """Let the cdn forget what a put or a copy has replaced; an artifact has nothing else to replace it with."""
        if self._cdn is not None and not is_artifact(key) and self._is_for_cdn(key):
            await self._cdn.purge([name_of_key(key)])

    async def deleted(self, keys: Sequence[Key]) -> None:
        """Let the cdn forget what is gone, whoever reads through it; nor is it believed that it is still there."""
        if self._cdn is None:
            return
        names = [name_of_key(key) for key in keys]
        for name in names:
            self._cdn.distrust(name)
        await self._cdn.purge(names)

    async def close(self) -> None:
        """Close the cdn and the origin."""
        try:
            if self._cdn is not None:
                await self._cdn.close()
        finally:
            await self._upstream.close()


class SourceRead:
    """One object being read, from whichever place has it; to be closed.

    Args:
        key: the object's.
        upstream: the origin, for when the cdn gives no more.
        stats: corrupt moves here when the cdn lies.
        cdn: a read of the cdn that was begun, or None.
        place: the cdn tier that it is of.
        origin: a read of the origin that was begun, or None; one of the two.

    Attributes:
        info: what is said of it by the place that was asked first.
        digest: what all its bytes have to hash to, or None.
        tier: that place.
    """

    def __init__(
        self,
        key: Key,
        upstream: Upstream,
        stats: StoreStats,
        *,
        cdn: PlaceRead | None = None,
        place: CdnPlace | None = None,
        origin: UpstreamRead | None = None,
    ) -> None:
        begun = origin if cdn is None else cdn
        assert begun is not None
        self.info = begun.info.renamed(key)
        self.digest = digest_of(key) if is_artifact(key) else None if cdn is None else cdn.digest
        self.tier = "origin" if cdn is None else "cdn"
        self._key = key
        self._upstream = upstream
        self._stats = stats
        self._cdn = cdn
        self._place = place
        self._origin = origin
        self._position = 0

    async def next(self) -> bytes:
        """The next bytes; none at the end.

        Raises:
            StartAnew: the version that was begun is no longer to be had.
            NotFound, OriginUnavailable, PermissionDenied: from the origin.
        """
        if self._origin is None:
            assert self._cdn is not None
            try:
                chunk = await self._cdn.next()
            except ReadFault:
                self._origin = await self._go_on()
            else:
                self._position += len(chunk)
                return chunk
        try:
            return await self._origin.next()
        except ObjectChanged as error:
            raise StartAnew(error) from None

    async def _go_on(self) -> UpstreamRead:
        """The origin, from where the cdn broke off.

        The same version is proved by its etag, or at the end by its digest; then it has the same size.
        """
        assert self._cdn is not None
        read = await self._upstream.open(self._key, offset=self._position)
        assert read is not None  # only a conditional read answers None
        has_size = read.info.size == self.info.size
        if has_size and (is_artifact(self._key) or (bool(read.info.etag) and read.info.etag == self.info.etag)):
            await self._cdn.close()  # what it still has on its way takes room and connections
            return read
        await read.close()
        if is_artifact(self._key):
            self._condemn()
        raise StartAnew(
            OriginUnavailable("the cdn broke off in the middle of a version that the origin has not", key=self._key)
        )

    def judge(self, digest: str | None) -> None:
        """Hold the digest of all the bytes against what it must be, if that is known.

        Raises:
            IntegrityError: the origin has other bytes.
            StartAnew: the cdn gave other bytes, or some of them; it is not asked for them again.
        """
        if self.digest is None or digest == self.digest:
            return
        if self._cdn is None:
            verify_artifact(self._key, digest)
        self._condemn()
        text = "the cdn gave other bytes than the digest says; a new read asks the origin"
        raise StartAnew(OriginUnavailable(text, key=self._key))

    def _condemn(self) -> None:
        """Somebody lied; where the origin gave a part of it, the next try shows whether it was the cdn."""
        assert self._cdn is not None
        assert self._place is not None
        self._stats.corrupt += 1
        if self._origin is None:
            self._cdn.condemn()
        else:
            self._place.distrust(name_of_key(self._key))

    async def close(self) -> None:
        """Give files and connections back; more than once is fine."""
        try:
            if self._cdn is not None:
                await self._cdn.close()
        finally:
            if self._origin is not None:
                await self._origin.close()


def verify_artifact(key: Key, digest: str | None) -> None:
    """Raises IntegrityError unless the bytes that the origin gave for an artifact have its digest."""
    expected = digest_of(key)
    if digest != expected:
        raise IntegrityError(
            "the origin holds other bytes than the digest says",
            key=key,
            expected=expected,
            actual=digest,
            source="origin",
        )
