"""What bad input and a bad world get: the right class, a message that names the rule, and nothing changed."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import KINDS, connect, some_bytes
from tests.support.daemon import Daemons, RunningDaemon
from tiered_store import (
    DaemonUnavailable,
    DeadlineExceeded,
    InvalidKey,
    KeyConflict,
    NotFound,
    QuotaExceeded,
    TooLarge,
)
from tiered_store.objects import INLINE_MAX_BYTES
from tiered_store.protocol.frames import STREAM_WINDOW_BYTES

MAX_OBJECT = 24 * 2**20  # see conftest.py
MAX_METADATA = 4096

BAD_KEYS = [
    ("", "must not be empty"),
    ("/x", "must not start with '/'"),
    ("a//b", "empty segment"),
    ("a/", "empty segment"),
    ("./a", "'.' or '..' segment"),
    ("a/../b", "'.' or '..' segment"),
    ("a\\b", "backslash"),
    ("a\nb", "control character"),
    ("a\x00b", "control character"),
    ("a\u2028b", "control character"),
    (".tiered_store/x", "reserved"),
    ("a/.tiered_store-x", "reserved"),
    ("x" * 1025, "at most 1024 bytes, this one has 1025"),
    ("ä" * 513, "at most 1024 bytes, this one has 1026"),
    ("x" * 3_000_000, "at most 1024 bytes, this one has 3000000"),
    ("lone \udc80", "valid UTF-8"),
    ("sha256:", "64 lowercase hex digits"),
    ("sha256:12", "64 lowercase hex digits"),
    ("sha256:" + "A" * 64, "64 lowercase hex digits"),
]


@pytest.mark.parametrize(("key", "rule"), BAD_KEYS, ids=[f"{number}" for number in range(len(BAD_KEYS))])
def test_a_bad_key_is_refused_by_every_method(store: Any, tmp_path: Path, key: str, rule: str) -> None:
    """Also: the connection survives it, and the message names the rule."""
    calls: list[Callable[[], Any]] = [
        lambda: store.get(key),
        lambda: store.get(key, offset=1),
        lambda: store.get_view(key),
        lambda: store.get_file(key, tmp_path / "out"),
        lambda: store.get_into(key, lambda _: None),
        lambda: store.get_many([key]),
        lambda: store.stat(key),
        lambda: store.exists(key),
        lambda: store.put(key, b"x"),
        lambda: store.put(key, bytes(INLINE_MAX_BYTES + 1)),
        lambda: store.put_file(key, io.BytesIO(b"x")),
        lambda: store.put_many({key: b"x"}),
        lambda: store.copy(key, "fine"),
        lambda: store.delete(key),
    ]
    connections = store.stats()["connections"]
    for call in calls:
        with pytest.raises(InvalidKey, match=rule):
            call()
    assert store.stats()["connections"] == connections
    assert list(tmp_path.iterdir()) == []


def test_one_key_below_another(store: Any, prefix: str) -> None:
    store.put(f"{prefix}a", b"1")
    for data in (b"2", bytes(INLINE_MAX_BYTES + 1)):
        with pytest.raises(KeyConflict) as caught:
            store.put(f"{prefix}a/b", data)
        assert caught.value.key == f"{prefix}a/b"
    store.put(f"{prefix}c/d", b"3")
    with pytest.raises(KeyConflict):
        store.put(f"{prefix}c", b"4")
    with pytest.raises(NotFound):
        store.get(f"{prefix}a/b")
    assert [info.key for info in store.list(prefix)] == [f"{prefix}a", f"{prefix}c/d"]


class Counting(io.RawIOBase):
    """An endless file that counts what was read of it."""

    taken = 0

    def read(self, size: int = -1) -> bytes:
        self.taken += size
        return bytes(size)


class TestTooLarge:
    """Over a limit: refused before the bytes are taken."""

    def test_announced(self, store: Any, prefix: str, tmp_path: Path) -> None:
        with (tmp_path / "sparse").open("wb") as file:
            file.truncate(MAX_OBJECT + 1)
        message = f"at most {MAX_OBJECT} bytes, this one has {MAX_OBJECT + 1}"
        spooled = store.stats()["disk"]["bytes"]
        with pytest.raises(TooLarge, match=message):
            store.put_file(f"{prefix}x", tmp_path / "sparse")
        with pytest.raises(TooLarge, match=message):
            store.put(f"{prefix}x", bytes(MAX_OBJECT + 1))
        with pytest.raises(TooLarge, match=message):
            store.put_artifact(tmp_path / "sparse")
        assert store.stats()["disk"]["bytes"] == spooled
        assert not store.exists(f"{prefix}x")

    def test_not_announced(self, store: Any, prefix: str) -> None:
        source = Counting()
        with pytest.raises(TooLarge, match=f"at most {MAX_OBJECT} bytes"):
            store.put_file(f"{prefix}x", source)
        assert source.taken <= MAX_OBJECT + 2 * STREAM_WINDOW_BYTES
        assert store.put(f"{prefix}x", b"the link is in order").size == 20

    @pytest.mark.parametrize("size", [MAX_OBJECT - 1, MAX_OBJECT])
    def test_up_to_the_limit_all_is_well(self, store: Any, prefix: str, size: int) -> None:
        data = bytes(size)
        assert store.put(f"{prefix}x", data).size == size
        assert store.put_file(f"{prefix}y", io.BytesIO(data)).size == size

    @pytest.mark.parametrize("size", [3, INLINE_MAX_BYTES + 1])
    def test_metadata(self, store: Any, prefix: str, size: int) -> None:
        def of(total: int) -> dict[str, Any]:
            return {"content_type": "a/b", "metadata": {"ü": "x" * (total - 5)}}

        store.put(f"{prefix}x", bytes(size), **of(MAX_METADATA))
        with pytest.raises(
            TooLarge, match=f"metadata have {MAX_METADATA + 1} bytes, more than the limit of {MAX_METADATA}"
        ):
            store.put(f"{prefix}y", bytes(size), **of(MAX_METADATA + 1))
        for beyond_any_frame in (
            of(70_000),
            of(2_000_000),
            {"content_type": "x" * 70_000},
            {"metadata": {str(n): "" for n in range(70_000)}},
            {"metadata": {"x" * 70_000: ""}},
        ):
            with pytest.raises(TooLarge):
                store.put(f"{prefix}y", bytes(size), **beyond_any_frame)
        assert [info.key for info in store.list(prefix)] == [f"{prefix}x"]


@pytest.mark.parametrize("metadata", [{"x": "lone \ud800"}, {"\ud800": "x"}])
def test_metadata_that_is_no_text(store: Any, prefix: str, metadata: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="must be valid Unicode"):
        store.put(f"{prefix}x", b"1", metadata=metadata)
    assert not store.exists(f"{prefix}x")


@pytest.fixture(scope="module")
def tiny() -> Iterator[RunningDaemon]:
    """A daemon whose limits are below what travels inline, with a full origin in reach."""
    with contextlib.closing(Daemons()) as daemons:
        yield daemons.start(
            {
                "origin": {"backend": "memory", "quota_bytes": 300_000},
                "limits": {"max_object_bytes": 100_000},
                "disk": {"enabled": False},
            }
        )


@pytest.mark.parametrize("kind", KINDS)
class TestQuota:
    """No room left at the origin."""

    def test_a_full_origin(self, tiny: RunningDaemon, kind: str) -> None:
        with connect(kind, tiny.socket_path) as store:
            for n in range(3):
                store.put(f"{n}", some_bytes(90_000, n))
            for data in (bytes(50_000), bytes(80_000)):
                with pytest.raises(QuotaExceeded):
                    store.put("3", data)
            with pytest.raises(QuotaExceeded):
                store.put_many({"3": bytes(50_000)})
            assert store.get("0") == some_bytes(90_000, 0)
            store.delete("0")
            store.put("3", bytes(50_000))
            assert store.delete_prefix("3") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_below_what_travels_inline(kind: str) -> None:
    with contextlib.closing(Daemons()) as daemons:
        daemon = daemons.start({"limits": {"max_object_bytes": 1000}})
        with connect(kind, daemon.socket_path) as store:
            assert store.put("x", bytes(1000)).size == 1000
            for put in (
                lambda: store.put("y", bytes(1001)),
                lambda: store.put_many({"y": bytes(1001)}),
                lambda: store.put_file("y", io.BytesIO(bytes(1001))),
                lambda: store.put_artifact(bytes(1001)),
            ):
                with pytest.raises(TooLarge, match=r"at most 1000 bytes, this one has|at most 1000 bytes"):
                    put()
            assert [info.key for info in store.list()] == ["x"]


@pytest.mark.parametrize("kind", KINDS)
class TestDeadline:
    """A daemon that is there and does not answer."""

    def test_a_stopped_daemon(self, daemon_factory: Callable[..., RunningDaemon], kind: str) -> None:
        daemon = daemon_factory()
        with connect(kind, daemon.socket_path, timeout_s=0.3) as store:
            store.put("x", b"1")
            os.kill(daemon.process.pid, signal.SIGSTOP)
            try:
                with pytest.raises(DeadlineExceeded, match=r"0\.3 s") as caught:
                    store.get("x")
                assert caught.value.retryable
                for call in (lambda: store.stat("x"), lambda: store.put("x", bytes(3 * 2**20))):
                    # A new connection may be tried, which is then not greeted.
                    with pytest.raises((DeadlineExceeded, DaemonUnavailable), match=r"0\.3 s"):
                        call()
            finally:
                os.kill(daemon.process.pid, signal.SIGCONT)
        with connect(kind, daemon.socket_path) as store:
            assert store.get("x") in {b"1", bytes(3 * 2**20)}

    def test_the_server_gives_up_too(self, daemon_factory: Callable[..., RunningDaemon], kind: str) -> None:
        """A read that waits for the origin ends with the client's deadline, and is not left behind."""
        daemon = daemon_factory()
        os.mkfifo(daemon.data_dir / "origin" / "pipe")
        with connect(kind, daemon.socket_path, timeout_s=5) as store, pytest.raises(NotFound):
            store.get("pipe")


@pytest.mark.parametrize("kind", KINDS)
class TestNoDaemon:
    """Nobody there: what was tried, and how to start one."""

    def test_no_socket(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "none.sock"
        with connect(kind, path) as store:
            for call in (lambda: store.get("x"), lambda: store.put("x", b"1"), store.ping, store.stats):
                with pytest.raises(DaemonUnavailable) as caught:
                    call()
                assert str(path) in caught.value.message
                assert "no such socket" in caught.value.message
                assert "tiered-store serve" in caught.value.message
                assert caught.value.retryable

    def test_a_socket_that_nobody_answers(self, daemon_factory: Callable[..., RunningDaemon], kind: str) -> None:
        daemon = daemon_factory()
        daemon.kill9()
        with connect(kind, daemon.socket_path) as store, pytest.raises(DaemonUnavailable, match="nobody listens"):
            store.get("x")

    def test_a_closed_client(self, daemon: RunningDaemon, kind: str) -> None:
        store = connect(kind, daemon.socket_path)
        store.ping()
        if kind == "sync":
            store.close()
        else:
            store.run(lambda client: client.close())
        with pytest.raises(DaemonUnavailable, match="has been closed"):
            store.get("x")
        store.close()


def test_many_threads_meet_the_same_errors(daemon: RunningDaemon, prefix: str) -> None:
    failures: list[BaseException] = []

    def work(client: Any) -> None:
        try:
            for _ in range(50):
                with pytest.raises(NotFound):
                    client.get(f"{prefix}none")
                with pytest.raises(InvalidKey):
                    client.get("a//b")
        except BaseException as error:
            failures.append(error)

    with daemon.client() as client:
        threads = [threading.Thread(target=work, args=(client,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
