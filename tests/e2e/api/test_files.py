"""Files: written whole or not at all, read from paths, pipes and file objects, and artifacts by their digest."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clients import some_bytes
from tests.support.daemon import RunningDaemon
from tiered_store import IntegrityError, NotFound
from tiered_store.objects import INLINE_MAX_BYTES

MIB = 2**20
SIZES = pytest.mark.parametrize("size", [0, 1, INLINE_MAX_BYTES, INLINE_MAX_BYTES + 1, 3 * MIB + 7])


def key_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


class Stopped(Exception):
    """What a caller's own function raises."""


@SIZES
def test_a_file_is_put_and_got(store: Any, prefix: str, tmp_path: Path, size: int) -> None:
    data = some_bytes(size)
    (tmp_path / "in").write_bytes(data)
    info = store.put_file(f"{prefix}x", tmp_path / "in", content_type="a/b", metadata={"c": "d"})
    assert (info.size, info.content_type, info.metadata) == (size, "a/b", {"c": "d"})
    assert store.get_file(f"{prefix}x", tmp_path / "out") == info
    assert (tmp_path / "out").read_bytes() == data
    assert names(tmp_path) == ["in", "out"]


@SIZES
def test_a_cold_object_is_got_into_a_file(
    store: Any, daemon: RunningDaemon, prefix: str, tmp_path: Path, size: int
) -> None:
    data = some_bytes(size)
    (daemon.data_dir / "origin" / prefix).mkdir()
    (daemon.data_dir / "origin" / prefix / "x").write_bytes(data)
    seen: list[tuple[int, int | None]] = []
    info = store.get_file(f"{prefix}x", str(tmp_path / "out"), progress=lambda *at: seen.append(at))
    assert info.size == size
    assert (tmp_path / "out").read_bytes() == data
    if size:
        assert seen[-1] == (size, size)
        assert seen == sorted(seen)


@SIZES
@pytest.mark.parametrize("method", ["put_file", "put_artifact"])
def test_a_file_object_is_read_from_where_it_stands_to_its_end(store: Any, prefix: str, size: int, method: str) -> None:
    data = some_bytes(size)
    source = io.BytesIO(b"before" + data)
    source.seek(6)
    seen: list[tuple[int, int | None]] = []
    if method == "put_file":
        assert store.put_file(f"{prefix}x", source, progress=lambda *at: seen.append(at)).size == size
        assert store.get(f"{prefix}x") == data
    else:
        assert store.put_artifact(source, progress=lambda *at: seen.append(at)) == key_of(data)
        assert store.get(key_of(data)) == data
    assert seen[-1] == (size, None)


@SIZES
def test_a_named_pipe_is_read_to_its_end(store: Any, prefix: str, tmp_path: Path, size: int) -> None:
    data = some_bytes(size)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,))
    writer.start()
    try:
        assert store.put_file(f"{prefix}x", tmp_path / "pipe").size == size
    finally:
        writer.join()
    assert store.get(f"{prefix}x") == data


def test_a_pipe_object_is_read_to_its_end(store: Any, prefix: str) -> None:
    data = some_bytes(3 * MIB)
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as sink:
            sink.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb", buffering=0) as source:
        assert store.put_file(f"{prefix}x", source).size == len(data)
    writer.join()
    assert store.get(f"{prefix}x") == data


def test_a_file_object_that_fails_stores_nothing_and_costs_nothing_else(store: Any, prefix: str) -> None:
    class Broken(io.RawIOBase):
        left = 5

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            if not self.left:
                raise Stopped
            return some_bytes(size)

    with pytest.raises(Stopped):
        store.put_file(f"{prefix}x", Broken())
    assert not store.exists(f"{prefix}x")
    assert store.put(f"{prefix}x", b"fine").size == 4


def test_bytes_may_be_put_as_a_file(store: Any, prefix: str) -> None:
    data = some_bytes(2 * MIB)
    store.put_file(f"{prefix}x", data)
    assert store.get(f"{prefix}x") == data


def test_a_source_that_is_not_there_is_the_callers_error(store: Any, prefix: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.put_file(f"{prefix}x", tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        store.put_artifact(tmp_path)
    assert store.exists(f"{prefix}x") is False


class TestGetFile:
    """``get_file``: the file appears whole or not at all."""

    def test_it_replaces_a_file_and_keeps_its_permissions(self, store: Any, prefix: str, tmp_path: Path) -> None:
        store.put(f"{prefix}x", b"new")
        target = tmp_path / "out"
        target.write_bytes(b"something older and longer")
        target.chmod(0o600)
        store.get_file(f"{prefix}x", target)
        assert target.read_bytes() == b"new"
        assert stat.S_IMODE(target.stat().st_mode) == 0o600

    @pytest.mark.parametrize("size", [4, INLINE_MAX_BYTES + 1])
    def test_a_failure_leaves_the_old_file_and_no_other(
        self, store: Any, prefix: str, tmp_path: Path, size: int
    ) -> None:
        store.put(f"{prefix}x", bytes(size))
        (tmp_path / "out").write_bytes(b"old")

        def stop(done: int, total: int | None) -> None:
            raise Stopped

        with pytest.raises(Stopped):
            store.get_file(f"{prefix}x", tmp_path / "out", progress=stop)
        with pytest.raises(NotFound):
            store.get_file(f"{prefix}none", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b"old"
        assert names(tmp_path) == ["out"]
        assert store.get(f"{prefix}x") == bytes(size)

    def test_a_missing_object_makes_no_file(self, store: Any, prefix: str, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            store.get_file(f"{prefix}none", tmp_path / "out")
        assert names(tmp_path) == []

    def test_a_directory_in_the_way_is_the_callers_error(self, store: Any, prefix: str, tmp_path: Path) -> None:
        store.put(f"{prefix}x", b"abc")
        (tmp_path / "out").mkdir()
        with pytest.raises(IsADirectoryError):
            store.get_file(f"{prefix}x", tmp_path / "out")
        with pytest.raises(FileNotFoundError):
            store.get_file(f"{prefix}x", tmp_path / "none" / "out")
        assert names(tmp_path) == ["out"]


@SIZES
def test_a_function_gets_the_bytes_in_order(store: Any, prefix: str, size: int) -> None:
    data = some_bytes(size)
    store.put(f"{prefix}x", data)
    pieces: list[bytes] = []
    seen: list[tuple[int, int | None]] = []
    assert store.get_into(f"{prefix}x", pieces.append, progress=lambda *at: seen.append(at)).size == size
    assert b"".join(pieces) == data
    assert seen == ([(sum(map(len, pieces[: n + 1])), size) for n in range(len(pieces))])


def test_a_function_that_raises_ends_its_read_alone(store: Any, daemon: RunningDaemon, prefix: str) -> None:
    (daemon.data_dir / "origin" / prefix).mkdir()
    (daemon.data_dir / "origin" / prefix / "x").write_bytes(bytes(8 * MIB))

    def stop(data: bytes) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        store.get_into(f"{prefix}x", stop)
    assert store.get(f"{prefix}x", length=3) == bytes(3)


class TestArtifacts:
    """Objects under their own sha256."""

    @SIZES
    @pytest.mark.parametrize("form", ["bytes", "path"])
    def test_the_key_is_the_digest(self, store: Any, tmp_path: Path, size: int, form: str) -> None:
        data = some_bytes(size, 7)
        (tmp_path / "in").write_bytes(data)
        source: Any = data if form == "bytes" else tmp_path / "in"
        key = store.put_artifact(source, content_type="application/x-test")
        assert key == key_of(data)
        assert store.get(key) == data
        if size > 1:  # others put the small ones before, and the first one's type stays
            assert store.stat(key).content_type == "application/x-test"
        assert store.exists(key)

    @SIZES
    def test_an_artifact_may_be_put_under_its_key(self, store: Any, size: int) -> None:
        data = some_bytes(size, 8)
        assert store.put(key_of(data), data).key == key_of(data)
        assert store.put_many({key_of(data): data})[key_of(data)].size == size
        assert store.get(key_of(data)) == data

    @SIZES
    @pytest.mark.parametrize("way", ["put", "put_file", "put_stream", "put_many"])
    def test_other_bytes_are_refused_with_both_digests(self, store: Any, tmp_path: Path, size: int, way: str) -> None:
        data, other = some_bytes(size, 9), some_bytes(size + 1, 10)
        (tmp_path / "in").write_bytes(data)
        key = key_of(other)
        puts: dict[str, Callable[[], Any]] = {
            "put": lambda: store.put(key, data),
            "put_file": lambda: store.put_file(key, tmp_path / "in"),
            "put_stream": lambda: store.put_file(key, io.BytesIO(data)),
            "put_many": lambda: store.put_many({key: data}),
        }
        with pytest.raises(IntegrityError, match="do not have the digest") as caught:
            puts[way]()
        assert caught.value.key == key
        assert caught.value.expected == key.removeprefix("sha256:")
        assert caught.value.actual == hashlib.sha256(data).hexdigest()
        assert caught.value.source == "client"
        assert not store.exists(key)

    def test_one_that_exists_costs_no_upload(self, store: Any) -> None:
        data = some_bytes(2 * MIB, 11)
        key = store.put_artifact(data)
        before = store.stats()
        assert store.put_artifact(data) == key
        after = store.stats()
        assert after["uploads"] == before["uploads"]
        assert after["uploads_skipped"] == before["uploads_skipped"] + 1

    def test_it_lies_where_others_can_find_it(self, store: Any, daemon: RunningDaemon) -> None:
        data = some_bytes(100, 12)
        digest = store.put_artifact(data).removeprefix("sha256:")
        assert (daemon.data_dir / "origin" / "artifacts" / "sha256" / digest[:2] / digest).read_bytes() == data

    def test_one_that_rotted_in_the_origin_is_never_given_out(self, store: Any, daemon: RunningDaemon) -> None:
        data = some_bytes(2 * MIB, 13)
        digest = hashlib.sha256(data).hexdigest()
        path = daemon.data_dir / "origin" / "artifacts" / "sha256" / digest[:2] / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[:-1] + b"x" if data[-1:] != b"x" else data[:-1] + b"y")
        taken: list[bytes] = []
        for read in (store.get, store.get_view, lambda key: store.get_into(key, taken.append)):
            with pytest.raises(IntegrityError) as caught:
                read(f"sha256:{digest}")
            assert (caught.value.expected, caught.value.source) == (digest, "origin")
            assert caught.value.actual not in {None, digest}
        assert sum(map(len, taken)) < len(data)
