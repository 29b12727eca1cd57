"""Clients over time: daemons that restart under them, threads, forks, and many requests at once."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import KINDS, connect, some_bytes
from tests.support.daemon import RunningDaemon
from tests.support.processes import MIB, descriptors
from tiered_store import AsyncClient, Client, DaemonUnavailable, InvalidKey, NotFound
from tiered_store.objects import INLINE_MAX_BYTES

LARGE = 3 * MIB


@pytest.mark.parametrize("kind", KINDS)
class TestRestart:
    """A daemon that goes and comes back costs its clients a moment, not an error."""

    @pytest.mark.parametrize("how", ["killed", "stopped"])
    def test_the_next_call_works(self, kind: str, how: str, daemon_factory: Callable[..., RunningDaemon]) -> None:
        daemon = daemon_factory()
        data = some_bytes(LARGE)
        with connect(kind, daemon.socket_path) as store:
            calls: list[Callable[[], Any]] = [
                lambda: store.get("small"),
                lambda: store.get("large"),
                lambda: bytes(store.get_view("large").__enter__()),
                lambda: store.put("small", b"1").size,
                lambda: store.put("large", data).size,
                lambda: store.get_many(["small", "large"]),
                lambda: [info.key for info in store.list()],
                lambda: store.stat("large").size,
            ]
            store.put("small", b"1")
            store.put("large", data)
            expected = [call() for call in calls]
            _end(daemon, how)
            daemon_factory(directory=daemon.data_dir.parent)
            assert [call() for call in calls] == expected

    def test_a_call_waits_for_a_daemon_that_is_starting(
        self, kind: str, daemon_factory: Callable[..., RunningDaemon]
    ) -> None:
        daemon = daemon_factory()
        with connect(kind, daemon.socket_path, reconnect_s=30) as store:
            store.put("x", b"1")
            daemon.kill9()
            starting = threading.Thread(target=daemon_factory, kwargs={"directory": daemon.data_dir.parent})
            starting.start()
            try:
                assert store.get("x") == b"1"
            finally:
                starting.join()

    def test_a_stream_that_cannot_be_sent_again_is_an_error(
        self, kind: str, daemon_factory: Callable[..., RunningDaemon], tmp_path: Path
    ) -> None:
        """A pipe's bytes are gone: the rest of them must not be stored as if it were the whole."""
        daemon = daemon_factory()
        data = some_bytes(8 * MIB)

        class Dying(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() > 2 * MIB and daemon.process.poll() is None:
                    daemon.kill9()
                    daemon_factory(directory=daemon.data_dir.parent)
                return super().read(size)

        with connect(kind, daemon.socket_path) as store:
            store.put("x", b"old")
            with pytest.raises(DaemonUnavailable, match="cannot be sent again"):
                store.put_file("x", Dying(data))
            assert store.get("x") == b"old"

    def test_nor_is_one_from_a_named_pipe(
        self, kind: str, daemon_factory: Callable[..., RunningDaemon], tmp_path: Path
    ) -> None:
        daemon = daemon_factory()
        os.mkfifo(tmp_path / "pipe")
        with connect(kind, daemon.socket_path) as store:
            store.put("x", b"old")

            def write() -> None:
                with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
                    pipe.write(bytes(2 * MIB))
                    daemon.kill9()
                    daemon_factory(directory=daemon.data_dir.parent)
                    with suppress(BrokenPipeError):  # nobody reads any more
                        pipe.write(bytes(6 * MIB))

            writer = threading.Thread(target=write)
            writer.start()
            try:
                # As soon as the next daemon is there; before that there is none, which is no better.
                with pytest.raises(DaemonUnavailable, match=r"cannot be sent again|nobody listens"):
                    store.put_file("x", tmp_path / "pipe")
            finally:
                gc.collect()  # the error's traceback may hold the pipe's reading end, and with it the writer
                writer.join()
            assert store.get("x") == b"old"


def _end(daemon: RunningDaemon, how: str) -> None:
    if how == "killed":
        daemon.kill9()
    else:
        assert daemon.stop() == 0


def test_sixteen_threads_share_a_client(daemon: RunningDaemon) -> None:
    """Each sees its own objects; nobody gets another's reply."""
    failures: list[BaseException] = []
    started = threading.Barrier(16)

    def work(store: Client, number: int) -> None:
        try:
            started.wait()
            for turn in range(16):
                size = (number * 16 + turn) % 3 * (INLINE_MAX_BYTES // 2) + number
                data = some_bytes(size, turn)
                assert store.put(f"{number}/{turn % 4}", data).size == size
                assert store.get(f"{number}/{turn % 4}") == data
                with store.get_view(f"{number}/{turn % 4}") as view:
                    assert view == data
                assert store.get_many([f"{number}/{turn % 4}", f"{number}/none"]) == {f"{number}/{turn % 4}": data}
                with pytest.raises(NotFound):
                    store.get(f"{number}/none")
                with pytest.raises(InvalidKey):
                    store.stat(f"{number}//")
        except BaseException as error:
            failures.append(error)

    with daemon.client() as store:
        threads = [threading.Thread(target=work, args=(store, number)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store.stats()["connections"] <= 17


def test_a_client_closed_under_its_threads(daemon: RunningDaemon) -> None:
    """They end with a clear error and leave no connection behind."""
    store = Client(daemon.socket_path)
    store.put("x", b"1")
    busy = threading.Barrier(5)
    endings: list[BaseException] = []

    def work() -> None:
        busy.wait()
        try:
            while True:
                assert store.get("x") == b"1"
        except DaemonUnavailable as error:
            endings.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    busy.wait()
    store.close()
    for thread in threads:
        thread.join()
    assert [str(error) for error in endings] == ["this client has been closed"] * 4
    with daemon.client() as other:
        assert other.stats()["connections"] == 1


class TestFork:
    """After a fork, parent and child go on, each over connections of its own."""

    def test_a_client(self, daemon: RunningDaemon) -> None:
        with daemon.client() as store:
            store.put_many({f"{number}": some_bytes(100, number) for number in range(50)})

            def child() -> bool:
                return _reads_right(store, "child")

            running = _fork(child)
            assert _reads_right(store, "parent")
            assert _ended_well(running)
            assert _reads_right(store, "parent again")

    def test_children_of_children_in_numbers(self, daemon: RunningDaemon) -> None:
        with daemon.client() as store:
            store.put_many({f"{number}": some_bytes(100, number) for number in range(50)})

            def child() -> bool:
                running = _fork(lambda: _reads_right(store, "grandchild"))
                return _reads_right(store, "child") and _ended_well(running)

            children = [_fork(child) for _ in range(6)]
            assert _reads_right(store, "parent")
            assert all(_ended_well(running) for running in children)

    def test_a_view_and_a_client_that_was_never_used(self, daemon: RunningDaemon) -> None:
        data = some_bytes(LARGE)
        with daemon.client() as store, daemon.client() as unused:
            store.put("x", data)
            with store.get_view("x") as view:
                assert _ended_well(_fork(lambda: view == data and unused.get("x") == data))
                assert view == data

    def test_an_asyncio_client(self, daemon: RunningDaemon) -> None:
        client = AsyncClient(daemon.socket_path)

        async def before() -> None:
            await client.put_many({f"{number}": some_bytes(100, number) for number in range(50)})

        async def reads_right() -> bool:
            keys = [str(number) for number in range(50)]
            found = await asyncio.gather(*(client.get(key) for key in keys))
            return found == [some_bytes(100, number) for number in range(50)]

        with asyncio.Runner() as runner:
            runner.run(before())
            running = _fork(lambda: asyncio.run(reads_right()))
            assert runner.run(reads_right())
            assert _ended_well(running)
            assert runner.run(reads_right())
            runner.run(client.close())


def _reads_right(store: Client, name: str) -> bool:
    """Mixed work on keys of one's own and on common ones."""
    for number in range(50):
        if store.get(f"{number}") != some_bytes(100, number):
            return False
        store.put(f"{name}/{os.getpid()}", f"{name} {number}".encode())
        if store.get(f"{name}/{os.getpid()}") != f"{name} {number}".encode():
            return False
    return True


def _fork(work: Callable[[], bool]) -> int:
    """Run ``work`` in a child, which never comes back into pytest; gives its process id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        signal.alarm(60)
        code = 0 if work() else 2
    finally:
        os._exit(code)


def _ended_well(process: int) -> bool:
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status) == 0


class TestInFlight:
    """One ``AsyncClient``, many tasks."""

    async def test_two_hundred_mixed_operations(self, daemon: RunningDaemon) -> None:
        async def work(client: AsyncClient, number: int) -> None:
            size = (10, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, MIB)[number % 4]
            data = some_bytes(size, number)
            key = f"{number}/x"
            assert (await client.put(key, data, metadata={"n": str(number)})).size == size
            got, view, info, there = await asyncio.gather(
                client.get(key), client.get_view(key), client.stat(key), client.exists(key)
            )
            assert got == data
            with view as seen:
                assert seen == data
            assert (info.metadata, there) == ({"n": str(number)}, True)
            assert await client.get_many([key, f"{number}/none"]) == {key: data}
            with pytest.raises(NotFound):
                await client.get(f"{number}/none")
            assert [item.key async for item in client.list(f"{number}/")] == [key]
            pieces: list[bytes] = []
            await client.get_into(key, pieces.append)
            assert b"".join(pieces) == data
            await client.put_file(f"{number}/y", io.BytesIO(data))
            assert await client.delete(key)

        async with AsyncClient(daemon.socket_path) as client:
            await asyncio.gather(*(work(client, number) for number in range(200)))
            stats = await client.stats()
            assert stats["connections"] == 1

    async def test_more_than_the_daemon_takes_at_once(self, daemon_factory: Callable[..., RunningDaemon]) -> None:
        """The client knows the daemon's limit from its welcome, and waits."""
        daemon = daemon_factory({"server": {"max_in_flight": 4}})
        async with AsyncClient(daemon.socket_path) as client:
            await asyncio.gather(*(client.put(f"{number}", bytes(LARGE // 20)) for number in range(100)))
            assert len([info async for info in client.list()]) == 100

    async def test_cancelled_ones_hurt_nobody(self, daemon: RunningDaemon) -> None:
        data = some_bytes(LARGE)
        async with AsyncClient(daemon.socket_path) as client:
            await client.put("x", data)
            for number in range(60):
                tasks = [
                    asyncio.create_task(client.get("x")),
                    asyncio.create_task(client.put(f"y{number % 3}", data)),
                    asyncio.create_task(client.put_file(f"z{number % 3}", io.BytesIO(data))),
                    asyncio.create_task(client.get_into("x", lambda _: None)),
                ]
                for _ in range(number % 12):
                    await asyncio.sleep(0)
                for task in tasks[number % 2 :: 2]:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            assert await client.get("x") == data
            stats = await client.stats()
            assert stats["connections"] == 1

    async def test_a_client_on_one_loop_after_another(self, daemon: RunningDaemon) -> None:
        client = AsyncClient(daemon.socket_path)

        def elsewhere() -> bytes:
            async def use() -> bytes:
                await client.put("x", b"1")
                return await client.get("x")

            return asyncio.run(use())

        for _ in range(3):
            assert await asyncio.to_thread(elsewhere) == b"1"
        assert await client.get("x") == b"1"
        await client.close()


def test_closing_gives_everything_back(daemon: RunningDaemon) -> None:
    """Clients of either kind leave neither descriptors nor connections behind."""
    with daemon.client() as watcher:
        watcher.ping()
        before = len(descriptors(os.getpid()))
        for kind in KINDS:
            for _ in range(20):
                with connect(kind, daemon.socket_path) as store:
                    store.put("x", bytes(LARGE))
                    with store.get_view("x") as view:
                        assert view.nbytes == LARGE
        gc.collect()
        assert len(descriptors(os.getpid())) <= before + 1
        assert watcher.stats()["connections"] == 1
