"""The asyncio client and its one connection at a time, against daemons that follow a script."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.support.faults import ManualClock
from tests.support.links import answer, echo, lost, until
from tests.support.wire import ScriptedDaemon, ServerSide
from tiered_store import AsyncClient
from tiered_store.client import downloads
from tiered_store.errors import DaemonUnavailable, DeadlineExceeded, NotFound
from tiered_store.protocol.frames import Opcode, encode_frame
from tiered_store.protocol.status import encode_error


class TestDying:
    async def test_under_a_hundred_requests(self) -> None:
        """All are repeated on one new connection; not a hundred."""

        def dying(side: ServerSide) -> None:
            side.greet(max_in_flight=200)
            answer(side, side.receive())
            for _ in range(100):
                side.receive()

        def well(side: ServerSide) -> None:
            side.greet(max_in_flight=200)
            while True:
                answer(side, side.receive())

        with ScriptedDaemon(dying, well) as daemon:
            client = AsyncClient(daemon.path, timeout_s=20.0)
            assert await client.get("first") == b"first"
            keys = [f"k{number}" for number in range(100)]
            assert await asyncio.gather(*map(client.get, keys)) == [key.encode() for key in keys]
            assert daemon.accepted == 2
            await client.close()

    async def test_a_second_time_is_once_too_often(self) -> None:
        def dying(side: ServerSide) -> None:
            side.greet()
            answer(side, side.receive())
            side.receive()

        def dead(side: ServerSide) -> None:
            side.greet()
            side.receive()

        with ScriptedDaemon(dying, dead) as daemon:
            client = AsyncClient(daemon.path, timeout_s=20.0)
            await client.get("first")
            with pytest.raises(DaemonUnavailable, match="closed the connection"):
                await client.get("second")
            assert daemon.accepted == 2
            await client.close()

    async def test_a_fresh_one_is_not_tried_again(self) -> None:
        def dead(side: ServerSide) -> None:
            side.greet()
            side.receive()

        with ScriptedDaemon(dead) as daemon:
            client = AsyncClient(daemon.path, timeout_s=20.0)
            with pytest.raises(DaemonUnavailable, match="closed the connection"):
                await client.get("first")
            assert daemon.accepted == 1
            await client.close()

    async def test_a_daemon_that_says_goodbye(self) -> None:
        """What is under way is answered, what comes then goes to the next daemon."""
        both_there = threading.Event()

        def leaving(side: ServerSide) -> None:
            side.greet()
            answer(side, side.receive())
            frame = side.receive()
            side.send(encode_frame(Opcode.GOODBYE, 0))
            both_there.wait(20)
            answer(side, frame)
            side.wait_for_end()

        with ScriptedDaemon(leaving, echo) as daemon:
            client = AsyncClient(daemon.path, timeout_s=20.0)
            await client.get("first")
            old = client._link
            assert old is not None
            slow = asyncio.ensure_future(client.get("under way"))
            await until(lambda: not old.is_usable)
            assert await client.get("next") == b"next"
            both_there.set()
            assert await slow == b"under way"
            assert daemon.accepted == 2
            await client.close()
            old.close()

    async def test_one_that_refuses_an_old_connection(self) -> None:
        def stopping(side: ServerSide) -> None:
            side.greet()
            answer(side, side.receive())
            number = side.receive().request_id
            side.send(encode_frame(Opcode.GOODBYE, 0) + encode_error(number, DaemonUnavailable("stopping")))

        with ScriptedDaemon(stopping, echo) as daemon:
            client = AsyncClient(daemon.path, timeout_s=20.0)
            assert [await client.get("a"), await client.get("b")] == [b"a", b"b"]
            await client.close()

    async def test_a_refusal_of_a_request_is_not_tried_again(self) -> None:
        def busy(side: ServerSide) -> None:
            side.greet()
            answer(side, side.receive())
            side.send(encode_error(side.receive().request_id, DaemonUnavailable("too many in flight")))
            side.wait_for_end()

        with ScriptedDaemon(busy) as daemon:
            client = AsyncClient(daemon.path, timeout_s=20.0)
            await client.get("a")
            with pytest.raises(DaemonUnavailable, match="too many in flight"):
                await client.get("b")
            assert daemon.accepted == 1
            await client.close()


class TestClosing:
    async def test_what_is_under_way_fails(self) -> None:
        def silent(side: ServerSide) -> None:
            side.greet()
            side.wait_for_end()

        with ScriptedDaemon(silent) as daemon:
            client = AsyncClient(daemon.path)
            tasks = [asyncio.ensure_future(client.get("a")) for _ in range(5)]
            await until(lambda: client._link is not None and len(client._link._mailboxes) == 6)
            await client.close()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, DaemonUnavailable) and "closed" in str(result) for result in results)
            with pytest.raises(DaemonUnavailable, match="has been closed"):
                await client.get("b")

    async def test_while_it_connects(self) -> None:
        """Whoever waits for the connection is told, and not cancelled: nobody cancelled them."""
        with ScriptedDaemon(ServerSide.wait_for_end) as daemon:
            client = AsyncClient(daemon.path, timeout_s=None)
            tasks = [asyncio.ensure_future(client.get("a")) for _ in range(3)]
            await until(lambda: daemon.accepted == 1)
            await client.close()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, DaemonUnavailable) for result in results)

    async def test_one_caller_cancelled_while_it_connects(self) -> None:
        greet = threading.Event()

        def slow(side: ServerSide) -> None:
            greet.wait(20)
            echo(side)

        with ScriptedDaemon(slow) as daemon:
            client = AsyncClient(daemon.path)
            tasks = [asyncio.ensure_future(client.get(key)) for key in ("a", "b")]
            await until(lambda: daemon.accepted == 1)
            tasks[0].cancel()
            await asyncio.wait([tasks[0]])
            greet.set()
            assert await tasks[1] == b"b"
            assert daemon.accepted == 1
            await client.close()


async def test_one_that_greets_nobody_is_left_alone() -> None:
    """For as long as it was waited for, at least."""
    with ScriptedDaemon(ServerSide.wait_for_end) as daemon:
        client = AsyncClient(daemon.path, timeout_s=0.6, on_unavailable="miss")
        clock = client._availability._clock = ManualClock()
        for _ in range(3):
            with pytest.raises(NotFound):
                await client.get("a")
        clock.advance(0.59)
        with pytest.raises(NotFound):
            await client.get("a")
        assert daemon.accepted == 1
        await client.close()


async def test_a_failure_to_connect_leaves_no_garbage(tmp_path: Any) -> None:
    client = AsyncClient(tmp_path / "none")
    assert await lost(lambda kept: client._run(downloads.get, "a", flags=0, sink=kept), DaemonUnavailable)
    await client.close()


def pick(side: ServerSide) -> None:
    """Greets and answers, as ``answer`` does, but not what is asked for "slow"; says so of "none"."""
    side.greet()
    while True:
        frame = side.receive()
        if frame.payload == b"none":
            side.send(encode_error(frame.request_id, NotFound("no such object")))
        elif frame.opcode != Opcode.CANCEL and frame.payload != b"slow":
            answer(side, frame)


class TestOneThatTakesConnectionsAndAnswersNothing:
    """A lenient client waits for it once, and not once per request."""

    TIMEOUT_S = 30.0

    async def connected(self, daemon: ScriptedDaemon, **options: Any) -> tuple[AsyncClient, ManualClock]:
        """A client with a connection, and the clock of its rests."""
        client = AsyncClient(daemon.path, timeout_s=self.TIMEOUT_S, **options)
        clock = client._availability._clock = ManualClock()
        await client.ping()
        return client, clock

    def asked(self, client: AsyncClient) -> asyncio.Future[bytes]:
        return asyncio.ensure_future(client.get("slow"))

    async def time_passes(self, client: AsyncClient) -> None:
        """As if the deadline of all that is under way were over."""
        link = client._link
        assert link is not None
        await until(lambda: len(link._mailboxes) > 1)
        for number, mailbox in link._mailboxes.items():
            if number:
                mailbox._expire(self.TIMEOUT_S)

    async def test_is_left_alone(self) -> None:
        with ScriptedDaemon(pick) as daemon:
            client, clock = await self.connected(daemon, on_unavailable="miss")
            for rest in (self.TIMEOUT_S, 2 * self.TIMEOUT_S):  # a second one is longer
                asked = self.asked(client)
                await self.time_passes(client)
                with pytest.raises(NotFound, match=r"no answer from the daemon within 30\.0 s"):
                    await asked
                clock.advance(rest - 1)
                for _ in range(100):
                    with pytest.raises(NotFound, match=r"the daemon is unavailable$"):
                        await client.get("a")
                clock.advance(1)
            assert await client.get("a") == b"a"
            await client.close()

    async def test_is_used_again_when_it_answers(self) -> None:
        with ScriptedDaemon(pick) as daemon:
            client, _ = await self.connected(daemon, on_unavailable="miss")
            asked = self.asked(client)
            await self.time_passes(client)
            await asyncio.wait([asked])
            with pytest.raises(NotFound, match=r"the daemon is unavailable$"):
                await client.get("a")
            await client.ping()  # is never kept from trying
            assert await client.get("a") == b"a"
            with pytest.raises(NotFound, match="no answer"):
                await asked
            await client.close()

    @pytest.mark.parametrize("beside", ["quick", "none"])
    async def test_one_slow_object_beside_others_is_no_reason(self, beside: str) -> None:
        with ScriptedDaemon(pick) as daemon:
            client, _ = await self.connected(daemon, on_unavailable="miss")
            asked = self.asked(client)
            await asyncio.sleep(0)
            await asyncio.gather(client.get(beside), return_exceptions=True)
            await self.time_passes(client)
            with pytest.raises(NotFound, match="no answer"):
                await asked
            assert await client.get("quick") == b"quick"
            await client.close()

    async def test_without_leniency_each_request_is_tried(self) -> None:
        with ScriptedDaemon(pick) as daemon:
            client, _ = await self.connected(daemon)
            asked = self.asked(client)
            await self.time_passes(client)
            with pytest.raises(DeadlineExceeded):
                await asked
            assert await client.get("a") == b"a"
            await client.close()
