"""Rows of results, their targets, and how both are shown. Pure: no clock, no files, no servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.samples import Summary

__all__ = ["OURS", "Check", "Row", "as_json", "at_least", "at_most", "fastest", "ratio", "render"]

OURS = "tiered_store"
_NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Check:
    """One target and what was found.

    Attributes:
        what: the quantity, for example ``"x redis-py"``.
        value: what was measured, or None where it could not be.
        limit: the target.
        is_ceiling: whether the value must be at most the limit (else at least).
    """

    what: str
    value: float | None
    limit: float
    is_ceiling: bool = True

    @property
    def is_met(self) -> bool | None:
        """None where nothing was measured."""
        if self.value is None:
            return None
        return self.value <= self.limit if self.is_ceiling else self.value >= self.limit

    @property
    def verdict(self) -> str:
        if self.value is None or self.is_met is None:
            return _NOT_MEASURED
        if self.is_met:
            return "met"
        worse, better = (self.value, self.limit) if self.is_ceiling else (self.limit, self.value)
        return f"falls short by {worse / better:.2f} x" if better > 0 else "falls short"

    def __str__(self) -> str:
        found = "" if self.value is None else f"{_number(self.value)} "
        return f"{found}{self.what} (at {'most' if self.is_ceiling else 'least'} {_number(self.limit)}): {self.verdict}"


def at_most(what: str, value: float | None, limit: float) -> Check:
    """A target that larger values miss."""
    return Check(what, value, limit)


def at_least(what: str, value: float | None, limit: float) -> Check:
    """A target that smaller values miss."""
    return Check(what, value, limit, is_ceiling=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work in one placement.

    Attributes:
        work: what was done.
        placement: on which CPUs, or "" where that does not matter.
        unit: of all values, for example ``"us"``.
        values: what each contestant needed; None for one that could do it but was not there.
        checks: the targets that count in this placement; none where the other placement decides.
        notes: further findings, one per line.
    """

    work: str
    placement: str
    unit: str
    values: Mapping[str, Summary | None]
    checks: Sequence[Check] = ()
    notes: Sequence[str] = field(default=())


def ratio(values: Mapping[str, Summary | None], name: str) -> float | None:
    """Ours over one contestant's, or None where either is missing."""
    ours, other = values.get(OURS), values.get(name)
    return ours.median / other.median if ours and other else None


def fastest(values: Mapping[str, Summary | None], among: Iterable[str]) -> str | None:
    """The contestant with the smallest median, of those named and measured."""
    there = {name: found.median for name in among if (found := values.get(name))}
    return min(there, key=there.__getitem__) if there else None


def render(rows: Sequence[Row], contestants: Sequence[str]) -> str:
    """The table: a line per work and placement, a further one for each target but the first, and for notes.

    Args:
        rows: what was measured.
        contestants: the columns, in order; other contestants of a row are named in its last column.
    """
    header = ["work", "placed", "unit", *(f"{name}" for name in contestants), "others, ratios and targets"]
    lines = [header]
    for row in rows:
        cells = [_cell(row.values, name) for name in contestants]
        others = [f"{name} {_cell(row.values, name)}" for name in row.values if name not in contestants]
        remarks = [*others, *_ratios(row, contestants), *map(str, row.checks), *row.notes] or [""]
        lines.append([row.work, row.placement, row.unit, *cells, remarks[0]])
        lines += [[""] * (len(header) - 1) + [remark] for remark in remarks[1:]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain data, with ratios and verdicts."""
    return [
        {
            **asdict(row),
            "ratios": {name: ratio(row.values, name) for name in row.values if name != OURS},
            "checks": [{**asdict(check), "verdict": check.verdict} for check in row.checks],
        }
        for row in rows
    ]


def _ratios(row: Row, contestants: Sequence[str]) -> list[str]:
    """The ratio to each contestant, on one line."""
    found = [f"{_number(value)} x {name}" for name in row.values if name != OURS and (value := ratio(row.values, name))]
    return ["ratio " + ", ".join(found)] if found and contestants else []


def _cell(values: Mapping[str, Summary | None], name: str) -> str:
    if name not in values:
        return "-"
    found = values[name]
    return _NOT_MEASURED if found is None else f"{_number(found.median)} ±{found.spread:.0%}"


def _number(value: float) -> str:
    """Three digits that matter, without exponents."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
