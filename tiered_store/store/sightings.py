"""Artifacts that the origin has just been seen to have, so that putting one of them again need not ask.

Knows keys and a clock. What is remembered holds for a short time only: others may delete at the origin, and an upload
that is skipped because of what was true once is a put that is lost. Bounded: beyond ``max_keys`` the one seen longest
ago is forgotten, which costs one question.

Invariant: what was removed while the origin was being asked is not remembered, however late its answer comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tiered_store.key import is_artifact
from tiered_store.objects import ObjectInfo, metadata_bytes

__all__ = ["ExistingArtifacts", "Sight"]

#: About 10 MiB with all of it.
MAX_KEYS = 16_384
#: Artifacts with more content type and metadata are asked for each time: few have any, and these would be large.
_MAX_METADATA_BYTES = 256


@dataclass(frozen=True, slots=True)
class Sight:
    """The moment at which a question to the origin began."""

    removals: int
    at: float


class ExistingArtifacts:
    """Which artifacts exist, for a short while.

    Args:
        clock: monotonic seconds.
        ttl_s: how long an answer of the origin holds; 0 remembers nothing.
        max_keys: the bound.
    """

    def __init__(self, clock: Callable[[], float], ttl_s: float, *, max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._ttl_s = ttl_s
        self._max_keys = max_keys
        self._removals = 0
        self._seen: dict[str, tuple[float, ObjectInfo]] = {}

    def look(self) -> Sight:
        """To be called before the origin is asked."""
        return Sight(self._removals, self._clock())

    def remember(self, key: str, info: ObjectInfo, sight: Sight) -> None:
        """The origin has ``key``, by its answer to a question that began at ``sight``."""
        if not is_artifact(key) or self._ttl_s <= 0 or sight.removals != self._removals:
            return
        if metadata_bytes(info.content_type, info.metadata) > _MAX_METADATA_BYTES:
            return
        self._seen.pop(key, None)
        if len(self._seen) >= self._max_keys:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = (sight.at + self._ttl_s, info)

    def get(self, key: str) -> ObjectInfo | None:
        """What is known of an artifact that the origin has; None where nobody knows."""
        found = self._seen.get(key)
        if found is None:
            return None
        if self._clock() < found[0]:
            return found[1]
        del self._seen[key]
        return None

    def forget(self, key: str) -> None:
        """The artifact may be gone, or be about to go."""
        if is_artifact(key):
            self._removals += 1
            self._seen.pop(key, None)
