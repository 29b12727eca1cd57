"""Commands on objects by key: put, get, stat, ls, cp, rm."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from tiered_store.cli.output import as_json, write_json
from tiered_store.cli.session import connect
from tiered_store.cli.transfer import source_of, write_object
from tiered_store.config.sizes import format_size
from tiered_store.errors import NotFound, StoreError

__all__ = ["cp", "get", "ls", "put", "rm", "stat"]

_COMPLETIONS = 100


def complete_key(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The first keys that start like this; none if no daemon answers."""
    try:
        with connect(context) as client:
            found = client.list(incomplete)
            return [CompletionItem(info.key) for _, info in zip(range(_COMPLETIONS), found, strict=False)]
    except (StoreError, OSError):
        return []


as_json_option = click.option("--json", "json_output", is_flag=True, help="Print JSON, for scripts.")


def _metadata(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        pairs[name] = text
    return pairs


@click.command()
@click.argument("key", shell_complete=complete_key)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--content-type", metavar="TYPE", help="A MIME type to keep with the object.")
@click.option("--meta", "metadata", multiple=True, metavar="NAME=VALUE", callback=_metadata, help="User metadata.")
@as_json_option
@click.pass_context
def put(
    context: click.Context, key: str, file: str, content_type: str | None, metadata: dict[str, str], json_output: bool
) -> None:
    """Store FILE, or standard input for "-", under KEY."""
    with connect(context, is_long=True) as client, source_of(file) as (source, progress):
        info = client.put_file(key, source, content_type=content_type, metadata=metadata, progress=progress)
    if json_output:
        write_json(as_json(info))


@click.command()
@click.argument("key", shell_complete=complete_key)
@click.option("-o", "--output", metavar="FILE", help="Write FILE, which appears whole or not at all; - is stdout.")
@click.pass_context
def get(context: click.Context, key: str, output: str | None) -> None:
    """Write the object under KEY to standard output."""
    write_object(context, key, output)


@click.command()
@click.argument("key", shell_complete=complete_key)
@as_json_option
@click.pass_context
def stat(context: click.Context, key: str, json_output: bool) -> None:
    """Say what is known of the object under KEY."""
    with connect(context) as client:
        info = client.stat(key)
    if json_output:
        write_json(as_json(info))
        return
    lines = {
        "key": info.key,
        "size": f"{info.size} ({format_size(info.size)})" if info.size >= 1000 else str(info.size),
        "modified": info.modified.astimezone().isoformat(sep=" ", timespec="seconds"),
        "etag": info.etag,
        "content type": info.content_type or "-",
        **{f"metadata {name}": value for name, value in sorted(info.metadata.items())},
    }
    for name, value in lines.items():
        click.echo(f"{name + ':':<14} {value}")


@click.command()
@click.argument("prefix", default="", shell_complete=complete_key)
@click.option("-l", "--long", "long_output", is_flag=True, help="Print sizes and times too.")
@as_json_option
@click.pass_context
def ls(context: click.Context, prefix: str, long_output: bool, json_output: bool) -> None:
    """List the keys that start with PREFIX, in byte order.

    With --json, one object per line, printed as the pages arrive.
    """
    with connect(context) as client:
        for info in client.list(prefix):
            if json_output:
                write_json(as_json(info))
            elif long_output:
                click.echo(f"{info.size:>15}  {info.modified.astimezone():%Y-%m-%d %H:%M}  {info.key}")
            else:
                click.echo(info.key)


@click.command()
@click.argument("source", shell_complete=complete_key)
@click.argument("target", shell_complete=complete_key)
@as_json_option
@click.pass_context
def cp(context: click.Context, source: str, target: str, json_output: bool) -> None:
    """Copy the object under SOURCE to TARGET, inside the origin."""
    with connect(context, is_long=True) as client:
        info = client.copy(source, target)
    if json_output:
        write_json(as_json(info))


@click.command()
@click.argument("key", shell_complete=complete_key)
@click.option("--prefix", "is_prefix", is_flag=True, help="Remove every object whose key starts with KEY.")
@click.pass_context
def rm(context: click.Context, key: str, is_prefix: bool) -> None:
    """Remove the object under KEY.

    Exits with 1 if there is none; with --prefix, none is fine.
    """
    if is_prefix and not key:
        raise click.BadParameter("an empty prefix would remove every object in the store", param_hint="KEY")
    with connect(context, is_long=is_prefix) as client:
        removed = client.delete_prefix(key) if is_prefix else int(client.delete(key))
    if is_prefix:
        click.echo(f"{removed} removed", err=True)
    elif not removed:
        raise NotFound("no object under this key", key=key)
