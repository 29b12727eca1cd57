"""What is wrong with a configuration: one value per fault, all of them reported at once.

Knows no setting by name. The invariant: a fault says where the value came from, which setting it is,
what is wrong and what to do, and fits on one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["ConfigError", "Fault", "nearest"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        source: the file, environment variable or flag that the value came from, or ``"default"``.
        setting: ``section.name``; empty where the fault is about the source as a whole.
        message: what is wrong and what to do.
    """

    source: str
    setting: str
    message: str

    def __str__(self) -> str:
        parts = (self.source, self.setting, self.message)
        return ": ".join(" ".join(part.split()) for part in parts if part)


class ConfigError(Exception):
    """A configuration that cannot be used.

    Attributes:
        faults: every fault found, in the order of the sources.
    """

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the known name that is most like ``name``, ready to stand after a semicolon, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name.lower(), [known.lower() for known in names], n=1, cutoff=0.6)
    if close:
        return "did you mean " + next(repr(known) for known in names if known.lower() == close[0]) + "?"
    return "known are " + ", ".join(names)
