from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields

import pytest
from click.testing import Result

from tests.unit.cli.conftest import FakeClient
from tiered_store.errors import DeadlineExceeded
from tiered_store.stats import CdnStats, DialectStats, DoorStats, OriginStats, WriteBackStats

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


def test_flush(run: Run, store: type[FakeClient]) -> None:
    assert run("flush").stdout == "no put was waiting\n"
    run("put", "a", "-", stdin=b"1")
    assert run("flush").stdout == "1 waiting put is done, after 0.0 s\n"
    run("put", "b", "-", stdin=b"1")
    assert run("flush", "--timeout", "2.5").stdout == "2 waiting puts are done, after 0.0 s\n"
    assert json.loads(run("--timeout", "7", "flush", "--json").stdout)["puts"] == 2
    assert store.flushes == [None, None, 2.5, 7.0]
    assert run("flush", "--timeout", "0").exit_code == 2
    store.fails = DeadlineExceeded("after 2.5 s 2 puts (10 bytes) are not uploaded yet")
    found = run("flush")
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr == "tiered-store: after 2.5 s 2 puts (10 bytes) are not uploaded yet\n"


def test_what_waits_is_shown_where_there_is_any(run: Run, store: type[FakeClient], monkeypatch) -> None:
    numbers = asdict(WriteBackStats(max_bytes=2**20))
    monkeypatch.setattr(store, "stats", lambda self: {"write_back": numbers, "fills": 4})
    assert "write_back" not in run("stats").stdout
    numbers |= {"entries": 3, "bytes": 2**20, "last_error": "the origin is down"}
    shown = dict(line.split(maxsplit=1) for line in run("stats").stdout.splitlines() if " " in line)
    assert {name: shown[name] for name in ("entries", "bytes", "last_error")} == {
        "entries": "3",
        "bytes": "1 MiB",
        "last_error": "the origin is down",
    }
    assert {field.name for field in fields(WriteBackStats)} <= shown.keys() | {"write_back"}


def test_the_dialects_of_the_build_cache_that_were_used_are_shown(
    run: Run, store: type[FakeClient], monkeypatch
) -> None:
    numbers = {"turbo": asdict(DialectStats(misses=2)), "ccache": asdict(DialectStats(hits=7, puts=1))}
    monkeypatch.setattr(store, "stats", lambda self: {"build": numbers})
    shown = [line.split() for line in run("stats").stdout.splitlines() if line]
    at = shown.index(["build", "cache", *(field.name for field in fields(DialectStats))])
    assert shown[at + 1 : at + 3] == [["ccache", "7", "0", "0", "0", "1", "0"], ["turbo", "0", "2", "0", "0", "0", "0"]]


def test_the_sockets_for_build_tools_are_shown(run: Run, store: type[FakeClient], monkeypatch) -> None:
    monkeypatch.setattr(store, "stats", lambda self: {"doors": {"resp": asdict(DoorStats(connections=7, malformed=1))}})
    lines = [line.split() for line in run("stats").stdout.splitlines()]
    assert ["resp", "7", "0", "0", "1"] in lines
    (columns,) = [line for line in lines if line[:1] == ["sockets"]]
    assert set(columns[1:]) == {field.name for field in fields(DoorStats)}
