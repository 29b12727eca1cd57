"""How results look: JSON for scripts, tables and progress bars for people.

Results go to standard output, everything about them to standard error, so that a pipe gets only results.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import Any, TypeAlias

import click

from tiered_store.objects import ObjectInfo

__all__ = ["BAR_MIN_BYTES", "Progress", "as_json", "progress_of", "table", "warn", "write_json"]

#: Called with the bytes moved so far and the total, or None where that is not known.
Progress: TypeAlias = Callable[[int, int | None], None]

#: Shorter transfers are over before a bar could be read.
BAR_MIN_BYTES = 16 * 1024 * 1024


def as_json(info: ObjectInfo) -> dict[str, object]:
    """An object's information as JSON can hold it; the time in ISO 8601."""
    return {
        "key": info.key,
        "size": info.size,
        "etag": info.etag,
        "content_type": info.content_type,
        "metadata": info.metadata,
        "modified": info.modified.astimezone(UTC).isoformat().replace("+00:00", "Z"),
    }


def write_json(value: object) -> None:
    """One JSON document on one line."""
    click.echo(json.dumps(value, ensure_ascii=False))


def warn(message: str) -> None:
    """A line for the person at the terminal. A name in it stays in it: runners of CIs obey lines like ``::error::``."""
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in message)
    click.echo(f"tiered-store: {line}", err=True)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


@contextmanager
def progress_of(label: str) -> Iterator[Progress | None]:
    """A function to report a transfer to, which draws a bar; None where nobody would see one.

    The bar appears with the first report of a transfer that is long, or of unknown length.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    bar: Any = None  # click keeps the class of its bars to itself

    def report(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            if (done if total is None else total) < BAR_MIN_BYTES:
                return
            bar = click.progressbar(length=total or 0, label=label, file=sys.stderr)
            bar.__enter__()
        bar.update(done - bar.pos)

    try:
        yield report
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)
