"""What the program can be told, and how little of it needs the command line proper."""

from __future__ import annotations

from typing import Any

import pytest

from tiered_store.gocache.options import OPTIONS, options_of, read


def test_the_defaults() -> None:
    options = options_of({}, {"HOME": "/home/x"})
    assert options.directory.endswith("/.cache/tiered_store/go/default")
    assert (options.socket, options.max_bytes, options.max_age_s) == (None, 8 * 2**30, 5 * 86400)
    assert (options.deadline_s, options.drain_s, options.is_read_only, options.is_verbose) == (5.0, 10.0, False, False)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], {}),
        (["--dir", "/x", "--read-only"], {"dir": "/x", "read-only": True}),
        (["--dir=/x=y", "--socket=/s"], {"dir": "/x=y", "socket": "/s"}),
        (["--dir", "--read-only"], {"dir": "--read-only"}),
        (["--help"], None),
        (["--dir"], None),
        (["--read-only=1"], None),
        (["--colour", "red"], None),
        (["go"], None),
    ],
)
def test_simple_command_lines_are_read_here(arguments: list[str], given: dict[str, Any] | None) -> None:
    assert read(arguments) == given


def test_the_command_line_wins_over_the_environment() -> None:
    environment = {option.variable: "3" for option in OPTIONS if option.variable and option.metavar}
    environment |= {"TIERED_STORE_GO_READ_ONLY": "yes", "TIERED_STORE_GO_VERBOSE": "0", "XDG_CACHE_HOME": "/c"}
    options = options_of({"instance": "ci", "dir": None, "read-only": False}, environment)
    assert options.directory.endswith("/3/ci")
    assert (options.instance, options.max_bytes, options.max_age_s) == ("ci", 3, 3 * 86400)
    assert (options.deadline_s, options.drain_s, options.is_read_only, options.is_verbose) == (3.0, 3.0, True, False)


@pytest.mark.parametrize(("cache", "directory"), [("/c", "/c/tiered_store/go/default"), ("c", None)])
def test_a_cache_directory_that_is_relative_is_ignored(cache: str, directory: str | None) -> None:
    found = options_of({}, {"XDG_CACHE_HOME": cache}).directory
    assert found == directory or (directory is None and found.endswith("/.cache/tiered_store/go/default"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("instance", "a/b"),
        ("instance", ".."),
        ("instance", "\u00e4"),
        ("instance", "x" * 65),
        ("max-size", "3XB"),
        ("max-age", "-1"),
        ("max-age", "nan"),
        ("deadline", "0"),
        ("deadline", "soon"),
        ("drain", "1e9"),
    ],
)
def test_what_cannot_be_meant_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        options_of({name: value}, {})


def test_a_switch_of_the_environment_is_a_boolean() -> None:
    with pytest.raises(ValueError, match=r"^read-only: must be 1 or 0, not 'maybe'"):
        options_of({}, {"TIERED_STORE_GO_READ_ONLY": "maybe"})
