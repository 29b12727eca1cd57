"""File systems of a test's own, and a gate in front of a file; both are the kernel's work and need root."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["FileGate", "Mounts", "fill_up", "fill_up_inodes", "needs_root"]


def needs_root(what: str) -> None:
    """Skip where this cannot be tested; in CI that is a failure."""
    if os.geteuid() == 0:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} needs root, and CI must not skip it")
    pytest.skip(f"{what} needs root")


class Mounts:
    """Mounts that are gone at the end of the test."""

    def __init__(self) -> None:
        self._mounted: list[Path] = []

    def tmpfs(self, path: Path, **options: object) -> Path:
        """A small file system at a path, e.g. ``size="16m"``."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = ",".join(f"{name}={value}" for name, value in {"mode": "0700", **options}.items())
        self._mount("-t", "tmpfs", "-o", text, "tmpfs", str(path))
        self._mounted.append(path)
        return path

    def cover_read_only(self, path: Path) -> None:
        """Make what is reached through the path read-only, also for those who write there: until :meth:`remove`."""
        self._mount("--bind", str(path), str(path))
        self._mounted.append(path)
        self._mount("-o", "remount,bind,ro", str(path))

    def remount(self, path: Path, option: str) -> None:
        """Change a mount: ``ro`` where nobody writes, or ``rw``."""
        self._mount("-o", f"remount,{option}", str(path))

    def remove(self, path: Path) -> None:
        """Take away what was mounted last at a path, whoever still uses it."""
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        self._mounted.remove(path)

    def close(self) -> None:
        """Take all away."""
        for path in reversed(self._mounted.copy()):
            self.remove(path)

    def _mount(self, *arguments: str) -> None:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
        if done.returncode and os.environ.get("CI"):
            pytest.fail(f"mounting failed, and CI must not skip it: {done.stderr}")
        if done.returncode:
            pytest.skip(f"mounting is not possible here: {done.stderr}")


def fill_up(path: Path, name: str = "ballast") -> Path:
    """Leave no byte free on a file system; gives the file to remove."""
    ballast = path / name
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while file.write(b"\1" * size):
                    pass
            except OSError:
                continue
    return ballast


def fill_up_inodes(path: Path, name: str = "ballast") -> Path:
    """Leave no file free on a file system; gives the directory to remove."""
    ballast = path / name
    ballast.mkdir()
    number = 0
    try:
        while True:
            (ballast / str(number)).touch()
            number += 1
    except OSError:
        return ballast


_FAN_CLASS_CONTENT, _FAN_CLOEXEC = 0x4, 0x1
_FAN_MARK_ADD, _FAN_ACCESS_PERM, _FAN_ALLOW = 0x1, 0x20000, 0x1
_AT_FDCWD = -100
#: struct fanotify_event_metadata: length, version, reserved, metadata length, mask, descriptor, process.
_EVENT = struct.Struct("=IBBHQii")
_ANSWER = struct.Struct("=iI")


class FileGate:
    """Holds every reader of a file back, in the kernel (fanotify), until it is opened.

    Args:
        path: the file.
        free_reads: so many reads pass at first.
    """

    def __init__(self, path: Path, free_reads: int = 0) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.fanotify_mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]
        self._fd: int = libc.fanotify_init(_FAN_CLASS_CONTENT | _FAN_CLOEXEC, os.O_RDONLY | os.O_CLOEXEC)
        marked = self._fd >= 0 and not libc.fanotify_mark(
            self._fd, _FAN_MARK_ADD, _FAN_ACCESS_PERM, _AT_FDCWD, os.fsencode(path)
        )
        if not marked:
            pytest.skip(f"the kernel has no permission events: {os.strerror(ctypes.get_errno())}")
        self._free_reads = free_reads
        self._reads = 0
        self._is_open = threading.Event()
        self.is_reached = threading.Event()
        self._stop_reader, self._stop_writer = os.pipe()
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    @classmethod
    @contextmanager
    def before(cls, path: Path, free_reads: int = 0) -> Iterator[FileGate]:
        """A gate for the length of a block."""
        needs_root("holding a file's readers back")
        gate = cls(path, free_reads)
        try:
            yield gate
        finally:
            gate.close()

    def open(self) -> None:
        """Let everybody pass, from now on."""
        self._is_open.set()

    def close(self) -> None:
        """Remove the gate."""
        self.open()
        os.write(self._stop_writer, b".")
        self._thread.join(10)
        for fd in (self._fd, self._stop_reader, self._stop_writer):
            os.close(fd)

    def _answer(self) -> None:
        while self._fd in select.select([self._fd, self._stop_reader], [], [])[0]:
            events = os.read(self._fd, 65_536)
            for at in range(0, len(events), _EVENT.size):
                *_, fd, _process = _EVENT.unpack_from(events, at)
                self._reads += 1
                if self._reads > self._free_reads:
                    self.is_reached.set()
                    self._is_open.wait()
                os.write(self._fd, _ANSWER.pack(fd, _FAN_ALLOW))
                os.close(fd)
