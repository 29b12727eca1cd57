"""What every command shares: the daemon's address, a client, and exit codes.

Exit codes: 0 done, 1 the store said no, 2 wrong usage, 3 no daemon, 130 interrupted, 129 and 143 hung up and
terminated, 141 the reader of a pipe has gone. A refusal is one line on standard error and nothing on standard output.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from tiered_store.cli.streams import STDOUT, StreamClosed, discard_output
from tiered_store.client.sync import Client
from tiered_store.errors import DaemonUnavailable, IntegrityError, StoreError

__all__ = [
    "NO_DAEMON",
    "REFUSED",
    "USAGE",
    "Program",
    "Refusal",
    "configured_socket",
    "connect",
    "endings",
    "socket_of",
]

REFUSED = 1
USAGE = 2
NO_DAEMON = 3
_TIMEOUT_S = 30.0
_INTERRUPTED = 128 + 2  # as shells report SIGINT
_PIPE_CLOSED = 128 + 13  # and SIGPIPE


class Refusal(click.ClickException):
    """An answer that is no success, as one line."""

    exit_code = REFUSED

    def __init__(self, error: Exception) -> None:
        super().__init__(" ".join(_said(error).split()))

    def show(self, file: Any = None) -> None:
        """Write the line."""
        click.echo(f"tiered-store: {self.message}", file=file, err=True)


class NoDaemon(Refusal):
    """Nobody answers."""

    exit_code = NO_DAEMON


class Misuse(Refusal):
    """What was asked for cannot be meant."""

    exit_code = USAGE


def _said(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        return f"{name}: {error.strerror}"
    if isinstance(error, IntegrityError) and error.expected and error.actual:
        return f"{error}: expected {error.expected}, found {error.actual}"
    return str(error)


class Program(click.Group):
    """The root command: turns every error that a user can meet into its line and exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order they were added, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()  # at the exit of the interpreter an error could only be a traceback
            return result
        except DaemonUnavailable as error:
            raise NoDaemon(error) from error
        except KeyboardInterrupt:
            ctx.exit(_INTERRUPTED)
        except StreamClosed as error:
            raise Misuse(error) from error
        except (StoreError, OSError) as error:
            if isinstance(error, OSError) and error.filename == STDOUT:
                discard_output()
                if isinstance(error, BrokenPipeError):  # the reader has what it wanted
                    ctx.exit(_PIPE_CLOSED)
            raise Refusal(error) from error


def socket_of(context: click.Context) -> str | None:
    """The socket that ``--socket``, the environment or the configuration names; None leaves it to the client."""
    given: str | None = context.find_root().params.get("socket")
    return given or configured_socket()


def configured_socket() -> str | None:
    """The socket that the daemon's own configuration names, if this environment points at one; as it is written.

    Read here without the configuration's models, whose import would cost more than the whole command.
    """
    if os.environ.get("TIERED_STORE_SOCKET"):
        return None  # the client looks there itself
    named = os.environ.get("TIERED_STORE_SERVER__SOCKET")
    file = os.environ.get("TIERED_STORE_CONFIG")
    if named or not file:
        return named or None
    import tomllib

    try:
        with open(file, "rb") as stream:  # noqa: PTH123 - pathlib costs an import of 5 ms
            path = tomllib.load(stream).get("server", {}).get("socket")
    except (OSError, ValueError, AttributeError) as error:
        raise click.UsageError(f"$TIERED_STORE_CONFIG names {file}, which cannot be read: {error}") from error
    return path if isinstance(path, str) else None


@contextmanager
def connect(context: click.Context, *, is_long: bool = False) -> Iterator[Client]:
    """A client of the daemon, closed at the end.

    Args:
        context: of the command.
        is_long: whether the daemon's work grows with the data (a copy, a put), so that no time can be said
            within which an answer is due; ``--timeout`` still can.

    Raises:
        DaemonUnavailable: nobody answers.
    """
    asked: float | None = context.find_root().params.get("timeout")
    try:
        client = Client(socket_of(context), timeout_s=asked or (None if is_long else _TIMEOUT_S))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with _orderly_end(), client:
        yield client


def endings() -> list[signal.Signals]:
    """The signals that would end this process; what somebody else has decided about one (``nohup``) stays."""
    return [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Have a signal that ends the process unwind it: a file that is half written is removed."""
    ours = endings()

    def end(number: int, _frame: object) -> None:
        for each in ours:
            signal.signal(each, signal.SIG_IGN)  # the end is under way, and short
        sys.exit(128 + number)

    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
