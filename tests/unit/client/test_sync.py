"""The synchronous client, lenient towards a daemon that takes connections and answers nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.faults import ManualClock
from tests.support.wire import ScriptedDaemon, ServerSide
from tiered_store import Client
from tiered_store.errors import DeadlineExceeded, NotFound
from tiered_store.protocol.frames import Opcode, encode_frame


def pick(side: ServerSide) -> None:
    """Greets; answers with the key, but not what is asked for "slow"."""
    side.greet()
    while True:
        frame = side.receive()
        if frame.opcode == Opcode.PING:
            side.send(encode_frame(Opcode.PONG, frame.request_id, body=frame.payload))
        elif frame.payload != b"slow":
            side.send_object(frame.request_id, frame.payload)


def connected(daemon: ScriptedDaemon, **options: Any) -> tuple[Client, ManualClock]:
    """A client that waits half a second, and the clock of its rests."""
    client = Client(daemon.path, timeout_s=0.6, **options)
    clock = client._pool.availability._clock = ManualClock()
    return client, clock


def test_it_is_waited_for_once_and_not_once_per_request() -> None:
    with ScriptedDaemon(pick) as daemon:
        client, clock = connected(daemon, on_unavailable="miss")
        for rest in (0.6, 1.2):  # each attempt is a new connection, which proves nothing
            with pytest.raises(NotFound, match="no answer"):
                client.get("slow")
            clock.advance(rest - 0.01)
            for _ in range(100):
                with pytest.raises(NotFound, match=r"the daemon is unavailable$"):
                    client.get("a")
            clock.advance(0.02)
        assert daemon.accepted == 2
        assert client.get("a") == b"a"
        with pytest.raises(NotFound, match="no answer"):
            client.get("slow")
        client.ping()  # is never kept from trying, and ends a rest
        assert client.get("a") == b"a"
        client.close()


def test_without_leniency_each_request_is_tried() -> None:
    with ScriptedDaemon(pick) as daemon:
        client, _ = connected(daemon)
        with pytest.raises(DeadlineExceeded):
            client.get("slow")
        assert client.get("a") == b"a"
        client.close()
