from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from benchmarks.children import Child, NotStarted, cpu_s, memfd_bytes, orderly_end, place, rss_bytes

_LISTENS = """
import signal, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
signal.sigwait({signal.SIGTERM})
sys.exit(7)
"""


def test_a_child_is_waited_for_and_stopped_by_sigterm(tmp_path):
    path = tmp_path / "s.sock"
    program = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n" + _LISTENS
    child = Child([sys.executable, "-c", program, str(path)], path, tmp_path)
    child.wait_until_listening()
    assert child.stop() == 7
    assert child.stop() == 7


def test_a_child_that_ends_early_is_reported_with_what_it_said(tmp_path):
    path = tmp_path / "s.sock"
    child = Child([sys.executable, "-c", "import sys; sys.exit('no room')"], path, tmp_path)
    with pytest.raises(NotStarted, match="no room"):
        child.wait_until_listening()


def test_a_child_that_does_not_listen_in_time_is_stopped(tmp_path):
    path = tmp_path / "s.sock"
    child = Child([sys.executable, "-c", "import time; time.sleep(60)"], path, tmp_path)
    with pytest.raises(NotStarted, match=str(-signal.SIGTERM)):
        child.wait_until_listening(timeout_s=0.0)


def test_a_missing_program_is_not_started(tmp_path):
    with pytest.raises(NotStarted, match="No such file"):
        Child([str(tmp_path / "nothing")], tmp_path / "s.sock", tmp_path)


def test_place_moves_all_threads_and_back():
    before = os.sched_getaffinity(0)
    place([0], {max(before)})
    try:
        assert os.sched_getaffinity(0) == {max(before)}
    finally:
        place([0], before)
    assert os.sched_getaffinity(0) == before


def test_memfds_are_weighed_once_however_many_descriptors_they_have():
    before = memfd_bytes(os.getpid())
    fd = os.memfd_create("weighed")
    again = os.dup(fd)
    try:
        os.write(fd, b"x" * 100_000)
        assert 100_000 <= memfd_bytes(os.getpid()) - before < 200_000
    finally:
        os.close(fd)
        os.close(again)


def test_resident_memory_is_more_than_nothing():
    assert rss_bytes(os.getpid()) > 1_000_000


def test_cpu_time_is_what_the_process_was_given():
    before = time.process_time()
    while time.process_time() - before < 0.05:
        pass
    said = cpu_s(os.getpid())
    assert before < said <= time.process_time() + 2 / os.sysconf("SC_CLK_TCK")


def test_sigterm_unwinds_and_the_former_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)), orderly_end():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
