"""What a series of measurements says. Pure arithmetic."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Summary", "percentile", "summary"]


@dataclass(frozen=True, slots=True)
class Summary:
    """One contestant in one placement: each round gave one value, and this is what they say together.

    Attributes:
        median: of the rounds' values, in the row's unit.
        low: the smallest round.
        high: the largest round.
        rounds: all of them, in order.
    """

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]

    @property
    def spread(self) -> float:
        """Half the distance between the extremes, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def summary(values: Sequence[float]) -> Summary:
    """Raises statistics.StatisticsError for no values."""
    return Summary(statistics.median(values), min(values), max(values), tuple(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share (0 to 1) of the values does not exceed, by the nearest rank.

    Raises:
        ValueError: for no values, or a share outside 0 to 1.
    """
    if not values or not 0 <= share <= 1:
        raise ValueError("values and a share between 0 and 1 are needed")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
