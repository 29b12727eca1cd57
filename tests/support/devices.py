"""Devices of a test's own: code that replaces one by mistake, run by root, must not find the machine's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

__all__ = ["own_device"]


def own_device(directory: Path, name: str) -> Path:
    """A device as the one in ``/dev`` of this name; for others than root, who cannot harm that, a link to it."""
    path = directory / name
    original = Path("/dev") / name
    if os.geteuid() != 0:
        path.symlink_to(original)
        return path
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, original.stat().st_rdev)
        os.close(os.open(path, os.O_WRONLY))
    except PermissionError:
        pytest.skip("devices cannot be made or used here")
    return path
