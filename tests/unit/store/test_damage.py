"""What is remembered of damaged artifacts is bounded."""

from tests.support.store import artifact_of
from tiered_store.key import parse_key
from tiered_store.store.damage import KnownDamage


def test_the_one_found_longest_ago_is_forgotten_first() -> None:
    first, second, third = (parse_key(artifact_of(data)) for data in (b"1", b"2", b"3"))
    damage = KnownDamage(max_keys=2)
    for key in (first, second, first, third):
        damage.remember(key)
    assert [damage.holds(key) for key in (first, second, third)] == [True, False, True]
    damage.forget(third)
    damage.forget(third)
    assert not damage.holds(third)
