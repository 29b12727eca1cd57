from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields

from click.testing import Result

from tests.unit.cli.conftest import FakeClient
from tiered_store.stats import OriginStats

Run = Callable[..., Result]


def test_stats_for_people(run: Run) -> None:
    lines = run("stats").stdout.splitlines()
    assert lines[0].split() == ["hits", "misses", "errors", "entries", "evictions", "bytes", "max_bytes"]
    assert lines[1].split() == ["memory", "3", "1", "0", "2", "-", "64", "MB", "64", "MiB"]
    assert lines[4].split() == ["hits", "misses", "errors", "not_modified", "puts", "bytes_read", "bytes_written"]
    assert lines[5].split() == ["origin", "1", "-", "-", "-", "7", "1", "MiB", "-"]
    assert [lines[3], lines[6]] == ["", ""]
    assert lines[7].split()[:2] == ["retries", "retries_refused"]
    assert lines[8].split() == ["origin", *["-"] * 7]
    assert lines[9] == ""
    assert [line.split() for line in lines[10:]] == [["fills", "4"], ["uptime_s", "1.2"], ["rss_bytes", "1", "MiB"]]


def test_stats_for_scripts(run: Run) -> None:
    assert json.loads(run("stats", "--json").stdout)["memory"]["hits"] == 3


def test_ping(run: Run, store: type[FakeClient]) -> None:
    assert run("ping").stdout == "/default.sock answers in 0.12 ms\n"
    assert json.loads(run("ping", "--json").stdout) == {"socket": "/default.sock", "round_trip_us": 123.0}


def test_every_number_of_the_origin_is_shown(run: Run) -> None:
    lines = run("stats").stdout.splitlines()
    assert {*lines[4].split(), *lines[7].split()} == {field.name for field in fields(OriginStats)}
