"""The table of pending puts: the newest of each key, in both orders, counted."""

from __future__ import annotations

import asyncio
from itertools import count

from tests.support.store import settle
from tiered_store.key import Key
from tiered_store.objects import ObjectInfo, metadata_bytes
from tiered_store.store.journal import Record
from tiered_store.store.pendingputs import Pending, PendingPuts

_numbers = count(1)


def pending(key: str, *, file_bytes: int = 10, content_type: str | None = None) -> Pending:
    info = ObjectInfo(key, 0, "etag", content_type)
    return Pending(Record(next(_numbers), info, 0, file_bytes), is_sound=True)


def test_the_newest_put_of_a_key_counts() -> None:
    puts = PendingPuts()
    first, other, second = pending("a", content_type="text/plain"), pending("b"), pending("a", file_bytes=100)
    assert (puts.add(first), puts.add(other)) == (None, None)
    assert (puts.bytes, puts.metadata_bytes) == (20, metadata_bytes("text/plain", {}) + metadata_bytes(None, {}))
    assert puts.add(second) is first
    assert (puts.get(Key("a")), puts.oldest, puts.keys()) == (second, other, ["b", "a"])
    assert (len(puts), puts.bytes, puts.metadata_bytes) == (2, 110, 2 * metadata_bytes(None, {}))
    puts.remove(other)
    assert "b" not in puts
    puts.remove(second)
    assert (len(puts), puts.oldest, puts.bytes, puts.metadata_bytes) == (0, None, 0, 0)


def test_keys_are_listed_in_byte_order() -> None:
    puts = PendingPuts()
    names = ["back/é", "back/a", "back/z", "back/a/b", "other", "back/\U0001f600", "back/\uffff"]
    for name in names:
        puts.add(pending(name))
    expected = sorted((name for name in names if name.startswith("back/")), key=str.encode)

    def listed(prefix: str, after: str = "", limit: int = 100) -> list[str]:
        return [info.key for info in puts.listed(prefix, after=after, limit=limit)]

    assert listed("back/") == expected
    assert listed("back/", after=expected[1], limit=2) == expected[2:4]
    assert listed("back/", after="zzz") == []
    assert listed("") == sorted(names, key=str.encode)
    assert listed("back/a") == ["back/a", "back/a/b"]
    puts.add(pending("back/a"))
    assert listed("back/a") == ["back/a", "back/a/b"]
    puts.remove(puts.get(Key("back/a")))
    assert listed("back/a") == ["back/a/b"]


async def test_flushed_waits_for_what_is_pending_now_and_for_nothing_else() -> None:
    puts = PendingPuts()
    await puts.flushed()
    second = pending("b")
    puts.add(pending("a"))
    puts.add(second)
    waiting = asyncio.create_task(puts.flushed())
    await settle()
    puts.add(pending("c"))  # later
    puts.add(pending("a"))  # what was pending is replaced, which is as good
    await settle()
    assert not waiting.done()
    puts.remove(second)
    await waiting
    assert len(puts) == 2
    cancelled = asyncio.create_task(puts.flushed())
    await settle()
    cancelled.cancel()
    await settle()
    assert puts._waiting == []
