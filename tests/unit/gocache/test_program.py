"""The program against a go command in memory, without a daemon: nothing here may fail a build."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.gocache import Go, _text, action_of
from tests.unit.gocache.conftest import Served
from tiered_store.errors import DaemonUnavailable
from tiered_store.gocache.local import LocalCache
from tiered_store.gocache.options import Options
from tiered_store.gocache.program import serve

BODY = os.urandom(300_000)


def test_a_build_and_the_next(serving: Callable[[], Served]) -> None:
    go = serving()
    assert go.greeting == {"ID": 0, "KnownCommands": ["get", "put", "close"]}
    assert go.get("a") is None
    first = go.put("a", BODY)
    assert go.put("b", b"") != first
    assert go.put("c", BODY) == first  # the same output of another action
    go.close()
    assert go.code() == 0
    again = serving()
    assert [again.get(name) for name in "abcd"] == [BODY, b"", BODY, None]
    again.close()


def test_an_output_that_somebody_changed_is_missing_until_it_is_put_again(serving: Callable[[], Served]) -> None:
    go = serving()
    path = go.put("a", BODY)
    path.chmod(0o600)
    path.write_bytes(bytes(len(BODY)))
    assert go.get("a") is None
    assert go.put("a", BODY) == path
    assert go.get("a") == BODY
    go.close()


def test_requests_may_wait_for_their_answers_together(serving: Callable[[], Served]) -> None:
    go = serving()
    go.put("a", BODY)
    numbers = [go.begin("get", ActionID=_text(action_of(name))) for name in "abab"]
    replies = {reply["ID"]: reply for reply in (go.receive() for _ in numbers)}
    assert ["DiskPath" in replies[number] for number in numbers] == [True, False, True, False]
    go.close()


def test_a_body_that_is_not_its_output_is_refused(serving: Callable[[], Served]) -> None:
    go = serving()
    reply = go.begin_put("a", BODY, output=hashlib.sha256(b"other").digest())
    assert reply == {"Err": "the OutputID is not the sha256 of the body"}
    assert go.get("a") is None
    assert go.put("a", BODY)
    go.close()


@pytest.mark.parametrize(
    ("command", "fields", "why"),
    [
        ("get2", {}, "unknown command 'get2'"),
        ("get", {}, "no ActionID in base64"),
        ("put", {"BodySize": 3}, "no ActionID, or no OutputID"),
    ],
)
def test_what_cannot_be_answered(serving: Callable[[], Served], command: str, fields: dict[str, int], why: str) -> None:
    go = serving()
    assert go.ask(command, b"abc" if "BodySize" in fields else None, **fields) == {"Err": why}
    assert go.get("a") is None
    go.close()
    assert go.code() == 0


@pytest.mark.parametrize(
    "data", [b"hello\n", b'{"ID":1,"Command":"put"', b'{"ID":1,"Command":"put","BodySize":9}\n"AAAA']
)
def test_what_is_no_go_command_ends_it(
    serving: Callable[[], Served], data: bytes, capsys: pytest.CaptureFixture[str], options: Options
) -> None:
    go = serving()
    go.send(data)
    go.leave()
    with pytest.raises(EOFError):
        go.receive()
    assert go.code() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tiered-store gocacheprog: standard input is not what a go command sends: ")
    assert list(Path(options.directory, "incoming").iterdir()) == []


def test_a_go_command_that_goes_without_a_word(serving: Callable[[], Served], options: Options) -> None:
    go = serving()
    go.put("a", BODY)
    go.leave()
    assert go.code() == 0
    assert list(Path(options.directory, "running").iterdir()) == []


def test_a_go_command_that_reads_no_replies(serving: Callable[[], Served]) -> None:
    go = serving()
    go._replies.close()
    go.begin("get", ActionID=_text(action_of("a")))
    assert go.code() == 0


def test_a_directory_that_cannot_be_made_is_replaced(
    serving: Callable[[], Served], options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a sandbox without a home; some puts of a go command must not fail (an index of packages)."""
    (tmp_path / "file").touch()
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    options.directory = f"{tmp_path}/file/go"
    go = serving()
    path = go.put("a", BODY)
    assert path.is_relative_to(tmp_path / "t")
    assert go.get("a") == BODY
    go.close()
    assert go.code() == 0
    assert list((tmp_path / "t").iterdir()) == []


class FullDisk(LocalCache):
    """Takes so many bytes of each file and no more."""

    room = 100_000

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        if not Path(directory).name.startswith("tiered-store-go-"):
            self.create = self._create  # type: ignore[method-assign]

    def _create(self) -> tuple[int, str]:
        fd, path = LocalCache.create(self)
        os.close(fd)
        return os.open("/dev/full", os.O_RDWR), path


def test_a_full_disk_sends_files_elsewhere(
    serving: Callable[[], Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("tiered_store.gocache.program.LocalCache", FullDisk)
    go = serving()
    path = go.put("a", BODY)
    assert path.parent.parent.parent == tmp_path
    assert go.get("a") is None  # the next build finds nothing of it, either
    go.close()
    assert go.code() == 0
    assert not path.exists()


def test_a_disk_that_fills_up_in_the_middle(
    serving: Callable[[], Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written already is taken along."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written = 0
    write = os.write

    def fills_up(fd: int, data: bytes) -> int:
        nonlocal written
        if Path(f"/proc/self/fd/{fd}").readlink().is_relative_to(tmp_path / "go"):
            if written >= 100_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            written += write(fd, data[:7000])
            return min(7000, len(data))
        return write(fd, data)

    go = serving()
    monkeypatch.setattr("tiered_store.gocache.program.os.write", fills_up)
    reply = go.begin_put("a", BODY)
    monkeypatch.undo()
    assert Path(reply["DiskPath"]).read_bytes() == BODY
    assert written >= 100_000
    go.close()


def test_no_directory_at_all_is_an_error_of_that_put_alone(
    serving: Callable[[], Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", f"{tmp_path}/nowhere")
    monkeypatch.setattr("tiered_store.gocache.program.LocalCache", FullDisk)
    go = serving()
    assert go.begin_put("a", BODY)["Err"].startswith("no directory takes this file: ")
    assert go.get("a") is None
    go.close()
    assert go.code() == 0


def test_it_is_quiet_unless_asked(
    serving: Callable[[], Served], options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_verbose in (False, True):
        options.is_verbose = is_verbose
        go: Go = serving()
        go.put("a", BODY)
        assert go.get("a") == BODY
        go.close()
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "tiered-store gocacheprog: no daemon is asked: there is no socket /none",
        "tiered-store gocacheprog: 1 gets, 1 found here; 1 puts",
    ]


def test_without_any_directory_it_says_so(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    options.directory = f"{tmp_path}/file/go"
    monkeypatch.setattr("tempfile.tempdir", f"{tmp_path}/nowhere")
    assert serve(options, lambda: None, -1, -1) == 1
    assert "can be used" in capsys.readouterr().err


class Hanging:
    """A client whose reads never end, whatever their time-out."""

    let_go = threading.Event()

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def get(self, key: str) -> bytes:
        self.let_go.wait(60)
        raise DaemonUnavailable("gone")


def test_go_is_answered_whatever_the_daemon_does(
    serving: Callable[[], Served], options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "socket").touch()
    options.socket = f"{tmp_path}/socket"
    options.deadline_s = 0.05
    options.is_read_only = True
    monkeypatch.setattr("tiered_store.client.sync.Client", Hanging)
    go = serving()
    assert go.get("a") is None
    assert go.get("b") is None
    go.put("a", BODY)
    assert go.get("a") == BODY
    go.close()
    Hanging.let_go.set()
    assert go.code() == 0
