"""Objects on their way between the daemon and files, standard input or standard output."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import click

from tiered_store.cli.output import BAR_MIN_BYTES, Progress, progress_of
from tiered_store.cli.session import connect
from tiered_store.cli.streams import standard_input, standard_output

__all__ = ["source_of", "write_object"]


@contextmanager
def source_of(file: str) -> Iterator[tuple[str | BinaryIO, Progress | None]]:
    """What to hand to the client for a file named on the command line, and whom to tell about the progress.

    A path travels as a descriptor that the daemon copies from, about which nobody can report. Where a
    person watches, a long file is therefore streamed instead: somewhat slower, and with a bar.
    """
    with progress_of(file) as progress:
        if file == "-":
            yield standard_input(), progress
            return
        size = os.stat(file).st_size  # noqa: PTH116 - pathlib costs an import of 5 ms
        if progress is None or size < BAR_MIN_BYTES:
            yield file, None
            return
        with open(file, "rb") as stream:  # noqa: PTH123 - as above
            yield stream, lambda done, _total: progress(done, size)


def write_object(context: click.Context, key: str, output: str | None) -> None:
    """Write an object to a file, or in pieces, as they arrive, to standard output.

    Raises:
        BrokenPipeError: the reader of standard output has gone.
        StreamClosed: there is no standard output.
    """
    with connect(context) as client, progress_of(key) as progress:
        if output is not None and output != "-":
            client.get_file(key, output, progress=progress)
            return
        stream = standard_output()
        client.get_into(key, stream.write, progress=progress)
        stream.flush()
