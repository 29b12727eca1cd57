"""Idle links: shared by threads, carried across a fork, replaced when the daemon was away."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.origins import open_descriptors
from tests.support.wire import ScriptedDaemon, ServerSide
from tiered_store.client.link import Link
from tiered_store.client.pool import Pool
from tiered_store.errors import DaemonUnavailable, DeadlineExceeded, NotFound
from tiered_store.protocol.status import encode_error


def serve(side: ServerSide) -> None:
    """Answers every GET with the key."""
    side.greet()
    while True:
        frame = side.receive()
        side.send_object(frame.request_id, frame.payload)


def serve_once(side: ServerSide) -> None:
    """Answers one GET, and goes."""
    side.greet()
    frame = side.receive()
    side.send_object(frame.request_id, frame.payload)


def serve_nothing(side: ServerSide) -> None:
    """Greets, takes a request, and goes."""
    side.greet()
    side.receive()


def fetch(pool: Pool, key: str) -> Any:
    return pool.use(Link.fetch, key, 0, 0)


def test_a_link_is_used_again() -> None:
    with ScriptedDaemon(serve) as daemon:
        pool = Pool(daemon.path, 20.0, 0.0)
        assert [fetch(pool, f"k{number}") for number in range(5)] == [b"k%d" % number for number in range(5)]
        assert daemon.accepted == 1
        pool.close()


def test_many_threads() -> None:
    """Each gets its own answers, and no more links are kept than a burst needs."""
    with ScriptedDaemon(serve) as daemon:
        pool = Pool(daemon.path, 20.0, 0.0)
        before = open_descriptors()

        def work(thread: int) -> None:
            for number in range(50):
                key = f"{thread}-{number}"
                assert fetch(pool, key) == key.encode()

        with ThreadPoolExecutor(24) as threads:
            list(threads.map(work, range(24)))
        assert len(pool._idle) <= 16
        assert 1 <= daemon.accepted <= 24
        pool.close()
        assert pool._idle == []
        assert open_descriptors() <= before + daemon.accepted  # the daemon's ends are in this process, too


def test_a_stale_link_is_replaced_once() -> None:
    """The daemon was restarted in between: the caller notices nothing."""
    with ScriptedDaemon(serve_once, serve) as daemon:
        pool = Pool(daemon.path, 20.0, 0.0)
        assert fetch(pool, "a") == b"a"
        assert fetch(pool, "b") == b"b"
        assert daemon.accepted == 2
        pool.close()


def test_when_one_is_stale_all_are() -> None:
    together = threading.Barrier(2)

    def serve_one_each(side: ServerSide) -> None:
        side.greet()
        frame = side.receive()
        together.wait(20)  # so that both threads hold a link at once
        side.send_object(frame.request_id, frame.payload)

    with ScriptedDaemon(serve_one_each, serve_one_each, serve) as daemon:
        pool = Pool(daemon.path, 20.0, 0.0)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda key: fetch(pool, key), ["a", "b"]))
        assert len(pool._idle) == 2
        assert fetch(pool, "c") == b"c"
        assert len(pool._idle) == 1
        assert daemon.accepted == 3
        pool.close()


def test_a_fresh_link_that_fails_is_no_accident() -> None:
    with ScriptedDaemon(serve_nothing) as daemon:
        pool = Pool(daemon.path, 20.0, 0.0)
        with pytest.raises(DaemonUnavailable, match="during the request"):
            fetch(pool, "a")
        assert daemon.accepted == 1
        pool.close()


def test_a_daemon_that_dies_of_the_request_is_not_asked_for_ever() -> None:
    with ScriptedDaemon(serve_once, serve_nothing) as daemon:
        pool = Pool(daemon.path, 20.0, 0.0)
        fetch(pool, "a")
        with pytest.raises(DaemonUnavailable):
            fetch(pool, "b")
        assert daemon.accepted == 2
        pool.close()


def test_one_that_refuses_an_old_link_is_asked_on_a_new_one() -> None:
    def stopping(side: ServerSide) -> None:
        side.greet()
        side.send_object(side.receive().request_id, b"a")
        side.send(encode_error(side.receive().request_id, DaemonUnavailable("the daemon is stopping")))

    with ScriptedDaemon(stopping, serve) as daemon:
        pool = Pool(daemon.path, 20.0, 0.0)
        assert [fetch(pool, "a"), fetch(pool, "b")] == [b"a", b"b"]
        pool.close()


def test_a_refusal_is_not_tried_again() -> None:
    def full(side: ServerSide) -> None:
        side.send(encode_error(0, DaemonUnavailable("too many connections")))

    with ScriptedDaemon(full) as daemon:
        pool = Pool(daemon.path, 20.0, 0.0)
        with pytest.raises(DaemonUnavailable, match="too many"):
            fetch(pool, "a")
        assert pool.availability.is_resting
        pool.close()


def test_one_that_was_there_is_waited_for() -> None:
    """It refuses twice while it starts again."""

    def full(side: ServerSide) -> None:
        side.send(encode_error(0, DaemonUnavailable("starting")))

    with ScriptedDaemon(serve_once, full, full, serve) as daemon:
        pool = Pool(daemon.path, 20.0, 20.0)
        assert [fetch(pool, "a"), fetch(pool, "b")] == [b"a", b"b"]
        assert not pool.availability.is_resting
        pool.close()


def test_one_that_greets_nobody_is_left_alone() -> None:
    with ScriptedDaemon(ServerSide.wait_for_end) as daemon:
        pool = Pool(daemon.path, 0.05, 20.0)
        with pytest.raises(DeadlineExceeded):
            fetch(pool, "a")
        assert pool.availability.is_resting
        assert daemon.accepted == 1
        pool.close()


class TestAfterAnError:
    def use(self, daemon: ScriptedDaemon, error: BaseException) -> None:
        pool = Pool(daemon.path, 20.0, 0.0)

        def work(link: Link) -> None:
            link.fetch("a", 0, 0)
            raise error

        with pytest.raises(type(error)):
            pool.use(work)
        assert fetch(pool, "b") == b"b"
        pool.close()

    def test_of_the_store_the_link_is_kept(self) -> None:
        with ScriptedDaemon(serve) as daemon:
            self.use(daemon, NotFound("none"))
            assert daemon.accepted == 1

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk"), DeadlineExceeded("late")])
    def test_of_any_other_kind_it_is_not(self, error: BaseException) -> None:
        with ScriptedDaemon(serve) as daemon:
            self.use(daemon, error)
            assert daemon.accepted == 2


class TestClosed:
    def test_no_further_use(self) -> None:
        with ScriptedDaemon(serve) as daemon:
            pool = Pool(daemon.path, 20.0, 0.0)
            fetch(pool, "a")
            pool.close()
            pool.close()
            with pytest.raises(DaemonUnavailable, match="has been closed"):
                fetch(pool, "b")
            assert daemon.accepted == 1

    def test_a_busy_link_is_closed_when_it_comes_back(self) -> None:
        with ScriptedDaemon(serve) as daemon:
            pool = Pool(daemon.path, 20.0, 0.0)

            def work(link: Link) -> Any:
                pool.close()
                return link.fetch("a", 0, 0)

            assert pool.use(work) == b"a"
            assert pool._idle == []


def test_a_fork() -> None:
    """A child must never write into its parent's connections; each goes on with its own."""
    with ScriptedDaemon(serve) as daemon:
        pool = Pool(daemon.path, 20.0, 0.0)
        fetch(pool, "a")
        answer, question = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            try:
                idle = len(pool._idle)
                ok = all(fetch(pool, f"child{number}") == b"child%d" % number for number in range(20))
                os.write(question, b"%d %d" % (idle, ok))
            finally:
                os._exit(0)
        for number in range(20):
            assert fetch(pool, f"parent{number}") == b"parent%d" % number
        assert os.waitpid(child, 0)[1] == 0
        assert os.read(answer, 100) == b"0 1"
        os.close(answer)
        os.close(question)
        assert daemon.accepted == 2
        assert fetch(pool, "still mine") == b"still mine"
        assert daemon.accepted == 2
        pool.close()
