"""Artifacts on their way in: bounded by hashing, so they are held against sha256 alone."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from benchmarks.daemon import Daemon
from benchmarks.data import MIB, payload, size_text
from benchmarks.field import Field, Placement, Turn, Values
from benchmarks.table import OURS, Check, Row, at_least
from tiered_store.client.bodies import upload_of_bytes

__all__ = ["put_artifact"]

_SIZE = 64 * MIB
_HASH = "sha256 alone"
_SPEED_AT_LEAST = 0.8


def put_artifact(field: Field) -> list[Row]:
    """64 MiB that the store has not seen, handed over in every way, beside sha256 of as many bytes in the client."""
    rows = _from_memfd(field, field.memory, "memory") + _from_file(field, field.memory, "memory")
    rows += _from_bytes(field, field.memory, "memory")
    with field.running("uploads", None) as local:
        rows += _from_file(field, local, "a directory, durable")
        rows += _from_bytes(field, local, "a directory, durable")
    return rows


def _from_memfd(field: Field, daemon: Daemon, origin: str) -> list[Row]:
    """By descriptor in the narrow sense: the bytes are in a sealed memfd, which the daemon adopts."""
    path = field.directory / "artifact"
    path.write_bytes(payload(_SIZE))
    data = bytearray(payload(_SIZE))
    fresh = _Fresh()
    file: list[BinaryIO] = []

    def change() -> None:
        head = fresh.head()
        data[: len(head)] = head
        upload = upload_of_bytes(data)
        assert upload.descriptor is not None
        os.lseek(upload.descriptor.fd, 0, os.SEEK_SET)  # the duplicate shares the position, which is at the end
        file[:] = [os.fdopen(os.dup(upload.descriptor.fd), "rb", buffering=0)]

    def targets(values: Values) -> list[Check]:
        ours, alone = values[OURS], values[_HASH]
        speed = alone.median / ours.median if ours and alone else None
        return [at_least(f"of the speed of {_HASH}", speed, _SPEED_AT_LEAST)]

    return _compare(
        field, f"from a sealed memfd, origin {origin}", _put(daemon, lambda: file[0], change), path, targets
    )


def _from_file(field: Field, daemon: Daemon, origin: str) -> list[Row]:
    """By descriptor, too, but of a file that its owner could still change: the daemon copies it first."""
    path = field.directory / "artifact"
    path.write_bytes(payload(_SIZE))
    fresh = _Fresh()

    def change() -> None:
        with path.open("r+b") as file:
            file.write(fresh.head())

    return _compare(field, f"from a file, origin {origin}", _put(daemon, lambda: path, change), path, lambda _: [])


def _from_bytes(field: Field, daemon: Daemon, origin: str) -> list[Row]:
    path = field.directory / "artifact"
    data = bytearray(payload(_SIZE))
    fresh = _Fresh()

    def change() -> None:
        head = fresh.head()
        data[: len(head)] = head

    # bytes(data) is taken before the clock starts, see _put.
    return _compare(
        field, f"from bytes, origin {origin}", _put(daemon, lambda: bytes(data), change), path, lambda _: []
    )


def _compare(field: Field, how: str, ours: Turn, path: Path, targets: Callable[[Values], list[Check]]) -> list[Row]:
    data = path.read_bytes()

    def alone() -> float:
        start = time.perf_counter()
        hashlib.sha256(data).digest()
        return time.perf_counter() - start

    title = f"put_artifact {size_text(_SIZE)} {how}"
    turns: dict[str, Turn | None] = {OURS: ours, _HASH: alone}
    return field.compare(title, turns, decides=Placement.SCHEDULER, targets=targets, unit="ms")


def _put(daemon: Daemon, source: Callable[[], bytes | Path | BinaryIO], change: Callable[[], None]) -> Turn:
    """A turn that puts one artifact nobody has seen, and takes it away again so that the next finds as much room."""

    def turn() -> float:
        change()
        given = source()
        start = time.perf_counter()
        key = daemon.client.put_artifact(given)
        spent = time.perf_counter() - start
        assert daemon.client.stat(key).size == _SIZE
        daemon.client.delete(key)
        return spent

    return turn


class _Fresh:
    """Different bytes each time, so that no upload is saved because the artifact is already there."""

    def __init__(self) -> None:
        self._number = time.time_ns()

    def head(self) -> bytes:
        self._number += 1
        return self._number.to_bytes(16, "big")
