"""Objects of gibibytes: whole, and without the daemon's memory growing with them."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.support.daemon import RunningDaemon
from tests.support.processes import MIB, high_water_bytes, reset_high_water
from tiered_store import Client

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GIB = 1024 * MIB
BLOCK = 16 * MIB
MAX_GROWTH = 64 * MIB
#: Options of a client that waits for gibibytes to be copied, hashed and synced on a slow machine.
PATIENT = {"timeout_s": 600}


def pieces(size: int, seed: int) -> Iterator[bytes]:
    """Bytes in which no two pages are alike, at the price of copying them: a block with a counter in every page."""
    block = bytearray(random.Random(seed).randbytes(BLOCK))
    for start in range(0, size, BLOCK):
        for page in range(0, BLOCK, 4096):
            block[page : page + 8] = (start + page).to_bytes(8, "little")
        yield bytes(memoryview(block)[: size - start])


def written(path: Path, size: int, seed: int) -> str:
    """Make a file of these bytes; gives their sha256."""
    digest = hashlib.sha256()
    with path.open("wb", buffering=0) as file:
        for piece in pieces(size, seed):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Watch:
    """The most memory the daemon had since the start of the block, over what it had then."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self._pid = daemon.process.pid
        self.grown = 0

    def __enter__(self) -> Self:
        self._before = reset_high_water(self._pid)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.grown = high_water_bytes(self._pid) - self._before


@pytest.fixture
def room(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory where so many gibibytes are free, removed afterwards."""
    needed = request.param * GIB
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        pytest.skip(f"{request.param} GiB of free disk needed, {free // GIB} are there")
    directory = Path(tempfile.mkdtemp(prefix="ts-large-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def daemon(daemon_factory: Callable[..., RunningDaemon]) -> RunningDaemon:
    return daemon_factory({"disk": {"max_bytes": "12 GiB", "min_free_bytes": 0}, "log": {"slow_request_s": 600}})


@pytest.mark.parametrize("room", [17], indirect=True)
def test_five_gibibytes_by_descriptor(daemon: RunningDaemon, room: Path) -> None:
    """There and back: as a file, as a view, from a tier and from the origin."""
    size = 5 * GIB + 12345
    digest = written(room / "in", size, 1)
    with Client(daemon.socket_path, **PATIENT) as store:
        with Watch(daemon) as putting:
            info = store.put_file("big", room / "in", metadata={"big": "yes"})
        assert (info.size, info.metadata) == (size, {"big": "yes"})
        (room / "in").unlink()
        with Watch(daemon) as getting:
            assert store.get_file("big", room / "out") == info
        assert digest_of_file(room / "out") == digest
        with Watch(daemon) as viewing, store.get_view("big") as view:
            assert view.nbytes == size
            with (room / "out").open("rb") as file:
                for offset in (0, BLOCK - 3, 3 * GIB + 77, 2**32 - 5, 2**32 + 5, size - 4096):
                    assert bytes(view[offset : offset + 4096]) == os.pread(file.fileno(), 4096, offset)
        (room / "out").unlink()
        assert store.get("big", offset=2**32 - 2, length=4) is not None
        stats = store.stats()
        assert stats["disk"]["entries"] >= 1
        assert stats["origin"]["hits"] == 0
    assert putting.grown < MAX_GROWTH
    assert getting.grown < MAX_GROWTH
    assert viewing.grown < MAX_GROWTH


@pytest.mark.parametrize("room", [8], indirect=True)
def test_two_cold_gibibytes(daemon: RunningDaemon, room: Path) -> None:
    """Through a fill, streamed to one reader while another waits for the whole."""
    size = 2 * GIB + 1
    digest = written(daemon.data_dir / "origin" / "big", size, 2)
    with Client(daemon.socket_path, **PATIENT) as store:
        taken = hashlib.sha256()
        with Watch(daemon) as filling:
            assert store.get_into("big", taken.update).size == size
        assert taken.hexdigest() == digest
        with Watch(daemon) as reading, store.get_view("big") as view:
            assert hashlib.sha256(view).hexdigest() == digest
        assert store.stats()["origin"]["bytes_read"] == size
    assert filling.grown < MAX_GROWTH
    assert reading.grown < MAX_GROWTH


class Generated:
    """A file object of which nobody knows the size before its end."""

    def __init__(self, size: int, seed: int) -> None:
        self._pieces = pieces(size, seed)
        self._left = memoryview(b"")
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        if not self._left:
            self._left = memoryview(next(self._pieces, b""))
        piece, self._left = bytes(self._left[:size]), self._left[size:]
        self.digest.update(piece)
        return piece


@pytest.mark.parametrize("room", [5], indirect=True)
@pytest.mark.parametrize("kind", ["path", "artifact"])
def test_a_gibibyte_as_a_stream_of_unknown_size(daemon: RunningDaemon, room: Path, kind: str) -> None:
    source = Generated(GIB + 7, 3)
    with Client(daemon.socket_path, **PATIENT) as store:
        with Watch(daemon) as putting:
            if kind == "path":
                key = store.put_file("big", source).key  # type: ignore[arg-type]  # read() is all it takes
            else:
                key = store.put_artifact(source)  # type: ignore[arg-type]
                assert key == f"sha256:{source.digest.hexdigest()}"
        with store.get_view(key) as view:
            assert hashlib.sha256(view).hexdigest() == source.digest.hexdigest()
    assert putting.grown < MAX_GROWTH


@pytest.mark.parametrize("room", [5], indirect=True)
def test_an_artifact_of_a_gibibyte(daemon: RunningDaemon, room: Path) -> None:
    digest = written(room / "in", GIB + 1, 4)
    with Client(daemon.socket_path, **PATIENT) as store:
        with Watch(daemon) as putting:
            assert store.put_artifact(room / "in") == f"sha256:{digest}"
        assert putting.grown < MAX_GROWTH
        with Watch(daemon) as again:
            assert store.put_artifact(room / "in") == f"sha256:{digest}"
        assert again.grown < MAX_GROWTH
        assert store.stats()["uploads_skipped"] == 1
        with store.get_view(f"sha256:{digest}") as view:
            assert hashlib.sha256(view).hexdigest() == digest
