"""``kill -9`` during puts that the journal acknowledges and during uploads; a fresh daemon with empty caches reads.

Every tenth of ``CRASH_ROUNDS`` rounds; ``CRASH_SEED`` as in ``test_kill.py``.
"""

from __future__ import annotations

import os
import random
import shutil
from typing import Any

import pytest

from tests.crash.test_kill import attack
from tests.support.crash import ABSENT, PREFIXES, Ledger, judge, state_of
from tests.support.daemon import Daemons, RunningDaemon
from tiered_store.key import Key, name_of_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BLOCKS = 2
ROUNDS = -(-int(os.environ.get("CRASH_ROUNDS", "200")) // 10 // BLOCKS)
SEED = os.environ.get("CRASH_SEED") or "journal"
#: One kind of key goes straight to the origin, and copies lead from one kind to the other.
WRITTEN_BACK = [prefix for prefix in PREFIXES if prefix != "revalidated/"]


def config_of(rng: random.Random) -> dict[str, Any]:
    """Puts that wait long, or hardly; a journal that is full now and then."""
    policies = [{"prefix": prefix, "write_back": True} for prefix in WRITTEN_BACK]
    return {
        "policies": [*policies, {"prefix": "sha256:", "immutable": True, "write_back": True}],
        "memory": {"max_bytes": 1 << 20},
        "disk": {"max_bytes": 16 << 20, "min_free_bytes": 0, "min_free_inodes": 0},
        "write_back": {"uploads_at_once": rng.choice([1, 8]), "max_bytes": rng.choice([1 << 20, 1 << 30])},
    }


def start(daemons: Daemons, daemon: RunningDaemon | None, rng: random.Random) -> RunningDaemon:
    """A daemon whose caches are empty."""
    if daemon is None:
        return daemons.start(config_of(rng))
    shutil.rmtree(daemon.data_dir / "cache", ignore_errors=True)
    return daemons.start(config_of(rng), directory=daemon.socket_path.parent)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_acknowledged_put_is_lost_and_none_comes_back(block: int) -> None:
    ledger, daemons = Ledger(), Daemons()
    uploads = kept = 0
    try:
        daemon = start(daemons, None, random.Random(block))
        for number in range(ROUNDS):
            seed = f"{SEED}/{block}/{number}"
            rng = random.Random(seed)
            try:
                attack(daemon, ledger, seed, daemon.kill9)
                kept += len(list((daemon.data_dir / "journal").glob("*.put")))
                daemon = start(daemons, daemon, rng)
                keys = ledger.known()
                rng.shuffle(keys)
                if rng.random() < 0.5:
                    daemon.client().flush(60)
                judge(daemon.client(), ledger, keys)
                stats = daemon.client().stats()
                assert stats["corrupt"] == 0
                assert list((daemon.data_dir / "journal").glob("*.damaged")) == []
                uploads += stats["write_back"]["uploads"]
            except AssertionError as error:
                raise AssertionError(f"round {seed} (set CRASH_SEED={SEED}): {error}") from error
        assert_the_origin_has_it_all(daemon, ledger)
        assert uploads, "no upload was ever under way"
        assert kept, "no put was ever left in the journal"
    finally:
        daemons.close()


def assert_the_origin_has_it_all(daemon: RunningDaemon, ledger: Ledger) -> None:
    daemon.client().flush(60)
    assert daemon.stop() == 0
    assert sorted(path.name for path in (daemon.data_dir / "journal").iterdir()) == ["lock", "origin"]
    for key in ledger.known():
        (expected,) = ledger.possible(key)
        path = daemon.data_dir / "origin" / name_of_key(Key(key))
        assert path.exists() == (expected is not ABSENT)
        if expected is not ABSENT:
            assert state_of(path.read_bytes()).digest == expected.digest
