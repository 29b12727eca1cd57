"""What is the caller's own: errors of its functions and files, and arguments of the wrong kind."""

from __future__ import annotations

import array
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import KINDS, connect, some_bytes
from tests.support.daemon import RunningDaemon
from tests.support.devices import own_device
from tiered_store import AsyncClient, Client, NotFound
from tiered_store.objects import INLINE_MAX_BYTES

MIB = 2**20
THEIRS: list[Exception] = [ConnectionResetError("theirs"), BrokenPipeError("theirs"), NotFound("theirs"), KeyError("x")]
EACH = pytest.mark.parametrize("error", THEIRS, ids=lambda error: type(error).__name__)


@pytest.fixture(params=["error", "miss"])
def client(request: pytest.FixtureRequest, kind: str, daemon: RunningDaemon) -> Any:
    """Either client, with and without leniency."""
    with connect(kind, daemon.socket_path, on_unavailable=request.param) as client:
        yield client


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which client."""
    found: str = request.param
    return found


def failing(error: Exception, after: int = 0) -> Callable[..., bytes]:
    """A function that fails after so many calls."""
    left = [bytes(1000)] * after

    def call(*_: object) -> bytes:
        if not left:
            raise error
        return left.pop()

    return call


class Reader:
    """A file object with this ``read``."""

    def __init__(self, read: Callable[[int], Any]) -> None:
        self.read = read


@EACH
@pytest.mark.parametrize("after", [0, 2])
def test_a_source_that_fails_stores_nothing(client: Any, prefix: str, error: Exception, after: int) -> None:
    for put in (lambda source: client.put_file(f"{prefix}x", source), client.put_artifact):
        with pytest.raises(type(error)) as caught:
            put(Reader(failing(error, after)))
        assert caught.value is error
    assert client.exists(f"{prefix}x") is False
    assert client.put(f"{prefix}x", b"1").size == 1


def test_a_source_that_stops_an_iteration_stores_nothing(store: Any, prefix: str) -> None:
    with pytest.raises((StopIteration, RuntimeError)):  # the latter is what Python makes of it in a coroutine
        store.put_file(f"{prefix}x", Reader(failing(StopIteration(), 2)))
    assert store.exists(f"{prefix}x") is False


@EACH
def test_a_progress_that_fails_ends_its_transfer(client: Any, prefix: str, tmp_path: Path, error: Exception) -> None:
    client.put(f"{prefix}x", bytes(MIB))
    for transfer in (
        lambda: client.get_into(f"{prefix}x", lambda _: None, progress=failing(error)),
        lambda: client.get_file(f"{prefix}x", tmp_path / "out", progress=failing(error)),
        lambda: client.put_file(f"{prefix}y", Reader(lambda size: b"x" * size), progress=failing(error)),
    ):
        with pytest.raises(type(error)) as caught:
            transfer()
        assert caught.value is error
    assert list(tmp_path.iterdir()) == []


@EACH
@pytest.mark.parametrize("way", ["inline", "descriptor", "stream"])
def test_a_function_that_fails_ends_its_read(
    client: Any, daemon: RunningDaemon, prefix: str, error: Exception, way: str
) -> None:
    if way == "stream":  # a cold one
        (daemon.data_dir / "origin" / prefix).mkdir(parents=True)
        (daemon.data_dir / "origin" / prefix / "x").write_bytes(bytes(8 * MIB))
    else:
        client.put(f"{prefix}x", bytes(100 if way == "inline" else MIB))
    with pytest.raises(type(error)) as caught:
        client.get_into(f"{prefix}x", failing(error))
    assert caught.value is error
    assert client.get(f"{prefix}x", length=3) == bytes(3)


@pytest.mark.parametrize("after", [0, 2])
def test_a_source_that_does_not_wait_is_refused_and_not_cut_short(client: Any, prefix: str, after: int) -> None:
    pieces: list[Any] = [b"a" * 1000] * after + [None, b""]
    with pytest.raises(BlockingIOError, match="non-blocking"):
        client.put_file(f"{prefix}x", Reader(lambda _: pieces.pop(0)))
    with pytest.raises(BlockingIOError, match="non-blocking"):
        client.put_artifact(Reader(lambda _: None))
    assert client.exists(f"{prefix}x") is False


def test_a_pipe_that_does_not_wait(store: Any, prefix: str) -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.write(writing, b"half of it")
    with os.fdopen(reading, "rb", buffering=0) as source, pytest.raises(BlockingIOError):
        store.put_file(f"{prefix}x", source)
    os.close(writing)
    assert store.exists(f"{prefix}x") is False


@pytest.mark.parametrize("is_cold", [True, False])
def test_a_named_pipe_is_written_into(
    store: Any, daemon: RunningDaemon, prefix: str, tmp_path: Path, is_cold: bool
) -> None:
    """A cold object comes as a stream, and its reader here is slower than the pipe is long."""
    data = some_bytes(3 * MIB)
    if is_cold:
        (daemon.data_dir / "origin" / prefix).mkdir()
        (daemon.data_dir / "origin" / prefix / "x").write_bytes(data)
    else:
        store.put(f"{prefix}x", data)
    os.mkfifo(tmp_path / "pipe")
    taken: list[bytes] = []
    reader = threading.Thread(target=lambda: taken.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    try:
        assert store.get_file(f"{prefix}x", tmp_path / "pipe").size == len(data)
    finally:
        reader.join()
    assert taken == [data]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_full_device_is_named(store: Any, prefix: str, tmp_path: Path) -> None:
    store.put(f"{prefix}x", b"1")
    with pytest.raises(OSError, match="No space left") as caught:
        store.get_file(f"{prefix}x", own_device(tmp_path, "full"))
    assert caught.value.filename == str(tmp_path / "full")


@pytest.mark.parametrize("make", [Client, AsyncClient])
@pytest.mark.parametrize(
    "wrong", [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"reconnect_s": -1}, {"on_unavailable": "mis"}]
)
def test_what_a_client_cannot_be_made_with(make: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        make("/x", **wrong)


@pytest.mark.parametrize("key", [5, b"a", None])
def test_a_key_that_is_no_text(client: Any, tmp_path: Path, key: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: client.get(key),
        lambda: client.get(key, offset=1),
        lambda: client.get_view(key),
        lambda: client.get_file(key, tmp_path / "out"),
        lambda: client.get_into(key, lambda _: None),
        lambda: client.get_many(["a", key]),
        lambda: client.stat(key),
        lambda: client.exists(key),
        lambda: client.put(key, b"x"),
        lambda: client.put(key, bytes(INLINE_MAX_BYTES + 1)),
        lambda: client.put_file(key, tmp_path),
        lambda: client.put_many({key: b"x"}),
        lambda: client.copy(key, "fine"),
        lambda: client.delete(key),
        lambda: client.delete_prefix(key),
        lambda: list(client.list(key)),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="a key must be a str"):
            call()
    client.ping()


def test_several_keys_are_not_one_text(store: Any) -> None:
    for call in (store.get_many, store.exists_many):
        with pytest.raises(TypeError, match=r"keys must be several: \['abc'\] for one"):
            call("abc")
    with pytest.raises(TypeError, match="mapping of keys to bytes, not list"):
        store.put_many([("a", b"")])


@pytest.mark.parametrize("value", ["text", 5, [1, 2], None])
def test_bytes_that_are_none(store: Any, prefix: str, value: Any) -> None:
    for call in (lambda: store.put(f"{prefix}x", value), lambda: store.put_many({f"{prefix}x": value})):
        with pytest.raises(TypeError):
            call()
    assert store.exists(f"{prefix}x") is False


def test_bytes_of_any_kind_in_a_batch(store: Any, prefix: str) -> None:
    numbers = array.array("i", [1, 2, 3])
    items: dict[str, Any] = {
        f"{prefix}1": bytearray(b"abc"),
        f"{prefix}2": memoryview(numbers),
        f"{prefix}3": memoryview(b"abcdef")[::2],
        f"{prefix}4": memoryview(array.array("i", range(INLINE_MAX_BYTES // 2))),
    }
    assert {key: info.size for key, info in store.put_many(items).items()} == {
        key: memoryview(data).nbytes for key, data in items.items()
    }
    assert store.get_many(items) == {key: memoryview(data).tobytes() for key, data in items.items()}


def test_ranges_of_any_size(store: Any, prefix: str) -> None:
    for size in (11, MIB):
        store.put(f"{prefix}x", bytes(size))
        assert store.get(f"{prefix}x", offset=2**70) == store.get(f"{prefix}x", offset=2**63, length=2**64 - 1) == b""
        assert store.get(f"{prefix}x", offset=5, length=2**70) == bytes(size - 5)
    wrong: Any
    for wrong in (1.5, "1"):
        with pytest.raises(TypeError, match="integers"):
            store.get(f"{prefix}x", offset=wrong)


@pytest.mark.parametrize("size", [1, INLINE_MAX_BYTES + 1])
def test_a_description_of_the_wrong_kind(store: Any, prefix: str, size: int) -> None:
    wrong: Any
    for wrong in ({"content_type": 5}, {"metadata": {"a": 1}}, {"metadata": {1: "a"}}):
        with pytest.raises(TypeError, match="must be a str"):
            store.put(f"{prefix}x", bytes(size), **wrong)
    assert store.exists(f"{prefix}x") is False
