from __future__ import annotations

import json

import pytest

from benchmarks.samples import summary
from benchmarks.table import OURS, Row, as_json, at_least, at_most, fastest, ratio, render

VALUES = {OURS: summary([2.0]), "slow": summary([8.0]), "quick": summary([4.0]), "gone": None}


def test_ratio_is_ours_over_theirs():
    assert ratio(VALUES, "slow") == 0.25


@pytest.mark.parametrize("name", ["gone", "never heard of"])
def test_ratio_to_what_is_not_there_is_none(name):
    assert ratio(VALUES, name) is None


def test_fastest_looks_only_at_those_named_and_measured():
    assert fastest(VALUES, ["gone", "slow", "quick"]) == "quick"
    assert fastest(VALUES, ["gone"]) is None


@pytest.mark.parametrize(
    ("check", "is_met", "verdict"),
    [
        (at_most("x", 0.45, 0.45), True, "met"),
        (at_most("x", 0.9, 0.45), False, "falls short by 2.00 x"),
        (at_least("x", 0.8, 0.8), True, "met"),
        (at_least("x", 0.4, 0.8), False, "falls short by 2.00 x"),
        (at_least("x", 0.0, 1), False, "falls short"),
        (at_most("x", 1, 0), False, "falls short"),
        (at_most("x", None, 1), None, "not measured"),
    ],
)
def test_verdicts(check, is_met, verdict):
    assert check.is_met is is_met
    assert check.verdict == verdict


def test_a_check_reads_as_a_sentence():
    assert str(at_most("x redis-py", 0.333, 0.45)) == "0.333 x redis-py (at most 0.45): met"
    assert str(at_least("of it", None, 0.8)) == "of it (at least 0.8): not measured"


def test_render_has_a_column_per_contestant_and_a_line_per_remark():
    row = Row("get", "one CPU", "us", VALUES, [at_most("x slow", 0.25, 0.5)], ["a note"])
    lines = render([row], [OURS, "slow", "gone", "unasked"]).splitlines()
    assert lines[0].split() == [
        "work",
        "placed",
        "unit",
        OURS,
        "slow",
        "gone",
        "unasked",
        "others,",
        "ratios",
        "and",
        "targets",
    ]
    assert lines[2].split() == [
        "get",
        "one",
        "CPU",
        "us",
        "2",
        "±0%",
        "8",
        "±0%",
        "not",
        "measured",
        "-",
        "quick",
        "4",
        "±0%",
    ]
    assert [line.strip() for line in lines[3:]] == [
        "ratio 0.25 x slow, 0.5 x quick",
        "0.25 x slow (at most 0.5): met",
        "a note",
    ]


def test_a_row_without_remarks_is_one_line():
    assert len(render([Row("get", "", "us", {OURS: summary([1234.5])})], [OURS]).splitlines()) == 3


def test_json_carries_ratios_and_verdicts():
    row = Row("get", "one CPU", "us", VALUES, [at_most("x slow", 0.25, 0.2)])
    (found,) = json.loads(json.dumps(as_json([row])))
    assert found["values"][OURS]["median"] == 2.0
    assert found["values"]["gone"] is None
    assert found["ratios"] == {"slow": 0.25, "quick": 0.5, "gone": None}
    assert found["checks"][0]["verdict"] == "falls short by 1.25 x"
