"""Commands on artifacts: objects named by the sha256 of their bytes."""

from __future__ import annotations

import os
import re

import click
from click.shell_completion import CompletionItem

from tiered_store.cli.keys import as_json_option, complete_key
from tiered_store.cli.output import progress_of, write_json
from tiered_store.cli.session import connect
from tiered_store.cli.transfer import source_of, write_object
from tiered_store.cli.trees import link_from_option, save_tree, tree_as_json
from tiered_store.client.trees.manifest import TREE_CONTENT_TYPE

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
@click.option("--stat-cache", metavar="FILE", help="Of a directory: remember in FILE which files have not changed.")
@click.option("--no-stat-cache", is_flag=True, help="Of a directory: read all files, and remember nothing.")
@as_json_option
@click.pass_context
def put(context: click.Context, path: str, stat_cache: str | None, no_stat_cache: bool, json_output: bool) -> None:
    """Store a file, a directory as a tree, or standard input for "-".

    Prints "KEY  PATH", as sha256sum does. A tree's key is that of its manifest: equal trees have equal keys. What it
    remembers of a directory is in $XDG_CACHE_HOME/tiered_store/trees.
    """
    with connect(context, is_long=True) as client:
        if path != "-" and os.path.isdir(path):  # noqa: PTH112 - pathlib costs an import of 5 ms
            tree = save_tree(client, path, stat_cache, remember=not no_stat_cache)
            key, said = tree.key, {"path": path, **tree_as_json(tree)}
        else:
            with source_of(path) as (source, progress):
                key = client.put_artifact(source, progress=progress)
            said = {"key": key, "path": path}
    if json_output:
        write_json(said)
    else:
        click.echo(f"{key}  {path}")


@artifact.command("get")
@click.argument("key", shell_complete=_complete)
@click.option("-o", "--output", metavar="PATH", help="Write PATH; - is stdout. A tree becomes a directory.")
@click.option("--tree", "is_tree", is_flag=True, help="KEY is a tree, also if the store does not say so.")
@link_from_option
@as_json_option
@click.pass_context
def get(
    context: click.Context, key: str, output: str | None, is_tree: bool, link_from: str | None, json_output: bool
) -> None:
    """Write the artifact KEY (sha256:<hex>, or only the hex digits) to standard output or PATH.

    A file appears whole or not at all. A tree is restored into the directory PATH: what is right there is left as it
    is, what is wrong is replaced, and what the tree does not have stays. --json says what was done.
    """
    match = _ARTIFACT.match(key)
    if match is None:
        raise click.BadParameter(f"{key!r} is not 'sha256:' and 64 lowercase hex digits", param_hint="KEY")
    key = f"sha256:{match.group(1)}"
    is_file = output is None or output == "-"
    if is_file and (is_tree or link_from):
        raise click.UsageError("a tree needs a directory to be restored into: -o PATH")
    if not is_file:
        assert output is not None
        with connect(context, is_long=True) as client:
            if is_tree or link_from or client.stat(key).content_type == TREE_CONTENT_TYPE:
                with progress_of(output) as progress:
                    tree = client.get_tree(key, output, link_from=link_from, progress=progress)
                if json_output:
                    write_json({"path": output, **tree_as_json(tree)})
                return
    write_object(context, key, output)
