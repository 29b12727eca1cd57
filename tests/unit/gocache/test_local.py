"""Go's own directory: what is handed out, and what is not any more."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tiered_store.gocache.local import STAMP_S, LocalCache, Output, mark_of

ACTION, OTHER = "ab" * 32, "cd" * 32
BODY = b"an archive"
OUTPUT = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> LocalCache:
    return LocalCache(f"{tmp_path}/go/here")


def install(cache: LocalCache, action: str = ACTION, body: bytes = BODY, *, is_uploaded: bool = False) -> Path:
    output = hashlib.sha256(body).hexdigest()
    fd, temporary = cache.create()
    os.write(fd, body)
    cache.install(fd, temporary, output)
    cache.note(action, Output(output, len(body), 17, is_uploaded=is_uploaded))
    return Path(cache.path_of(output))


def files(cache: LocalCache) -> list[str]:
    return sorted(path.name for path in Path(cache.directory).rglob("*-[ad]"))


def test_what_was_put_is_found(cache: LocalCache) -> None:
    assert cache.find(ACTION) is None
    path = install(cache)
    found = cache.find(ACTION)
    assert found is not None
    assert (found.output, found.size, found.stored_ns, found.is_uploaded) == (OUTPUT, len(BODY), 17, False)
    assert path.read_bytes() == BODY
    assert path.stat().st_mode & 0o777 == 0o444
    assert LocalCache(cache.directory).find(ACTION) is not None
    assert not list(Path(cache.directory, "incoming").iterdir())


def test_that_a_daemon_has_it_is_remembered(cache: LocalCache) -> None:
    install(cache)
    cache.uploaded(ACTION, "0" * 64)  # another output of this action, from before
    found = cache.find(ACTION)
    assert found is not None
    assert not found.is_uploaded
    cache.uploaded(ACTION, OUTPUT)
    found = cache.find(ACTION)
    assert found is not None
    assert found.is_uploaded
    cache.uploaded(OTHER, OUTPUT)  # trimmed meanwhile


def rewritten(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(bytes(len(BODY)))


def shortened(path: Path) -> None:
    path.chmod(0o600)
    os.truncate(path, 3)
    os.utime(path, ns=(0, mark_of(OUTPUT)))


@pytest.mark.parametrize("change", [Path.unlink, rewritten, shortened])
def test_an_output_that_is_not_as_it_was_verified_is_not_handed_out(
    cache: LocalCache, change: Callable[[Path], None]
) -> None:
    path = install(cache)
    change(path)
    assert cache.find(ACTION) is None
    assert not cache.has(OUTPUT, len(BODY))


def test_a_pipe_in_the_place_of_an_empty_output_is_not_handed_out(cache: LocalCache) -> None:
    """Whoever opens it would wait for ever."""
    path = install(cache, body=b"")
    path.unlink()
    os.mkfifo(path)
    os.utime(path, ns=(time.time_ns(), mark_of(path.name[:64])))
    assert cache.find(ACTION) is None


def test_it_is_handed_out_again_when_it_was_written_anew(cache: LocalCache) -> None:
    rewritten(install(cache))
    install(cache)
    assert cache.find(ACTION) is not None


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"tsgo1",
        b"tsgo2 " + OUTPUT.encode() + b" 10 17 w\n",
        b"tsgo1 " + OUTPUT.encode() + b" 10 17 w",
        b"tsgo1 " + OUTPUT.encode() + b" 10 17 x\n",
        b"tsgo1 " + OUTPUT.encode() + b" ten 17 w\n",
        b"tsgo1 " + OUTPUT.encode() + b" -10 17 w\n",
        b"tsgo1 " + OUTPUT.encode() + b" 10 999999999999999999999999 w\n",
        b"tsgo1 " + OUTPUT[:63].encode() + b" 10 17 w\n",
        b"tsgo1 ../../../" + OUTPUT[9:].encode() + b" 10 17 w\n",
        b"\0" * 90,
    ],
)
def test_an_action_that_cannot_be_read_is_none(cache: LocalCache, line: bytes) -> None:
    install(cache)
    Path(cache._action_path(ACTION)).write_bytes(line)
    assert cache.find(ACTION) is None


def test_a_use_is_stamped_once_in_a_while(cache: LocalCache) -> None:
    path = install(cache)
    action = Path(cache._action_path(ACTION))
    before = path.stat().st_atime - STAMP_S - 10
    os.utime(path, ns=(int(before * 1e9), mark_of(OUTPUT)))
    os.utime(action, (before, before))
    assert cache.find(ACTION) is not None
    assert path.stat().st_atime > before + STAMP_S
    assert action.stat().st_atime > before + STAMP_S
    assert path.stat().st_mtime_ns == mark_of(OUTPUT)

    recent = path.stat().st_atime - STAMP_S / 2
    os.utime(path, ns=(int(recent * 1e9), mark_of(OUTPUT)))
    assert cache.find(ACTION) is not None
    assert path.stat().st_atime == pytest.approx(recent, abs=1)


def test_what_cannot_be_written_leaves_nothing(cache: LocalCache) -> None:
    for directory in (ACTION[:2], OUTPUT[:2]):
        Path(cache.directory, directory).write_bytes(b"in the way")
    with pytest.raises(OSError, match="Not a directory"):
        install(cache)
    with pytest.raises(OSError, match="Not a directory"):
        cache.note(ACTION, Output(OUTPUT, 1, 1, is_uploaded=False))
    assert files(cache) == []
    assert not list(Path(cache.directory, "incoming").iterdir())


def test_directories_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    """A daemon keeps its disk tier above Go's directory by default, and refuses one that others can write to."""
    before = os.umask(0o002)
    try:
        LocalCache(f"{tmp_path}/tiered_store/go/default")
        assert os.umask(0o002) == 0o002
    finally:
        os.umask(before)
    for path in ("tiered_store", "tiered_store/go/default", "tiered_store/go/default/running"):
        assert (tmp_path / path).stat().st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="Not a directory"):
        LocalCache(f"{tmp_path}/file/go")
