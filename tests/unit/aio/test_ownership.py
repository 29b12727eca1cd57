"""A directory of one's own: nobody else's, and one process at a time (the disk tier's tests have the rest)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tiered_store.aio.ownership import NotOurs, lock_file, own_directory, sync_directory


def test_it_is_made_and_closed_to_others(tmp_path: Path) -> None:
    place = tmp_path / "a/b"
    own_directory(place)
    assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o755)
    own_directory(place)
    assert place.stat().st_mode & 0o777 == 0o700
    sync_directory(place)


def test_what_is_not_ours_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        own_directory(tmp_path / "file")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(NotOurs, match="is not a directory"):
        own_directory(tmp_path / "link")
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o770)
    with pytest.raises(NotOurs, match=r"is writable by others \(mode 0770\)"):
        own_directory(place)
    owner = place.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(NotOurs, match=f"belongs to uid {owner}"):
        own_directory(place)


def test_a_lock_is_held_as_long_as_its_descriptor(tmp_path: Path) -> None:
    lock = lock_file(tmp_path / "lock")
    with pytest.raises(NotOurs, match=rf"{tmp_path} is in use by another daemon \(pid {os.getpid()}\)"):
        lock_file(tmp_path / "lock")
    lock.close()
    lock_file(tmp_path / "lock")
