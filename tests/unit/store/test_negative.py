from tests.support.faults import ManualClock
from tiered_store.store.negative import NegativeCache


def test_a_miss_holds_for_its_time() -> None:
    clock = ManualClock()
    misses = NegativeCache(clock)
    misses.remember("k", 2.0)
    assert misses.holds("k")
    assert not misses.holds("other")
    clock.advance(2.0)
    assert not misses.holds("k")
    assert len(misses._until) == 0


def test_it_is_forgotten_on_demand_and_not_kept_without_time() -> None:
    misses = NegativeCache(ManualClock())
    misses.remember("k", 2.0)
    misses.forget("k")
    misses.forget("never there")
    misses.remember("zero", 0.0)
    assert not misses.holds("k")
    assert len(misses._until) == 0


def test_the_oldest_makes_room() -> None:
    misses = NegativeCache(ManualClock(), max_keys=2)
    for key in ("a", "b", "a", "c"):  # remembered again, "a" is the younger
        misses.remember(key, 2.0)
    assert [misses.holds(key) for key in "abc"] == [True, False, True]
    assert len(misses._until) == 2
