"""The small doors: connections that do one thing after the other, in the order in which it was asked.

Knows no protocol: a codec cuts what comes into commands (``wire.py``), a session knows what they mean and how an answer
is written. Here is who waits for whom: a command that has to wait is a task, and until it has ended nothing further is
read of that peer; so replies keep their order, and what one peer can make the daemon hold is one read of its socket,
one command, and of commands that wait and of replies what ``SerialLimits`` says.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tiered_store.aio.channel import Channel
from tiered_store.aio.eager import Finished, begin
from tiered_store.build.cache import BuildCache
from tiered_store.errors import ProtocolError, StoreError
from tiered_store.objects import FileBody, read_body
from tiered_store.servers.acceptor import Acceptor, Admission
from tiered_store.servers.intake import Intake
from tiered_store.servers.sockets import PeerCredentials
from tiered_store.servers.wire import Opening, Reader
from tiered_store.stats import DoorStats

__all__ = ["Output", "SerialConnection", "SerialDoor", "SerialLimits", "Session"]

#: Commands handled before other connections have their turn.
_PER_TURN: Final = 64
#: Of a large value, at once; what a slow reader keeps in memory besides the write buffer.
_PIECE_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class SerialLimits:
    """Bounds of a small door.

    Attributes:
        max_connections: connections at once; one more is refused with a reason.
        idle_timeout_s: how long a peer may ask nothing.
        stall_timeout_s: how long a peer may owe the rest of a command, or not read a reply.
        write_buffer_bytes: replies of one connection waiting to be read; above it, its commands wait,
        waiting_bytes: so many bytes of them in memory, and the rest in the socket.
    """

    max_connections: int = 256
    idle_timeout_s: float = 3600.0
    stall_timeout_s: float = 30.0
    write_buffer_bytes: int = 256 * 1024
    waiting_bytes: int = 1024 * 1024


class Session(Protocol):
    """What a protocol means, for one peer.

    Attributes:
        is_over: whether the connection ends after the last answer.
    """

    is_over: bool

    @property
    def greeting(self) -> bytes:
        """What the peer hears first, or nothing."""
        ...

    @property
    def reader(self) -> Reader:
        """Cuts what the peer sends."""
        ...

    def refusal(self) -> StoreError | None:
        """Why this peer may store nothing; None if it may."""
        ...

    def at_once(self, command: Any) -> bytes | None:
        """The answer to a command that needs no wait, or None: ask :meth:`answer`. The way of a usual read."""
        ...

    async def answer(self, command: Any, intake: Intake | None) -> None:
        """Answer a command; its large value is in ``intake``. Begins outside a task, see ``aio/eager.py``."""
        ...

    def failure(self, error: StoreError) -> bytes:
        """The answer that a command has failed."""
        ...


class Output:
    """Where a session's answers go."""

    def __init__(self, channel: Channel) -> None:
        self.send = channel.send
        self._channel = channel

    async def send_file(self, head: bytes, body: FileBody, tail: bytes, damaged: Callable[[], None]) -> None:
        """An answer with a body from a file, at the pace of its reader; ``head`` and ``tail`` go around it.

        A file that cannot be read ends the connection: the answer has begun, and there is no other way to say so.
        ``damaged`` is called then.
        """
        channel = self._channel
        channel.send(head)
        try:
            for offset in range(0, body.size, _PIECE_BYTES):
                if body.is_memory:
                    piece = read_body(body, offset, _PIECE_BYTES)
                else:
                    piece = await asyncio.to_thread(read_body, body, offset, _PIECE_BYTES)
                if not await self.writable():
                    return
                channel.send(piece)
        except (OSError, EOFError) as error:
            damaged()
            channel.close(error)
            return
        if tail:
            channel.send(tail)

    async def writable(self) -> bool:
        """Wait until more may be sent; False if the peer has gone."""
        await self._channel.writable()
        return not self._channel.is_closed


class SerialConnection:
    """One peer.

    Args:
        sock: accepted, owned from here on.
        door: where it came in.
        peer: who is at the other end, as the kernel says.
    """

    def __init__(self, sock: socket.socket, door: SerialDoor, peer: PeerCredentials) -> None:
        self._door = door
        self._peer = peer
        self._limits = door.limits
        self._intake: Intake | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_draining = False
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self.channel = Channel(
            sock,
            on_data=self._data_received,
            on_close=self._closed,
            on_drained=self._process,
            high_water=self._limits.write_buffer_bytes,
        )
        self.channel.takes_descriptors = False
        self._session = door.make_session(Output(self.channel), peer)
        self._reader = self._session.reader
        self.channel.start()
        if self._session.greeting:
            self.channel.send(self._session.greeting)

    def _data_received(self, data: bytes, _: object) -> None:
        self._heard_at = self._loop.time()
        self._reader.feed(data)
        self._process()

    def _process(self) -> None:
        """Handle what is there, until something has to wait or the peer does not read its replies."""
        channel = self.channel
        try:
            for number in range(_PER_TURN):
                if self._task is not None:
                    channel.pause()
                    return
                if channel.is_congested:
                    self._let_wait()
                    return
                if channel.is_closed or self._session.is_over:
                    return
                event = self._reader.next()
                if event is None:
                    break
                if number == 1:
                    channel.cork()
                self._handle(event)
            else:
                channel.pause()
                self._loop.call_soon(self._process)
                return
        except ProtocolError as error:
            self._fail(error)
            return
        finally:
            channel.uncork()
            self._end_if_over()
        channel.start()

    def _let_wait(self) -> None:
        """The peer does not read its replies; but it may be one that sends all its commands before it reads any."""
        if self._reader.waiting_bytes < self._limits.waiting_bytes:
            self.channel.start()
        else:
            self.channel.pause()

    def _handle(self, event: Any) -> None:
        kind = type(event)
        if kind is bytes:
            assert self._intake is not None
            self._begin(self._intake.write(event))
        elif kind is Opening:
            self._intake = Intake(self._door.cache.spool, event.size, self._session.refusal())
        else:
            self._door.stats.requests += 1
            try:
                reply = self._session.at_once(event)
            except StoreError as error:
                reply = self._session.failure(error)
            if reply is not None:
                self.channel.send(reply)
            else:
                self._begin(self._answer(event))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Take the work to its end, or to its first wait; what has to wait is a task."""
        begun = begin(self._guarded(work))
        if not isinstance(begun, Finished):
            self._task = self._loop.create_task(begun)
            self._task.add_done_callback(self._task_ended)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # a fault of ours must cost this peer its connection, not its patience
            self._door.log.exception("connection failed", extra={"peer": str(self._peer)})
            self.channel.close(error.with_traceback(None))

    async def _answer(self, command: Any) -> None:
        intake, self._intake = self._intake, None
        try:
            await self._session.answer(command, intake)
        except StoreError as error:
            self.channel.send(self._session.failure(error))
        finally:
            if intake is not None:
                await intake.abort()

    def _task_ended(self, _: asyncio.Task[None]) -> None:
        self._task = None
        if self.channel.is_closed:
            self._give_back()
        else:
            self._heard_at = self._loop.time()
            self._process()

    # -- ending -------------------------------------------------------------------------------------

    def _fail(self, error: ProtocolError) -> None:
        """Say what is wrong, and end the connection; nothing more of it is handled."""
        self._door.stats.malformed += 1
        self._door.log.warning("protocol violation", extra={"peer": str(self._peer), "error": str(error)})
        self._session.is_over = True
        self.channel.send(self._session.failure(error))

    def _end_if_over(self) -> None:
        is_idle = self._task is None and self._intake is None
        if self._session.is_over or (self._is_draining and is_idle):
            self.channel.end()

    def check(self, now: float) -> None:
        """Close the connection if the peer owes something for too long, or has nothing to say; called now and then."""
        stalled = self.channel.stalled_since
        silent_s = now - self._heard_at
        if stalled is not None and now - stalled > self._limits.stall_timeout_s:
            self.channel.close(TimeoutError("the peer does not read its replies"))
        elif self._task is not None or stalled is not None:
            self._heard_at = now  # it is we who let it wait
        elif self._reader.is_midway and silent_s > self._limits.stall_timeout_s:
            self._fail(ProtocolError(f"a command stalled for {self._limits.stall_timeout_s:g} s"))
            self._end_if_over()
        elif silent_s > self._limits.idle_timeout_s:
            self.channel.end()

    def drain(self) -> None:
        """Take no further commands; end when the one under way has been answered."""
        self._is_draining = True
        self._end_if_over()

    def close(self) -> None:
        """End at once."""
        self.channel.close(None)

    def _closed(self, reason: BaseException | None) -> None:
        if reason is not None and not isinstance(reason, ConnectionError):
            self._door.log.warning("connection closed", extra={"peer": str(self._peer), "reason": str(reason)})
        if self._task is not None:
            self._task.cancel()
        else:
            self._give_back()
        self._door.gone(self)

    def _give_back(self) -> None:
        """Let go of a value that will never be whole."""
        intake, self._intake = self._intake, None
        if intake is not None:
            self._begin(intake.abort())

    async def finished(self) -> None:
        """Return when nothing of this connection runs any more."""
        while self._task is not None:
            await asyncio.wait({self._task})


class SerialDoor:
    """Serves one of the small protocols on a listening unix socket.

    Args:
        name: the protocol's, as in the configuration.
        cache: what is served.
        listener: listening; owned from here on.
        limits: what one peer may use.
        session: makes the session of a new peer.
        refuse: the last words to a peer that is not let in.
    """

    def __init__(
        self,
        name: str,
        cache: BuildCache,
        listener: socket.socket,
        *,
        limits: SerialLimits,
        session: Callable[[Output, PeerCredentials], Session],
        refuse: Callable[[StoreError], bytes],
    ) -> None:
        self.name = name
        self.cache = cache
        self.limits = limits
        self.make_session = session
        self.log = logging.getLogger(f"tiered_store.{name}")
        self.stats = DoorStats()
        self._acceptor: Acceptor[SerialConnection] = Acceptor(
            listener,
            Admission(limits.max_connections, section=name),
            welcome=lambda sock, peer: SerialConnection(sock, self, peer),
            refuse=refuse,
            log=self.log,
        )

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._acceptor)

    def start(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    async def drain(self, timeout_s: float) -> bool:
        """Stop accepting, let commands under way finish, then close every connection; see ``Acceptor.drain``."""
        return await self._acceptor.drain(timeout_s)

    def gone(self, connection: SerialConnection) -> None:
        """Forget a connection that has ended."""
        self._acceptor.gone(connection)

    def statistics(self) -> dict[str, int]:
        """The door's counters."""
        self.stats.connections = self.connections
        self.stats.refused = self._acceptor.refused
        return self.stats.counters()
