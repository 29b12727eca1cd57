"""Cutting many keys and objects into batches that fit a frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from tiered_store.client.arguments import no_key
from tiered_store.key import MAX_KEY_BYTES
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.protocol.batches import MAX_BATCH_KEYS

__all__ = ["key_batches", "put_batches"]

#: Half a frame: the other half is for keys and headers.
_BATCH_BYTES: Final = 512 * 1024


def _can_be_sent(key: str) -> bool:
    try:
        return len(key) <= MAX_KEY_BYTES and (key.isascii() or len(key.encode()) <= MAX_KEY_BYTES)
    except UnicodeEncodeError:
        return False


def key_batches(keys: Iterable[str]) -> Iterator[list[str]]:
    """Keys in lists that fit one request.

    Raises:
        TypeError: one text instead of several, which would be taken for its characters; or keys that are no texts.
    """
    if isinstance(keys, str | bytes):
        raise TypeError(f"keys must be several: [{keys!r:.80}] for one")
    rest = list(keys)
    if set(map(type, rest)) != {str}:  # one look at all, then a closer one
        for key in rest:
            if not isinstance(key, str):
                raise no_key(key)
    while rest:
        count = MAX_BATCH_KEYS
        # A character takes at most four bytes. Keys are short as a rule, so that one look is enough.
        while count > 1 and 4 * sum(map(len, rest[:count])) > _BATCH_BYTES:
            count //= 2
        yield rest[:count]
        rest = rest[count:]


def put_batches(items: Mapping[str, bytes]) -> tuple[list[list[tuple[str, bytes]]], list[str]]:
    """Small objects in lists that fit one request, and the keys of those that have to go alone.

    Too large ones go alone, and so do keys that break a rule so badly that they cannot be sent: the error
    is then about them, and the others are stored.

    Raises:
        TypeError: no mapping, or not of texts to bytes or what is like them.
    """
    if not isinstance(items, Mapping):
        raise TypeError(f"what to put must be a mapping of keys to bytes, not {type(items).__name__}")
    batches: list[list[tuple[str, bytes]]] = []
    large: list[str] = []
    size = _BATCH_BYTES
    for key, given in items.items():
        if not isinstance(key, str):
            raise no_key(key)
        given_bytes = len(given) if given.__class__ is bytes else memoryview(given).nbytes
        if given_bytes > INLINE_MAX_BYTES or not _can_be_sent(key):
            large.append(key)
            continue
        data = bytes(given)
        cost = len(data) + 4 * len(key) + 8
        if size + cost > _BATCH_BYTES or len(batches[-1]) == MAX_BATCH_KEYS:
            batches.append([])
            size = 0
        batches[-1].append((key, data))
        size += cost
    return batches, large
