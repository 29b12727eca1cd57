import math

from tests.support.faults import ManualClock
from tiered_store.objects import Entry, ObjectInfo
from tiered_store.store.freshness import _MAX_REMEMBERED, Freshness
from tiered_store.store.policy import Policies, Policy

ARTIFACT = "sha256:" + "0" * 64


class Judge:
    def __init__(self, *policies: Policy, suspect_before: float = 0.0) -> None:
        self.clock = ManualClock(50.0)
        self.wall = ManualClock(10_000.0)
        self.freshness = Freshness(
            Policies(policies), clock=self.clock, wall=self.wall, suspect_before=lambda: suspect_before
        )

    def entry(self, key: str, age_s: float = 0.0, etag: str = "1") -> Entry:
        return Entry(ObjectInfo(key, 0, etag), b"", validated_at=self.wall.now - age_s)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall.advance(seconds)


def test_an_entry_is_fresh_for_its_ttl() -> None:
    judge = Judge(Policy("", ttl_s=10))
    assert judge.freshness.judge(judge.entry("k", age_s=9))
    assert not judge.freshness.judge(judge.entry("k", age_s=10))
    entry = judge.entry("k")
    assert judge.freshness.judge(entry)
    judge.advance(10)
    assert not judge.freshness.judge(entry)


def test_the_immutable_never_expire() -> None:
    judge = Judge()
    entry = judge.entry("cache/x", age_s=9_000)
    assert judge.freshness.judge(entry)
    assert entry.fresh_until == math.inf


def test_a_date_in_the_future_counts_as_now() -> None:
    judge = Judge(Policy("", ttl_s=10))
    entry = judge.entry("k", age_s=-1e6)
    assert judge.freshness.judge(entry)
    assert entry.fresh_until == judge.clock.now + 10


def test_setting_back_the_wall_clock_does_not_prolong_what_was_dated() -> None:
    judge = Judge(Policy("", ttl_s=10))
    entry = judge.entry("k")
    judge.freshness.judge(entry)
    judge.clock.advance(11)
    judge.wall.advance(-3600)
    assert not judge.freshness.judge(entry)


def test_stale_allowances() -> None:
    judge = Judge(Policy("", ttl_s=10, stale_while_revalidate_s=5, stale_if_error_s=20))
    young, old, dead = judge.entry("k", age_s=14), judge.entry("k", age_s=16), judge.entry("k", age_s=31)
    assert judge.freshness.serves_while_revalidating(young)
    assert not judge.freshness.serves_while_revalidating(old)
    assert judge.freshness.serves_on_error(old)
    assert not judge.freshness.serves_on_error(dead)
    assert not Judge().freshness.serves_while_revalidating(judge.entry("k", age_s=61))


def test_suspects_are_not_fresh_until_vouched_for_once() -> None:
    judge = Judge(Policy("", stale_while_revalidate_s=100), suspect_before=9_999.0)
    for key in ("k", "cache/x"):
        entry = judge.entry(key, age_s=2)
        assert not judge.freshness.judge(entry)
        assert not judge.freshness.serves_while_revalidating(entry)
        assert judge.freshness.serves_on_error(entry)
        judge.freshness.revalidated(entry)
        assert judge.freshness.judge(entry)
        # The disk tier still has the old date; the next time it is read, the judge knows better.
        assert judge.freshness.judge(judge.entry(key, age_s=2))
        assert not judge.freshness.judge(judge.entry(key, age_s=2, etag="2"))


def test_artifacts_are_suspect_too() -> None:
    """Their bytes can only be right, but one may have been deleted while the disk tier did not take notice."""
    judge = Judge(suspect_before=9_999.0)
    assert not judge.freshness.judge(judge.entry(ARTIFACT, age_s=2))
    assert judge.freshness.serves_on_error(judge.entry(ARTIFACT, age_s=2))


def test_what_is_remembered_is_bounded() -> None:
    judge = Judge(Policy("", ttl_s=10))
    first = judge.entry("first", age_s=20)
    judge.freshness.revalidated(first)
    for number in range(_MAX_REMEMBERED):
        judge.freshness.revalidated(judge.entry(f"k{number}"))
    assert not judge.freshness.judge(judge.entry("first", age_s=20))
    assert judge.freshness.judge(judge.entry(f"k{_MAX_REMEMBERED - 1}", age_s=20))
