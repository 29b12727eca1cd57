"""Keeps a test's changes to the process's logging to that test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tiered_store import logs

__all__ = ["logging_restored"]


@contextmanager
def logging_restored() -> Iterator[None]:
    """Start without handlers, and end with those that were there before."""
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    quieted = {name: logging.getLogger(name).level for name in logs._TALKATIVE}
    for handler in handlers:
        root.removeHandler(handler)
    try:
        yield
    finally:
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)
        for name, earlier in quieted.items():
            logging.getLogger(name).setLevel(earlier)
        logging.raiseExceptions = raises
