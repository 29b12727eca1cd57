"""``kill -9`` while a small cache directory is being culled: the bound holds and nothing is left over.

``CRASH_ROUNDS`` and ``CRASH_SEED`` as in ``test_kill.py``, of which this does a tenth.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.support.daemon import Daemons
from tests.support.processes import until
from tests.support.tiers import object_files
from tiered_store import Client, DaemonUnavailable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROUNDS = -(-int(os.environ.get("CRASH_ROUNDS", "200")) // 10)
SEED = os.environ.get("CRASH_SEED") or "tiered"
BOUND = 16 << 20
KEYS = 120
CONFIG: dict[str, Any] = {
    # No object used here fits an eighth of it: what is read comes from the disk tier or from the origin.
    "memory": {"max_bytes": 1 << 20},
    "disk": {"max_bytes": BOUND, "min_free_bytes": 0, "min_free_inodes": 0},
}


def content(key: str) -> bytes:
    """Every key has one content for ever, so that any mix of two would show."""
    rng = random.Random(key)
    return rng.randbytes(rng.choice([140_000, 300_000, 700_000]))


def evict(socket_path: Path, seed: str) -> None:
    """Write and read more than fits until the daemon is gone."""
    rng = random.Random(seed)
    with Client(str(socket_path), reconnect_s=0) as client, suppress(DaemonUnavailable):
        while True:
            key = f"cache/{rng.randrange(KEYS)}"
            if rng.random() < 0.7:
                client.put(key, content(key))
            elif client.exists(key):
                assert client.get(key) == content(key)


def files_in_index(cache: Path) -> set[str]:
    connection = sqlite3.connect(f"file:{cache / 'cache.db'}?mode=ro", uri=True)
    try:
        return {name for (name,) in connection.execute("SELECT filename FROM Cache WHERE filename IS NOT NULL")}
    finally:
        connection.close()


def is_in_order(cache: Path) -> bool:
    """Whether every file has its row and every row its file, and nothing else lies about."""
    try:
        known = files_in_index(cache)
    except sqlite3.OperationalError:  # busy just now
        return False
    there = {str(path.relative_to(cache)) for path in object_files(cache)}
    return known == there and not list((cache / "spool").iterdir())


def used_bytes(cache: Path) -> int:
    """What the directory takes, by the blocks of its files; only right while nobody writes."""
    seen: dict[int, int] = {}
    for path in cache.rglob("*"):
        with suppress(FileNotFoundError):
            status = path.stat()
            if path.is_file():
                seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def test_the_bound_holds_and_nothing_is_left_over() -> None:
    daemons = Daemons()
    try:
        daemon = daemons.start(CONFIG)
        directory, cache = daemon.socket_path.parent, daemon.data_dir / "cache"
        evicted = 0
        for number in range(ROUNDS):
            seed = f"{SEED}/{number}"
            rng = random.Random(seed)
            writers = [threading.Thread(target=evict, args=(daemon.socket_path, f"{seed}/{n}")) for n in range(4)]
            for writer in writers:
                writer.start()
            Event().wait(rng.uniform(0.2, 0.8))
            evicted += daemon.client().stats()["disk"]["evictions"]
            daemon.kill9()
            for writer in writers:
                writer.join(60)
            assert used_bytes(cache) <= BOUND, f"round {seed}: over the bound after the kill"
            daemon = daemons.start(CONFIG, directory=directory)
            client = daemon.client()
            for key in rng.sample(range(KEYS), 10):
                if client.exists(f"cache/{key}"):
                    assert client.get(f"cache/{key}") == content(f"cache/{key}"), f"round {seed}"
            until(lambda: is_in_order(cache), f"round {seed}: the audit has settled", limit_s=60)
            assert used_bytes(cache) <= BOUND, f"round {seed}: over the bound after the audit"
            stats = client.stats()
            assert stats["disk"]["bytes"] <= BOUND, f"round {seed}"
            assert stats["corrupt"] == 0, f"round {seed}"
        assert evicted > 0, "nothing was ever evicted: this tests nothing"
    finally:
        daemons.close()
