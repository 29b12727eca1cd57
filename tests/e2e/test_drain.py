"""SIGTERM while work is under way: it is finished within the limit or ended cleanly, and nothing is left half done."""

from __future__ import annotations

import io
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.clients import KINDS, connect, some_bytes
from tests.support.daemon import RunningDaemon
from tests.support.peers import Peer
from tests.support.processes import MIB, until
from tiered_store import DaemonUnavailable, NotFound, StoreError
from tiered_store.protocol.frames import Flag, Opcode, encode_frame


class Signalling(io.BytesIO):
    """A file whose reader is told when half of it has been read."""

    def __init__(self, data: bytes, at_half: Callable[[], None]) -> None:
        super().__init__(data)
        self._half = len(data) // 2
        self._at_half: Callable[[], None] | None = at_half

    def read(self, size: int | None = -1, /) -> bytes:
        if self._at_half is not None and self.tell() >= self._half:
            self._at_half()
            self._at_half = None
        return super().read(size)


def is_stopping(daemon: RunningDaemon) -> bool:
    return "stopping" in daemon.events()


@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_under_way_is_finished(kind: str, daemon_factory: Callable[..., RunningDaemon]) -> None:
    daemon = daemon_factory()
    data = some_bytes(24 * MIB)

    def stop() -> None:
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: is_stopping(daemon), "the daemon stops")

    with connect(kind, daemon.socket_path, reconnect_s=0.1) as store:
        assert store.put_file("x", Signalling(data, stop)).size == len(data)
        with pytest.raises(DaemonUnavailable):
            store.get("x")
    assert daemon.process.wait(20) == 0
    assert (daemon.data_dir / "origin" / "x").read_bytes() == data


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_under_way_is_finished(kind: str, daemon_factory: Callable[..., RunningDaemon]) -> None:
    """A reader of a cold fill that has begun gets all of it."""
    daemon = daemon_factory()
    data = some_bytes(24 * MIB)
    (daemon.data_dir / "origin" / "x").write_bytes(data)
    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        if not pieces:
            daemon.process.send_signal(signal.SIGTERM)
            until(lambda: is_stopping(daemon), "the daemon stops")
        pieces.append(piece)

    with connect(kind, daemon.socket_path, reconnect_s=0.1) as store:
        assert store.get_into("x", take).size == len(data)
    assert b"".join(pieces) == data
    assert daemon.process.wait(20) == 0


def test_many_requests_under_way_end_one_way_or_the_other(daemon_factory: Callable[..., RunningDaemon]) -> None:
    """Whatever was acknowledged is there; whatever was not raised an error that says so."""
    daemon = daemon_factory()
    acknowledged: dict[str, bytes] = {}
    failures: list[BaseException] = []
    busy = threading.Barrier(9)

    def work(store: Any, number: int) -> None:
        busy.wait()
        try:
            for turn in range(10_000):
                data = some_bytes((turn % 3) * 100_000 + number, turn)
                store.put(f"{number}/{turn}", data)
                acknowledged[f"{number}/{turn}"] = data
        except DaemonUnavailable:
            pass
        except BaseException as error:
            failures.append(error)

    with daemon.client(reconnect_s=0.0) as store:
        threads = [threading.Thread(target=work, args=(store, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        busy.wait()
        until(lambda: len(acknowledged) > 50, "some objects are stored")
        assert daemon.stop() == 0
        for thread in threads:
            thread.join()
    assert failures == []
    daemon = daemon_factory(directory=daemon.data_dir.parent)
    with daemon.client() as store:
        for key, data in acknowledged.items():
            assert store.get(key) == data
        stats = store.stats()
        assert stats["corrupt"] == 0
        assert list((daemon.data_dir / "cache" / "spool").iterdir()) == []


def test_an_upload_that_never_ends_is_cut_off(daemon_factory: Callable[..., RunningDaemon]) -> None:
    """The limit holds against a peer that has stopped sending, and its upload leaves nothing behind."""
    daemon = daemon_factory({"server": {"drain_timeout_s": 0.5}})
    with Peer(daemon.socket_path) as peer:
        peer.begin_upload(1, "x", None)
        peer.send(encode_frame(Opcode.DATA, 1, body=bytes(200_000)))
        daemon.stop()
        assert peer.is_ended()
    assert "requests were cut off" in daemon.events()
    assert daemon.events()[-1] == "stopped"
    assert not (daemon.data_dir / "origin" / "x").exists()
    daemon = daemon_factory(directory=daemon.data_dir.parent)
    with daemon.client() as store, pytest.raises(NotFound):
        store.get("x")


def test_a_reader_that_never_reads_is_cut_off(daemon_factory: Callable[..., RunningDaemon]) -> None:
    daemon = daemon_factory({"server": {"drain_timeout_s": 0.5}})
    (daemon.data_dir / "origin" / "x").write_bytes(bytes(16 * MIB))
    with Peer(daemon.socket_path) as peer:
        peer.get(1, "x", Flag.STREAM)
        assert peer.receive().opcode == Opcode.OBJECT_STREAM
        daemon.stop()
    assert "requests were cut off" in daemon.events()
    assert not daemon.socket_path.exists()


def test_a_cold_fill_that_cannot_end_does_not_hold_the_daemon(daemon_factory: Callable[..., RunningDaemon]) -> None:
    """Readers of a big cold object: answered or told, and the process ends within the limit."""
    daemon = daemon_factory({"server": {"drain_timeout_s": 1}})
    with (daemon.data_dir / "origin" / "x").open("wb") as file:
        file.truncate(2 * 1024 * MIB)
    outcomes: list[object] = []

    def read() -> None:
        try:
            with daemon.client(timeout_s=60, reconnect_s=0).get_view("x") as view:
                outcomes.append(view.nbytes)
        except StoreError as error:
            outcomes.append(type(error))

    readers = [threading.Thread(target=read) for _ in range(4)]
    with daemon.client() as store:
        for reader in readers:
            reader.start()
        until(lambda: store.stats()["fills"] == 1, "the fill has started")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.wait(20)
    for reader in readers:
        reader.join()
    assert len(outcomes) == 4
    assert set(outcomes) <= {2 * 1024 * MIB, DaemonUnavailable}
    assert daemon.events()[-1] == "stopped"
    assert list((daemon.data_dir / "cache" / "spool").iterdir()) == []
