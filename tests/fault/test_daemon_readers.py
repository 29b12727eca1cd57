"""The first of many readers of a cold object dies; the others, who joined its fill, must not notice."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, clean_environment
from tests.support.mounts import FileGate
from tests.support.processes import until
from tiered_store import Client

Start = Callable[..., RunningDaemon]
READERS = 50
SIZE = 8 << 20
FIRST = """
import sys
from tiered_store import Client
client = Client(sys.argv[1])
print(len(client.get(sys.argv[2])), flush=True)
"""


@pytest.mark.parametrize("free_reads", [0, 5], ids=["before the first byte", "in the middle"])
@pytest.mark.parametrize("key", ["cache/cold", "sessions/cold"])
def test_the_first_of_many_readers_is_killed(daemon_factory: Start, key: str, free_reads: int) -> None:
    daemon = daemon_factory({})
    client = daemon.client()
    data = random.randbytes(SIZE)
    path = daemon.data_dir / "origin" / key
    path.parent.mkdir()
    path.write_bytes(data)
    client.ping()
    with FileGate.before(path, free_reads) as gate:
        first = subprocess.Popen(
            [sys.executable, "-c", FIRST, str(daemon.socket_path), key], env=clean_environment(), stdout=subprocess.PIPE
        )
        assert gate.is_reached.wait(30)
        assert client.stats()["fills"] == 1
        answers: list[bytes | Exception] = []
        readers = [threading.Thread(target=read, args=(daemon.socket_path, key, answers)) for _ in range(READERS - 1)]
        for reader in readers:
            reader.start()
        until(lambda: client.stats()["coalesced"] == READERS - 1, "all readers wait for the one fill")
        connected = client.stats()["connections"]
        first.kill()
        out, _ = first.communicate(timeout=30)
        until(lambda: client.stats()["connections"] < connected, "the daemon has noticed that the first reader is gone")
        gate.open()
        for reader in readers:
            reader.join(60)
    assert out == b""
    assert [answer == data for answer in answers] == [True] * (READERS - 1)
    stats = client.stats()
    assert (stats["fills"], stats["fills_cancelled"], stats["origin"]["hits"]) == (1, 0, 1)
    assert stats["origin"]["bytes_read"] == SIZE
    assert client.get(key) == data


def test_all_readers_are_killed(daemon_factory: Start) -> None:
    """The fill stops when nobody waits for it any more, and the next reader gets a new one."""
    daemon = daemon_factory({})
    client = daemon.client()
    data = random.randbytes(SIZE)
    path = daemon.data_dir / "origin/cache/cold"
    path.parent.mkdir()
    path.write_bytes(data)
    client.ping()
    with FileGate.before(path) as gate:
        command = [sys.executable, "-c", FIRST, str(daemon.socket_path), "cache/cold"]
        readers = [subprocess.Popen(command, env=clean_environment(), stdout=subprocess.PIPE) for _ in range(3)]
        until(lambda: client.stats()["coalesced"] == 2, "all readers wait", limit_s=60)
        assert gate.is_reached.wait(30)
        for reader in readers:
            reader.kill()
            reader.communicate(timeout=30)
        until(lambda: client.stats()["fills_cancelled"] == 1, "the fill was stopped")
        gate.open()
        assert client.get("cache/cold") == data
    assert client.stats()["fills"] == 2


def read(socket_path: Path, key: str, answers: list[bytes | Exception]) -> None:
    try:
        with Client(str(socket_path), timeout_s=60) as client:
            answers.append(client.get(key))
    except Exception as error:
        answers.append(error)
