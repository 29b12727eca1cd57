"""Preconditions."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from tiered_store.objects import ObjectInfo
from tiered_store.servers.http.conditions import range_holds, read_status, write_condition
from tiered_store.servers.http.problems import Refusal

AT = 1_700_000_000
INFO = ObjectInfo("a", 5, "v1", modified_ns=AT * 10**9 + 5)
BEFORE, THEN, AFTER = (formatdate(AT + seconds, usegmt=True) for seconds in (-1, 0, 1))


def fields(*pairs: tuple[str, str]) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict(pairs))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([], 200),
        ([("If-None-Match", '"v1"')], 304),
        ([("If-None-Match", 'W/"v1"')], 304),
        ([("If-None-Match", '"x", "v1"')], 304),
        ([("If-None-Match", '"x"'), ("If-None-Match", '"v1"')], 304),
        ([("If-None-Match", ', "x",, "v1" ,')], 304),
        ([("If-None-Match", "*")], 304),
        ([("If-None-Match", '"v2"')], 200),
        ([("If-None-Match", '"v2"'), ("If-Modified-Since", AFTER)], 200),
        ([("If-Modified-Since", THEN)], 304),
        ([("If-Modified-Since", BEFORE)], 200),
        ([("If-Modified-Since", "nonsense")], 200),
        ([("If-Match", '"v1"')], 200),
        ([("If-Match", 'W/"v1"')], 412),
        ([("If-Match", "*")], 200),
        ([("If-Match", '"v2"')], 412),
        ([("If-Match", '"v2"'), ("If-None-Match", '"v1"')], 412),
        ([("If-Match", '"v1"'), ("If-Unmodified-Since", BEFORE)], 200),
        ([("If-Unmodified-Since", BEFORE)], 412),
        ([("If-Unmodified-Since", THEN)], 200),
    ],
)
def test_reads(headers: list[tuple[str, str]], status: int) -> None:
    assert read_status(fields(*headers), INFO) == status


@pytest.mark.parametrize("text", ["v1", '"v1', '"a" "b"', "", ","])
def test_tags_that_are_none(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_status(fields(("If-None-Match", text)), INFO)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("text", "holds"),
    [(None, True), ('"v1"', True), ('W/"v1"', False), ('"v2"', False), (THEN, False), (BEFORE, False)],
)
def test_ranges_count_while_the_object_is_the_same(text: str | None, holds: bool) -> None:
    assert range_holds(fields(*([("If-Range", text)] if text else [])), INFO) is holds


@pytest.mark.parametrize(
    ("headers", "there", "absent"),
    [
        ([("If-None-Match", "*")], False, True),
        ([("If-None-Match", '"v1"')], False, True),
        ([("If-None-Match", '"v2"')], True, True),
        ([("If-Match", "*")], True, False),
        ([("If-Match", '"v1"')], True, False),
        ([("If-Match", '"v2"')], False, False),
        ([("If-Match", "*"), ("If-None-Match", '"v1"')], False, False),
    ],
)
def test_writes(headers: list[tuple[str, str]], there: bool, absent: bool) -> None:
    condition = write_condition(fields(*headers))
    assert condition is not None
    assert (condition(INFO), condition(None)) == (there, absent)


def test_a_write_without_conditions() -> None:
    assert write_condition(fields(("If-Range", "x"))) is None


def test_a_time_is_no_condition_for_a_write() -> None:
    with pytest.raises(Refusal) as refused:
        write_condition(fields(("If-Unmodified-Since", THEN), ("If-None-Match", '"v2"')))
    assert refused.value.status == 501


@pytest.mark.parametrize(
    "headers",
    [
        [("If-Modified-Since", THEN)],
        [("If-Unmodified-Since", "nonsense")],
        [("If-Match", '"v1"'), ("If-Unmodified-Since", BEFORE)],
    ],
)
def test_times_that_do_not_count_for_a_write(headers: list[tuple[str, str]]) -> None:
    condition = write_condition(fields(*headers))
    assert condition is None or condition(INFO)
