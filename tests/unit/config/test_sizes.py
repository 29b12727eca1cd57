from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_store.config.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0),
        (64_000_000, 64_000_000),
        ("64000000", 64_000_000),
        ("64_000_000", 64_000_000),
        ("64MB", 64_000_000),
        ("64 mb", 64_000_000),
        (" 10GiB ", 10 * 2**30),
        ("1.5KiB", 1536),
        ("7B", 7),
        ("1tib", 2**40),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_sizes(written: int | str, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize(
    "written", ["", "64XB", "MB", "-1", "1.0001KB ", "0x10", "1e6", "1 2", "٣MB", 1.5, True, None, [1]]
)
def test_what_is_no_size(written: object) -> None:
    if written == "1.0001KB ":  # 1000.1 bytes
        with pytest.raises(ValueError, match="whole number of bytes"):
            parse_size(written)
    else:
        with pytest.raises(ValueError, match="must be a number of bytes or a text such as '64MB'"):
            parse_size(written)


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="not negative"):
        parse_size(-1)


@pytest.mark.parametrize("written", [2**63, 10**400, str(2**63), "9" * 5000, "9" * 400 + ".5MB", "8388608 TiB"])
def test_more_than_can_be_counted_is_refused(written: int | str) -> None:
    with pytest.raises(ValueError, match="must be less than 8 EiB"):
        parse_size(written)


def test_the_largest_size() -> None:
    assert parse_size(2**63 - 1) == parse_size(str(2**63 - 1)) == 2**63 - 1


@given(st.integers(min_value=0, max_value=2**60))
def test_whole_sizes_are_exact(size: int) -> None:
    assert parse_size(f"{size} B") == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (64_000_000, "64 MB"),
        (2**20, "1 MiB"),
        (10 * 2**30, "10 GiB"),
        (1_234_567_890, "1.2 GB"),
    ],
)
def test_sizes_for_humans(size: int, text: str) -> None:
    assert format_size(size) == text
