"""``kill -9`` while objects go to an S3 server in parts and come back from it: what was acknowledged is there, whole.

Each round is judged by a daemon that has empty caches. ``S3_CRASH_ROUNDS`` sets how many rounds there are for each
server, ``CRASH_SEED`` what they choose; a failure names the seed of its round.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from contextlib import suppress
from threading import Event
from typing import Any

import pytest

from tests.support.crash import ABSENT, Ledger, judge, observe, state_of
from tests.support.daemon import Daemons, RunningDaemon
from tests.support.faultproxy import Fault, FaultProxy, Request
from tests.support.matrix import s3_section
from tests.support.processes import MIB, until
from tests.support.s3 import PROGRAMS, shared_server
from tiered_store import Client, DaemonUnavailable, ObjectInfo, OriginUnavailable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("S3_CRASH_ROUNDS", "10"))
SEED = os.environ.get("CRASH_SEED") or "tiered"
#: Inline, one request, two parts, three parts.
SIZES = (900, 300_000, 6 * MIB, 11 * MIB)
WRITERS = 2


class Attack:
    """Writers with keys of their own, and a reader of all keys, until the daemon is gone."""

    def __init__(self, socket_path: str, ledger: Ledger, seed: str) -> None:
        self._path = socket_path
        self._ledger = ledger
        self._seed = seed
        self.faults: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(WRITERS + 1)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client hangs although the daemon is gone"
        assert not self.faults, self.faults

    def _run(self, number: int) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        act = self._read if number == WRITERS else self._write
        try:
            with Client(self._path, reconnect_s=0) as client, suppress(DaemonUnavailable):
                while True:
                    act(client, rng, number)
        except Exception as error:
            self.faults.append(f"client {number}: {error!r}")

    def _write(self, client: Client, rng: random.Random, number: int) -> None:
        key = f"sessions/w{number}/{rng.randrange(3)}"
        if rng.random() < 0.1:
            acknowledged = self._ledger.begin(key, ABSENT)
            client.delete(key)
        else:
            data = rng.randbytes(rng.choices(SIZES, (3, 2, 4, 2))[0])
            if rng.random() < 0.2:
                state = state_of(data)
                acknowledged = self._ledger.begin(f"sha256:{state.digest}", state)
                client.put_artifact(data)
            else:
                about = ObjectInfo(key, len(data), "", "text/x", {"n": str(rng.random())}, 0)
                acknowledged = self._ledger.begin(key, state_of(data, about))
                client.put(key, data, content_type=about.content_type, metadata=about.metadata)
        acknowledged()

    def _read(self, client: Client, rng: random.Random, _: int) -> None:
        """It may be any version that was put while it was read, but one of them, and whole."""
        key = f"sessions/w{rng.randrange(WRITERS)}/{rng.randrange(3)}"
        try:
            found = observe(client, key)
        except OriginUnavailable:  # it was overwritten while it was read
            return
        assert found is ABSENT or found in self._ledger.begun(key), f"{key}: {found} was never written"


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_acknowledged_write_is_lost(program: str) -> None:
    server = shared_server(program)
    settings = server.settings()
    proxy, daemons, ledger = FaultProxy(server.port), Daemons(), Ledger()
    met: Counter[str] = Counter()

    def note(request: Request) -> bool:
        met["part" if "uploadId" in request.target else request.method] += 1
        return False

    proxy.set(Fault(only=note))
    waits = {"connect_timeout_s": 10, "read_timeout_s": 20, "max_connections": 16}
    config: dict[str, Any] = {"origin": {"backend": "s3"}, "s3": s3_section(settings, proxy.url, **waits)}
    # Small enough that most reads are fills.
    config |= {"memory": {"max_bytes": 2 * MIB}, "disk": {"max_bytes": 16 * MIB, "min_free_bytes": 0}}
    try:
        for number in range(ROUNDS + 1):
            seed = f"{SEED}/{program}/{number}"
            rng = random.Random(seed)
            daemon = daemons.start(config)  # in a directory of its own: its caches are empty
            try:
                judge(daemon.client(timeout_s=120), ledger, ledger.known())
                if number < ROUNDS:
                    attack(daemon, proxy, ledger, rng, seed)
            except AssertionError as error:
                raise AssertionError(f"round {seed} (set CRASH_SEED={SEED}): {error}") from error
    finally:
        daemons.close()
        proxy.close()
    assert min(met[kind] for kind in ("part", "PUT", "GET", "DELETE")) > 0, met


def attack(daemon: RunningDaemon, proxy: FaultProxy, ledger: Ledger, rng: random.Random, seed: str) -> None:
    clients = Attack(str(daemon.socket_path), ledger, seed)
    Event().wait(rng.uniform(0.05, 1.0))
    daemon.kill9()
    clients.join()
    # What the server has been sent whole it does, though nobody waits for it any more.
    until(lambda: proxy.open_connections == 0, "the server has answered what it was asked", limit_s=60)
