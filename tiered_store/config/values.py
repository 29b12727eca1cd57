"""How the values of settings are written: paths, octal modes, ids, durations (sizes: see ``sizes``).

Each parser takes what TOML or a text from the environment gives and raises ``ValueError`` with a
sentence that names what would be accepted. Durations are seconds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from tiered_store.config.sizes import parse_size

__all__ = [
    "AbsolutePath",
    "ByteSize",
    "Ids",
    "Instance",
    "Mode",
    "OptionalPath",
    "Seconds",
    "parse_ids",
    "parse_instance",
    "parse_mode",
    "parse_optional_path",
    "parse_path",
]

_MODE = re.compile(r"0?[0-7]{3}\Z")
#: The name of a build cache's instance (build/entry.py), with room for what a door puts behind it.
_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,59}\Z")


def parse_path(value: object) -> Path:
    """An absolute path; a ``~`` at the start is the home directory.

    Raises:
        ValueError: if it is no text, empty or relative.
    """
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"must be a path as text, not {value!r}")
    if "\0" in value:
        raise ValueError("must not contain a NUL character")
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"names a home directory that cannot be found: {value!r}; write the path in full") from None
    if not path.is_absolute():
        raise ValueError(f"must be an absolute path, {value!r} is relative; start it with '/' or '~'")
    return path


def parse_optional_path(value: object) -> Path | None:
    """As :func:`parse_path`; an empty text is none. Raises ValueError."""
    return None if value is None or value == "" else parse_path(value)


def parse_mode(value: object) -> int:
    """Permission bits of the socket from an octal text such as ``"0660"``.

    Raises:
        ValueError: if it is not octal, or leaves the daemon's own user without access.
    """
    if not isinstance(value, str) or not _MODE.match(value):
        raise ValueError(f"must be an octal text such as '0660', in quotes, not {value!r}")
    mode = int(value, 8)
    if mode & 0o600 != 0o600:
        raise ValueError(f"must let the owner read and write (such as '0600'), {value!r} does not")
    return mode


def parse_instance(value: object) -> object:
    """The name of a build cache's instance.

    Raises:
        ValueError: if it cannot be a part of a key.
    """
    if isinstance(value, str) and not _INSTANCE.match(value):
        raise ValueError(f"must be 1 to 60 of A-Z a-z 0-9 . _ -, a letter or digit first, not {value[:80]!r}")
    return value


def parse_ids(value: object) -> tuple[int, ...]:
    """A list of numeric user or group ids.

    Raises:
        ValueError: if it is no list, or an element is no id.
    """
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be a list of numeric ids such as [0, 1000], not {value!r}")  # noqa: TRY004 - pydantic makes faults of ValueErrors only
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < 2**32:
            raise ValueError(f"must be a list of numeric ids such as [0, 1000], {item!r} is none")
    return tuple(value)


ByteSize = Annotated[int, BeforeValidator(parse_size)]
AbsolutePath = Annotated[Path, BeforeValidator(parse_path)]
OptionalPath = Annotated[Path | None, BeforeValidator(parse_optional_path)]
Instance = Annotated[str, BeforeValidator(parse_instance)]
Mode = Annotated[int, BeforeValidator(parse_mode)]
Ids = Annotated[tuple[int, ...], BeforeValidator(parse_ids)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
