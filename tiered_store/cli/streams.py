"""Standard input and output as a command finds them: perhaps closed, non-blocking, or full.

Python's own give up on a pipe that is non-blocking, and unbuffered (``PYTHONUNBUFFERED``) they do not look how much of
a piece was taken. What is written here is written, or is an error that names the stream.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import IO, BinaryIO, TextIO

__all__ = ["STDOUT", "StreamClosed", "discard_output", "patient_streams", "standard_input", "standard_output"]

STDIN = "standard input"
STDOUT = "standard output"


class StreamClosed(Exception):
    """A command was started without the stream it is to work with."""


class _Patient(io.FileIO):
    """A descriptor that is waited for where it says "not now", whoever made it non-blocking."""

    def __init__(self, fd: int, mode: str, label: str) -> None:
        super().__init__(fd, mode, closefd=False)
        self._label = label

    def write(self, data: object, /) -> int:
        """Write what fits, at least something."""
        while True:
            try:
                count: int | None = super().write(data)  # type: ignore[arg-type]
            except OSError as error:
                raise OSError(error.errno, error.strerror, self._label) from None
            if count is not None:
                return count
            select.select([], [self], [])

    def readinto(self, buffer: object, /) -> int:
        """Read what is there, at least something before the end."""
        while True:
            try:
                count: int | None = super().readinto(buffer)  # type: ignore[arg-type]
            except OSError as error:
                raise OSError(error.errno, error.strerror, self._label) from None
            if count is not None:
                return count
            select.select([self], [], [])


def patient_streams() -> None:
    """Put such streams in the place of this process's own; one that is closed stays None."""
    if sys.stdin is not None:
        source = io.BufferedReader(_Patient(sys.stdin.fileno(), "rb", STDIN))
        sys.stdin = _text(source, sys.stdin)
    if sys.stdout is not None:
        target = io.BufferedWriter(_Patient(sys.stdout.fileno(), "wb", STDOUT))
        sys.stdout = _text(target, sys.stdout)


def _text(buffer: IO[bytes], like: TextIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(buffer, like.encoding, like.errors, line_buffering=bool(like.line_buffering))


def standard_input() -> BinaryIO:
    """The bytes of standard input.

    Raises:
        StreamClosed: there is none.
    """
    if sys.stdin is None:
        raise StreamClosed(f"{STDIN} is closed")
    return sys.stdin.buffer


def standard_output() -> BinaryIO:
    """Where to write bytes for standard output.

    Raises:
        StreamClosed: there is none.
    """
    if sys.stdout is None:
        raise StreamClosed(f"{STDOUT} is closed")
    return sys.stdout.buffer


def discard_output() -> None:
    """After an error of standard output: what Python still buffers must not be tried again at the exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
