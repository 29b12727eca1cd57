from __future__ import annotations

import statistics

import pytest

from benchmarks.samples import percentile, summary


def test_summary_keeps_median_extremes_and_rounds():
    found = summary([3.0, 1.0, 2.0])
    assert (found.median, found.low, found.high, found.rounds) == (2.0, 1.0, 3.0, (3.0, 1.0, 2.0))
    assert found.spread == 0.5


def test_spread_of_a_zero_median_is_zero():
    assert summary([0.0, 0.0]).spread == 0.0


def test_summary_of_nothing_is_an_error():
    with pytest.raises(statistics.StatisticsError):
        summary([])


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.01, 1), (0.1, 1), (0.11, 2), (0.5, 5), (0.99, 10), (1.0, 10)]
)
def test_percentile_is_the_nearest_rank(share, expected):
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], share) == expected


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], -0.1), ([1.0], 1.1)])
def test_percentile_refuses_what_has_no_answer(values, share):
    with pytest.raises(ValueError, match="share"):
        percentile(values, share)
