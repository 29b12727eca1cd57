"""The journal's files: whole or not at all, whatever step is the last one, and never removed for being damaged."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from tests.support.origins import file_body, memfd_body, pattern
from tiered_store.aio.ownership import NotOurs
from tiered_store.objects import INLINE_MAX_BYTES, Body, FileBody, ObjectInfo, read_body
from tiered_store.store import journal as module
from tiered_store.store.journal import DamagedEntry, Doubtful, Journal, Record

LARGE = INLINE_MAX_BYTES + 5000
METADATA = {"größe": "é" * 500, "n": "1"}


def info_of(key: str, size: int) -> ObjectInfo:
    return ObjectInfo(key, size, "pending-1", "text/plain", METADATA, 1_700_000_000_000_000_000)


@pytest.fixture
def journal(tmp_path: Path):
    made = Journal(tmp_path / "journal")
    made.open()
    yield made
    made.close()


def put(journal: Journal, sequence: int, key: str, data: bytes) -> Record:
    body: Body = data if len(data) <= INLINE_MAX_BYTES else memfd_body(data)
    return journal.append(sequence, info_of(key, len(data)), body)


def names(journal: Journal) -> list[str]:
    return sorted(path.name for path in journal.path.iterdir() if path.name != "lock")


def file_of(journal: Journal, sequence: int) -> Path:
    return journal.path / f"{sequence:016d}.put"


def test_its_directory_is_there_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries are synced into it; it has to be synced into the one above, and so on up to what was there."""
    synced: list[Path] = []
    monkeypatch.setattr(module, "sync_directory", synced.append)
    for _ in range(2):
        journal = Journal(tmp_path / "a/b/journal")
        journal.open()
        journal.close()
    assert sorted(synced) == [tmp_path, tmp_path / "a", tmp_path / "a/b"]


def opened(path: Path, origin: str) -> Journal:
    made = Journal(path, origin)
    try:
        made.open()
    finally:
        made.close()
    return made


def test_puts_go_to_the_origin_that_they_were_put_to(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = opened(path, "bucket one")
    opened(path, "bucket two")  # nothing waits
    put(journal, 1, "a", b"1")
    opened(path, "bucket two")
    with pytest.raises(NotOurs, match=r"has 1 puts for another origin: bucket two; this one is: bucket one\."):
        opened(path, "bucket one")
    assert [record.info.key for record in journal.records()] == ["a"]
    (path / "origin").unlink()  # as the message says
    opened(path, "bucket one")
    opened(path, "bucket one")
    with pytest.raises(NotOurs):
        opened(path, "bucket two")
    assert names(journal) == ["0000000000000001.put", "origin"]


def test_an_origin_that_cannot_be_noted_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = opened(tmp_path / "journal", "bucket one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        opened(journal.path, "bucket two")
    assert "cannot be noted" in caplog.text
    put(journal, 1, "a", b"1")
    opened(journal.path, "bucket two")  # the former note is not left there to refuse it


@pytest.mark.parametrize("size", [0, 1, INLINE_MAX_BYTES, LARGE, 3_000_000])
def test_what_was_put_is_read_back(journal: Journal, size: int) -> None:
    data = pattern(size)
    record = put(journal, 7, "back/ä", data)
    assert record.crc == zlib.crc32(data)
    assert list(journal.records()) == [record]
    body = journal.read(record, verify=True)
    assert read_body(body) == data
    assert isinstance(body, bytes) == (size <= INLINE_MAX_BYTES)
    assert record.file_bytes == file_of(journal, 7).stat().st_size
    assert file_of(journal, 7).stat().st_mode & 0o777 == 0o600


def test_a_part_of_a_file_is_a_body(journal: Journal, tmp_path: Path) -> None:
    data = pattern(LARGE)
    body = file_body(tmp_path / "spool", data, offset=4096)
    record = journal.append(1, info_of("k", LARGE), body, zlib.crc32(data))
    assert read_body(journal.read(record, verify=True)) == data


def test_a_removed_entry_stays_readable_for_who_has_it_open(journal: Journal) -> None:
    record = put(journal, 1, "k", pattern(LARGE))
    body = journal.read(record, verify=False)
    journal.remove([1, 2])
    assert read_body(body) == pattern(LARGE)
    assert names(journal) == []
    with pytest.raises(FileNotFoundError):
        journal.read(record, verify=False)


def test_numbers_go_on_behind_the_highest(journal: Journal) -> None:
    assert Journal(journal.path.with_name("other")).open() == 1
    put(journal, 12, "a", b"1")
    put(journal, 3, "b", b"2")
    journal.set_aside(12, "for the test")
    journal.close()
    again = Journal(journal.path)
    assert again.open() == 13
    assert [record.sequence for record in again.records()] == [3]
    again.close()


def test_one_process_at_a_time(journal: Journal) -> None:
    with pytest.raises(NotOurs, match=f"in use by another daemon .pid {os.getpid()}"):
        Journal(journal.path).open()


def test_others_must_not_be_able_to_write_there(tmp_path: Path) -> None:
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(NotOurs, match="writable by others"):
        Journal(path).open()


# ---------------------------------------------------------------------------- the steps of an append


class Killed(BaseException):
    """The process ends here."""


STEPS = ["open", "write", "fsync", "rename", "sync_directory"]


@pytest.mark.parametrize("size", [100, LARGE])
@pytest.mark.parametrize("step", STEPS)
def test_an_append_that_is_killed_leaves_all_or_nothing(
    journal: Journal, step: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in the directory at that moment is what the next start finds."""
    before = put(journal, 1, "k", b"before")
    found: list[list[Record]] = []

    def killed(*_: object, **__: object) -> None:
        copy = journal.path.with_name("copy")
        copy.mkdir(mode=0o700)
        for path in journal.path.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        start = Journal(copy)
        start.open()
        found.append(list(start.records()))
        assert not list(copy.glob("*.new"))
        assert not list(copy.glob("*.damaged"))
        start.close()
        raise Killed

    target, name = {
        "open": (os, "open"),
        "write": (module, "write_all"),
        "fsync": (os, "fsync"),
        "rename": (Path, "rename"),
        "sync_directory": (module, "sync_directory"),
    }[step]
    with monkeypatch.context() as patch:
        real = getattr(target, name)
        calls = [killed, real] if step == "open" else [killed]

        def once(*arguments: object, **options: object) -> object:
            if calls:
                patch.setattr(target, name, real)
                return calls.pop(0)(*arguments, **options)
            return real(*arguments, **options)

        patch.setattr(target, name, once)
        with pytest.raises(Killed):
            put(journal, 2, "k", pattern(size))
    sequences = [record.sequence for record in found[0]]
    assert sequences == ([1, 2] if step == "sync_directory" else [1])
    assert found[0][0] == before


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_an_append_that_fails_leaves_nothing(journal: Journal, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    target, name = {"write": (module, "write_all"), "fsync": (os, "fsync"), "rename": (Path, "rename")}[step]
    with monkeypatch.context() as patch:
        patch.setattr(target, name, fails)
        with pytest.raises(OSError, match="No space") as caught:
            put(journal, 1, "k", b"x")
    assert not isinstance(caught.value, Doubtful)
    assert names(journal) == []


def test_an_append_whose_last_step_fails_is_in_doubt(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(module, "sync_directory", fails)
        with pytest.raises(Doubtful):
            put(journal, 1, "k", b"x")
    journal.remove([1])
    assert names(journal) == []


# ------------------------------------------------------------------------------------- damaged files


def cut(data: bytes) -> bytes:
    return data[:-1]


def empty(data: bytes) -> bytes:
    return b""


def flip_in_text(data: bytes) -> bytes:
    at = data.rindex(b"text/plain")
    return data[:at] + b"T" + data[at + 1 :]


def flip_in_footer(data: bytes) -> bytes:
    return data[:-10] + bytes([data[-10] ^ 1]) + data[-9:]


def shorter_body(data: bytes) -> bytes:
    return data[1:]


def foreign(data: bytes) -> bytes:
    return b"my notes" * 100


@pytest.mark.parametrize("size", [0, 100, LARGE])
@pytest.mark.parametrize("damage", [cut, empty, flip_in_text, flip_in_footer, shorter_body, foreign])
def test_what_cannot_be_understood_is_set_aside(journal: Journal, damage, size: int, caplog) -> None:
    put(journal, 1, "good", b"good")
    put(journal, 2, "bad", pattern(size))
    file_of(journal, 2).write_bytes(damaged := damage(file_of(journal, 2).read_bytes()))
    assert [record.sequence for record in journal.records()] == [1]
    kept = journal.path / f"{2:016d}.damaged"
    assert kept.read_bytes() == damaged
    assert [record.path for record in caplog.records if record.levelname == "ERROR"] == [str(kept)]
    assert [record.sequence for record in journal.records()] == [1]  # and it stays so


@pytest.mark.parametrize("size", [100, LARGE])
def test_flipped_bytes_of_a_body_are_never_read(journal: Journal, size: int) -> None:
    record = put(journal, 1, "k", pattern(size))
    raw = bytearray(file_of(journal, 1).read_bytes())
    raw[size // 2] ^= 1
    file_of(journal, 1).write_bytes(raw)
    assert list(journal.records()) == [record]  # the start reads no bodies
    with pytest.raises(DamagedEntry, match="checksum"):
        journal.read(record, verify=True)
    file_of(journal, 1).write_bytes(raw[:-1])
    with pytest.raises(DamagedEntry, match="bytes"):
        journal.read(record, verify=False)


def test_links_and_strange_names_are_left_alone(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    file_of(journal, 5).symlink_to(tmp_path / "precious")
    (journal.path / "notes.put").write_text("mine")
    assert list(journal.records()) == []
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert names(journal) == [f"{5:016d}.damaged", "notes.put"]


def test_a_file_body_that_is_too_short_is_no_entry(journal: Journal, tmp_path: Path) -> None:
    body = file_body(tmp_path / "spool", pattern(LARGE))
    longer = FileBody(body.descriptor, 0, LARGE + 1, is_memory=False)
    with pytest.raises(EOFError):
        journal.append(1, info_of("k", LARGE + 1), longer)
    assert names(journal) == []
