from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields

import pytest
from click.testing import Result

from tests.unit.cli.conftest import FakeClient
from tiered_store.stats import CdnStats, OriginStats

Run = Callable[..., Result]


def test_stats_for_people(run: Run) -> None:
    lines = run("stats").stdout.splitlines()
    assert lines[0].split() == ["hits", "misses", "errors", "entries", "evictions", "bytes", "max_bytes"]
    assert lines[1].split() == ["memory", "3", "1", "0", "2", "-", "64", "MB", "64", "MiB"]
    assert lines[4].split()[:6] == ["hits", "misses", "errors", "skipped", "bytes_read", "lies"]
    assert lines[5].split() == ["cdn", "2", "-", "-", "-", "1", "MiB", "1", "-", "True", "-", "-"]
    assert lines[7].split() == ["hits", "misses", "errors", "not_modified", "puts", "bytes_read", "bytes_written"]
    assert lines[8].split() == ["origin", "1", "-", "-", "-", "7", "1", "MiB", "-"]
    assert lines[10].split()[:2] == ["retries", "retries_refused"]
    assert lines[11].split() == ["origin", *["-"] * 7]
    assert [lines[3], lines[6], lines[9], lines[12]] == [""] * 4
    assert [line.split() for line in lines[13:]] == [["fills", "4"], ["uptime_s", "1.2"], ["rss_bytes", "1", "MiB"]]


def test_stats_for_scripts(run: Run) -> None:
    assert json.loads(run("stats", "--json").stdout)["memory"]["hits"] == 3


def test_ping(run: Run, store: type[FakeClient]) -> None:
    assert run("ping").stdout == "/default.sock answers in 0.12 ms\n"
    assert json.loads(run("ping", "--json").stdout) == {"socket": "/default.sock", "round_trip_us": 123.0}


@pytest.mark.parametrize(("numbers", "counters"), [([4], CdnStats), ([7, 10], OriginStats)])
def test_every_number_of_the_cdn_and_of_the_origin_is_shown(run: Run, numbers: list[int], counters: type) -> None:
    lines = run("stats").stdout.splitlines()
    assert {name for number in numbers for name in lines[number].split()} == {field.name for field in fields(counters)}
