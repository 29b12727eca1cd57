"""A cache program without a process, and a daemon without one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.gocache import Go
from tiered_store.gocache.options import Options
from tiered_store.gocache.program import serve


class Served(Go):
    """A go command whose cache program runs in a thread of this process."""

    def __init__(self, options: Options, socket: str | None = "/none") -> None:
        self._code = -1
        stdin, sending = os.pipe()
        receiving, stdout = os.pipe()

        def run() -> None:
            self._code = serve(options, lambda: socket, stdin, stdout)
            os.close(stdin)

        self._thread = threading.Thread(target=run)
        self._thread.start()
        super().__init__(sending, receiving)

    def code(self) -> int:
        """The exit code, once the program has ended."""
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self._code


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """Of a program with a directory of its own, and no daemon."""
    options = Options()
    options.directory = f"{tmp_path}/go/default"
    return options


@pytest.fixture
def serving(options: Options) -> Iterator[Callable[[], Served]]:
    """Starts programs with these options."""
    started: list[Served] = []

    def start() -> Served:
        started.append(Served(options))
        return started[-1]

    yield start
    for go in started:
        go.abandon()
        go.code()
