"""Directory trees through real daemons: both clients, kills in the middle, and what a damaged daemon does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import RunningDaemon, clean_environment
from tests.support.trees import Tree, found, key_of, make
from tiered_store import AsyncClient, Client, DaemonUnavailable, NotFound, TreeInfo
from tiered_store.objects import INLINE_MAX_BYTES

LARGE = os.urandom(1024) * 4096
MEDIUM = os.urandom(INLINE_MAX_BYTES + 1)
TREE: Tree = {
    **{b"pkg-%03d" % number: {b"index.js": (b"// %d" % number, False), b"l": b"../bin"} for number in range(300)},
    b"bin": {b"run": (MEDIUM, True)},
    b"empty": {},
    b"large": (LARGE, False),
    b"\xff\n": (b"", False),
}

#: Restores a tree, and dies as soon as some of it is in place.
DIES = """
import os, signal, sys
from tiered_store import Client
def die(done, total):
    if done:
        os.kill(os.getpid(), signal.SIGKILL)
Client(sys.argv[1]).get_tree(sys.argv[2], sys.argv[3], progress=die)
"""


@pytest.fixture
def saved(daemon: RunningDaemon, tmp_path: Path) -> TreeInfo:
    make(tmp_path / "in", TREE)
    with daemon.client() as client:
        return client.put_tree(tmp_path / "in", stat_cache=tmp_path / "cache")


def test_there_and_back(daemon: RunningDaemon, saved: TreeInfo, tmp_path: Path) -> None:
    with daemon.client() as client:
        restored = client.get_tree(saved.key, tmp_path / "out")
        assert found(tmp_path / "out") == TREE
        assert restored.new_bytes == saved.bytes == saved.new_bytes
        again = client.put_tree(tmp_path / "out")
        assert (again.key, again.new_files, again.shared_bytes) == (saved.key, 0, saved.bytes)
        linked = client.get_tree(saved.key, tmp_path / "linked", link_from=tmp_path / "links")
        assert (linked.new_bytes, found(tmp_path / "linked")) == (saved.bytes, TREE)
        # Each file is an artifact of its own.
        assert client.get(key_of(b"// 7")) == b"// 7"
        assert client.stat(saved.key).content_type == "application/vnd.tiered-store.tree"


async def test_the_asyncio_client(daemon: RunningDaemon, saved: TreeInfo, tmp_path: Path) -> None:
    async with AsyncClient(daemon.socket_path) as client:
        again = await client.put_tree(tmp_path / "in", stat_cache=tmp_path / "cache")
        assert (again.key, again.new_files) == (saved.key, 0)
        restored = await client.get_tree(saved.key, tmp_path / "out")
    assert (restored.files, found(tmp_path / "out")) == (saved.files, TREE)


def test_a_daemon_that_has_cached_nothing(
    daemon_factory: Callable[..., RunningDaemon], daemon: RunningDaemon, saved: TreeInfo, tmp_path: Path
) -> None:
    daemon.stop()
    shutil.rmtree(daemon.data_dir / "cache")
    cold = daemon_factory(directory=daemon.data_dir.parent)
    with cold.client() as client:
        client.get_tree(saved.key, tmp_path / "out")
        assert client.stats()["fills"] > 300
    assert found(tmp_path / "out") == TREE


def test_a_restore_that_is_killed_is_gone_on_with(daemon: RunningDaemon, saved: TreeInfo, tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", DIES, str(daemon.socket_path), saved.key, str(tmp_path / "out")],
        env=clean_environment(),
        check=False,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL
    before = found(tmp_path / "out")
    assert before != TREE
    whole = [name for name, entry in before.items() if entry == TREE[name] and entry]
    assert whole
    with daemon.client() as client:
        restored = client.get_tree(saved.key, tmp_path / "out")
    assert found(tmp_path / "out") == TREE
    assert 0 < restored.new_files < saved.files


def test_a_file_half_written_is_written_anew(daemon: RunningDaemon, saved: TreeInfo, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/large").write_bytes(LARGE[:5_000])
    with daemon.client() as client:
        client.get_tree(saved.key, tmp_path / "out")
    assert found(tmp_path / "out") == TREE


def test_the_daemon_is_killed_in_the_middle(
    daemon_factory: Callable[..., RunningDaemon], daemon: RunningDaemon, saved: TreeInfo, tmp_path: Path
) -> None:
    def kill(done: int, _total: int | None) -> None:
        daemon.kill9()

    with daemon.client(reconnect_s=0) as client, pytest.raises(DaemonUnavailable):
        client.get_tree(saved.key, tmp_path / "out", progress=kill)
    some = found(tmp_path / "out")
    assert some != TREE
    again = daemon_factory(directory=daemon.data_dir.parent)
    with again.client() as client:
        client.get_tree(saved.key, tmp_path / "out")
    assert found(tmp_path / "out") == TREE


@pytest.mark.parametrize("data", [b"// 7", MEDIUM])
def test_what_the_origin_has_lost(daemon: RunningDaemon, saved: TreeInfo, tmp_path: Path, data: bytes) -> None:
    with daemon.client() as client:
        client.delete(key_of(data))
        with pytest.raises(NotFound, match="has lost the content of"):
            client.get_tree(saved.key, tmp_path / "out")
        again = client.put_tree(tmp_path / "in", stat_cache=tmp_path / "cache")
        assert (again.new_files, again.new_bytes) == (1, len(data))
        client.get_tree(saved.key, tmp_path / "out")
    assert found(tmp_path / "out") == TREE


def test_a_lenient_client_saves_nothing_and_finds_nothing(tmp_path: Path) -> None:
    make(tmp_path / "in", {b"a": (b"1", False), b"large": (MEDIUM, False)})
    with Client(tmp_path / "nobody", on_unavailable="miss") as client:
        assert client.put_tree(tmp_path / "in").key == ""
        with pytest.raises(NotFound):
            client.get_tree(key_of(b""), tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_a_lenient_asyncio_client_does_the_same(tmp_path: Path) -> None:
    make(tmp_path / "in", {b"a": (b"1", False), b"large": (MEDIUM, False)})
    async with AsyncClient(tmp_path / "nobody", on_unavailable="miss") as client:
        assert (await client.put_tree(tmp_path / "in")).key == ""
        with pytest.raises(NotFound):
            await client.get_tree(key_of(b""), tmp_path / "out")
