"""Commands on artifacts: objects named by the sha256 of their bytes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import click
from click.shell_completion import CompletionItem

from tiered_store.cli.keys import as_json_option, complete_key
from tiered_store.cli.output import warn, write_json
from tiered_store.cli.session import connect
from tiered_store.cli.transfer import source_of, write_object

__all__ = ["artifact"]

_ARTIFACT = re.compile(r"(?:sha256:)?([0-9a-f]{64})\Z")


_PREFIX = "sha256:"


def _complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The first artifacts that start like this, with or without the name of the digest as it was begun."""
    if _PREFIX.startswith(incomplete) or incomplete.startswith(_PREFIX):
        return complete_key(context, parameter, incomplete if incomplete.startswith(_PREFIX) else _PREFIX)
    found = complete_key(context, parameter, _PREFIX + incomplete)
    return [CompletionItem(item.value.removeprefix(_PREFIX)) for item in found]


@click.group()
def artifact() -> None:
    """Store and read artifacts: bytes under their own sha256."""


@artifact.command("put")
@click.argument("path", type=click.Path(exists=True, allow_dash=True))
@as_json_option
@click.pass_context
def put(context: click.Context, path: str, json_output: bool) -> None:
    """Store a file, every file below a directory, or standard input for "-".

    Prints "KEY  PATH" for each, as sha256sum does; with --json one object per line.
    """
    with connect(context, is_long=True) as client:
        for file in _files(path):
            with source_of(file) as (source, progress):
                key = client.put_artifact(source, progress=progress)
            if json_output:
                write_json({"key": key, "path": file})
            else:
                click.echo(f"{key}  {file}")


@artifact.command("get")
@click.argument("key", shell_complete=_complete)
@click.option("-o", "--output", metavar="FILE", help="Write FILE, which appears whole or not at all; - is stdout.")
@click.pass_context
def get(context: click.Context, key: str, output: str | None) -> None:
    """Write the artifact KEY (sha256:<hex>, or only the hex digits) to standard output."""
    match = _ARTIFACT.match(key)
    if match is None:
        raise click.BadParameter(f"{key!r} is not 'sha256:' and 64 lowercase hex digits", param_hint="KEY")
    write_object(context, f"sha256:{match.group(1)}", output)


def _files(path: str) -> Iterator[str]:
    """The file itself, or the regular files below a directory in a fixed order; links in it are not followed."""
    if path == "-" or not os.path.isdir(path):  # noqa: PTH112 - pathlib costs an import of 5 ms
        yield path
        return
    with os.scandir(path) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield entry.path
        else:
            warn(f"{entry.path} is left out: no regular file")
