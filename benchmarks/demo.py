"""``make demo``: a real daemon on the embedded default, a real tree of files, read through each tier.

Every figure is measured while you wait, every byte that comes back is compared, and the tier that answered
is what the daemon's own counters say, not what was hoped for.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks.children import NotStarted, orderly_end
from benchmarks.daemon import Daemon, tier_hits
from benchmarks.data import MIB, artifact_key, standard_library
from benchmarks.samples import percentile
from tiered_store import StoreError

_BATCH = 64
_WRITERS = 8
_SHOWN = "stdlib/"
#: Of the memory tier, for the objects that are read from it: keys and bookkeeping are charged, too.
_MEMORY_SHARE = 0.6
_CHARGE_PER_OBJECT = 1024

_NEXT = """
What to try next (each in the directory of this checkout):

  make serve                                        leave a daemon running; the rest talks to it, from a second terminal
  .venv/bin/tiered-store put notes/readme README.md
  .venv/bin/tiered-store get notes/readme | head -3
  .venv/bin/tiered-store artifact put tiered_store  a whole directory, by content
  .venv/bin/tiered-store ls
  .venv/bin/tiered-store stats
  .venv/bin/python -c 'from tiered_store import Client; print(Client().get("notes/readme").decode())'
  make bench                                        the same daemon beside Redis, memcached and nginx
"""


@dataclass(frozen=True, slots=True)
class Pass:
    """One reading of many keys: which place answered how many, and how long each read took."""

    title: str
    hits: Mapping[str, int]
    size: int
    seconds: Sequence[float]

    def cells(self) -> list[str]:
        """A line of the table."""
        answered = ", ".join(f"{count:,} {place}" for place, count in self.hits.items() if count)
        rate = self.size / MIB / sum(self.seconds)
        half, most = (f"{percentile(self.seconds, share) * 1e6:,.0f} us" for share in (0.5, 0.99))
        return [self.title, f"{len(self.seconds):,}", answered, f"{rate:,.0f}", half, most]


def table(passes: Iterable[Pass]) -> str:
    """All passes, as aligned columns."""
    lines = [["read", "reads", "answered by (daemon's count)", "MiB/s", "p50", "p99"], *(p.cells() for p in passes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    left = (0, 2)
    return "\n".join(
        "  ".join(c.ljust(w) if n in left else c.rjust(w) for n, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def fitting(objects: Mapping[str, bytes], max_bytes: int) -> list[str]:
    """The first keys whose objects fit into a memory tier of this size together."""
    chosen, used = [], 0
    for key, data in objects.items():
        used += len(data) + _CHARGE_PER_OBJECT
        if used > max_bytes * _MEMORY_SHARE:
            break
        chosen.append(key)
    return chosen


def main() -> int:
    """Returns an exit code."""
    started = time.monotonic()
    try:
        with orderly_end(), tempfile.TemporaryDirectory(prefix="tiered-store-demo-") as directory:
            _demonstrate(Path(directory))
    except KeyboardInterrupt:
        _say("\nstopped; daemon and files are gone")
        return 130
    except (NotStarted, StoreError) as error:
        _say(f"the demo failed: {error}")
        return 1
    _say(f"done in {time.monotonic() - started:.0f} s; daemon and files are gone")
    print(_NEXT, end="")
    return 0


def _demonstrate(directory: Path) -> None:
    files = {_SHOWN + name: path.read_bytes() for name, path in standard_library()}
    objects = {key: data for name, data in files.items() for key in (name, artifact_key(data))}
    daemon = Daemon(directory)
    try:
        _say(f"daemon started: pid {daemon.child.pid}, socket {daemon.socket_path}")
        _store(daemon, files)
        passes = _read_through(daemon, objects)
        listed = sum(1 for _ in daemon.client.list(_SHOWN))
        print(f"\n{table(passes)}\n")
        reads = sum(len(p.seconds) for p in passes)
        print(f"{reads:,} reads compared byte by byte: all equal; {listed:,} keys listed", flush=True)
    finally:
        code = daemon.stop()
    _say(f"daemon stopped by SIGTERM, exit code {code}")


def _store(daemon: Daemon, files: Mapping[str, bytes]) -> None:
    """By path in batches, then each as an artifact under its digest."""
    size = sum(map(len, files.values())) / MIB
    _say(f"storing this Python's standard library: {len(files):,} files, {size:.0f} MiB, by path and as artifacts")
    start = time.perf_counter()
    rest = iter(files.items())
    while batch := dict(islice(rest, _BATCH)):
        daemon.client.put_many(batch)
    middle = time.perf_counter()
    with ThreadPoolExecutor(_WRITERS) as writers:  # one client is enough for all of them
        for key, data in zip(writers.map(daemon.client.put_artifact, files.values()), files.values(), strict=True):
            if key != artifact_key(data):
                raise StoreError("an artifact was stored under another digest", key=key)
    end = time.perf_counter()
    _say(f"stored durably: by path in {middle - start:.1f} s, as artifacts in {end - middle:.1f} s")


def _read_through(daemon: Daemon, objects: Mapping[str, bytes]) -> list[Pass]:
    """Cold, from disk, from memory: what each needs is arranged by restarting the daemon."""
    everything = list(objects)
    _say("cold: daemon restarted without its disk tier's files, so the origin must answer")
    daemon.stop()
    shutil.rmtree(daemon.cache)
    daemon.start_again()
    passes = [_read(daemon, "cold, from the origin", objects, everything)]
    _say("disk: daemon restarted, so its memory tier is empty; the files are in the page cache")
    daemon.start_again()
    passes.append(_read(daemon, "from disk", objects, everything))
    hot = fitting(objects, daemon.stats()["memory"]["max_bytes"])
    _say(f"memory: {len(hot):,} objects that fit into the memory tier, read once to bring them there")
    daemon.client.get_many(hot)
    passes.append(_read(daemon, "from memory", objects, hot))
    return passes


def _read(daemon: Daemon, title: str, objects: Mapping[str, bytes], keys: Sequence[str]) -> Pass:
    """One key at a time, each timed, each compared.

    Raises:
        StoreError: bytes other than those that were stored.
    """
    get = daemon.client.get
    before = tier_hits(daemon.stats())
    seconds = []
    for key in keys:
        start = time.perf_counter()
        data = get(key)
        seconds.append(time.perf_counter() - start)
        if data != objects[key]:
            raise StoreError("other bytes came back than were stored", key=key)
    after = tier_hits(daemon.stats())
    hits = {place: after[place] - before[place] for place in after}
    return Pass(title, hits, sum(len(objects[key]) for key in keys), seconds)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
