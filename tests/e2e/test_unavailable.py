"""``on_unavailable="miss"``: a build must not fail because of its cache, and must not wait for a dead one."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import KINDS, connect, some_bytes
from tests.support.daemon import RunningDaemon
from tiered_store import (
    DaemonUnavailable,
    IntegrityError,
    InvalidKey,
    NotFound,
    OriginUnavailable,
    QuotaExceeded,
    StoreError,
)
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.protocol.frames import FrameReader, Opcode
from tiered_store.protocol.messages import Welcome, encode_welcome
from tiered_store.protocol.status import encode_error

DIGEST_KEY = f"sha256:{'0' * 64}"
LARGE = bytes(INLINE_MAX_BYTES + 1)

pytestmark = pytest.mark.parametrize("kind", KINDS)


def assert_everything_misses(store: Any, tmp_path: Path) -> None:
    """Every method: reads find nothing, writes do nothing, and none of them raises anything else."""
    for read in (
        lambda: store.get("x"),
        lambda: store.get("x", offset=1, length=2),
        lambda: store.get_view("x"),
        lambda: store.get_file("x", tmp_path / "out"),
        lambda: store.get_into("x", lambda _: None),
        lambda: store.stat("x"),
        lambda: store.copy("x", "y"),
    ):
        with pytest.raises(NotFound, match="unavailable"):
            read()
    assert store.get_many(["x", "y"]) == {}
    assert store.exists("x") is False
    assert store.exists_many(["x", "y"]) == {"x": False, "y": False}
    assert list(store.list("x")) == []
    (tmp_path / "in").write_bytes(LARGE)
    for data in (b"1", LARGE):
        assert store.put("x", data, content_type="a/b", metadata={"c": "d"}).key == "x"
    assert store.put_file("x", tmp_path / "in").key == "x"
    assert store.put_file("x", io.BytesIO(b"1")).key == "x"
    assert store.put_artifact(LARGE) == ""
    assert store.put_many({"x": b"1", "y": LARGE}) == {}
    assert store.delete("x") is False
    assert store.delete_prefix("x") == 0
    assert not (tmp_path / "out").exists()
    with pytest.raises(DaemonUnavailable):
        store.ping()


def test_no_daemon(kind: str, tmp_path: Path) -> None:
    with connect(kind, tmp_path / "none.sock", on_unavailable="miss") as store:
        assert_everything_misses(store, tmp_path)


def test_a_daemon_that_was_killed(kind: str, daemon: RunningDaemon, tmp_path: Path) -> None:
    with connect(kind, daemon.socket_path, on_unavailable="miss", reconnect_s=0.1) as store:
        store.put("x", b"1")
        assert store.get("x") == b"1"
        daemon.kill9()
        assert_everything_misses(store, tmp_path)


def test_one_that_comes_back_is_used_again(
    kind: str, daemon_factory: Callable[..., RunningDaemon], tmp_path: Path
) -> None:
    first = daemon_factory()
    with connect(kind, first.socket_path, on_unavailable="miss", reconnect_s=0.05) as store:
        store.put("x", b"1")
        first.kill9()
        with pytest.raises(NotFound):
            store.get("x")
        daemon_factory(directory=first.data_dir.parent)
        store.ping()  # does not wait for the rest that a lenient client gives a dead daemon
        assert store.get("x") == b"1"


def test_the_callers_own_errors_are_still_errors(kind: str, daemon: RunningDaemon) -> None:
    with connect(kind, daemon.socket_path, on_unavailable="miss") as store:
        with pytest.raises(InvalidKey):
            store.put("a//b", b"1")
        with pytest.raises(InvalidKey):
            store.put_many({"a//b": b"1"})
        with pytest.raises(InvalidKey):
            store.get_many(["a//b"])
        with pytest.raises(InvalidKey):
            store.get("x" * 2000)
        with pytest.raises(IntegrityError):
            store.put(DIGEST_KEY, b"1")
        with pytest.raises(NotFound, match="no such object"):
            store.get("none")


class Failing:
    """A daemon that greets, and answers every request with the same error; counts its connections."""

    def __init__(self, path: Path, error: StoreError | None) -> None:
        self._error = error
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self.path = path
        self.connections = 0
        self._peers: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with peer:
                self._converse(peer)

    def _converse(self, peer: socket.socket) -> None:
        """One peer after the other: the clients of these tests have one connection at a time."""
        reader = FrameReader()
        while data := peer.recv(65536):
            for frame in reader.receive(data):
                if frame.opcode == Opcode.HELLO:
                    peer.sendall(encode_welcome(Welcome(1, 0, 2**20, 2**20, 16, "failing")))
                elif self._error is None:
                    return
                elif frame.opcode != Opcode.CANCEL:
                    peer.sendall(encode_error(frame.request_id, self._error))

    def close(self) -> None:
        """Stop; clients must have been closed before."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[StoreError | None], Failing]]:
    """Makes daemons that fail."""
    made: list[Failing] = []

    def make(error: StoreError | None) -> Failing:
        made.append(Failing(tmp_path_factory.mktemp("f") / "s", error))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(
    "error",
    [
        OriginUnavailable("the origin is on fire"),
        QuotaExceeded("full"),
        DaemonUnavailable("stopping"),
        StoreError("internal error"),
        None,
    ],
    ids=["origin", "quota", "stopping", "internal", "hangs up"],
)
def test_a_daemon_that_fails(
    kind: str, failing: Callable[[StoreError | None], Failing], tmp_path: Path, error: StoreError | None
) -> None:
    with connect(kind, failing(error).path, on_unavailable="miss", reconnect_s=0.05) as store:
        with pytest.raises(NotFound, match="unavailable"):
            store.get("x")
        with pytest.raises(NotFound, match="unavailable"):
            store.stat("x")
        assert store.put("x", b"1").key == "x"
        assert store.put("x", LARGE).key == "x"
        assert store.put_many({"x": b"1", "y": LARGE}) == {}
        assert store.get_many(["x"]) == {}
        assert store.exists("x") is False
        assert list(store.list()) == []
        assert store.delete("x") is False


@pytest.mark.parametrize("error", [OriginUnavailable("the origin is on fire"), StoreError("internal error")])
def test_without_leniency_the_same_daemon_is_an_error(
    kind: str, failing: Callable[[StoreError | None], Failing], error: StoreError
) -> None:
    daemon = failing(error)
    with connect(kind, daemon.path) as store:
        for call in (lambda: store.get("x"), lambda: store.put("x", LARGE), lambda: store.get_many(["x"])):
            with pytest.raises(type(error), match=error.message) as caught:
                call()
            assert caught.value.retryable == error.retryable
        assert daemon.connections == 1


def test_a_dead_daemon_is_tried_once_per_rest(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of reads beside a dead daemon cost one failed connect, until the rest is over; then one more."""
    now = [1000.0]
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))  # not listening: connects are refused
    with connect(kind, path, on_unavailable="miss") as store:
        availability = store._pool.availability if kind == "sync" else store.client._availability
        monkeypatch.setattr(availability, "_clock", lambda: now[0])
        failed = 0
        original = availability.failed

        def count() -> None:
            nonlocal failed
            failed += 1
            original()

        monkeypatch.setattr(availability, "failed", count)
        for expected in (1, 2, 3):
            for _ in range(500):
                with pytest.raises(NotFound):
                    store.get("x")
                store.put("x", b"1")
            assert failed == expected
            now[0] += 20.0  # longer than any rest


def test_large_objects_of_a_batch_are_misses_too(kind: str, daemon: RunningDaemon) -> None:
    """What a batch has found is kept, also when the daemon goes away before the large ones are fetched."""
    with connect(kind, daemon.socket_path, on_unavailable="miss", reconnect_s=0.05) as store:
        data = some_bytes(INLINE_MAX_BYTES + 1)
        store.put_many({"small": b"1", "large": data})
        assert store.get_many(["small", "large", "none"]) == {"small": b"1", "large": data}
        daemon.kill9()
        assert store.get_many(["small", "large", "none"]) == {}
