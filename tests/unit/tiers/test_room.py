"""The ledger: nothing is granted beyond the bound or the file system's own minimum."""

from __future__ import annotations

import os
import threading

import pytest

from tests.support.tiers import ManualClock
from tiered_store.tiers.room import Room


@pytest.fixture
def system(monkeypatch):
    """What statvfs answers: bytes free, inodes free."""
    values = {"free": 10**9, "inodes": 10**6, "files": 10**7, "calls": 0, "error": False}

    def statvfs(path):
        values["calls"] += 1
        if values["error"]:
            raise OSError
        return os.statvfs_result(
            (4096, 1, 0, 0, values["free"], values["files"], values["inodes"], values["inodes"], 0, 255)
        )

    monkeypatch.setattr("tiered_store.tiers.room.os.statvfs", statvfs)
    return values


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def starved():
    return []


@pytest.fixture
def room(tmp_path, system, clock, starved):
    return Room(
        tmp_path,
        max_bytes=1000,
        min_free_bytes=100,
        min_free_inodes=10,
        clock=clock,
        on_starved=lambda: starved.append(True),
    )


def test_reservations_stop_at_the_bound(room, starved):
    assert room.reserve(600)
    assert not room.reserve(401)
    assert starved
    assert room.reserve(400)
    assert room.used == 1000
    room.release(400)
    assert room.used == 600
    assert room.reserve(400)


def test_what_was_written_takes_the_place_of_its_reservation(room):
    room.settle(100)
    assert room.reserve(500)
    room.settle(450, released=500)
    assert room.used == 450


def test_the_file_systems_minimum_is_kept(room, system):
    system["free"] = 300
    assert not room.reserve(201)
    assert room.reserve(150)
    assert not room.reserve(51)  # counted without asking again
    assert system["calls"] == 1


def test_the_file_system_is_asked_again_after_a_second_or_many_bytes(tmp_path, system, clock):
    room = Room(tmp_path, max_bytes=10**12, min_free_bytes=0, min_free_inodes=0, clock=clock, on_starved=lambda: None)
    room.reserve(10)
    room.reserve(10)
    assert system["calls"] == 1
    clock.now += 1.1
    room.reserve(10)
    assert system["calls"] == 2
    room.reserve(65 * 1024 * 1024)
    assert system["calls"] == 3


def test_a_file_system_that_does_not_answer_changes_nothing(room, system, clock):
    assert room.reserve(10)
    system["error"] = True
    clock.now += 2
    assert room.reserve(10)


@pytest.mark.parametrize(("files", "granted"), [(10**7, False), (0, True)])
def test_inodes_are_kept_where_a_file_system_counts_them(room, system, files, granted):
    system["inodes"], system["files"] = 9, files
    assert room.reserve(10) is granted
    room.settle(500)
    assert (room.excess() > 0) is not granted


def test_culling_goes_from_the_high_mark_to_the_low_one(room):
    room.refresh()
    room.settle(950)
    assert room.excess() == 0
    room.settle(951)
    assert room.excess() == 51
    room.settle(910)
    assert room.excess() == 10
    room.settle(900)
    assert room.excess() == 0
    room.settle(940)
    assert room.excess() == 0


def test_culling_makes_the_room_that_was_wanted(room):
    room.settle(800)
    assert not room.reserve(500)
    assert room.excess() == 300
    room.settle(500)
    assert room.excess() == 0
    assert room.reserve(500)


def test_culling_makes_the_room_that_the_file_system_lacks(room, system):
    room.settle(800)
    system["free"] = 50
    room.refresh()
    assert room.excess() == 50
    room.want(30)
    assert room.excess() == 80


def test_when_nothing_is_left_to_cull_it_is_not_asked_for(room, system):
    system["free"] = 50
    room.settle(800)
    room.refresh()
    assert room.excess() > 0
    room.give_up()
    assert room.excess() == 0
    assert not room.reserve(10)
    room.settle(810)
    assert room.excess() > 0


def test_what_is_not_counted_yet_is_taken_for_used_but_not_culled_for(room):
    room.expect(700)
    room.settle(100)
    assert not room.reserve(300)
    assert room.excess() == 0
    assert room.used == 100
    room.found(500)
    assert room.reserve(300)
    room.expect(0)
    assert room.reserve(600)


def test_a_waiting_writer_is_told(room, clock):
    assert room.reserve(900)
    got = []
    thread = threading.Thread(target=lambda: got.append(room.reserve_or_wait(500, 60.0)))
    thread.start()
    room.settle(0, released=900)
    thread.join(30)
    assert got == [True]


def test_a_waiting_writer_gives_up(room):
    assert room.reserve(900)
    assert not room.reserve_or_wait(500, 0.01)


def test_the_sum_is_there_without_waiting(room):
    room.reserve(100)
    room.release(40)
    with room._changed:  # another thread is at it
        seen = []
        thread = threading.Thread(target=lambda: seen.append(room.used))
        thread.start()
        thread.join(30)
    assert seen == [100]
    assert room.used == 60


def test_what_could_never_fit(room):
    assert room.could_fit(900)
    assert not room.could_fit(901)
