"""Where the contestants meet: all servers of one run, the CPUs they may use, and alternating rounds.

Every comparison goes through `Field.compare`: in each placement the contestants take turns, round after
round, so that a slow minute of the machine hits all of them.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from benchmarks.children import Child, NotStarted, place
from benchmarks.daemon import MEMORY_ORIGIN, Daemon, Settings
from benchmarks.data import MIB
from benchmarks.peers import Peer, start_peers
from benchmarks.ping import PingPong
from benchmarks.s3server import S3Server
from benchmarks.samples import Summary, summary
from benchmarks.table import OURS, Check, Row

__all__ = ["Field", "Placement", "Scale", "Turn", "Values", "timed"]

#: One contestant's part of one round: seconds per operation.
Turn = Callable[[], float]
Values = Mapping[str, Summary | None]

_UNITS = {"us": 1e6, "ms": 1e3, "s": 1.0}


class Placement(Enum):
    """Which CPUs client and servers may use (docs/decisions/0004-benchmark-placement.md)."""

    ONE_CPU = "one CPU"
    SCHEDULER = "any CPU"  # the scheduler chooses


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        rounds: alternations between the contestants.
        operations: a factor for the operations in one turn.
        disk_entries: objects in the disk tier whose start is timed.
        imports: processes started to time each import.
        seconds: how long many clients run at once, per round.
    """

    rounds: int
    operations: float
    disk_entries: int
    imports: int
    seconds: float

    def count(self, operations: int) -> int:
        return max(3, round(operations * self.operations))


def timed(operation: Callable[[], object], count: int) -> Turn:
    """A turn of ``count`` operations, one at a time, after some to warm up: their median."""

    def turn() -> float:
        for _ in range(count // 10 + 1):
            operation()
        times = []
        for _ in range(count):
            start = time.perf_counter()
            operation()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    return turn


class Field:
    """All that runs during one run of the benchmark; close it to stop everything.

    Attributes:
        memory: a daemon whose memory tier has room for all objects measured.
        disk: a daemon whose memory tier keeps none, so that its disk tier answers.
        peers: the other servers that are there, by the name of their client.
        absent: why the others are not.
    """

    def __init__(self, directory: Path, scale: Scale, placements: Sequence[Placement] = tuple(Placement)) -> None:
        self.directory = directory
        self.scale = scale
        self._placements = placements
        self._cpus = os.sched_getaffinity(0)
        self.peers: dict[str, Peer] = {}
        self._daemons: list[Daemon] = []
        self._s3: S3Server | None = None
        self._guests: list[Child] = []
        try:
            self.peers, self.absent = start_peers(directory)
            self.memory = self._start("memory", {"memory": {"max_bytes": 1024 * MIB}, **MEMORY_ORIGIN})
            self.disk = self._start("disk", {"memory": {"max_object_share": 1e-9}, **MEMORY_ORIGIN})
        except BaseException:
            self.close()
            raise
        self.ping: PingPong | None
        try:
            self.ping = PingPong(directory)
        except OSError as error:
            self.ping, self.absent["C ping-pong"] = None, str(error)

    def s3_server(self) -> S3Server | None:
        """The S3 server, started when it is first asked for; None where it cannot be, and ``absent`` says why."""
        if self._s3 is None and "S3" not in self.absent:
            try:
                self._s3 = S3Server(self.directory)
            except NotStarted as error:
                self.absent["S3"] = str(error)
        return self._s3

    @contextmanager
    def running(self, name: str, settings: Settings | None) -> Iterator[Daemon]:
        """One more daemon, placed with the others while it runs, and stopped afterwards."""
        daemon = self._start(name, settings)
        try:
            yield daemon
        finally:
            self._daemons.remove(daemon)  # its pid may be somebody else's from now on
            daemon.stop()

    @contextmanager
    def hosting(self, child: Child) -> Iterator[None]:
        """Place another server with the others while it runs; it is stopped by whoever started it."""
        self._guests.append(child)
        try:
            yield
        finally:
            self._guests.remove(child)

    def _start(self, name: str, settings: Settings | None) -> Daemon:
        daemon = Daemon(self.directory / name, settings)
        self._daemons.append(daemon)
        return daemon

    def store(self, key: str, data: bytes) -> None:
        """Put an object into every server."""
        self.memory.client.put(key, data)
        self.disk.client.put(key, data)
        for peer in self.peers.values():
            peer.put(key, data)

    @contextmanager
    def placed(self, placement: Placement) -> Iterator[None]:
        """Client and all servers on the CPUs of this placement, all CPUs afterwards."""
        children = [*(daemon.child for daemon in self._daemons), *(peer.child for peer in self.peers.values())]
        children += [*self._guests, *([self._s3.child] if self._s3 else [])]
        pids = [0, *(child.pid for child in children)]
        place(pids, {max(self._cpus)} if placement is Placement.ONE_CPU else self._cpus)
        try:
            yield
        finally:
            place(pids, self._cpus)

    def race(
        self, turns: Mapping[str, Turn | None], *, factor: float = 1.0, rounds: int | None = None
    ) -> dict[str, Summary | None]:
        """Alternate; None for those that are not there. The order moves on by one each round.

        Args:
            turns: one per contestant.
            factor: what its seconds are multiplied by.
            rounds: fewer than the scale's, for work that cannot have as many.
        """
        names = [name for name, turn in turns.items() if turn]
        found: dict[str, list[float]] = {name: [] for name in names}
        for number in range(self.scale.rounds if rounds is None else rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                turn = turns[name]
                assert turn is not None
                found[name].append(turn() * factor)
        return {name: summary(found[name]) if turn else None for name, turn in turns.items()}

    def compare(
        self,
        work: str,
        turns: Mapping[str, Turn | None],
        *,
        decides: Placement,
        targets: Callable[[Values], Sequence[Check]],
        unit: str = "us",
        per: int = 1,
    ) -> list[Row]:
        """One kind of work in every placement; the targets count in the one that decides.

        Args:
            work: its name in the table.
            turns: one per contestant; None for one that is not there.
            decides: the placement whose verdict counts.
            targets: what must be reached.
            unit: of the table: ``us``, ``ms`` or ``s``.
            per: how many keys one operation handles.
        """
        rows = []
        for placement in self._placements:
            with self.placed(placement):
                values = self.race(turns, factor=_UNITS[unit] / per)
            checks = targets(values) if placement is decides else ()
            rows.append(Row(work, placement.value, unit, values, checks))
        return rows

    def turns(self, ours: Turn, others: Iterable[str], of: Callable[[Peer], Turn]) -> dict[str, Turn | None]:
        """Our turn and one for each of the other servers; None for those that are not there."""
        turns: dict[str, Turn | None] = {OURS: ours}
        for name in others:
            turns[name] = of(self.peers[name]) if name in self.peers else None
        return turns

    def close(self) -> None:
        for daemon in self._daemons:
            daemon.stop()
        for peer in self.peers.values():
            peer.close()
        if self._s3 is not None:
            self._s3.close()
