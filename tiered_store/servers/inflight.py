"""The requests of one connection that are being worked on: begun, bounded, timed, cancelled.

Knows frames and errors, and neither what a request means nor how bytes travel. Invariant: whatever a
request ends with, its peer gets exactly one answer, unless the peer itself took the request back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from tiered_store.aio.eager import Finished, begin
from tiered_store.errors import DaemonUnavailable, DeadlineExceeded, ProtocolError, StoreError
from tiered_store.protocol.frames import Frame
from tiered_store.servers.limits import NativeLimits, RequestBytes
from tiered_store.servers.sockets import PeerCredentials

__all__ = ["InFlight"]

_log = logging.getLogger("tiered_store.native")


class InFlight:
    """Requests under way, by id.

    Args:
        peer: whose they are, for the log.
        limits: how many there may be, how large together, and what is slow.
        request_bytes: what the requests of all peers take.
        fail: sends an error to the peer, by request id.
        ended: called when one has ended that was not answered at once.
    """

    def __init__(
        self,
        peer: PeerCredentials,
        limits: NativeLimits,
        request_bytes: RequestBytes,
        *,
        fail: Callable[[int, StoreError], None],
        ended: Callable[[], None],
    ) -> None:
        self._peer = peer
        self._limits = limits
        self._bytes = 0
        self._all = request_bytes
        self._fail = fail
        self._on_end = ended
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        #: Those that have been cancelled, by the peer or by their deadline, and have not ended yet. By task: an
        #: id is free as soon as its task has ended, which may be before ``_ended`` is called for that.
        self._cancelled: set[asyncio.Task[None]] = set()
        self._expired: set[asyncio.Task[None]] = set()
        #: Those that wait for what others began, and of those the ones that shall wait no longer.
        self._patient: set[asyncio.Task[None]] = set()
        self._given_up: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def get(self, request_id: int) -> asyncio.Task[None] | None:
        """The task of a request."""
        return self._tasks.get(request_id)

    @property
    def is_held_up(self) -> bool:
        """Whether there is no place for another request, but will be when some of those under way have ended.

        Which they do without anything further from the peer.
        """
        if self._bytes and (
            self._bytes >= self._limits.max_request_bytes or self._all.used >= self._limits.max_total_request_bytes
        ):
            return True
        return bool(self._cancelled) and len(self._tasks) >= self._limits.max_in_flight

    def start(
        self,
        frame: Frame,
        work: Callable[[], Coroutine[Any, Any, None]],
        *,
        at_once: bool,
        weight: int,
        waits_for_others: bool = False,
    ) -> None:
        """Work on a request; it ends with the answer, and every error becomes one.

        Args:
            frame: the request.
            work: answers it.
            at_once: whether to go to the first wait before this returns; see ``aio.eager`` for what
                ``work`` may do until there.
            weight: bytes that count against the limits until it has ended.
            waits_for_others: whether ``work`` only waits for what others began: it keeps to its deadline itself, is
                not slow however long it takes, and is not waited for at a stop.

        Raises:
            ProtocolError: the request's id is none, or still in use.
        """
        request_id = frame.request_id
        refusal = self._refusal(request_id)
        if isinstance(refusal, ProtocolError):
            raise refusal
        if refusal is not None:
            self._fail(request_id, refusal)
            return
        running: Coroutine[Any, Any, None] = self._run(frame, work)
        if at_once:
            begun = begin(running)
            if isinstance(begun, Finished):
                return
            running = begun
        self._bytes += weight
        self._all.used += weight
        task = self._tasks[request_id] = self._loop.create_task(running)
        # In a request, extra is the deadline in milliseconds; streams have stall timeouts in place of one.
        expiry = None
        if waits_for_others:
            self._patient.add(task)
        elif frame.extra:
            expiry = self._loop.call_later(frame.extra / 1000, self._expire, request_id, task)
        task.add_done_callback(partial(self._ended, frame, weight, self._loop.time(), expiry))

    def _refusal(self, request_id: int) -> StoreError | None:
        if not request_id:
            return ProtocolError("request id 0 belongs to the connection")
        before = self._tasks.get(request_id)
        if before is not None and (not before.done() or (before in self._expired and before.cancelled())):
            return ProtocolError(f"request id {request_id} is still in use")
        limit = self._limits.max_in_flight
        # One that has been answered may still be in the table: its task is done, `_ended` is called a turn of the
        # loop later, and the peer's next request can be here before that.
        if len(self._tasks) >= limit and sum(not task.done() for task in self._tasks.values()) >= limit:
            return DaemonUnavailable(f"more than {limit} requests in flight on one connection")
        return None

    async def _run(self, frame: Frame, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do the work; every error becomes a reply."""
        request_id = frame.request_id
        try:
            await work()
        except StoreError as error:
            self._fail(request_id, error)
        except Exception as error:
            _log.exception("request failed", extra={"request": str(frame), "peer": str(self._peer)})
            self._fail(request_id, StoreError(f"internal error: {type(error).__name__}"))

    def _expire(self, request_id: int, task: asyncio.Task[None]) -> None:
        if not task.done() and task not in self._cancelled:
            self._expired.add(task)
            self.cancel(request_id)

    def _ended(
        self, frame: Frame, weight: int, started: float, expiry: asyncio.TimerHandle | None, task: asyncio.Task[None]
    ) -> None:
        """A request's task has ended; also called for one that was cancelled before its first step."""
        if expiry is not None:
            expiry.cancel()
        self._bytes -= weight
        self._all.used -= weight
        if self._tasks.get(frame.request_id) is task:  # else the peer has used the id again already
            del self._tasks[frame.request_id]
        self._cancelled.discard(task)
        if task in self._expired:
            self._expired.remove(task)
            if task.cancelled():  # else it had its answer when its time was up
                self._fail(frame.request_id, DeadlineExceeded(f"no answer within {frame.extra / 1000} s"))
        if task in self._given_up:
            self._given_up.remove(task)
            if task.cancelled():
                self._fail(frame.request_id, DaemonUnavailable("the daemon is stopping"))
        elapsed = self._loop.time() - started
        if task in self._patient:
            self._patient.remove(task)
        elif elapsed >= self._limits.slow_request_s:
            fields = {"request": str(frame), "seconds": round(elapsed, 3), "peer": str(self._peer)}
            _log.warning("slow request", extra=fields)
        self._on_end()

    def cancel(self, request_id: int) -> None:
        """The answer is no longer wanted."""
        task = self._tasks.get(request_id)
        if task is not None:
            task.cancel()
            self._cancelled.add(task)

    def give_up_waiting(self) -> None:
        """The daemon stops: those that only wait for others get their answer now."""
        for task in self._patient - self._cancelled:
            self._given_up.add(task)
            task.cancel()

    def cancel_all(self) -> None:
        """The peer has gone."""
        for task in self._tasks.values():
            task.cancel()

    async def finished(self) -> None:
        """Return when none runs any more."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())
