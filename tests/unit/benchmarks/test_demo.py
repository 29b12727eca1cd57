from __future__ import annotations

from benchmarks.demo import Pass, fitting, table


def test_fitting_stops_before_the_memory_tier_is_full():
    objects = {"a": b"x" * 4000, "b": b"x" * 4000, "c": b"x"}
    assert fitting(objects, 18_000) == ["a", "b"]
    assert fitting(objects, 10_000) == ["a"]
    assert fitting(objects, 100) == []


def test_table_names_only_the_places_that_answered():
    passes = [
        Pass("from disk", {"memory": 0, "disk": 1200, "origin": 0}, 2 * 1024 * 1024, [0.5] * 2),
        Pass("mixed", {"memory": 3, "disk": 1, "origin": 0}, 0, [0.000_001, 0.000_003]),
    ]
    head, first, second = table(passes).splitlines()
    assert head.split()[-3:] == ["MiB/s", "p50", "p99"]
    assert first.split() == ["from", "disk", "2", "1,200", "disk", "2", "500,000", "us", "500,000", "us"]
    assert second.split() == ["mixed", "2", "3", "memory,", "1", "disk", "0", "1", "us", "3", "us"]
