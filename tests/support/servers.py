"""Servers of other people's that tests start: where they listen, when they do, and what ends them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import CDLL
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.processes import until

__all__ = ["free_port", "is_missing", "kept_port", "started"]

_START_TIMEOUT_S = 20.0
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with kept_port() as port:
        return port


@contextmanager
def kept_port() -> Iterator[int]:
    """A port that refuses, which nobody else is given, and on which a server can be started."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def started(
    command: Sequence[str], port: int, log: Path, *, at_our_end: signal.Signals = signal.SIGKILL
) -> subprocess.Popen[bytes]:
    """Start a server, and return when it listens on ``port``; it gets a signal when this process ends."""

    def end_with_us() -> None:
        CDLL(None).prctl(_PR_SET_PDEATHSIG, at_our_end)

    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, preexec_fn=end_with_us)  # noqa: PLW1509 - one call

    def is_decided() -> bool:
        with socket.socket() as attempt:
            return process.poll() is not None or attempt.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(is_decided, f"{command[0]} listens", limit_s=_START_TIMEOUT_S)
        assert process.poll() is None, f"{command[0]} has ended: {log.read_text()[-500:]}"
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def is_missing(text: str) -> NoReturn:
    """A tool is not there: that may be so on a user's machine, and must not be on a build server."""
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)
