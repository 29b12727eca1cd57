"""What moving a tree consists of, written once for both clients.

A *job* is a generator that touches no socket: it yields steps (ask the store something, or do blocking work on
files), is sent their results, and returns its own. A *plan* gives jobs, one after the other, and takes their results in
the same order. The driver (``driver.py``) runs several jobs at a time, so that work on files and waiting for the
daemon overlap; ``AT_ONCE`` bounds memory and descriptors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from tiered_store.client.targets import OpenTarget

__all__ = [
    "AT_ONCE",
    "BATCH_DIRECTORIES",
    "BATCH_FILES",
    "Exists",
    "GetInto",
    "GetMany",
    "Job",
    "Plan",
    "PutFile",
    "PutMany",
    "Step",
    "Stop",
    "Stopped",
    "Work",
]

R = TypeVar("R")

#: Jobs under way: two keep one processor busy while another waits for the daemon, more hide the latency of an origin.
AT_ONCE: Final = 4
#: In one job: many enough that a round trip does not matter, few enough that a slow origin has them in time.
BATCH_FILES: Final = 256
#: Directories that one job of a restore holds open: with all jobs under way far below the usual limit of 1,024.
BATCH_DIRECTORIES: Final = 64


class Work(NamedTuple):
    """Blocking work on files.

    Attributes:
        run: does it.
        is_short: it is many small system calls, and over in some milliseconds where these do not wait: cheaper done
            than given to another thread.
    """

    run: Callable[[], Any]
    is_short: bool = False


class Exists(NamedTuple):
    """Which of these keys exist: a dict."""

    keys: list[str]


class PutMany(NamedTuple):
    """Store small objects: a dict of what was stored."""

    items: dict[str, bytes]


class PutFile(NamedTuple):
    """Store a file."""

    key: str
    path: bytes


class GetMany(NamedTuple):
    """Read small objects: a dict of those that are there."""

    keys: list[str]


class GetInto(NamedTuple):
    """Read a large object into a file that is open."""

    key: str
    target: OpenTarget


Step: TypeAlias = "Work | Exists | PutMany | PutFile | GetMany | GetInto"
Job: TypeAlias = Generator[Step, Any, R]


class Plan(Protocol[R]):
    """What is to be done, and what becomes of it.

    ``jobs`` may block, and is advanced by one thread at a time, as ``take`` is called: in the order of the jobs.
    """

    def jobs(self) -> Iterator[Job[R]]:
        """The jobs, made as they are asked for."""

    def take(self, result: R) -> None:
        """The result of the next job."""


class Stopped(Exception):
    """Work that was begun is not wanted any more."""


class Stop:
    """Tells work in other threads to end: it looks here between pieces."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """From now on :meth:`check` raises."""
        self._event.set()

    def check(self) -> None:
        """Raises Stopped: nobody wants the result."""
        if self._event.is_set():
            raise Stopped
