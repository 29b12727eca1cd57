from __future__ import annotations

from pathlib import Path

import pytest

from tiered_store.config.values import parse_ids, parse_mode, parse_path


def test_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_path("/a/b") == Path("/a/b")
    assert parse_path(Path("/a")) == Path("/a")
    assert parse_path("~/data") == Path("/home/someone/data")


@pytest.mark.parametrize(
    ("written", "rule"),
    [
        ("a/b", "is relative"),
        ("", "must be a path"),
        ("  ", "must be a path"),
        (5, "must be a path"),
        ("/a\0b", "NUL"),
        ("~nobody-has-this-name/x", "home directory"),
    ],
)
def test_what_is_no_path(written: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parse_path(written)


@pytest.mark.parametrize(("written", "mode"), [("0660", 0o660), ("600", 0o600), ("0777", 0o777)])
def test_modes(written: str, mode: int) -> None:
    assert parse_mode(written) == mode


@pytest.mark.parametrize("written", [660, 0o660, "0o660", "668", "1777", "", "66", None])
def test_what_is_no_mode(written: object) -> None:
    with pytest.raises(ValueError, match="octal text"):
        parse_mode(written)


@pytest.mark.parametrize("written", ["0060", "0400", "000"])
def test_a_mode_must_leave_the_owner_access(written: str) -> None:
    with pytest.raises(ValueError, match="owner"):
        parse_mode(written)


def test_ids() -> None:
    assert parse_ids([0, 1000]) == (0, 1000)
    assert parse_ids(()) == ()


@pytest.mark.parametrize("written", [5, "5", [-1], [2**32], ["root"], [True], {"a": 1}])
def test_what_are_no_ids(written: object) -> None:
    with pytest.raises(ValueError, match="list of numeric ids"):
        parse_ids(written)
