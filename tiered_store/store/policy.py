"""Policies: how long the store may answer for a key without asking the origin.

Pure data and one lookup. Knows no clock (``freshness.py`` does) and no tier.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from tiered_store.key import ARTIFACT_PREFIX

__all__ = ["DEFAULT_POLICIES", "Policies", "Policy"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for the keys that start with ``prefix``.

    Attributes:
        prefix: the beginning of a key; the longest one that fits a key decides.
        immutable: a key always means the same bytes: never asked again, and ``ttl_s`` does not matter.
        ttl_s: how long an answer of the origin holds, in seconds.
        stale_while_revalidate_s: how long after that a reader still gets it at once, while the origin is
            asked in the background.
        stale_if_error_s: how long after it expired an answer may be given because the origin does not answer.
        negative_ttl_s: how long "there is no such object" holds.
        cdn: whether the cdn may answer; None means "if immutable".
        write_back: whether a put is acknowledged when the journal on this machine has it, before the origin does.
    """

    prefix: str
    immutable: bool = False
    ttl_s: float = 60.0
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 86_400.0
    negative_ttl_s: float = 2.0
    cdn: bool | None = None
    write_back: bool = False

    @property
    def lifetime_s(self) -> float:
        """How long an answer of the origin holds, in seconds; infinite for the immutable."""
        return math.inf if self.immutable else self.ttl_s


DEFAULT_POLICIES = (
    Policy(ARTIFACT_PREFIX, immutable=True),
    Policy("artifacts/", immutable=True),
    Policy("cache/", immutable=True),
    Policy(""),
)


class Policies:
    """The policies in force: those given, and the defaults for the prefixes that none of them names.

    One dict lookup per distinct length of prefix, longest first: the cost does not grow with the number
    of policies, and nothing needs to be remembered per key.

    Raises:
        ValueError: if two policies have the same prefix, or one makes artifacts mutable.
    """

    def __init__(self, policies: Iterable[Policy] = ()) -> None:
        table: dict[str, Policy] = {}
        for policy in policies:
            if policy.prefix in table:
                raise ValueError(f"two policies for the prefix {policy.prefix!r}")
            if policy.prefix.startswith(ARTIFACT_PREFIX) and not policy.immutable:
                raise ValueError("artifacts are immutable by definition; no policy can change that")
            table[policy.prefix] = policy
        for policy in DEFAULT_POLICIES:
            table.setdefault(policy.prefix, policy)
        self._table = table
        self._lengths = sorted({len(prefix) for prefix in table}, reverse=True)

    def of(self, key: str) -> Policy:
        """The policy with the longest prefix that fits."""
        table = self._table
        for length in self._lengths:
            policy = table.get(key[:length])
            if policy is not None:
                return policy
        raise AssertionError("the empty prefix fits every key")
