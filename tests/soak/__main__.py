"""``python -m tests.soak``: a real daemon, a real S3 server behind a proxy with random faults, and a model.

Clients put, get, list and delete, small and large; every answer is held against the model. Meanwhile faults come and
go, and in the first half the daemon is killed and started again now and then. In the second half it lives on, and its
memory and descriptors must stay level. At the end the faults stop, and everything acknowledged must be at the origin.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak.worker import Worker
from tests.support.daemon import Daemons, RunningDaemon
from tests.support.faultproxy import Answer, Fault, FaultProxy
from tests.support.s3 import KEY_ID, SECRET, S3Server, s3_server
from tiered_store import StoreError

_WORKERS = 4
_PREFIXES = ["sessions/", "cache/", "back/"]
_SETTLE_S = 60.0
#: A daemon that is younger is still filling its tiers, of which each large object is a descriptor.
_LEVEL_AFTER_S = 60.0
#: Leaks of a descriptor or a buffer per fault grow past these in minutes; what a fault holds for a while does not.
_MORE_DESCRIPTORS, _MORE_MIB = 40, 48

_FAULTS = (
    Fault(latency_s=0.1),
    Fault(bytes_per_s=2_000_000),
    Fault("connection", "close"),
    Fault("connection", "reset", every=3),
    Fault("request head", "reset", every=4),
    Fault("request body", "close", every=3),
    Fault("request body", "silence", every=9),
    Fault("answer head", "close", every=4),
    Fault("answer head", "silence", every=9),
    Fault("answer body", "reset", every=3),
    Fault("answer body", "close", every=3),
    Fault(answer=Answer(503, "SlowDown"), every=2),
    Fault(answer=Answer(500, "InternalError"), every=3),
    Fault(flips="down", every=5, only=lambda request: request.method == "GET"),
    Fault(etag="another{}".format, every=5),
)


@dataclass
class Findings:
    """What a run found.

    Attributes:
        wrong: what must not be; empty after a good run.
        lines: the summary.
    """

    wrong: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon at one moment."""

    resident_mib: float
    descriptors: int


class Soak:
    """One run. Args: seconds of work; seed of the faults' order."""

    def __init__(self, seconds: float, seed: int) -> None:
        self._seconds = seconds
        self._chance = random.Random(seed)
        self._faults: Counter[str] = Counter()
        self._kills = 0
        self._samples: list[Sample] = []

    def run(self) -> Findings:
        daemons = Daemons()
        directory = Path(tempfile.mkdtemp(prefix="ts-soak-"))
        try:
            with s3_server() as server:
                proxy = FaultProxy(server.port)
                try:
                    return self._run(daemons, directory, server, proxy)
                finally:
                    proxy.close()
        finally:
            daemons.close()
            shutil.rmtree(directory, ignore_errors=True)

    def _run(self, daemons: Daemons, directory: Path, server: S3Server, proxy: FaultProxy) -> Findings:
        bucket = server.settings().bucket
        config = _config(bucket, proxy.url)
        daemon = daemons.start(config, measured=False)
        workers = [Worker(number, daemon.socket_path, _PREFIXES, directory) for number in range(_WORKERS)]
        for worker in workers:
            worker.start()
        try:
            daemon = self._disturb(daemons, daemon, config, proxy)
        finally:
            for worker in workers:
                worker.stop()
        proxy.set()
        findings = self._judge(workers)
        _check_reads(daemon, workers, findings)
        try:
            findings.lines.append(f"{daemon.client().flush(_SETTLE_S):,} puts were in the journal")
        except StoreError as error:
            findings.wrong.append(f"the journal does not get empty: {error!r}")
        _check_origin(server.client, bucket, workers, findings)
        code = daemon.stop()
        if code:
            findings.wrong.append(f"the daemon ended with exit code {code}")
        return findings

    def _disturb(
        self, daemons: Daemons, daemon: RunningDaemon, config: dict[str, Any], proxy: FaultProxy
    ) -> RunningDaemon:
        """Let faults come and go until the time is over, and sample the daemon in the second half."""
        begun = time.monotonic()
        next_kill = self._seconds / 8
        while (passed := time.monotonic() - begun) < self._seconds:
            is_late = passed > self._seconds / 2
            fault = self._chance.choice(_FAULTS)
            self._faults[_described(fault)] += 1
            proxy.set(fault)
            self._wait(self._chance.uniform(0.2, 2.0), daemon, sampled=is_late)
            proxy.set()
            self._wait(self._chance.uniform(0.5, 3.0), daemon, sampled=is_late)
            if not is_late and passed > next_kill:
                next_kill += self._seconds / 8
                self._kills += 1
                daemon.kill9()
                daemon = daemons.start(config, directory=daemon.log_path.parent, measured=False)
        return daemon

    def _wait(self, seconds: float, daemon: RunningDaemon, *, sampled: bool) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.25))
            if sampled:
                self._samples.append(_sample(daemon.process.pid))

    def _judge(self, workers: Sequence[Worker]) -> Findings:
        findings = Findings()
        done, errors = Counter[str](), Counter[str]()
        for worker in workers:
            done += worker.record.done
            errors += worker.record.errors
            findings.wrong += worker.record.wrong
        findings.lines.append(f"{self._kills} kills; faults: {_counted(self._faults)}")
        findings.lines.append(f"{done.total():,} answers judged: {_counted(done)}")
        findings.lines.append(f"{errors.total():,} errors: {_counted(errors)}")
        half = len(self._samples) // 2
        for what, most in (("resident_mib", _MORE_MIB), ("descriptors", _MORE_DESCRIPTORS)):
            values = [getattr(sample, what) for sample in self._samples]
            if half:
                before, after = statistics.median(values[:half]), statistics.median(values[half:])
                quarters = [values[len(values) * part // 4 :][: half // 2 or 1] for part in range(4)]
                medians = ", ".join(f"{statistics.median(quarter):.0f}" for quarter in quarters)
                findings.lines.append(f"{what}: medians of four quarters {medians}; at most {max(values):.0f}")
                if self._seconds / 2 > _LEVEL_AFTER_S and after > before + most:
                    findings.wrong.append(f"{what} grew from {before:.0f} to {after:.0f}")
        if not done.total() or len(done) < 6:
            findings.wrong.append("hardly anything was done")
        return findings


def _config(bucket: str, url: str) -> dict[str, Any]:
    return {
        "origin": {"backend": "s3", "retry_for_s": 5},
        "s3": {
            "bucket": bucket,
            "endpoint_url": url,
            "region": "us-east-1",
            "path_style": True,
            "access_key_id": KEY_ID,
            "secret_access_key": SECRET,
            "read_timeout_s": 3,
            "part_bytes": "5MiB",
        },
        "memory": {"max_bytes": "16MiB"},  # both tiers are to forget
        "disk": {"max_bytes": "64MiB"},
        "policies": [{"prefix": "sessions/", "ttl_s": 1}, {"prefix": "back/", "ttl_s": 1, "write_back": True}],
    }


def _sample(pid: int) -> Sample:
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
    return Sample(kib / 1024, sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()))


def _described(fault: Fault) -> str:
    if fault.answer is not None:
        return f"answer {fault.answer.status}"
    if fault.ends is not None:
        return f"{fault.ends} {fault.how}"
    return "flip" if fault.flips else "etag" if fault.etag else "latency" if fault.latency_s else "bandwidth"


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common()) or "none"


def _check_reads(daemon: RunningDaemon, workers: Sequence[Worker], findings: Findings) -> None:
    """With the faults over, everything can be read, and is what it may be."""
    client = daemon.client(timeout_s=30.0)
    end = time.monotonic() + _SETTLE_S
    checked = 0
    pairs = [(key, keys) for worker in workers for keys in worker.keys.values() for key in keys.names]
    for key, keys in pairs:
        while True:
            try:
                data = client.get(key) if client.exists(key) else None
            except StoreError as error:
                if time.monotonic() > end:
                    findings.wrong.append(f"{key}: cannot be read after all: {error!r}")
                    break
                time.sleep(0.2)
                continue
            if not keys.is_right(key, data):
                findings.wrong.append(f"{key}: wrong after all, and may be only {keys.allowed[key]}")
            break
        checked += 1
    findings.lines.append(f"{checked:,} keys read when the faults were over")


def _check_origin(s3: Any, bucket: str, workers: Sequence[Worker], findings: Findings) -> None:
    """What was acknowledged is at the origin, by its own word."""
    found = 0
    for worker in workers:
        for keys in worker.keys.values():
            for key in keys.names:
                data = _at_origin(s3, bucket, key)
                found += data is not None
                if not keys.is_right(key, data):
                    findings.wrong.append(f"{key}: wrong at the origin, may be only {keys.allowed[key]}")
        for key, size in worker.artifacts.items():
            digest = key.removeprefix("sha256:")
            data = _at_origin(s3, bucket, f"artifacts/sha256/{digest[:2]}/{digest}")
            found += data is not None
            if data is None or len(data) != size:
                findings.wrong.append(f"{key}: not at the origin")
    findings.lines.append(f"{found:,} objects compared at the origin")


def _at_origin(s3: Any, bucket: str, name: str) -> bytes | None:
    try:
        data: bytes = s3.get_object(Bucket=bucket, Key=name)["Body"].read()
    except s3.exceptions.NoSuchKey:
        return None
    return data


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 when all was as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long; ten minutes by default")
    parser.add_argument("--seed", type=int, default=None, help="of the faults' order; by chance if not given")
    options = parser.parse_args(arguments)
    seed = random.randrange(10**6) if options.seed is None else options.seed
    print(f"soak: {options.seconds:.0f} s, seed {seed}", flush=True)
    findings = Soak(options.seconds, seed).run()
    print("\n".join(findings.lines))
    print("\n".join(["WRONG:", *findings.wrong[:50]]) if findings.wrong else "nothing wrong")
    return 1 if findings.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
