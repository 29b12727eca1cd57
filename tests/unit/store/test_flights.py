import pytest

from tiered_store.store.flights import Flights


def test_a_flight_is_current_until_it_lands() -> None:
    flights: Flights[str] = Flights()
    flights.take_off("k", "one")
    assert flights.get("k") == "one"
    assert flights.is_current("k", flights.get("k") or "")
    flights.land("k", "one")
    assert flights.get("k") is None
    assert len(flights._table) == 0


def test_a_write_overtakes_and_its_successor_is_safe_from_it() -> None:
    old, new = object(), object()
    flights: Flights[object] = Flights()
    flights.take_off("k", old)
    assert flights.overtake("k") is old
    flights.take_off("k", new)
    assert not flights.is_current("k", old)
    flights.land("k", old)  # the old one's end must not take the new one out
    assert flights.is_current("k", new)
    assert flights.overtake("other") is None


def test_one_flight_per_key() -> None:
    flights: Flights[object] = Flights()
    flights.take_off("k", object())
    with pytest.raises(ValueError, match="already"):
        flights.take_off("k", object())
