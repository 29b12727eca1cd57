"""The backlog: the newest put of each key counts, what counts no more is gone before anybody relies on that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.faults import ManualClock
from tests.support.origins import memfd_body, pattern
from tests.support.store import NOTHING_SAID, until
from tiered_store.errors import OriginUnavailable
from tiered_store.key import Key
from tiered_store.objects import INLINE_MAX_BYTES, Body, read_body
from tiered_store.origins.base import PutHeaders
from tiered_store.store import journal as journal_module
from tiered_store.store.backlog import Backlog, BacklogLimits
from tiered_store.store.journal import Journal
from tiered_store.store.pendingputs import Pending

A, B, C = Key("back/a"), Key("back/b"), Key("back/c")
LARGE = INLINE_MAX_BYTES + 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
async def backlog(path: Path) -> AsyncIterator[Backlog]:
    made = Backlog(Journal(path), wall=ManualClock(1_700_000_000.0))
    await made.start()
    yield made
    await made.close()


async def restarted(backlog: Backlog, path: Path) -> Backlog:
    await backlog.close()
    again = Backlog(Journal(path), wall=ManualClock(1_700_000_100.0))
    await again.start()
    return again


async def put(backlog: Backlog, key: Key, data: bytes, headers: PutHeaders = NOTHING_SAID) -> Pending:
    body: Body = data if len(data) <= INLINE_MAX_BYTES else memfd_body(data)
    pending = await backlog.put(key, body, headers, None)
    assert pending is not None
    return pending


async def held(backlog: Backlog) -> dict[Key, bytes]:
    found = {}
    for key in backlog.keys():  # noqa: SIM118
        body = await backlog.body(backlog.get(key))
        found[key] = read_body(body)
    return found


def files(path: Path) -> int:
    return len(list(path.glob("*.put")))


async def test_without_a_journal_nothing_is_ever_pending() -> None:
    backlog = Backlog()
    await backlog.start()
    assert not backlog.is_on
    assert await backlog.put(A, b"x", NOTHING_SAID, None) is None
    await backlog.flushed()
    await backlog.settle([A])
    assert (len(backlog), backlog.counters().bypassed, backlog.counters().max_bytes) == (0, 0, 0)
    await backlog.close()


async def test_what_is_pending_survives_a_restart(backlog: Backlog, path: Path) -> None:
    headers = PutHeaders("text/plain", {"user": "7"})
    first = await put(backlog, A, b"small", headers)
    await put(backlog, B, pattern(LARGE))
    assert backlog.counters().entries == 2
    assert backlog.counters().bytes == sum(file.stat().st_size for file in path.glob("*.put"))
    again = await restarted(backlog, path)
    assert await held(again) == {A: b"small", B: pattern(LARGE)}
    assert again.get(A).info == first.info
    assert (first.info.content_type, first.info.metadata) == ("text/plain", {"user": "7"})
    assert again.counters().oldest_s == 100.0
    assert again.counters().bytes == backlog.counters().bytes
    await again.close()


async def test_the_newest_put_of_a_key_counts(backlog: Backlog, path: Path) -> None:
    first = await put(backlog, A, b"1")
    await put(backlog, B, b"b")
    second = await put(backlog, A, b"2")
    assert first.info.etag != second.info.etag
    assert backlog.keys() == [B, A]
    assert await backlog.body(first) is None
    assert await held(backlog) == {A: b"2", B: b"b"}
    assert backlog.counters().superseded == 1
    await until(lambda: files(path) == 2)
    again = await restarted(backlog, path)
    assert await held(again) == {A: b"2", B: b"b"}
    await again.close()


async def test_after_a_crash_the_newest_of_two_files_counts(backlog: Backlog, path: Path, monkeypatch) -> None:
    """The older one was to be removed, and was not."""
    monkeypatch.setattr(Journal, "remove", lambda self, sequences: None)
    await put(backlog, A, b"1")
    await put(backlog, A, b"2")
    await backlog.close()
    monkeypatch.undo()
    assert files(path) == 2
    again = Backlog(Journal(path))
    await again.start()
    assert await held(again) == {A: b"2"}
    assert again.counters().superseded == 0
    await again.settle([A])
    assert files(path) == 1
    await again.close()


async def test_an_overruled_put_cannot_come_back_once_that_is_settled(backlog: Backlog, path: Path) -> None:
    await put(backlog, A, b"1")
    await put(backlog, B, b"b")
    backlog.overruled([A, C])
    assert A not in backlog
    await backlog.settle([A, C])
    assert files(path) == 1
    again = await restarted(backlog, path)
    assert await held(again) == {B: b"b"}
    await again.close()


async def test_a_directory_that_cannot_be_changed_is_said_and_tried_again(
    backlog: Backlog, path: Path, monkeypatch, caplog
) -> None:
    monkeypatch.setattr("tiered_store.store.dropped._RETRY_S", 0.01)

    def fails(_: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        await put(backlog, A, b"1")
        patch.setattr(journal_module, "sync_directory", fails)
        backlog.overruled([A])
        for _ in range(2):
            with pytest.raises(OriginUnavailable, match="older put cannot be removed"):
                await backlog.settle([A])
        await backlog.settle([B])
    await until(lambda: A not in backlog._dropped._by_key)
    await backlog.settle([A])
    assert sum("cannot be removed" in record.message for record in caplog.records) == 1


async def test_where_the_last_step_of_an_append_fails_the_put_is_taken_back(
    backlog: Backlog, path: Path, monkeypatch
) -> None:
    real = journal_module.sync_directory
    calls = []

    def fails_once(at: Path) -> None:
        calls.append(at)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")
        real(at)

    monkeypatch.setattr(journal_module, "sync_directory", fails_once)
    assert await backlog.put(A, b"1", NOTHING_SAID, None) is None
    assert A not in backlog
    await backlog.settle([A])
    assert files(path) == 0


async def test_a_full_journal_takes_no_more(path: Path, caplog) -> None:
    backlog = Backlog(Journal(path), BacklogLimits(max_bytes=4000, max_entries=2))
    await backlog.start()
    await put(backlog, A, b"x" * 1000)
    assert await backlog.put(B, b"x" * 3000, NOTHING_SAID, None) is None
    await put(backlog, B, b"")
    assert await backlog.put(C, b"", NOTHING_SAID, None) is None  # a third key
    await put(backlog, A, b"again")
    assert (backlog.counters().bypassed, backlog.counters().entries) == (2, 2)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "the journal is full: puts go straight to the origin"
    ]
    await backlog.close()


async def test_metadata_is_bounded_too(backlog: Backlog, monkeypatch) -> None:
    monkeypatch.setattr("tiered_store.store.backlog._METADATA_MAX_BYTES", 100)
    await put(backlog, A, b"", PutHeaders(None, {"n": "x" * 90}))
    assert await backlog.put(B, b"", PutHeaders(None, {"n": "x" * 90}), None) is None
    await put(backlog, C, b"")
    backlog.overruled([A])
    await put(backlog, B, b"", PutHeaders(None, {"n": "x" * 90}))


async def test_puts_that_are_being_written_count(path: Path) -> None:
    backlog = Backlog(Journal(path), BacklogLimits(max_bytes=3000, max_entries=100))
    await backlog.start()
    taken = await asyncio.gather(
        *(backlog.put(Key(f"back/{number}"), b"x" * 1000, NOTHING_SAID, None) for number in range(10))
    )
    assert sum(pending is not None for pending in taken) == 2
    await backlog.close()


@pytest.mark.parametrize("error", [OSError(28, "No space left"), OSError(30, "Read-only"), EOFError("short")])
async def test_a_journal_that_cannot_be_written_takes_nothing(backlog: Backlog, monkeypatch, error, caplog) -> None:
    def fails(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", fails)
        assert await backlog.put(A, b"1", NOTHING_SAID, None) is None
        assert await backlog.put(A, b"1", NOTHING_SAID, None) is None
    assert (backlog.counters().bypassed, backlog.counters().bytes) == (2, 0)
    assert sum("cannot be written" in record.message for record in caplog.records) == 1
    await put(backlog, A, b"1")


async def test_a_put_whose_caller_is_cancelled_does_not_count(backlog: Backlog, path: Path) -> None:
    putting = asyncio.create_task(backlog.put(A, b"1", NOTHING_SAID, None))
    await asyncio.sleep(0)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert A not in backlog
    await put(backlog, B, b"b")
    again = await restarted(backlog, path)
    assert await held(again) == {B: b"b"}
    await again.close()


# ------------------------------------------------------------------------------------------ reading


async def test_readers_of_one_put_share_a_reading(backlog: Backlog, monkeypatch) -> None:
    pending = await put(backlog, A, b"1")
    reads = []
    real = Journal.read

    def counted(self, record, *, verify):
        reads.append(verify)
        return real(self, record, verify=verify)

    monkeypatch.setattr(Journal, "read", counted)
    readers = [asyncio.create_task(backlog.body(pending)) for _ in range(20)]
    await asyncio.sleep(0)
    readers[0].cancel()
    assert [await reader for reader in readers[1:]] == [b"1"] * 19
    assert reads == [False]
    assert await backlog.verified_body(pending) == b"1"
    assert reads == [False, True]


@pytest.mark.parametrize("size", [100, LARGE])
@pytest.mark.parametrize("how", ["flipped", "removed"])
async def test_a_damaged_put_is_set_aside_and_counts_no_more(
    backlog: Backlog, path: Path, size: int, how: str, caplog
) -> None:
    await put(backlog, A, pattern(size))
    again = await restarted(backlog, path)
    (file,) = path.glob("*.put")
    if how == "removed":
        file.unlink()
    else:
        raw = bytearray(file.read_bytes())
        raw[50] ^= 1
        file.write_bytes(raw)
    flushed = asyncio.create_task(again.flushed())
    pending = again.get(A)
    assert await asyncio.gather(again.body(pending), again.verified_body(pending)) == [None, None]
    assert A not in again
    await flushed
    assert any(record.levelname == "ERROR" for record in caplog.records)
    assert len(list(path.glob("*.damaged"))) == (how == "flipped")
    await again.settle([A])
    assert len(list(path.glob("*.damaged"))) == (how == "flipped")
    await again.close()


async def test_a_put_that_cannot_be_read_now_stays(backlog: Backlog, monkeypatch) -> None:
    pending = await put(backlog, A, b"1")

    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "read", fails)
        for read in (backlog.body, backlog.verified_body):
            with pytest.raises(OriginUnavailable, match="journal cannot be read"):
                await read(pending)
    assert await backlog.body(pending) == b"1"
