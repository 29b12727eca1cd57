"""Commands for a CI: save directories under a key, and restore them by that key or a prefix.

A cache must not break a build: faults of the store are a miss, said on standard error. What does end a restore with an
error is a directory that is left in between, so a path that is not there yet appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Final

import click

from tiered_store.cli import cicache
from tiered_store.cli.keys import as_json_option
from tiered_store.cli.output import progress_of, warn, write_json
from tiered_store.cli.session import REFUSED, Refusal, connect
from tiered_store.cli.trees import link_from_option, save_tree
from tiered_store.client.sync import Client
from tiered_store.client.trees.results import TreeInfo
from tiered_store.errors import IntegrityError, NotFound, StoreError

__all__ = ["ci"]

#: In a directory beside a path: what is to become that path, with the mode that a new directory has.
_TREE: Final = "tree"
#: Something is at the path by now.
_TAKEN: Final = {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}

_key_option = click.option("--key", required=True, metavar="KEY", help="The key; no commas.")
_paths_argument = click.argument("paths", nargs=-1, required=True, metavar="PATH...")
_strict_option = click.option("--strict", is_flag=True, help="Faults of the store are errors, not misses.")


@click.group()
def ci() -> None:
    """Save and restore directories under keys, for a CI."""


@ci.command("save")
@_key_option
@click.option("--scope", default="default", show_default=True, metavar="NAME", help="Who shares it, such as a branch.")
@click.option("--no-stat-cache", is_flag=True, help="Read all files, and remember nothing.")
@_strict_option
@as_json_option
@_paths_argument
@click.pass_context
def save(
    context: click.Context,
    key: str,
    scope: str,
    no_stat_cache: bool,
    strict: bool,
    json_output: bool,
    paths: tuple[str, ...],
) -> None:
    """Save the directories PATH... under KEY, unless it is taken.

    Prints cache-saved=true or false, and what was new and shared; appends the former to $GITHUB_OUTPUT.
    """
    where = _object_key(scope, paths, key)
    there = [path for path in paths if os.path.isdir(os.path.expanduser(path))]  # noqa: PTH111, PTH112
    for path in sorted(set(paths) - set(there)):
        warn(f"{path} is no directory and is not saved")
    trees: list[TreeInfo] = []
    is_saved = False
    if there:
        with _misses(strict=strict), connect(context, is_long=True) as client:
            if client.exists(where):
                warn(f"{key} is saved already, and is not written again")
            else:
                trees = [
                    save_tree(client, os.path.expanduser(path), None, remember=not no_stat_cache)  # noqa: PTH111
                    for path in there
                ]
                saved = [cicache.Saved(path, tree.key) for path, tree in zip(there, trees, strict=True)]
                is_saved = cicache.store(client, where, cicache.Entry(key, saved))
    new, shared = sum(tree.new_bytes for tree in trees), sum(tree.shared_bytes for tree in trees)
    _tell(
        {"cache-saved": is_saved, "files": sum(tree.files for tree in trees), "new-bytes": new, "shared-bytes": shared},
        json_output,
        {"cache-saved"},
    )


@ci.command("restore")
@_key_option
@click.option("--restore-keys", default="", metavar="P1,P2", help="Prefixes of keys, tried in order.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("default",),
    show_default=True,
    metavar="NAME",
    help="Where to look; may be repeated, such as a branch and then the main one.",
)
@click.option("--lookup-only", is_flag=True, help="Say what would be restored.")
@click.option("--fail-on-cache-miss", is_flag=True, help="Exit with 1 where nothing is found.")
@link_from_option
@_strict_option
@as_json_option
@_paths_argument
@click.pass_context
def restore(
    context: click.Context,
    key: str,
    restore_keys: str,
    scopes: tuple[str, ...],
    lookup_only: bool,
    fail_on_cache_miss: bool,
    link_from: str | None,
    strict: bool,
    json_output: bool,
    paths: tuple[str, ...],
) -> None:
    """Restore the directories PATH... that were saved under KEY, or else the newest by a prefix.

    Prints cache-hit=true for the key, partial for a prefix and false for nothing, and appends that to $GITHUB_OUTPUT.
    Exits with 0 for each of them, and with 1 where a directory that was there before was left in between.
    """
    prefixes = [prefix for prefix in restore_keys.replace("\n", ",").split(",") if prefix]
    for name in (key, *prefixes):
        for scope in scopes:
            _object_key(scope, paths, name)
    found: cicache.Entry | None = None
    trees: list[TreeInfo] = []
    with _misses(strict=strict), connect(context, is_long=True) as client:
        for entry in cicache.find(client, scopes, paths, key, prefixes):
            if not lookup_only:
                try:
                    trees = _restore_all(client, entry, link_from)
                except (NotFound, IntegrityError) as error:
                    warn(f"{entry.key} cannot be restored: {error}")
                    continue
            found = entry
            break
    hit = "false" if found is None else "true" if found.key == key else "partial"
    outputs: dict[str, object] = {
        "cache-hit": hit,
        "cache-primary-key": key,
        "cache-matched-key": None if found is None else found.key,
    }
    sizes = {"files": sum(tree.files for tree in trees), "new-bytes": sum(tree.new_bytes for tree in trees)}
    sizes["shared-bytes"] = sum(tree.shared_bytes for tree in trees)
    _tell({**outputs, **sizes}, json_output, set(outputs))
    if found is None and fail_on_cache_miss:
        context.exit(REFUSED)


def _object_key(scope: str, paths: Sequence[str], key: str) -> str:
    try:
        return cicache.object_key(scope, paths, key)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@contextlib.contextmanager
def _misses(*, strict: bool) -> Iterator[None]:
    """Have faults of the store be said, and be over, unless they are asked for."""
    try:
        yield
    except StoreError as error:
        if strict:
            raise
        warn(f"no cache: {error}")


def _restore_all(client: Client, entry: cicache.Entry, link_from: str | None) -> list[TreeInfo]:
    """Restore all paths of an entry.

    A path that is not there is restored beside its name, and gets it when all the others are restored too.

    Raises:
        StoreError: of the store; then nothing has changed.
        OSError: a path that was not there cannot be written; then nothing is left of it.
        Refusal: a directory that was there has been changed, and is not what it should be.
    """
    for key, there in client.exists_many([saved.tree for saved in entry.saved]).items():
        if not there:
            raise NotFound("the store has lost this tree", key=key)
    trees: list[TreeInfo] = []
    beside: list[tuple[str, str, str]] = []
    in_place: list[tuple[str, str]] = []
    try:
        for saved in entry.saved:
            target = os.path.expanduser(saved.path).rstrip("/") or "/"  # noqa: PTH111 - pathlib costs an import of 5 ms
            if os.path.lexists(target):
                in_place.append((saved.tree, target))
            else:
                staging = _directory_beside(target)
                beside.append((staging, saved.tree, target))
                trees.append(_get(client, saved.tree, f"{staging}/{_TREE}", link_from))
        trees += [_get_in_place(client, tree, target, link_from) for tree, target in in_place]
        for staging, tree, target in beside:
            try:
                os.rename(f"{staging}/{_TREE}", target)  # noqa: PTH104
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
                _get_in_place(client, tree, target, link_from)  # another restore was quicker
    finally:
        for staging, _, _ in beside:
            shutil.rmtree(staging, ignore_errors=True)
    return trees


def _directory_beside(target: str) -> str:
    """A directory that nobody has foreseen and nobody else can look into, on the file system of a path."""
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)  # noqa: PTH103, PTH120
    staging = f"{target}.{os.urandom(8).hex()}.part"
    os.mkdir(staging, 0o700)  # noqa: PTH102
    return staging


def _get_in_place(client: Client, tree: str, target: str, link_from: str | None) -> TreeInfo:
    try:
        return _get(client, tree, target, link_from)
    except (StoreError, OSError) as error:
        raise Refusal(StoreError(f"{target} is left in between, restore or remove it: {error}")) from error


def _get(client: Client, tree: str, path: str, link_from: str | None) -> TreeInfo:
    with progress_of(path) as progress:
        return client.get_tree(tree, path, link_from=link_from, progress=progress)


def _tell(outputs: dict[str, object], json_output: bool, for_ci: set[str]) -> None:
    """Print outputs; those for the CI also go where GitHub's runners, and those like them, look for them."""
    lines = {name: _text(value) for name, value in outputs.items()}
    if json_output:
        write_json(outputs)
    else:
        for name, text in lines.items():
            click.echo(f"{name}={text}")
    file = os.environ.get("GITHUB_OUTPUT")
    if file:
        with open(file, "a", encoding="utf-8") as stream:  # noqa: PTH123
            stream.writelines(f"{name}={text}\n" for name, text in lines.items() if name in for_ci)


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
