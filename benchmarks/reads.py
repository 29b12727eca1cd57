"""Work that is done one request at a time: reads of every size from memory and from disk, and small puts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from benchmarks.daemon import Daemon
from benchmarks.data import KIB, MIB, keys, payload, size_text
from benchmarks.echo import PYTHON_ECHO, echo_seconds
from benchmarks.field import Field, Placement, Turn, Values, timed
from benchmarks.peers import HTTP, MEMCACHE, REDIS
from benchmarks.ping import C_PING_PONG
from benchmarks.table import OURS, Check, Row, at_most, fastest, ratio

__all__ = ["get_large", "get_many", "get_small", "get_view", "put_small"]

_READERS = (REDIS, MEMCACHE, HTTP)
_MEMORY_HIT = "the memory hit"
_BATCH = 100
#: Size and operations in one turn.
_LARGE = ((64 * KIB, 300), (MIB, 60), (16 * MIB, 6))
_VIEWED = 64 * MIB


def get_small(field: Field) -> list[Row]:
    """1 KiB: where system calls, event loop and codec show."""
    key, count = "cache/bench/1k", field.scale.count(3000)
    field.store(key, payload(KIB))

    def targets(values: Values) -> list[Check]:
        return [
            at_most(f"x {REDIS}", ratio(values, REDIS), 0.45),
            at_most(f"x {MEMCACHE}", ratio(values, MEMCACHE), 1.0),
            at_most(f"x {C_PING_PONG}", ratio(values, C_PING_PONG), 4.0),
        ]

    turns = field.turns(
        timed(lambda: field.memory.client.get(key), count), _READERS, lambda peer: timed(lambda: peer.get(key), count)
    )
    ping = field.ping
    turns[C_PING_PONG] = (lambda: ping.seconds(KIB, count)) if ping else None
    turns[PYTHON_ECHO] = lambda: echo_seconds(KIB, count)
    with _verified(field, {key: payload(KIB)}):
        rows = field.compare("get 1 KiB, memory hit", turns, decides=Placement.ONE_CPU, targets=targets)
        return rows + _from_disk(field, "get 1 KiB", lambda daemon: timed(lambda: daemon.client.get(key), count))


def get_many(field: Field) -> list[Row]:
    """100 keys of 1 KiB in one round trip, per key."""
    objects = {name: payload(KIB, number) for number, name in enumerate(keys(_BATCH))}
    names, count = list(objects), field.scale.count(200)
    for name, data in objects.items():
        field.store(name, data)
    if field.memory.client.get_many(names) != objects or field.disk.client.get_many(names) != objects:
        raise ValueError("get_many gives other bytes than were put")

    def targets(values: Values) -> list[Check]:
        return [at_most("x Redis MGET", ratio(values, REDIS), 1.0)]

    turns = field.turns(
        timed(lambda: field.memory.client.get_many(names), count),
        (REDIS, MEMCACHE),
        lambda peer: timed(lambda: peer.get_many(names), count),
    )
    title = f"get_many, {_BATCH} x 1 KiB, per key"
    with field.memory.answering_from("memory"):
        rows = field.compare(title, turns, decides=Placement.ONE_CPU, targets=targets, per=_BATCH)
    return rows + _from_disk(
        field, title, lambda daemon: timed(lambda: daemon.client.get_many(names), count), per=_BATCH
    )


def get_large(field: Field) -> list[Row]:
    """64 KiB to 16 MiB into ``bytes``: where copies show."""
    rows: list[Row] = []
    for size, operations in _LARGE:
        rows += _get_large(field, size, field.scale.count(operations))
    return rows


def _get_large(field: Field, size: int, count: int) -> list[Row]:
    key, title = f"cache/bench/large/{size}", f"get {size_text(size)} into bytes"
    field.store(key, payload(size))

    def targets(values: Values) -> list[Check]:
        return _against_fastest(values, 0.7)

    turns = field.turns(
        timed(lambda: field.memory.client.get(key), count), _READERS, lambda peer: timed(lambda: peer.get(key), count)
    )
    with _verified(field, {key: payload(size)}):
        rows = field.compare(f"{title}, memory hit", turns, decides=Placement.SCHEDULER, targets=targets)
        return rows + _from_disk(
            field, title, lambda daemon: timed(lambda: daemon.client.get(key), count), decides=Placement.SCHEDULER
        )


def get_view(field: Field) -> list[Row]:
    """64 MiB mapped, its first and last byte touched, beside the peers' get of as much."""
    key, data, count = "cache/bench/view", payload(_VIEWED), field.scale.count(200)
    field.store(key, data)
    title = f"get_view {size_text(_VIEWED)}"

    def view(daemon: Daemon) -> Turn:
        def touch() -> None:
            with daemon.client.get_view(key) as view:
                if (view[0], view[-1]) != (data[0], data[-1]):
                    raise ValueError("the view shows other bytes than were put")

        return timed(touch, count)

    def targets(values: Values) -> list[Check]:
        ours, peer = values[OURS], fastest(values, _READERS)
        share = ratio(values, peer) if peer else None
        return [
            at_most("us", ours.median if ours else None, 100),
            at_most(f"x {peer}" if peer else "x the fastest peer", share, 1 / 300),
        ]

    turns = field.turns(view(field.memory), _READERS, lambda peer: timed(lambda: peer.get(key), 3))
    with field.memory.answering_from("memory"):
        rows = field.compare(f"{title}, memory hit", turns, decides=Placement.ONE_CPU, targets=targets)
    return rows + _from_disk(field, title, view)


def put_small(field: Field) -> list[Row]:
    """1 KiB into the tiers, the origin in memory."""
    data, count = payload(KIB), field.scale.count(2000)

    def targets(values: Values) -> list[Check]:
        return [at_most(f"x {REDIS}", ratio(values, REDIS), 1.5)]

    turns = field.turns(
        timed(lambda: field.memory.client.put("cache/bench/put", data), count),
        (REDIS, MEMCACHE),
        lambda peer: timed(lambda: peer.put("cache/bench/put", data), count),
    )
    return field.compare("put 1 KiB, origin in memory", turns, decides=Placement.ONE_CPU, targets=targets)


def _from_disk(
    field: Field,
    title: str,
    turn: Callable[[Daemon], Turn],
    *,
    decides: Placement = Placement.ONE_CPU,
    per: int = 1,
) -> list[Row]:
    """The same reads from the disk tier, its files in the page cache, beside the memory hit."""

    def targets(values: Values) -> Sequence[Check]:
        return [at_most(f"x {_MEMORY_HIT}", ratio(values, _MEMORY_HIT), 2.0)]

    turns = {OURS: turn(field.disk), _MEMORY_HIT: turn(field.memory)}
    with field.disk.answering_from("disk"), field.memory.answering_from("memory"):
        return field.compare(f"{title}, disk hit", turns, decides=decides, targets=targets, per=per)


def _against_fastest(values: Values, limit: float) -> list[Check]:
    peer = fastest(values, _READERS)
    return [at_most(f"x {peer}" if peer else "x the fastest peer", ratio(values, peer) if peer else None, limit)]


@contextmanager
def _verified(field: Field, objects: dict[str, bytes]) -> Iterator[None]:
    """All servers give these bytes, before anything is timed."""
    readers: dict[str, Callable[[str], bytes]] = {"memory": field.memory.client.get, "disk": field.disk.client.get}
    readers |= {name: peer.get for name, peer in field.peers.items()}
    for key, data in objects.items():
        for name, get in readers.items():
            if get(key) != data:
                raise ValueError(f"{name} gives other bytes for {key} than were put")
    with field.memory.answering_from("memory"):
        yield
