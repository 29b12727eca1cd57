"""The directory of contents that files are linked to, in states that killed and concurrent restores leave."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.origins import open_descriptors
from tiered_store.client.trees.linkstore import LinkStore
from tiered_store.client.trees.manifest import File
from tiered_store.client.trees.place import OpenDirectory, open_root

DATA = b"one"
DIGEST = hashlib.sha256(DATA).hexdigest()
FILE = File(b"a", DIGEST, len(DATA), executable=False)


@pytest.fixture
def out(tmp_path: Path) -> OpenDirectory:
    return open_root(tmp_path / "out")


@pytest.fixture
def links(tmp_path: Path) -> LinkStore:
    return LinkStore(tmp_path / "deep" / "links")


@pytest.fixture
def content(tmp_path: Path) -> Path:
    return tmp_path / "deep/links" / DIGEST[:2] / DIGEST


def test_a_content_is_made_once_and_then_linked(links: LinkStore, out: OpenDirectory, content: Path) -> None:
    assert not links.link(out, FILE)
    assert links.fill(out, FILE, DATA)
    assert links.link_all([(out, FILE._replace(name=b"b")), (out, FILE)]) == []
    assert content.stat().st_nlink == 3
    assert (content.read_bytes(), content.stat().st_mode & 0o777) == (DATA, 0o444)
    assert content.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in content.parent.iterdir()] == [DIGEST]


@pytest.mark.parametrize("left", [b"", b"o", b"one"])
def test_one_that_was_killed_while_making_it_leaves_nothing_to_link_to(
    links: LinkStore, out: OpenDirectory, content: Path, left: bytes
) -> None:
    content.parent.mkdir(parents=True)
    content.write_bytes(left)
    content.chmod(0o600)
    assert not links.link(out, FILE)
    half = content.stat().st_ino
    assert links.fill(out, FILE, DATA)
    assert content.stat().st_ino != half
    assert (content.read_bytes(), content.stat().st_nlink) == (DATA, 2)
    assert [path.name for path in content.parent.iterdir()] == [DIGEST]


def test_one_that_somebody_else_has_made_meanwhile_is_taken(
    links: LinkStore, out: OpenDirectory, content: Path, tmp_path: Path
) -> None:
    assert LinkStore(tmp_path / "deep/links").fill(out, FILE._replace(name=b"other"), DATA)
    there = content.stat().st_ino
    assert links.fill(out, FILE, DATA)
    assert content.stat().st_ino == there


def test_the_directory_may_be_removed_while_it_is_used(links: LinkStore, out: OpenDirectory, content: Path) -> None:
    assert links.fill(out, FILE, DATA)
    shutil.rmtree(content.parent.parent)
    assert not links.link(out, FILE)
    assert links.fill(out, FILE, DATA)
    assert links.link(out, FILE)
    assert content.stat().st_nlink == 2


@pytest.mark.parametrize("failing", ["write", "fchmod", "utime"])
def test_a_content_that_cannot_be_made_leaves_nothing(
    links: LinkStore, out: OpenDirectory, content: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    links.fill(out, FILE, DATA)
    content.unlink()
    before = open_descriptors()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(OSError, match=f"No space left on device: .*{DIGEST}"):
        links.fill(out, FILE, DATA)
    assert list(content.parent.iterdir()) == []
    assert open_descriptors() == before


def test_what_is_no_directory_is_named(out: OpenDirectory, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file"):
        LinkStore(tmp_path / "file").link(out, FILE)
