"""``kill -9`` at random moments while several clients write: nothing acknowledged is lost, nothing is mixed.

``CRASH_ROUNDS`` sets how many rounds there are in all, ``CRASH_SEED`` what they choose. A failure names the seed of
its round; how threads and processes interleave is the machine's choice, so a repetition may need several tries.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.support.crash import POLICIES, Attack, Ledger, judge
from tests.support.daemon import ROOT, Daemons, RunningDaemon, clean_environment
from tests.support.processes import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_log = logging.getLogger(__name__)

BLOCKS = 8
ROUNDS = -(-int(os.environ.get("CRASH_ROUNDS", "200")) // BLOCKS)
SEED = os.environ.get("CRASH_SEED") or "tiered"

CONFIG: dict[str, Any] = {
    "policies": POLICIES,
    # Small enough that objects move between the tiers all the time.
    "memory": {"max_bytes": 4 << 20},
    "disk": {"max_bytes": 64 << 20, "min_free_bytes": 0, "min_free_inodes": 0},
    "server": {"drain_timeout_s": 20},
}


def start_and_ping(daemons: Daemons, directory: Path | None, took_s: list[float]) -> RunningDaemon:
    began = time.monotonic()
    daemon = daemons.start(CONFIG, directory=directory)
    daemon.client().ping()
    took_s.append(time.monotonic() - began)
    return daemon


def kill_while_starting(directory: Path, rng: random.Random) -> None:
    """A daemon that does not live to see its socket used."""
    command = [sys.executable, "-m", "tiered_store", "serve", "--config", str(directory / "config.toml")]
    command += ["--socket", str(directory / "s.sock"), "--data-dir", str(directory / "data")]
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(command, env=clean_environment(), cwd=ROOT, stdout=log, stderr=log)
    Event().wait(rng.uniform(0.2, 0.8))
    process.kill()
    process.wait(30)


def attack(daemon: RunningDaemon, ledger: Ledger, seed: str, end: Callable[[], object]) -> None:
    """Write until a moment that is random in operations and in time, then end the daemon."""
    rng = random.Random(seed)
    writers = Attack(str(daemon.socket_path), ledger, seed)
    writers.start()
    writers.wait_for(rng.randrange(150), rng.choice([0.3, 1.0]))
    Event().wait(rng.random() * 0.01)
    end()
    writers.join()


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_acknowledged_write_is_lost(block: int) -> None:
    ledger, daemons, took_s = Ledger(), Daemons(), []
    try:
        daemon = start_and_ping(daemons, None, took_s)
        directory = daemon.socket_path.parent
        for number in range(ROUNDS):
            seed = f"{SEED}/{block}/{number}"
            rng = random.Random(seed)
            try:
                # Now and then an orderly stop, so that a crash meets what such a stop leaves.
                is_orderly = rng.random() < 0.1
                attack(daemon, ledger, seed, daemon.stop if is_orderly else daemon.kill9)
                if rng.random() < 0.1:
                    kill_while_starting(directory, rng)
                daemon = start_and_ping(daemons, directory, took_s)
                keys = ledger.known()
                rng.shuffle(keys)
                judge(daemon.client(), ledger, keys)
                assert daemon.client().stats()["corrupt"] == 0
            except AssertionError as error:
                raise AssertionError(f"round {seed} (set CRASH_SEED={SEED}): {error}") from error
        assert_no_leftovers(daemon)
    finally:
        daemons.close()
    _log.info(
        "%d rounds; from start to first answer: median %.3f s, max %.3f s",
        *(ROUNDS, statistics.median(took_s), max(took_s)),
    )


def assert_no_leftovers(daemon: RunningDaemon) -> None:
    """A daemon that ends in order leaves no temporary file, whoever died before it."""
    assert daemon.stop() == 0
    own = daemon.data_dir / "origin" / ".tiered_store"
    assert list((own / "tmp").glob("*/*")) == []
    assert list((daemon.data_dir / "cache" / "spool").iterdir()) == []


def test_an_artifact_deleted_just_before_the_crash_stays_deleted() -> None:
    """The disk tier is put back to what it was before the deletion: as far as a crash may set it back."""
    daemons = Daemons()
    try:
        daemon = daemons.start(CONFIG)
        client, cache = daemon.client(), daemon.data_dir / "cache"
        small, large = (client.put_artifact(random.randbytes(size)) for size in (900, 300_000))
        until(lambda: client.stats()["disk"]["entries"] == 2, "the disk tier has both artifacts")
        shutil.copytree(cache, daemon.data_dir / "before")
        assert client.delete(small)
        assert client.delete(large)
        daemon.kill9()
        shutil.rmtree(cache)
        (daemon.data_dir / "before").rename(cache)
        client = daemons.start(CONFIG, directory=daemon.socket_path.parent).client()
        assert client.exists_many([small, large]) == {small: False, large: False}
        assert client.get_many([small, large]) == {}
    finally:
        daemons.close()
