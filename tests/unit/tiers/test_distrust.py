from __future__ import annotations

from tests.support.faults import ManualClock
from tiered_store.tiers.distrust import Distrusted


def test_a_name_is_distrusted_for_a_while() -> None:
    clock = ManualClock()
    names = Distrusted(clock, for_s=10)
    names.add("a")
    clock.advance(9)
    assert names.holds("a")
    assert not names.holds("b")
    clock.advance(2)
    assert not names.holds("a")


def test_again_is_from_now_on() -> None:
    clock = ManualClock()
    names = Distrusted(clock, for_s=10)
    names.add("a")
    clock.advance(9)
    names.add("a")
    clock.advance(9)
    assert names.holds("a")


def test_the_one_entered_longest_ago_makes_room() -> None:
    names = Distrusted(ManualClock(), max_names=2)
    for name in ("a", "b", "a", "c"):
        names.add(name)
    assert [name for name in "abc" if names.holds(name)] == ["a", "c"]
