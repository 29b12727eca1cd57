"""The daemon's part, with a daemon in memory: what is fetched, what is uploaded, and what its failures cost."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from tests.unit.gocache.test_local import install
from tiered_store.build.entry import Place, ToolEntry, encode_entry
from tiered_store.errors import DaemonUnavailable, DeadlineExceeded, NotFound, OriginUnavailable, StoreError, TooLarge
from tiered_store.gocache.local import LocalCache, Output
from tiered_store.gocache.remote import Remote

PLACE = Place("go", "ci")
SMALL, LARGE = b"small", os.urandom(200_000)
ACTION = "ab" * 32


class FakeClient:
    """A daemon's objects; ``fails`` is raised by every operation, ``open``, when it is cleared, holds operations up."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fails: Exception | None = None
        self.refuses: set[str] = set()
        self.calls: list[str] = []
        self.slow: set[str] | None = None
        self.open = threading.Event()
        self.open.set()

    def get(self, key: str) -> bytes:
        self.calls.append(key)
        if self.slow is None or key in self.slow:
            self.open.wait(30)
        if self.fails is not None:
            raise self.fails
        if key not in self.objects:
            raise NotFound("no object under this key", key=key)
        return self.objects[key]

    def get_file(self, key: str, path: str) -> None:
        Path(path).write_bytes(self.get(key))

    def put_artifact(self, path: str) -> str:
        data = Path(path).read_bytes()
        key = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.put_many({key: data})
        return key

    def put_many(self, items: Mapping[str, bytes]) -> None:
        self.calls += items
        self.open.wait(30)
        if self.fails is not None:
            raise self.fails
        if not self.refuses.isdisjoint(items):
            raise TooLarge("over the limit")
        self.objects.update(items)


class Setting:
    """A remote, its daemon, and what it found."""

    def __init__(self, directory: str, **options: Any) -> None:
        self.local = LocalCache(directory)
        self.client = FakeClient()
        self.answers: Queue[tuple[int, Output | None]] = Queue()
        given: dict[str, Any] = {"deadline_s": 20.0, "may_write": True, **options}
        self.remote = Remote(
            self.local,
            self.client,  # type: ignore[arg-type]
            self.client,  # type: ignore[arg-type]
            PLACE,
            found=lambda number, output: self.answers.put((number, output)),
            **given,
        )

    def store(self, action: str, body: bytes, entry: bytes | None = None) -> str:
        output = hashlib.sha256(body).hexdigest()
        self.client.objects[f"sha256:{output}"] = body
        self.client.objects[PLACE.key(action)] = (
            encode_entry(ToolEntry(output, len(body), 17)) if entry is None else entry
        )
        return output

    def fetch(self, action: str) -> Output | None:
        self.remote.fetch(7, action)
        number, found = self.answers.get(timeout=30)
        assert number == 7
        assert self.answers.empty()
        return found


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    setting = Setting(f"{tmp_path}/go")
    yield setting
    setting.client.open.set()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Setting]]:
    made: list[Setting] = []

    def one(**options: Any) -> Setting:
        made.append(Setting(f"{tmp_path}/go", **options))
        return made[-1]

    yield one
    for setting in made:
        setting.client.open.set()


@pytest.mark.parametrize("body", [b"", SMALL, LARGE])
def test_what_the_daemon_has_is_brought_here(setting: Setting, body: bytes) -> None:
    output = setting.store(ACTION, body)
    found = setting.fetch(ACTION)
    assert found is not None
    assert (found.output, found.size, found.stored_ns) == (output, len(body), 17)
    assert Path(setting.local.path_of(output)).read_bytes() == body
    known = setting.local.find(ACTION)
    assert known is not None
    assert known.is_uploaded
    assert setting.remote.expire() is None


def test_an_output_that_is_here_is_not_fetched_again(setting: Setting) -> None:
    output = setting.store(ACTION, SMALL)
    install(setting.local, "cd" * 32, SMALL)
    assert setting.fetch(ACTION) is not None
    assert setting.client.calls == [PLACE.key(ACTION)]
    assert output


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"no json",
        encode_entry(ToolEntry("0" * 64, 5)),
        encode_entry(ToolEntry(hashlib.sha256(SMALL).hexdigest(), 6)),
    ],
)
def test_an_entry_that_names_nothing_is_a_miss(setting: Setting, entry: bytes) -> None:
    setting.store(ACTION, SMALL, entry)
    assert setting.fetch(ACTION) is None
    assert setting.local.find(ACTION) is None
    assert setting.remote.counters.fault == ""


@pytest.mark.parametrize("body", [SMALL, LARGE])
def test_damaged_content_is_a_miss_and_has_no_name(setting: Setting, body: bytes) -> None:
    output = setting.store(ACTION, body)
    setting.client.objects[f"sha256:{output}"] = body[:-1] + b"?"
    assert setting.fetch(ACTION) is None
    assert setting.remote.counters.damaged == 1
    assert not Path(setting.local.path_of(output)).exists()
    assert list(Path(setting.local.directory, "incoming").iterdir()) == []


def test_a_daemon_that_fails_is_left_alone_and_asked_again(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    setting.store(ACTION, SMALL)
    setting.client.fails = DaemonUnavailable("gone")
    assert setting.fetch(ACTION) is None
    setting.client.fails = None
    assert setting.fetch(ACTION) is None
    assert len(setting.client.calls) == 1
    monkeypatch.setattr(setting.remote, "_rest_until", 0.0)
    assert setting.fetch(ACTION) is not None


@pytest.mark.parametrize("error", [TooLarge("over the limit"), OriginUnavailable("down")])
def test_a_refusal_of_one_request_stops_no_other(setting: Setting, error: StoreError) -> None:
    setting.store(ACTION, SMALL)
    setting.client.fails = error
    assert setting.fetch(ACTION) is None
    setting.client.fails = None
    assert setting.fetch(ACTION) is not None


def test_a_fetch_that_hangs_is_a_miss_at_its_deadline(make: Callable[..., Setting]) -> None:
    """Whatever the thread that asks is doing; what comes late answers nobody, and is here the next time."""
    setting = make(deadline_s=0.05)
    setting.store(ACTION, SMALL)
    setting.client.open.clear()
    setting.remote.fetch(7, ACTION)
    while (left_s := setting.remote.expire()) is not None:
        time.sleep(left_s)
    assert setting.answers.get_nowait() == (7, None)
    assert setting.remote.counters.unanswered == 1
    assert setting.fetch(ACTION) is None  # at once: it is left alone for a while
    setting.client.open.set()
    while setting.local.find(ACTION) is None:
        time.sleep(0.001)
    assert setting.answers.empty()


def test_a_daemon_that_is_too_slow_is_left_alone_for_longer(setting: Setting) -> None:
    setting.client.fails = DeadlineExceeded("too slow")
    assert setting.fetch(ACTION) is None
    assert setting.remote._rest_s > 20.0


def test_one_that_takes_long_is_no_reason_to_leave_the_daemon_alone(make: Callable[..., Setting]) -> None:
    """A large one from a bucket far away, say, while others are answered; several of them are a reason."""
    setting = make(deadline_s=0.2)
    setting.store("cd" * 32, SMALL)
    for number in range(1, 4):
        setting.client.slow = {PLACE.key(ACTION)}
        setting.client.open.clear()
        setting.remote.fetch(number, ACTION)
        while setting.client.calls.count(PLACE.key(ACTION)) < number:
            time.sleep(0.001)
        setting.remote.fetch(100, "cd" * 32)
        assert setting.answers.get(timeout=10)[1] is not None  # sooner than the slow one gives its thread back
        while setting.remote.expire() is not None:
            time.sleep(0.001)
        assert setting.answers.get(timeout=30) == (number, None)
        setting.client.open.set()  # its thread is free for the next one, as when the client's own time is over
        assert bool(setting.remote._rest_s) == (number == 3)
    assert setting.remote.counters.unanswered == 3


def test_uploads_name_content_before_its_entry(setting: Setting) -> None:
    bodies = [SMALL, LARGE, b""]
    for number, body in enumerate(bodies):
        action = f"{number:02x}" * 32
        install(setting.local, action, body)
        found = setting.local.find(action)
        assert found is not None
        setting.remote.offer(action, found)
    setting.remote.drain(30)
    assert setting.remote.counters.uploaded == 3
    for number, body in enumerate(bodies):
        action = f"{number:02x}" * 32
        output = hashlib.sha256(body).hexdigest()
        assert setting.client.objects[PLACE.key(action)] == encode_entry(ToolEntry(output, len(body), 17))
        assert setting.client.objects[f"sha256:{output}"] == body
        calls = setting.client.calls
        assert calls.index(f"sha256:{output}") < calls.index(PLACE.key(action))
        found = setting.local.find(action)
        assert found is not None
        assert found.is_uploaded


def offered(setting: Setting, count: int = 1, body: bytes = SMALL) -> None:
    for number in range(count):
        action = f"{number:02x}" * 32
        install(setting.local, action, body + bytes([number]))
        found = setting.local.find(action)
        assert found is not None
        setting.remote.offer(action, found)


def test_one_upload_that_is_refused_costs_no_other(setting: Setting) -> None:
    setting.client.open.clear()  # so that all but the first few go together
    setting.client.refuses = {f"sha256:{hashlib.sha256(SMALL + bytes([5])).hexdigest()}"}
    offered(setting, 10)
    setting.client.open.set()
    setting.remote.drain(30)
    assert (setting.remote.counters.uploaded, setting.remote.counters.dropped) == (9, 1)
    assert sum(key.startswith("build/") for key in setting.client.objects) == 9


def test_an_output_changed_behind_our_back_is_not_uploaded(setting: Setting) -> None:
    setting.client.open.clear()
    offered(setting, 4, LARGE)
    for path in Path(setting.local.directory).rglob("*-d"):
        path.chmod(0o600)
        path.write_bytes(b"?" * (len(LARGE) + 1))
    setting.client.open.set()
    setting.remote.drain(30)
    assert setting.remote.counters.uploaded <= 2  # those that were being read already
    named = [key for key in setting.client.objects if key.startswith("build/")]
    assert len(named) == setting.remote.counters.uploaded


def test_a_fetch_that_the_origin_fails_stops_no_upload(setting: Setting) -> None:
    """A daemon that writes back takes it all the same."""
    setting.client.fails = OriginUnavailable("down")
    assert setting.fetch(ACTION) is None
    setting.client.fails = None
    offered(setting, 1)
    setting.remote.drain(30)
    assert setting.remote.counters.uploaded == 1


def test_an_upload_that_the_origin_fails_stops_uploads_and_no_fetch(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tiered_store.gocache.remote._REST_S", 600.0)
    setting.store(ACTION, SMALL)
    setting.client.fails = OriginUnavailable("down")
    offered(setting, 1)
    setting.remote.drain(30)
    setting.client.fails = None
    asked = len(setting.client.calls)
    offered(setting, 1)
    setting.remote.drain(30)
    assert (setting.remote.counters.uploaded, len(setting.client.calls)) == (0, asked)
    assert setting.fetch(ACTION) is not None


@pytest.mark.parametrize("error", [DaemonUnavailable("gone"), OriginUnavailable("down")])
def test_the_end_does_not_wait_for_a_daemon_that_has_gone(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, error: StoreError
) -> None:
    monkeypatch.setattr("tiered_store.gocache.remote._REST_S", 600.0)
    setting.client.fails = error
    offered(setting, 100)
    setting.remote.drain(600)
    assert (setting.remote.counters.uploaded, setting.remote.counters.dropped) == (0, 100)
    found = setting.local.find("00" * 32)
    assert found is not None
    assert not found.is_uploaded


def test_the_end_waits_for_a_daemon_that_hangs_no_longer_than_said(setting: Setting) -> None:
    setting.client.open.clear()
    offered(setting, 100)
    setting.remote.drain(0.05)
    assert setting.remote.counters.uploaded == 0
    assert setting.remote.counters.dropped


def test_too_many_uploads_are_dropped(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiered_store.gocache.remote._WAITING_MAX", 5)
    setting.client.open.clear()
    offered(setting, 200)
    assert setting.remote.counters.dropped
    assert len(setting.remote._waiting) <= 5


def test_who_may_not_write_uploads_nothing(make: Callable[..., Setting]) -> None:
    setting = make(may_write=False)
    offered(setting, 3)
    setting.remote.drain(30)
    assert setting.client.calls == []


def test_without_threads_everything_is_a_miss(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    setting.remote.fetch(7, ACTION)
    assert setting.remote.expire() is not None  # until its deadline
    offered(setting)
    setting.remote.drain(0.01)
    assert setting.remote.counters.dropped == 1
    assert "thread" in setting.remote.counters.fault
