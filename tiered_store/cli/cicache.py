"""Caches of a CI: which trees were saved under a key, and how the newest by a prefix is found.

An entry is a small ordinary object at ``ci/<scope>/<paths>/<key>``: JSON that names the trees. ``<paths>`` is a digest
of the paths as they were given, so that a cache of other paths is never found; the key is percent-encoded into one
segment, which keeps prefixes prefixes. Entries are written once: who finds the key taken leaves it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from tiered_store.client.sync import Client
from tiered_store.errors import NotFound

__all__ = ["Entry", "Saved", "check_key", "find", "load", "object_key", "store"]

_FORMAT: Final = 1
#: Encoded: a file name at a local origin has at most 255 bytes, some of which are the origin's own.
_KEY_MAX_BYTES: Final = 200
_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.")
_SCOPE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}\Z")
_TREE: Final = re.compile(r"sha256:[0-9a-f]{64}\Z")
#: Entries by a prefix that are tried, the newest first, where one turns out to be damaged or lost.
_MAX_TRIES: Final = 3


class Saved(NamedTuple):
    """One path of a cache.

    Attributes:
        path: as it was given.
        tree: the artifact that is its manifest.
    """

    path: str
    tree: str


class Entry(NamedTuple):
    """What was saved under a key.

    Attributes:
        key: as it was given.
        saved: the trees of its paths.
    """

    key: str
    saved: list[Saved]


def check_key(key: str) -> str:
    """A key as it is stored.

    Raises:
        ValueError: it cannot be one; says why.
    """
    if not key or not key.isprintable() or "," in key:
        raise ValueError("a key is not empty and has no comma and no control character")
    encoded = "".join(
        chr(byte) if byte in _PLAIN and not (byte == 0x2E and index == 0) else f"%{byte:02X}"
        for index, byte in enumerate(key.encode())
    )
    if len(encoded) > _KEY_MAX_BYTES:
        raise ValueError(f"a key has at most {_KEY_MAX_BYTES} bytes once it is encoded, this one has {len(encoded)}")
    return encoded


def object_key(scope: str, paths: Sequence[str], key: str) -> str:
    """Where the entry is, or, for a prefix of keys, what all of them begin with.

    Raises:
        ValueError: no scope, or no key, or a path that is in another one.
    """
    _check_apart(paths)
    if not _SCOPE.match(scope):
        raise ValueError(f"the scope {scope!r} is not 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first")
    version = hashlib.sha256("\0".join(paths).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"ci/{scope}/{version}/{check_key(key)}"


def _check_apart(paths: Sequence[str]) -> None:
    """Raises ValueError: one of the paths is in another, so that two trees would be restored to one place."""
    whole = sorted((os.path.abspath(os.path.expanduser(path)).rstrip("/") + "/", path) for path in paths)  # noqa: PTH100, PTH111
    for (outer, path), (inner, other) in pairwise(whole):
        if inner.startswith(outer):
            raise ValueError(f"the path {other!r} is in {path!r}, which is saved whole: leave it out")


def store(client: Client, where: str, entry: Entry) -> bool:
    """Write an entry, unless there is one; whether it was written."""
    if client.exists(where):
        return False
    trees = [{"path": saved.path, "tree": saved.tree} for saved in entry.saved]
    body = {"v": _FORMAT, "key": entry.key, "created_ns": time.time_ns(), "paths": trees}
    client.put(where, json.dumps(body).encode())
    return True


def load(client: Client, where: str, paths: Sequence[str]) -> Entry | None:
    """Read an entry; None where there is none that can be read, or one of other paths than these."""
    try:
        said = json.loads(client.get(where))
    except (NotFound, ValueError, RecursionError):
        return None
    entry = _decoded(said)
    if entry is None or not _is_at(entry.key, where):
        return None
    # It is for the caller, and not for what is stored, to say where something may be written.
    named = [saved.path for saved in entry.saved]
    return entry if set(named) <= set(paths) and len(set(named)) == len(named) else None


def _is_at(key: str, where: str) -> bool:
    """Whether an entry of this key belongs there: what is told to the CI as a key must be one, and that one."""
    try:
        return where.rpartition("/")[2] == check_key(key)
    except ValueError:
        return False


def _decoded(said: Any) -> Entry | None:
    """Believes nothing: others may write there."""
    if not isinstance(said, dict) or said.get("v") != _FORMAT or not isinstance(said.get("key"), str):
        return None
    paths = said.get("paths")
    if not isinstance(paths, list) or not all(isinstance(path, dict) for path in paths):
        return None
    saved = [Saved(path.get("path"), path.get("tree")) for path in paths]
    if not all(isinstance(path, str) and isinstance(tree, str) and _TREE.match(tree) for path, tree in saved):
        return None
    return Entry(said["key"], saved)


def find(
    client: Client, scopes: Sequence[str], paths: Sequence[str], key: str, restore_keys: Sequence[str]
) -> Iterator[Entry]:
    """The entries that may be restored, the best first: by the key, then by the key and each restore key as a prefix.

    As with GitHub's cache action, a scope is searched to its end before the next, and of several entries with a
    prefix the newest is taken.

    Args:
        client: to ask.
        scopes: in this order.
        paths: that were saved together.
        key: the whole key.
        restore_keys: prefixes of keys.

    Raises:
        ValueError: a scope or key cannot be one.
    """
    for scope in scopes:
        tried = {object_key(scope, paths, key)}
        exact = load(client, object_key(scope, paths, key), paths)
        if exact is not None and exact.key == key:
            yield exact
        for prefix in (key, *restore_keys):
            infos = [info for info in client.list(object_key(scope, paths, prefix)) if info.key not in tried]
            infos.sort(key=lambda info: (info.modified_ns, info.key), reverse=True)
            for info in infos[:_MAX_TRIES]:
                tried.add(info.key)
                entry = load(client, info.key, paths)
                if entry is not None and entry.key.startswith(prefix):
                    yield entry
