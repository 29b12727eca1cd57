from __future__ import annotations

import pytest
from click.shell_completion import get_completion_class

from tests.unit.cli.conftest import FakeClient
from tiered_store.cli.completion import BashLine
from tiered_store.cli.program import program

DIGEST = "ba78" + "0" * 60


@pytest.mark.parametrize(
    ("line", "before", "incomplete"),
    [
        ("tiered-store ", [], ""),
        ("tiered-store ge", [], "ge"),
        ("tiered-store get ", ["get"], ""),
        ("tiered-store get sha256:ba", ["get"], "sha256:ba"),
        ("tiered-store  artifact get sha256:", ["artifact", "get"], "sha256:"),
        ('tiered-store get "sha256:ba', ["get"], "sha256:ba"),
    ],
)
def test_the_last_word_of_the_line(
    monkeypatch: pytest.MonkeyPatch, line: str, before: list[str], incomplete: str
) -> None:
    monkeypatch.setenv("COMP_WORDS", line)
    found = BashLine(program, {}, "tiered-store", "_X")
    assert found.get_completion_args() == (before, incomplete)


def test_it_is_what_bash_gets() -> None:
    assert get_completion_class("bash") is BashLine


@pytest.mark.parametrize(
    ("incomplete", "expected"),
    [
        ("", [f"sha256:{DIGEST}"]),
        ("sha", [f"sha256:{DIGEST}"]),
        ("sha256:b", [f"sha256:{DIGEST}"]),
        ("ba7", [DIGEST]),
        ("c", []),
    ],
)
def test_artifacts_are_completed(store: type[FakeClient], incomplete: str, expected: list[str]) -> None:
    store().put(f"sha256:{DIGEST}", b"x")
    store().put("ba/other", b"x")
    found = BashLine(program, {}, "tiered-store", "_X").get_completions(["artifact", "get"], incomplete)
    assert [item.value for item in found] == expected
