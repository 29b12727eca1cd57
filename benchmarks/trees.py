"""Directory trees: a warm restore beside unpacking the same tree, and a second save beside the first.

The tree is made up: packages of small files in a few directories each, as package managers of JavaScript leave them.

Nothing is removed before the end of the run, and each turn restores into a directory of its own. ext4 without a
journal does not give out an inode that was deleted in the last one to five minutes (``recently_deleted`` in Linux's
fs/ext4/ialloc.c), and looks for another one by one: who creates many files where as many have just been removed waits
for that search, much longer than for all the rest, whatever program it is.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.daemon import Daemon
from benchmarks.data import payload
from benchmarks.field import Field, Placement, Turn
from benchmarks.samples import summary
from benchmarks.table import OURS, Row, at_least, at_most

__all__ = ["make_packages", "trees"]

_FILES = 20_000
_TAR = "tar --zstd -x"
_FIRST = "the first save"
_CHANGED = 0.01
_COPIES_AT_LEAST, _LINKS_AT_LEAST, _SECOND_AT_MOST = 1.0, 2.0, 0.15
_DIRECTORIES = ("", "lib", "lib/internal", "test", "dist")
#: Of the disk's free space and inodes, what all the restored trees may take.
_SHARE_OF_DISK = 0.5
#: Each leaves two trees behind per row, and to remove them takes as long as to make them.
_ROUNDS_AT_MOST = 5
#: A first save asks the disk for each file; more rounds would take longer than all the rest of the benchmark.
_SAVES_AT_MOST = 3


def make_packages(root: Path, files: int, seed: int = 0) -> None:
    """A tree of so many files, most of them of 1 to 10 KiB, and five of six in a directory with others."""
    chance = random.Random(seed)
    text = payload(1024, seed).hex().encode() * 100  # compresses about as well as program text does
    made = 0
    while made < files:
        package = root / f"package-{made:06d}"
        for directory in _DIRECTORIES[: chance.randint(1, len(_DIRECTORIES))]:
            (package / directory).mkdir(parents=True, exist_ok=True)
            for number in range(min(chance.randint(1, 12), files - made)):
                size = int(min(200_000, max(50, chance.lognormvariate(7.9, 1.1))))
                start = chance.randrange(4096)
                made += 1
                path = package / directory / f"file-{number}.js"
                path.write_bytes(f"// {seed}/{made}\n".encode() + text[start : start + size])
                if number == 0:
                    path.chmod(0o755)


def trees(field: Field) -> list[Row]:
    """Save and restore a tree of 20,000 files."""
    source = field.directory / "tree"
    make_packages(source, field.scale.count(_FILES))
    rows = _restores(field, source)
    rows.append(_saves(field, source))
    os.sync()  # what comes next is not to share the disk with all that was written
    return rows


def _restores(field: Field, source: Path) -> list[Row]:
    archive = field.directory / "tree.tar.zst"
    tar = None
    if shutil.which("tar") and shutil.which("zstd"):
        subprocess.run(["tar", "--zstd", "-cf", archive, "-C", source, "."], check=True)
        tar = _unpack(field, archive)
    else:
        field.absent[_TAR] = "tar or zstd is not installed"
    rows = []
    rounds = _rounds(field, source)
    key = field.memory.client.put_tree(source).key
    for title, links, least in (
        ("copies", None, _COPIES_AT_LEAST),
        ("links", field.directory / "links", _LINKS_AT_LEAST),
    ):
        ours = _restore(field, field.memory, key, links)
        rows.append(_compare(field, f"restore a tree, {title}, warm in memory", ours, tar, least, rounds))
    with field.running("trees", None) as daemon:  # with the defaults the tree is larger than the memory tier
        assert daemon.client.put_tree(source).key == key
        ours = _restore(field, daemon, key, None)
        rows.append(_compare(field, "restore a tree, copies, warm on disk", ours, tar, _COPIES_AT_LEAST, rounds))
    return rows


def _rounds(field: Field, source: Path) -> int:
    """As many rounds as the disk has room for: each contestant leaves a tree behind in each of them."""
    disk = os.statvfs(source)
    inodes = size = 0
    for directory, _, names in os.walk(source):
        inodes += 1 + len(names)
        size += disk.f_frsize + sum(Path(directory, name).stat().st_blocks * 512 for name in names)
    trees = _SHARE_OF_DISK * min(disk.f_bavail * disk.f_frsize / size, disk.f_favail / inodes if disk.f_files else 1e9)
    rows, contestants = 3, 2
    return max(1, min(field.scale.rounds, _ROUNDS_AT_MOST, int(trees / (rows * contestants)) - 1))


def _compare(field: Field, work: str, ours: Turn, tar: Turn | None, least: float, rounds: int) -> Row:
    """On any CPU alone: tar and its unpacker are two processes, and so are we and the daemon."""
    values = field.race({OURS: ours, _TAR: tar}, rounds=rounds)
    mine, theirs = values[OURS], values[_TAR]
    speed = theirs.median / mine.median if mine and theirs else None
    return Row(work, Placement.SCHEDULER.value, "s", values, [at_least(f"x as fast as {_TAR}", speed, least)])


def _fresh(field: Field) -> Path:
    """A directory to restore into, which stays."""
    base = field.directory / "restored"
    base.mkdir(exist_ok=True)
    out = base / f"{sum(1 for _ in base.iterdir()):04}"
    out.mkdir()
    return out


def _restore(field: Field, daemon: Daemon, key: str, links: Path | None) -> Turn:
    """A turn; one that is not measured has warmed it: what it links to is there, and the tiers hold what they can."""

    def restore(out: Path) -> float:
        start = time.perf_counter()
        restored = daemon.client.get_tree(key, out, link_from=links)
        spent = time.perf_counter() - start
        assert restored.new_files == restored.files
        return spent

    out = _fresh(field)
    restore(out)
    assert daemon.client.put_tree(out).key == key  # so everything is as it was
    return lambda: restore(_fresh(field))


def _unpack(field: Field, archive: Path) -> Turn:
    def turn() -> float:
        out = _fresh(field)
        start = time.perf_counter()
        subprocess.run(["tar", "--zstd", "-xf", archive, "-C", out], check=True)
        return time.perf_counter() - start

    return turn


def _saves(field: Field, source: Path) -> Row:
    """A first save needs a store that has nothing, so each round has a daemon of its own, with a durable origin."""
    first, second = [], []
    for number in range(min(field.scale.rounds, _SAVES_AT_MOST)):
        cache = field.directory / f"stat-{number}"
        with field.running(f"saves-{number}", None) as daemon:

            def save(daemon: Daemon = daemon, cache: Path = cache) -> object:
                return daemon.client.put_tree(source, stat_cache=cache)

            first.append(_timed(save))
            for path in _some(source, number):
                path.write_bytes(path.read_bytes() + b"// changed\n")
            second.append(_timed(save))
    values = {OURS: summary(second), _FIRST: summary(first)}
    share = values[OURS].median / values[_FIRST].median
    checks = [at_most(f"x {_FIRST}", share, _SECOND_AT_MOST)]
    return Row("save a tree again, 1 % changed, durable", Placement.SCHEDULER.value, "s", values, checks)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _some(source: Path, seed: int) -> Iterator[Path]:
    """One of a hundred files, anywhere in the tree."""
    chance = random.Random(f"some/{seed}")
    for directory, _, names in os.walk(source):
        for name in sorted(names):
            if chance.random() < _CHANGED:
                yield Path(directory, name)
