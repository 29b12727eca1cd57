"""One connection shared by many tasks: requests go out as they come, replies find their way by id."""

from __future__ import annotations

import asyncio
import copy
import socket
from collections import deque
from collections.abc import Callable
from typing import Concatenate, Final, ParamSpec, TypeVar

from tiered_store.aio.channel import Channel
from tiered_store.client.link import connect_error
from tiered_store.client.operations import Blocking, Conversation, Incoming, is_settled
from tiered_store.errors import DaemonUnavailable, DeadlineExceeded, ProtocolError, StoreError
from tiered_store.objects import Descriptor
from tiered_store.protocol.frames import Frame, FrameReader, Opcode, encode_frame
from tiered_store.protocol.messages import Welcome, decode_welcome, encode_hello
from tiered_store.protocol.status import decode_error

__all__ = ["MultiplexedLink"]

T = TypeVar("T")
P = ParamSpec("P")

_WRITE_BUFFER_BYTES: Final = 1024 * 1024
#: How often a link with requests under way looks whether its socket has failed.
_WATCH_S: Final = 0.5


class _Mailbox:
    """The frames that have come for one request, and the task that waits for the next.

    Attributes:
        last: the frame that was taken last.
    """

    __slots__ = ("_failure", "_frames", "_loop", "_waiter", "last")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.last: Frame | None = None
        self._frames: deque[Incoming] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None

    def deliver(self, incoming: Incoming) -> None:
        self._frames.append(incoming)
        self._wake()

    def fail(self, failure: BaseException) -> None:
        """Let whoever waits fail. The exception must be for this mailbox alone: its traceback will be the task's."""
        self._failure = failure
        self._wake()

    def _take_failure(self) -> BaseException:
        """Hand the failure over: once raised its traceback keeps this mailbox, and the two would be a cycle."""
        failure, self._failure = self._failure, None
        assert failure is not None
        return failure

    def descriptor_refused(self) -> None:
        """The kernel carries no further descriptor for this user."""
        self.fail(DaemonUnavailable("too many descriptors of this user are on their way already"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self, timeout_s: float | None) -> Incoming:
        """The next frame.

        Raises:
            DeadlineExceeded: if none comes in time; or what the link failed with. No further frame then.
        """
        if not self._frames:
            # A timer of our own: asyncio.timeout would cost a third of a small read.
            timer = None if timeout_s is None else self._loop.call_later(timeout_s, self._expire, timeout_s)
            try:
                while not self._frames:
                    if self._failure is not None:
                        raise self._take_failure()
                    self._waiter = self._loop.create_future()
                    await self._waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        incoming = self._frames.popleft()
        self.last = incoming[0]
        return incoming

    def _expire(self, timeout_s: float) -> None:
        if not self._frames:  # else the answer has come in the same turn of the loop
            self.fail(DeadlineExceeded(f"no answer from the daemon within {timeout_s} s"))


class MultiplexedLink:
    """A connection that has been welcomed; made by :meth:`connect`."""

    def __init__(self, path: str, timeout_s: float | None, sock: socket.socket) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._descriptors: deque[Descriptor] = deque()
        self._mailboxes: dict[int, _Mailbox] = {0: _Mailbox(self._loop)}
        self._request_id = 0
        self._is_leaving = False
        self._slots = asyncio.Semaphore(1)
        self._watch: asyncio.TimerHandle | None = None
        #: Whether at least one operation has been completed.
        self.is_proven = False
        self._channel = Channel(
            sock,
            on_data=self._received,
            on_close=self._closed,
            on_drained=lambda: None,
            high_water=_WRITE_BUFFER_BYTES,
            gather=True,
        )

    @classmethod
    async def connect(cls, path: str, timeout_s: float | None) -> MultiplexedLink:
        """Connect and greet.

        Raises:
            DaemonUnavailable: nobody answers there, or the daemon refuses.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(sock, path)
        except TimeoutError:
            sock.close()
            raise DaemonUnavailable(f"the daemon at {path} took no connection within {timeout_s} s") from None
        except OSError as error:
            sock.close()
            raise connect_error(path, error) from None
        except BaseException:
            sock.close()
            raise
        link = cls(path, timeout_s, sock)
        try:
            await link._greet()
        except BaseException as error:
            link.close()
            if isinstance(error, ConnectionError):
                raise DaemonUnavailable(f"the daemon at {path} closed the connection at once") from None
            raise
        return link

    async def _greet(self) -> Welcome:
        self._channel.start()
        self._channel.send(encode_hello("python-asyncio"))
        frame, _ = await self._mailboxes[0].next(self._timeout_s)
        welcome = decode_welcome(frame)
        self._slots = asyncio.Semaphore(welcome.max_in_flight)
        return welcome

    @property
    def is_usable(self) -> bool:
        """Whether a further request may be sent."""
        return not self._channel.is_closed and not self._is_leaving

    # -- incoming -----------------------------------------------------------------------------------

    def _received(self, data: bytes, descriptors: list[Descriptor]) -> None:
        self._descriptors.extend(descriptors)
        try:
            for frame in self._reader.receive(data):
                self._route(frame)
        except StoreError as error:
            # Without the traceback, which holds what came with these bytes for as long as the error lives.
            self._channel.close(error.with_traceback(None))
            return
        if self._descriptors and not self._reader.is_midway:
            self._descriptors.clear()  # nobody asked for them

    def _route(self, frame: Frame) -> None:
        descriptor = None
        if frame.opcode == Opcode.OBJECT_DESCRIPTOR:
            if not self._descriptors:
                raise ProtocolError("a reply by descriptor came without its descriptor")
            descriptor = self._descriptors.popleft()
        if frame.opcode == Opcode.GOODBYE:
            self._is_leaving = True
        elif frame.request_id == 0 and frame.opcode == Opcode.ERROR:
            raise decode_error(frame)
        else:
            mailbox = self._mailboxes.get(frame.request_id)
            if mailbox is not None:  # else its task has been cancelled
                mailbox.deliver((frame, descriptor))

    def _closed(self, reason: BaseException | None) -> None:
        self._descriptors.clear()
        failure = reason if isinstance(reason, StoreError) else ConnectionResetError("the daemon closed the connection")
        for mailbox in self._mailboxes.values():
            mailbox.fail(copy.copy(failure))

    # -- operations ---------------------------------------------------------------------------------

    async def run(
        self,
        operation: Callable[Concatenate[int, P], Conversation[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Drive a conversation to its end, beside any number of others.

        The deadline is for the time until the first answer, and then for each silence.

        Raises:
            StoreError: the store's answer. ConnectionError: the daemon has gone.
        """
        if self._watch is None:
            self._watch = self._loop.call_later(_WATCH_S, self._look)
        async with self._slots:
            request_id = self._next_id()
            mailbox = self._mailboxes[request_id] = _Mailbox(self._loop)
            conversation = operation(request_id, *args, **kwargs)
            is_done = False
            try:
                result = await self._drive(conversation, mailbox)
                is_done = True
            except StoreError as error:
                is_done = is_settled(mailbox.last) and not isinstance(error, DeadlineExceeded | ProtocolError)
                raise
            finally:
                conversation.close()
                del self._mailboxes[request_id]
                if not is_done and not self._channel.is_closed:
                    self._channel.send(encode_frame(Opcode.CANCEL, request_id))
            self.is_proven = True
            return result

    async def _drive(self, conversation: Conversation[T], mailbox: _Mailbox) -> T:
        try:
            action = next(conversation)
            while True:
                if action is None:
                    action = conversation.send(await mailbox.next(self._timeout_s))
                elif isinstance(action, Blocking):
                    await asyncio.to_thread(action.run)
                    action = next(conversation)
                else:
                    if self._channel.is_closed:
                        raise ConnectionResetError("the daemon closed the connection")
                    frame, descriptor = action
                    self._channel.send(frame, descriptor, mailbox.descriptor_refused)
                    if self._channel.is_congested:
                        await self._writable()
                    action = next(conversation)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _writable(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._channel.writable()
        except TimeoutError:
            raise DeadlineExceeded(f"the daemon took no request within {self._timeout_s} s") from None

    def _look(self) -> None:
        """Notice a daemon that has died where the loop does not say so; only while requests are under way."""
        self._watch = None
        for channel in Channel.broken([self._channel]):
            channel.hear_out()
        if len(self._mailboxes) > 1 and not self._channel.is_closed:
            self._watch = self._loop.call_later(_WATCH_S, self._look)

    def _next_id(self) -> int:
        while True:
            self._request_id = (self._request_id + 1) & 0xFFFFFFFF or 1
            if self._request_id not in self._mailboxes:
                return self._request_id

    # -- ending -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection; operations under way fail."""
        if self._watch is not None:
            self._watch.cancel()
        self._channel.close(DaemonUnavailable("this client has been closed"))

    def abandon(self) -> None:
        """Let go without a word: after a fork the socket and the loop are the parent's."""
        self._channel.abandon()
