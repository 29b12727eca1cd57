"""Whether an entry may be given out: judged by its policy, its age, and whether the disk tier can vouch for it.

Two clocks, used for one thing each: the wall clock dates entries, because dates survive a restart; the
monotonic clock decides whether they still hold, because nobody sets it. Knows no tier.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from tiered_store.objects import Entry
from tiered_store.store.policy import Policies

__all__ = ["Freshness"]

#: How many recent revalidations are remembered for entries that only the disk tier holds.
_MAX_REMEMBERED = 65_536


class Freshness:
    """The judge.

    Args:
        policies: what holds for which key.
        clock: monotonic seconds.
        wall: seconds since the epoch.
        suspect_before: entries that were last vouched for before this moment (wall clock) may be older than
            the last acknowledged write: the disk tier did not end cleanly then. The origin is asked once.
    """

    def __init__(
        self,
        policies: Policies,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        suspect_before: Callable[[], float],
    ) -> None:
        self.policies = policies
        self.clock = clock
        self.wall = wall
        self._suspect_before = suspect_before
        # The disk tier keeps the date an entry was written with; rewriting it for every revalidation would
        # cost a disk write per expired read. After a restart the origin is asked once more, no harm done.
        self._revalidated: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def judge(self, entry: Entry) -> bool:
        """Whether the entry is fresh; dates it first if nobody has."""
        if entry.fresh_until == 0.0:
            remembered = self._revalidated.get(entry.info.key)
            if remembered is not None and remembered[0] == entry.info.etag:
                entry.validated_at = max(entry.validated_at, remembered[1])
            if self._is_suspect(entry):
                return False
            entry.fresh_until = self._expiry(entry)
        return entry.fresh_until > self.clock()

    def stamp(self, entry: Entry) -> None:
        """The origin vouches for this entry now."""
        entry.validated_at = self.wall()
        entry.fresh_until = self.clock() + self.policies.of(entry.info.key).lifetime_s

    def revalidated(self, entry: Entry) -> None:
        """As :meth:`stamp`, and remembered for other copies of the same version."""
        self.stamp(entry)
        key = entry.info.key
        self._revalidated[key] = (entry.info.etag, entry.validated_at)
        self._revalidated.move_to_end(key)
        if len(self._revalidated) > _MAX_REMEMBERED:
            self._revalidated.popitem(last=False)

    def serves_while_revalidating(self, entry: Entry) -> bool:
        """Whether an expired entry may be given out while the origin is asked in the background."""
        allowed_s = self.policies.of(entry.info.key).stale_while_revalidate_s
        return bool(allowed_s) and not self._is_suspect(entry) and self.clock() < self._expiry(entry) + allowed_s

    def serves_on_error(self, entry: Entry) -> bool:
        """Whether an expired entry may be given out because the origin does not answer."""
        return self.clock() < self._expiry(entry) + self.policies.of(entry.info.key).stale_if_error_s

    def _is_suspect(self, entry: Entry) -> bool:
        # Artifacts, too: their bytes can only be right, but they may have been deleted.
        return entry.validated_at < self._suspect_before()

    def _expiry(self, entry: Entry) -> float:
        if entry.fresh_until:
            return entry.fresh_until
        policy = self.policies.of(entry.info.key)
        if policy.immutable:
            return math.inf
        # A date in the future (the wall clock was set back) counts as "just now".
        age_s = max(0.0, self.wall() - entry.validated_at)
        return self.clock() + policy.ttl_s - age_s
