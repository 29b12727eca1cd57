"""The index: what diskcache does for the tier, and what it must not do."""

from __future__ import annotations

import threading

import pytest

from tiered_store.key import Key
from tiered_store.tiers.directory import INDEX_NAME
from tiered_store.tiers.faults import Kind, TierFault
from tiered_store.tiers.index import Index
from tiered_store.tiers.rawdisk import Refused, StoredFile


def name(number):
    return f"objects/00/{number:030x}"


@pytest.fixture
def index(tmp_path):
    index = Index(tmp_path, log_bytes=65536)
    yield index
    index.close()


def test_changes_are_made_together(index):
    index.apply([(Key("a"), b"1"), (Key("b"), StoredFile(name(1), 8192, b"r")), (Key("c"), None)])
    assert index.get(Key("a")) == b"1"
    assert index.get(Key("b")) == StoredFile(name(1), 0, b"r")
    assert index.get(Key("c")) is None
    index.apply([(Key("a"), None)])
    assert index.get(Key("a")) is None
    assert list(index.keys()) == ["b"]


def test_with_a_fault_nothing_is_changed(index):
    index.apply([(Key("a"), StoredFile(name(1), 1, b"r"))])
    with pytest.raises(Refused):
        index.apply([(Key("a"), b"2"), (Key("b"), "text")])
    assert index.get(Key("a")) == StoredFile(name(1), 0, b"r")
    assert index.apply([(Key("c"), b"3")]) == []


def test_replaced_files_are_handed_out_for_removal(index):
    index.apply([(Key(f"k{n}"), StoredFile(name(n), 1, b"r")) for n in range(4)])
    removed = index.apply([(Key("k0"), b"x"), (Key("k1"), None), (Key("k2"), StoredFile(name(9), 1, b"r"))])
    assert removed == [name(0), name(1), name(2)]


def test_a_file_under_a_new_record_is_kept(index):
    index.apply([(Key("a"), StoredFile(name(1), 8192, b"old"))])
    assert index.apply([(Key("a"), StoredFile(name(1), 8192, b"new"))]) == []
    assert index.get(Key("a")) == StoredFile(name(1), 0, b"new")


def test_files_and_rows_are_measured(index):
    entries, empty = index.measure()
    assert entries == 0
    index.apply([(Key("a"), StoredFile(name(1), 1_000_000, b"r")), (Key("b"), bytes(50_000))])
    entries, used = index.measure()
    assert entries == 2
    assert used - empty >= 1_045_000
    index.apply([(Key("a"), None), (Key("b"), None)])
    assert index.measure()[0] == 0
    assert index.measure()[1] <= empty + 65536


def test_a_log_that_is_not_there_is_no_fault(index, tmp_path):
    assert index.measure()[0] == 0
    (tmp_path / f"{INDEX_NAME}-wal").unlink()
    assert index.measure()[0] == 0


def test_culling_takes_the_least_recently_used(index):
    index.apply([(Key(f"k{n:02}"), StoredFile(name(n), 100_000, b"r")) for n in range(40)])
    index.touch([Key("k00"), Key("unknown"), Key("k01")])
    count, removed = index.cull(1_500_000)
    assert count == len(removed) == 20
    assert removed == [name(n) for n in range(2, 22)]
    assert index.get(Key("k00")) is not None
    assert index.cull(10**9)[0] == 20
    assert index.cull(10**9) == (0, [])


def test_reading_writes_nothing(index, tmp_path):
    index.apply([(Key("a"), b"1")])
    before = (tmp_path / f"{INDEX_NAME}-wal").stat()
    for _ in range(10):
        index.get(Key("a"))
    after = (tmp_path / f"{INDEX_NAME}-wal").stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def plant(index, **columns):
    sets = ", ".join(f"{column} = ?" for column in columns)
    index._writer._sql(f"UPDATE Cache SET {sets}", tuple(columns.values()))


def test_a_touched_row_of_another_kind_is_still_refused(index):
    index.apply([(Key("a"), b"1")])
    plant(index, mode=4)
    index.touch([Key("a")])
    with pytest.raises(Refused):
        index.get(Key("a"))


def test_a_key_of_another_kind_is_a_broken_index(index):
    index.apply([(Key("a"), b"1")])
    plant(index, raw=0)
    with pytest.raises(TierFault) as caught:
        list(index.keys())
    assert caught.value.kind is Kind.CORRUPT


def test_two_threads_have_connections_of_their_own(index):
    index.apply([(Key("a"), b"1")])
    seen = []

    def read():
        seen.append(index.get(Key("a")))
        index.close()

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(30)
    assert seen == [b"1"]


def test_it_is_there_again_after_closing(index, tmp_path):
    index.apply([(Key("a"), b"1")])
    index.close()
    other = Index(tmp_path, log_bytes=65536)
    assert other.get(Key("a")) == b"1"
    assert list(other.keys()) == ["a"]
    other.close()


def test_garbage_is_a_broken_index(tmp_path):
    (tmp_path / INDEX_NAME).write_bytes(b"garbage" * 1000)
    with pytest.raises(TierFault) as caught:
        Index(tmp_path, log_bytes=65536)
    assert caught.value.kind is Kind.CORRUPT


def test_settings_of_another_make_are_a_broken_index(tmp_path):
    index = Index(tmp_path, log_bytes=65536)
    index._writer._sql("INSERT INTO Settings VALUES ('disk_unknown', 1)")
    index.close()
    with pytest.raises(TierFault) as caught:
        Index(tmp_path, log_bytes=65536)
    assert caught.value.kind is Kind.CORRUPT


def test_many_values_are_read_together(index):
    index.apply([(Key("a"), b"1"), (Key("b"), StoredFile(name(1), 8192, b"r")), (Key("ä"), b"2"), (Key("d"), b"3")])
    wanted = [Key("a"), Key("b"), Key("c"), Key("ä"), Key("a")]
    assert dict(index.get_many(wanted)) == {"a": b"1", "b": StoredFile(name(1), 0, b"r"), "ä": b"2"}
    assert list(index.get_many([])) == []


def test_a_refused_row_does_not_hide_the_others(index):
    index.apply([(Key("a"), b"1"), (Key("b"), b"2")])
    index._writer._sql("UPDATE Cache SET mode = 4 WHERE key = 'a'")
    found = dict(index.get_many([Key("a"), Key("b")]))
    assert isinstance(found[Key("a")], Refused)
    assert found[Key("b")] == b"2"


def test_a_look_that_is_given_up_holds_no_view_of_the_index(index):
    index.apply([(Key(f"k{number}"), bytes(1000)) for number in range(100)])
    rows = index.get_many([Key(f"k{number}") for number in range(100)])
    next(rows)
    rows.close()
    index.apply([(Key("k1"), b"new")])
    busy, *_ = index._writer._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not busy
