from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from tests.unit.cli.conftest import FakeClient
from tiered_store.cli import bench

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_ROUNDS", ((1024, 3, 2), (2 * 2**20, 3, 2)))


def test_the_table(run: Run, store: type[FakeClient]) -> None:
    result = run("bench")
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["operation", "size", "count", "p50", "us", "p99", "us", "MB/s"]
    assert [(row[0], row[1], row[3]) for row in rows[1:]] == [
        ("put", "1", "2"),
        ("get", "1", "3"),
        ("get_view", "1", "3"),
        ("put", "2", "2"),
        ("get", "2", "3"),
        ("get_view", "2", "3"),
    ]


def test_json(run: Run, store: type[FakeClient]) -> None:
    found = json.loads(run("bench", "--json").stdout)
    assert [(row["operation"], row["size"]) for row in found][:2] == [("put", 1024), ("get", 1024)]


def test_nothing_is_left_behind_even_after_a_fault(
    run: Run, store: type[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    store().put("mine", b"x")

    def fail(*_: object) -> None:
        raise OSError("midway")

    monkeypatch.setattr(store, "get_view", fail)
    assert run("bench").exit_code == 1
    assert list(store.objects) == ["mine"]
