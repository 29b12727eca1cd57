"""What the commands on directory trees share."""

from __future__ import annotations

import click

from tiered_store.cli.output import progress_of, warn
from tiered_store.client.sync import Client
from tiered_store.client.trees.results import TreeInfo
from tiered_store.client.trees.statcache import default_stat_cache

__all__ = ["link_from_option", "save_tree", "tree_as_json"]

#: More lines about what was left out help nobody.
_MAX_WARNINGS = 20

link_from_option = click.option(
    "--link-from",
    metavar="DIR",
    help="Make files hard links, read-only, to a directory of contents on the same file system.",
)


def save_tree(client: Client, path: str, stat_cache: str | None, *, remember: bool) -> TreeInfo:
    """Store a directory, with a bar where a person watches, and say what was left out."""
    cache = (stat_cache or default_stat_cache(path)) if remember else None
    with progress_of(path) as progress:
        tree = client.put_tree(path, stat_cache=cache, progress=progress)
    for name in tree.left_out[:_MAX_WARNINGS]:
        warn(f"{name} is left out: neither file, directory nor symbolic link")
    if len(tree.left_out) > _MAX_WARNINGS:
        warn(f"{len(tree.left_out) - _MAX_WARNINGS} more are left out")
    return tree


def tree_as_json(tree: TreeInfo) -> dict[str, object]:
    """What was saved or restored as JSON can hold it."""
    said = tree._asdict()
    return {**said, "left_out": list(tree.left_out), "shared_bytes": tree.shared_bytes}
