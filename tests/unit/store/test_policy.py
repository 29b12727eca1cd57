import math

import pytest

from tiered_store.store.policy import Policies, Policy

ARTIFACT = "sha256:" + "0" * 64


def test_the_defaults() -> None:
    policies = Policies()
    assert policies.of(ARTIFACT).immutable
    assert policies.of("artifacts/tool.tar").immutable
    assert policies.of("cache/x").immutable
    assert policies.of("cache/x").lifetime_s == math.inf
    rest = policies.of("sessions/a/meta.json")
    assert (rest.immutable, rest.ttl_s, rest.stale_if_error_s, rest.negative_ttl_s) == (False, 60, 86_400, 2)
    assert rest.lifetime_s == 60


def test_the_longest_prefix_decides() -> None:
    policies = Policies(
        [Policy("s", ttl_s=1), Policy("sessions/", ttl_s=2), Policy("sessions/pinned/", immutable=True)]
    )
    assert policies.of("sx").ttl_s == 1
    assert policies.of("sessions/a").ttl_s == 2
    assert policies.of("sessions/pinned/a").immutable
    assert policies.of("other").ttl_s == 60


def test_a_given_policy_replaces_the_default_of_its_prefix() -> None:
    policies = Policies([Policy("", ttl_s=5), Policy("cache/", ttl_s=7)])
    assert policies.of("x").ttl_s == 5
    assert policies.of("cache/x").ttl_s == 7


def test_two_policies_for_one_prefix_are_refused() -> None:
    with pytest.raises(ValueError, match="two policies"):
        Policies([Policy("a"), Policy("a")])


def test_no_policy_makes_artifacts_mutable() -> None:
    with pytest.raises(ValueError, match="immutable by definition"):
        Policies([Policy("sha256:ab", ttl_s=1)])
