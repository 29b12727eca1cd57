"""No descriptor is ever left behind: not by work, not by refusals, not by peers that go away."""

from __future__ import annotations

import asyncio
import gc
import io
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import KINDS, connect
from tests.support.daemon import RunningDaemon
from tests.support.peers import Peer
from tests.support.processes import MIB, descriptors, until
from tiered_store import AsyncClient, Client, NotFound, StoreError, TooLarge
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.protocol.frames import Flag, Opcode, encode_frame

LIMIT = 4 * MIB
LARGE = INLINE_MAX_BYTES + 1
#: The tiers may hold descriptors (few, so that they are full soon); everything else must be given back.
CONFIG = {
    "memory": {"max_bytes": 2 * MIB},
    "limits": {"max_object_bytes": LIMIT},
    "policies": [{"prefix": "", "negative_ttl_s": 0}],
}


@pytest.fixture
def daemon(daemon_factory: Callable[..., RunningDaemon]) -> RunningDaemon:
    return daemon_factory(CONFIG)


def kinds(pid: int) -> Counter[str]:
    """Open descriptors by what they are; files of the tiers under one name each."""
    names = Counter[str]()
    for target in descriptors(pid):
        if target.startswith("/memfd:"):
            names["memfd"] += 1
        elif "/cache/" in target:
            names["spool" if "/spool/" in target else "cache file"] += 1
        else:
            names[target.split(":")[0]] += 1
    return names


def left_over(daemon: RunningDaemon, before: Counter[str]) -> Counter[str]:
    """What is open now and was not; what the tiers may keep is not counted."""
    now = kinds(daemon.process.pid)
    now.subtract(before)
    return Counter({name: count for name, count in now.items() if count > 0 and name not in {"memfd", "cache file"}})


def assert_level(daemon: RunningDaemon, before: Counter[str]) -> None:
    until(lambda: not left_over(daemon, before), f"descriptors stay open: {left_over(daemon, before)}")


def mixed_work(store: Any, rounds: int) -> None:
    """Some twenty operations a round, every form of request and reply, every kind of refusal."""
    large = bytes(LARGE)
    store.put("ranged", large)
    for turn in range(rounds):
        key = f"{turn % 7}"
        store.put(f"small/{key}", b"1")
        store.put(f"large/{key}", large)
        store.put_file(f"streamed/{key}", io.BytesIO(large))
        store.put_many({f"many/{key}/{n}": b"1" for n in range(3)})
        assert store.get(f"small/{key}") == b"1"
        assert len(store.get(f"large/{key}")) == LARGE
        assert len(store.get("ranged", offset=5, length=70_000)) == LARGE - 5
        with store.get_view(f"large/{key}") as view:
            assert view.nbytes == LARGE
        store.get_into(f"streamed/{key}", lambda _: None)
        assert len(store.get_many([f"small/{key}", f"large/{key}", "none"])) == 2
        store.copy(f"large/{key}", f"copied/{key}")
        assert len(store.get(f"copied/{key}")) == LARGE
        store.exists_many([f"small/{key}", "none"])
        store.delete(f"large/{key}")
        for refused in (
            lambda: store.get("none"),
            lambda: store.put("a//b", large),
            lambda: store.put("x", bytes(LIMIT + 1)),
            lambda: store.put(f"sha256:{'0' * 64}", large),
            lambda below=f"small/{key}/below": store.put(below, large),
        ):
            with suppress(StoreError):
                refused()
                raise AssertionError("this had to be refused")


@pytest.mark.parametrize("kind", KINDS)
def test_counts_stay_level_over_mixed_work(daemon: RunningDaemon, kind: str) -> None:
    with connect(kind, daemon.socket_path) as store:
        mixed_work(store, 8)  # the tiers have what they keep, threads their connections to the index
        gc.collect()
        own, daemons = len(descriptors(os.getpid())), kinds(daemon.process.pid)
        mixed_work(store, 12)
        gc.collect()
        assert len(descriptors(os.getpid())) <= own
        assert_level(daemon, daemons)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
def test_counts_stay_level_over_ten_thousand_operations(daemon: RunningDaemon, kind: str) -> None:
    with connect(kind, daemon.socket_path) as store:
        mixed_work(store, 20)
        gc.collect()
        own, daemons = len(descriptors(os.getpid())), kinds(daemon.process.pid)
        mixed_work(store, 500)
        gc.collect()
        assert len(descriptors(os.getpid())) <= own
        assert_level(daemon, daemons)


def test_connections_dropped_at_any_moment(daemon: RunningDaemon) -> None:
    """In the middle of an upload, of a stream, of a frame; with descriptors on their way."""
    large = daemon.data_dir / "origin" / "cold"
    with daemon.client() as store, Path(__file__).open("rb") as any_file:
        store.put("warm", bytes(LARGE))
        store.get("warm")
        before = kinds(daemon.process.pid)
        for turn in range(60):
            large.write_bytes(bytes(3 * MIB + turn))
            with Peer(daemon.socket_path) as peer:
                peer.begin_upload(1, f"x{turn % 3}", None)
                peer.send(encode_frame(Opcode.DATA, 1, body=bytes(200_000)))
                peer.begin_upload(2, f"y{turn % 3}", LARGE, Flag.DESCRIPTOR)
                peer.get(3, "warm", Flag.ACCEPT_DESCRIPTOR)
                peer.get(4, "cold", Flag.STREAM)
                peer.send(encode_frame(Opcode.PING, 5), any_file.fileno())  # a descriptor that nobody asked for
                if turn % 2:
                    peer.send(encode_frame(Opcode.DESCRIPTOR, 2), any_file.fileno())
                peer.send(encode_frame(Opcode.PING, 6, body=b"x" * 100)[: 16 + turn])
        until(lambda: store.stats()["connections"] == 1, "connections of peers that went away are closed")
        assert_level(daemon, before)
        assert list((daemon.data_dir / "cache").rglob("spool/*")) == []


def test_refused_uploads(daemon: RunningDaemon) -> None:
    """Refused before, in the middle, and at the end; by descriptor, and as a stream."""
    with daemon.client() as store:
        store.put("x", b"1")
        before = kinds(daemon.process.pid)
        held = store.stats()["disk"]["bytes"]
        for _ in range(40):
            with pytest.raises(TooLarge):
                store.put("y", bytes(LIMIT + 1))
            with pytest.raises(TooLarge):
                store.put_file("y", io.BytesIO(bytes(LIMIT + 1)))
            with pytest.raises(StoreError):
                store.put(f"sha256:{'0' * 64}", bytes(LARGE))
            with pytest.raises(StoreError):
                store.put_file("x/below", io.BytesIO(bytes(LARGE)))
        assert_level(daemon, before)
        until(lambda: store.stats()["disk"]["bytes"] <= held, "the room of refused uploads is given back")


async def test_cancelled_reads(daemon: RunningDaemon) -> None:
    """Readers that are cancelled at every stage of a fill; the descriptor of a reply that came too late is closed."""
    origin = daemon.data_dir / "origin"
    async with AsyncClient(daemon.socket_path) as client:
        await client.put("warm", bytes(LARGE))
        await client.get("warm")
        gc.collect()
        own, daemons = len(descriptors(os.getpid())), kinds(daemon.process.pid)
        for turn in range(60):
            for name in ("whole", "streamed"):
                (origin / name).write_bytes(bytes(2 * MIB + turn))
            tasks = [
                asyncio.create_task(client.get("warm")),
                asyncio.create_task(client.get("whole")),
                asyncio.create_task(client.get_view("warm")),
                asyncio.create_task(client.get_into("streamed", lambda _: None)),
            ]
            for _ in range(turn % 15):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await client.ping()
        tasks.clear()
        gc.collect()
        assert len(descriptors(os.getpid())) <= own + 1  # the thread pool's
        assert_level(daemon, daemons)


def test_reads_that_fail_in_the_callers_code(daemon: RunningDaemon) -> None:
    with daemon.client() as store:
        store.put("x", bytes(3 * MIB))
        own, before = len(descriptors(os.getpid())), kinds(daemon.process.pid)

        def fail(_: bytes) -> None:
            raise NotFound("of the caller's own")

        for _ in range(50):
            with pytest.raises(NotFound, match="of the caller's own"):
                store.get_into("x", fail)
        gc.collect()
        assert len(descriptors(os.getpid())) <= own
        assert_level(daemon, before)


def test_children_inherit_none(daemon: RunningDaemon) -> None:
    """What is open here must not leak into programs that a build starts."""
    before = inheritable()
    with Client(daemon.socket_path) as store:
        store.put("x", bytes(LARGE))
        view = store.get_view("x")
        assert inheritable() == before
        view.close()


def inheritable() -> set[str]:
    """The descriptors of this process that a child would get."""
    return {path.name for path in Path("/proc/self/fd").iterdir() if _is_inheritable(int(path.name))}


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
