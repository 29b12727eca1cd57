"""What waits to be written: the last word per key, in order, within bounds."""

from __future__ import annotations

import pytest

from tests.support.tiers import entry_of, memfd
from tiered_store.key import Key
from tiered_store.tiers.waiting import Reads, WaitingRoom

A, B, C = Key("a"), Key("b"), Key("c")


@pytest.fixture
def room():
    return WaitingRoom(max_bytes=1000, max_entries=10, max_files=2, max_tombstone_bytes=1000)


def entries(room):
    return {key: waiting.entry for key, waiting in room.by_key.items()}


def test_the_last_word_on_a_key_counts(room):
    first, second = entry_of(A, b"1"), entry_of(A, b"2")
    assert room.put(A, first)
    assert room.put(A, second)
    assert entries(room) == {A: second}
    room.discard(A)
    assert entries(room) == {A: None}
    assert room.put(A, first)
    assert entries(room) == {A: first}


def test_changes_leave_in_the_order_of_their_last_word(room):
    for key in (A, B, A):
        room.put(key, entry_of(key, b""))
    room.discard(C)
    assert [key for key, _ in room.batch(10, 1000)] == [B, A, C]
    assert [key for key, _ in room.batch(2, 1000)] == [B, A]
    assert room.oldest == 2


def test_a_batch_is_bounded_in_bytes_but_never_empty(room):
    assert room.batch(10, 10) == []
    assert room.oldest is None
    for key in (A, B, C):
        room.put(key, entry_of(key, bytes(100)))
    assert len(room.batch(10, 10)) == 1
    assert len(room.batch(10, 200)) == 2


def test_written_is_only_what_was_not_changed_meanwhile(room):
    room.put(A, entry_of(A, b"1"))
    room.put(B, entry_of(B, b"1"))
    batch = room.batch(10, 1000)
    room.put(A, entry_of(A, b"2"))
    assert [room.written(key, waiting) for key, waiting in batch] == [False, True]
    assert list(room.by_key) == [A]


def test_a_declined_entry_leaves_a_tombstone(room):
    room.put(A, entry_of(A, b"1"))
    room.discard(B)
    room.put(C, entry_of(C, b"1"))
    batch = room.batch(10, 1000)
    newer = entry_of(C, b"2")
    room.put(C, newer)
    for key, waiting in batch:
        room.declined(key, waiting)
    assert entries(room) == {A: None, B: None, C: newer}


def test_an_entry_without_room_is_a_tombstone(room):
    room.put(A, entry_of(A, b"old"))
    room.put(B, entry_of(B, bytes(900)))
    assert not room.put(A, entry_of(A, bytes(200)))
    assert entries(room)[A] is None
    assert room.put(A, entry_of(A, bytes(100)))


def test_one_body_over_the_bound_may_wait_alone(room):
    assert room.put(A, entry_of(A, bytes(2000)))
    assert not room.put(B, entry_of(B, b"x"))
    room.discard(A)
    assert room.put(B, entry_of(B, b"x"))


def test_entries_are_bounded(room):
    assert [room.put(Key(f"k{n}"), entry_of(f"k{n}", b"")) for n in range(11)] == [True] * 10 + [False]


def test_descriptors_are_bounded():
    room = WaitingRoom(max_bytes=10_000, max_entries=10, max_files=2, max_tombstone_bytes=1000)
    assert [room.put(Key(f"k{n}"), entry_of(f"k{n}", memfd(b"x"))) for n in range(3)] == [True, True, False]
    assert room.put(Key("k3"), entry_of("k3", b"x"))


def test_tombstones_say_when_there_are_too_many(room):
    room.put(A, entry_of(A, b"1"))
    for number in range(4):
        room.discard(Key(f"k{number}"))
    assert not room.overflows
    room.discard(Key("k4"))
    assert room.overflows
    room.drop_tombstones()
    assert not room.overflows
    assert list(room.by_key) == [A]


def test_all_sums_come_back_to_zero(room):
    room.put(A, entry_of(A, memfd(bytes(500))))
    room.put(B, entry_of(B, bytes(500)))
    room.discard(C)
    for key, waiting in room.batch(10, 10_000):
        assert room.written(key, waiting)
    assert (room._bytes, room._entries, room._files, room._tombstone_bytes) == (0, 0, 0, 0)
    room.put(A, entry_of(A, bytes(10)))
    room.clear()
    assert room.by_key == {}
    assert room.put(A, entry_of(A, bytes(1000)))


def test_a_read_learns_that_its_key_has_changed():
    reads = Reads()
    reads.overtake(A)
    first, second, other = reads.begin(A), reads.begin(A), reads.begin(B)
    assert first is second
    reads.overtake(A)
    reads.overtake(C)
    late = reads.begin(A)
    assert (first.is_overtaken, other.is_overtaken, late.is_overtaken) == (True, False, False)
    for key, ticket in [(A, first), (A, second), (B, other)]:
        reads.end(key, ticket)
    assert len(reads) == 1
    reads.overtake_all()
    assert late.is_overtaken
    reads.end(A, late)
    assert len(reads) == 0


def test_a_read_of_many_keys_learns_which_have_changed():
    reads = Reads()
    reads.overtake(A)
    look, other = reads.begin_many(), reads.begin_many()
    reads.overtake(B)
    reads.end_many(other)
    reads.overtake(C)
    assert (look.overtaken, other.overtaken) == ({B, C}, {B})
    reads.overtake_all()
    assert (look.is_overtaken, other.is_overtaken) == (True, False)
    reads.end_many(look)
    assert reads._looks == []
