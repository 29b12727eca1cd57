"""Write-back with real daemons: acknowledged from the journal, there after a restart, at the origin after a flush."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import KINDS, connect, some_bytes
from tests.support.daemon import RunningDaemon, clean_environment
from tests.support.processes import until
from tests.support.s3 import KEY_ID, SECRET, s3_server
from tests.support.servers import kept_port
from tiered_store import AsyncClient, DaemonUnavailable, DeadlineExceeded
from tiered_store.objects import INLINE_MAX_BYTES

Start = Callable[..., RunningDaemon]
CONFIG: dict[str, Any] = {"policies": [{"prefix": "back/", "write_back": True}]}
BODIES = {f"back/{size}": some_bytes(size) for size in (0, 1, 5000, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, 3_000_000)}


def origin_of(daemon: RunningDaemon) -> Path:
    return daemon.data_dir / "origin"


def journal_of(daemon: RunningDaemon) -> list[Path]:
    return sorted((daemon.data_dir / "journal").glob("*.put"))


@contextmanager
def origin_away(daemon: RunningDaemon) -> Iterator[None]:
    """The origin's directory is not there, as when nothing is mounted."""
    away = origin_of(daemon).with_name("away")
    origin_of(daemon).rename(away)
    try:
        yield
    finally:
        shutil.rmtree(origin_of(daemon), ignore_errors=True)
        away.rename(origin_of(daemon))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_acknowledged_gets_to_the_origin(daemon_factory: Start, kind: str) -> None:
    daemon = daemon_factory(CONFIG)
    with connect(kind, daemon.socket_path) as store:
        assert store.flush() == 0
        with origin_away(daemon):
            for key, data in BODIES.items():
                info = store.put(key, data, metadata={"key": key})
                assert store.stat(key) == info
                assert store.get(key) == data
            with pytest.raises(DeadlineExceeded, match=r"6 puts \(\d+ bytes\) are not uploaded yet"):
                store.flush(timeout_s=0.2)
            stats = store.stats()["write_back"]
            assert (stats["entries"], stats["uploads"], len(journal_of(daemon))) == (6, 0, 6)
        assert store.flush(timeout_s=30) == 6
        assert [info.key for info in store.list()] == sorted(BODIES)
        assert store.stats()["write_back"]["uploads"] == 6
    for key, data in BODIES.items():
        assert (origin_of(daemon) / key).read_bytes() == data
    assert daemon.stop() == 0
    assert journal_of(daemon) == []


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_restart_with_empty_caches_has_all_of_it(daemon_factory: Start, how: str) -> None:
    daemon = daemon_factory(CONFIG)
    with daemon.client() as store, origin_away(daemon):
        for key, data in BODIES.items():
            store.put(key, data)
        if how == "killed":
            daemon.kill9()
        else:
            assert daemon.stop() == 0  # at once: nothing can be uploaded now
            (line,) = [
                line for line in daemon.log() if line["event"] == "puts stay in the journal until the next start"
            ]
            assert line["entries"] == len(BODIES)
    shutil.rmtree(daemon.data_dir / "cache")
    daemon = daemon_factory(CONFIG, directory=daemon.data_dir.parent)
    with daemon.client() as store:
        assert {key: store.get(key) for key in BODIES} == BODIES
        store.flush(timeout_s=30)
        assert {key: store.get(key) for key in BODIES} == BODIES
    for key, data in BODIES.items():
        assert (origin_of(daemon) / key).read_bytes() == data
    assert daemon.stop() == 0
    assert journal_of(daemon) == []


def test_a_stop_uploads_what_it_can(daemon_factory: Start) -> None:
    daemon = daemon_factory(CONFIG)
    with daemon.client() as store:
        store.put_many({f"back/{number}": some_bytes(100, number) for number in range(300)})
    assert daemon.stop() == 0
    assert journal_of(daemon) == []
    assert len(list((origin_of(daemon) / "back").iterdir())) == 300


def test_a_configuration_that_says_it_no_more_uploads_what_is_left(daemon_factory: Start) -> None:
    daemon = daemon_factory(CONFIG)
    with daemon.client() as store, origin_away(daemon):
        store.put("back/a", b"x")
        daemon.kill9()
    directory = daemon.data_dir.parent
    (directory / "none.toml").write_text(f'write_back.path = "{daemon.data_dir}/journal"\n')
    command = [sys.executable, "-m", "tiered_store", "check-config", str(directory / "none.toml")]
    said = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True, timeout=60)
    assert "holds 1 puts that are not at the origin yet: the daemon uploads them" in said.stderr
    daemon = daemon_factory(directory=directory)
    with daemon.client() as store:
        assert store.get("back/a") == b"x"
        store.flush(timeout_s=30)
        assert store.stats()["write_back"]["entries"] == 0
        store.put("back/a", b"y")
    assert (origin_of(daemon) / "back/a").read_bytes() == b"y"
    assert daemon.stop() == 0
    daemon = daemon_factory(directory=directory)
    with daemon.client() as store:
        assert store.stats()["write_back"]["max_bytes"] == 0  # nothing is left to open a journal for
    assert daemon.stop() == 0


def test_a_journal_that_another_daemon_holds(daemon_factory: Start) -> None:
    daemon = daemon_factory(CONFIG)
    path, same = daemon.data_dir / "journal", ["--data-dir", str(daemon.data_dir)]
    with pytest.raises(AssertionError, match=rf"{path} is in use by another daemon \(pid {daemon.process.pid}\)"):
        daemon_factory(CONFIG, args=same)
    with origin_away(daemon), daemon.client() as store:
        store.put("back/a", b"x")
        other = daemon_factory(args=same)  # no policy of its own asks for it
        assert "puts in a journal are left to others" in other.events()
        assert other.stop() == 0


def test_another_origin_does_not_get_what_waits_for_this_one(daemon_factory: Start) -> None:
    daemon = daemon_factory(CONFIG)
    with daemon.client() as store, origin_away(daemon):
        store.put("back/a", b"x")
        daemon.kill9()
    directory = daemon.data_dir.parent
    elsewhere = {"TIERED_STORE_ORIGIN__BACKEND": "memory"}
    with pytest.raises(AssertionError, match=rf"has 1 puts for another origin: directory {origin_of(daemon)}"):
        daemon_factory(CONFIG, env=elsewhere, directory=directory)
    daemon = daemon_factory(CONFIG, directory=directory)
    with daemon.client() as store:
        store.flush(timeout_s=30)
    assert (origin_of(daemon) / "back/a").read_bytes() == b"x"
    assert daemon.stop() == 0
    daemon_factory(CONFIG, env=elsewhere, directory=directory)  # nothing waits


@pytest.mark.parametrize("kind", KINDS)
def test_a_flush_holds_up_nothing_and_ends_with_the_daemon(daemon_factory: Start, kind: str) -> None:
    daemon = daemon_factory(CONFIG)
    with connect(kind, daemon.socket_path, reconnect_s=0) as store, origin_away(daemon):
        store.put("back/a", b"x")
        ends: list[BaseException] = []

        def flush() -> None:
            with connect(kind, daemon.socket_path, reconnect_s=0) as waiting:
                try:
                    waiting.flush()
                except BaseException as error:
                    ends.append(error)

        threads = [threading.Thread(target=flush) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in range(20):
            store.put(f"back/{number}", b"y")
            assert store.get(f"back/{number}") == b"y"
        until(lambda: store.stats()["connections"] == 4, "all of them flush")
        assert daemon.stop(signal.SIGTERM) == 0
        for thread in threads:
            thread.join(30)
        assert [type(end) for end in ends] == [DaemonUnavailable] * 3
    (stopped,) = [line for line in daemon.log() if line["event"] == "stopped"]
    assert stopped["clean"] is True


def test_a_flush_that_is_cancelled_cancels_nothing_else(daemon_factory: Start) -> None:
    import asyncio

    daemon = daemon_factory(CONFIG)

    async def work() -> None:
        async with AsyncClient(str(daemon.socket_path)) as store:
            with origin_away(daemon):
                await store.put("back/a", b"x")
                flushes = [asyncio.create_task(store.flush()) for _ in range(3)]
                await store.ping()
                flushes[0].cancel()
                await asyncio.wait([flushes[0]])
                assert await store.get("back/a") == b"x"
            assert await asyncio.gather(*flushes[1:]) == [1, 1]

    asyncio.run(asyncio.wait_for(work(), 90))
    assert daemon.stop() == 0


@pytest.fixture
def free_port() -> Iterator[int]:
    with kept_port() as port:
        yield port


def test_a_bucket_that_comes_late(daemon_factory: Start, free_port: int) -> None:
    """The server is down for the puts, for a kill and for the start after it; then everything is in the bucket."""
    s3 = {"bucket": "builds", "endpoint_url": f"http://127.0.0.1:{free_port}", "region": "us-east-1"}
    s3 |= {"access_key_id": KEY_ID, "secret_access_key": SECRET, "part_bytes": "5MiB"}
    policies = [*CONFIG["policies"], {"prefix": "sha256:", "immutable": True, "write_back": True}]
    config = {"origin": {"backend": "s3"}, "s3": s3, "policies": policies}
    bodies = BODIES | {"back/parts": some_bytes(12_000_000)}
    daemon = daemon_factory(config)
    with daemon.client() as store:
        for key, data in bodies.items():
            store.put(key, data, content_type="x/y", metadata={"k": "v"})
        artifact = store.put_artifact(b"tool")
        assert {key: store.get(key) for key in bodies} == bodies
    daemon.kill9()
    shutil.rmtree(daemon.data_dir / "cache")
    daemon = daemon_factory(config, directory=daemon.data_dir.parent)
    with daemon.client() as store:
        assert {key: store.get(key) for key in bodies} == bodies
        assert store.get(artifact) == b"tool"
        until(lambda: store.stats()["write_back"]["failing"] > 0, "an upload was tried")
        with s3_server(free_port) as server:
            server.client.create_bucket(Bucket="builds")
            assert store.flush(timeout_s=60) == len(bodies) + 1
            for key, data in bodies.items():
                found = server.client.get_object(Bucket="builds", Key=key)
                metadata = {name.lower(): value for name, value in found["Metadata"].items()}
                assert (found["Body"].read(), found["ContentType"], metadata["k"]) == (data, "x/y", "v")
            assert store.delete("back/1")
            store.put("back/2", b"2")
            assert store.delete("back/2")
            assert [info.key for info in store.list("back/")] == sorted(bodies.keys() - {"back/1"})
            assert store.flush(timeout_s=60) == 0
            digest = artifact.removeprefix("sha256:")
            listed = server.client.list_objects_v2(Bucket="builds")["Contents"]
            assert {item["Key"] for item in listed} == {
                *(bodies.keys() - {"back/1"}),
                f"artifacts/sha256/{digest[:2]}/{digest}",
            }
            assert daemon.stop() == 0
    assert journal_of(daemon) == []


def test_flush_on_the_command_line(daemon_factory: Start) -> None:
    daemon = daemon_factory(CONFIG)
    environment = {**clean_environment(), "TIERED_STORE_SOCKET": str(daemon.socket_path)}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tiered_store", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    found = run("flush")
    assert (found.returncode, found.stdout) == (0, "no put was waiting\n")
    with origin_away(daemon), daemon.client() as store:
        store.put("back/a", b"x")
        store.put("back/b", os.urandom(10))
        found = run("flush", "--timeout", "0.1")
        assert (found.returncode, found.stdout) == (1, "")
        assert "2 puts" in found.stderr
        shown = run("stats").stdout
        assert any(line.split() == ["entries", "2"] for line in shown.splitlines())
        assert "last_error" in shown
    found = run("flush", "--json")
    assert found.returncode == 0
    assert json.loads(found.stdout)["puts"] in range(3)  # some may be there before the command has started
    assert daemon.stop() == 0
