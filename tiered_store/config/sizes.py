"""Sizes in bytes, as people write and read them. Standard library only, and quick to import."""

from __future__ import annotations

import re

__all__ = ["format_size", "parse_size"]

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)\s*([A-Za-z]*)\Z")
#: Files and databases count bytes with 63 bits.
_MAX_BYTES = 2**63 - 1
_MAX_DIGITS = 30
_SIZE_RULE = "must be a number of bytes or a text such as '64MB' (10^6) or '10GiB' (2^30)"
_TOO_MUCH = "must be less than 8 EiB (2^63): no file system counts further"


def parse_size(value: object) -> int:
    """Bytes from a whole number or a text with a unit.

    Raises:
        ValueError: if it is neither, negative, or more than the system can count.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{_SIZE_RULE}, not {value!r}")  # noqa: TRY004 - pydantic makes faults of ValueErrors only
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"{_SIZE_RULE}, and not negative")
        if value > _MAX_BYTES:
            raise ValueError(_TOO_MUCH)
        return value
    match = _SIZE.match(value.strip())
    if match is None or match.group(2).lower() not in _UNITS:
        raise ValueError(f"{_SIZE_RULE}, not {value!r}")
    number, factor = match.group(1).replace("_", ""), _UNITS[match.group(2).lower()]
    # Whole numbers stay whole: a float loses bytes above 2^53. One with more digits than any size (and, above
    # 4,300, than int() reads) is a float all the same, and may be infinite.
    is_whole = "." not in number and len(number) <= _MAX_DIGITS
    size = int(number) * factor if is_whole else float(number) * factor
    if size > _MAX_BYTES:
        raise ValueError(_TOO_MUCH)
    if size != int(size):
        raise ValueError(f"must come to a whole number of bytes, {value!r} does not")
    return int(size)


def format_size(size: int) -> str:
    """Bytes for a human: exact where a binary unit gives a short number, else decimal and rounded."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size % factor == 0 and 1 <= size // factor < 10_000:
            return f"{size // factor} {unit}"
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            text = f"{size / factor:.1f}".removesuffix(".0")
            return f"{text} {unit}"
    return f"{size} B"
