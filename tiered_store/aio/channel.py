"""A non-blocking unix socket owned by us: bytes and descriptors, in order, with back-pressure.

asyncio transports cannot carry descriptors, and neither loop lets one use the descriptor of a socket that
a transport owns; so this owns the socket and uses nothing of the loop but ``add_reader`` and
``add_writer``. It knows no protocol; the server's connections and the asyncio client both stand on it.

Invariant: what ``send`` took goes out whole and in order, or the channel closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from tiered_store.aio.rights import ANCILLARY_BYTES, CLOEXEC, own_descriptors, rights_of
from tiered_store.objects import Descriptor

__all__ = ["Channel"]

#: One read. Larger ones gain nothing for requests and cost an allocation each.
READ_BYTES: Final = 64 * 1024
#: Below this, joining buffers is cheaper than a vectored write (measured: 4 us for 64 KiB, 1 us for the vector).
_JOIN_MAX_BYTES: Final = 16 * 1024
#: Buffers in one vectored write; Linux allows 1,024.
_VECTOR_MAX: Final = 64
#: Descriptors that may wait to be sent. A reply by descriptor has a hundred bytes, so that the bound in bytes would
#: let a peer that does not read keep ten thousand files open.
_MAX_WAITING_DESCRIPTORS: Final = 16

_Item = tuple[bytes | memoryview, Descriptor | None, Callable[[], None] | None]


class Channel:
    """One connected socket on the running loop.

    Args:
        sock: connected; made non-blocking and owned from here on.
        on_data: called with what one read gave: bytes and the descriptors that came with them.
        on_close: called once, when the channel is closed, with the reason: None for an orderly end.
        on_drained: called soon after output that was over ``high_water`` bytes has shrunk below half of it.
        high_water: bytes of output waiting at which ``is_congested`` becomes true.
        gather: whether everything sent during one turn of the loop leaves together, at its end.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_data: Callable[[bytes, list[Descriptor]], None],
        on_close: Callable[[BaseException | None], None],
        on_drained: Callable[[], None],
        high_water: int,
        gather: bool = False,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._recv = sock.recv
        self._recvmsg = sock.recvmsg
        #: Whether descriptors are welcome. Without, the kernel closes those that come, and a read costs less.
        self.takes_descriptors = True
        self._loop = asyncio.get_running_loop()
        self._on_data = on_data
        self._on_close = on_close
        self._on_drained = on_drained
        self._high_water = high_water
        self._gather = gather
        self._queue: deque[_Item] = deque()
        self._buffered = 0
        self._waiting_descriptors = 0
        self._corked = False
        self._is_writing = False
        self._is_reading = False
        self._was_congested = False
        self._is_ending = False
        self._reason: BaseException | None = None
        self._drained: asyncio.Event | None = None
        #: When the output last moved while some was waiting, on the loop's clock; None when none waits.
        self.stalled_since: float | None = None
        self.is_closed = False

    @property
    def is_congested(self) -> bool:
        """Whether so much output waits that no more should be made: bytes, or files that it keeps open."""
        return self._buffered >= self._high_water or self._waiting_descriptors >= _MAX_WAITING_DESCRIPTORS

    def start(self) -> None:
        """Begin, or go on, to read."""
        if not self._is_reading and not self.is_closed and not self._is_ending:
            self._is_reading = True
            self._loop.add_reader(self._fd, self._readable)

    def pause(self) -> None:
        """Stop reading; the kernel's buffer then holds the peer back."""
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        descriptors: list[Descriptor] = []
        try:
            if self.takes_descriptors:
                data, ancillary, _flags, _address = self._recvmsg(READ_BYTES, ANCILLARY_BYTES, CLOEXEC)
                if ancillary:
                    descriptors = own_descriptors(ancillary)
            else:
                data = self._recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error)
            return
        if not data:
            self.close(None)
            return
        self._on_data(data, descriptors)

    def cork(self) -> None:
        """Hold output back until :meth:`uncork`, so that many small frames leave in one write."""
        self._corked = True

    def uncork(self) -> None:
        """Send what was held back."""
        self._corked = False
        if (self._queue or self._is_ending) and not self._is_writing and not self.is_closed:
            self._flush()

    def send(
        self,
        data: bytes | memoryview,
        descriptor: Descriptor | None = None,
        on_refused: Callable[[], None] | None = None,
    ) -> None:
        """Queue bytes, and a descriptor to go with their first one.

        Args:
            data: not empty.
            descriptor: held until it has been sent.
            on_refused: called instead, soon, when the kernel takes no more descriptors in flight
                (``ETOOMANYREFS``); ``data`` is then dropped.
        """
        if self.is_closed or self._is_ending:
            return
        if not self._queue:
            if not (self._corked or self._gather):  # the usual case, without the queue: the kernel takes all
                try:
                    if descriptor is None:
                        sent = self._sock.send(data)
                    else:
                        sent = self._send_descriptor(data, descriptor, on_refused)
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError as error:
                    self._write_failed(error)
                    return
                else:
                    if sent == len(data):
                        return
                    data, descriptor, on_refused = memoryview(data)[sent:], None, None
            self.stalled_since = self._loop.time()
        self._queue.append((data, descriptor, on_refused))
        self._buffered += len(data)
        self._waiting_descriptors += descriptor is not None
        if self._corked or self._is_writing:
            return
        if self._gather:
            self._corked = True
            self._loop.call_soon(self.uncork)
        else:
            self._flush()

    def _write_failed(self, error: OSError) -> None:
        """Close, but first hear what the peer said last: whoever refuses a connection says why, and closes it."""
        self._is_ending = True
        self._reason = error
        self._drop_output()
        self._loop.call_soon(self._hear_out, error)

    @classmethod
    def broken(cls, channels: Iterable[Channel]) -> list[Channel]:
        """Those whose socket has failed; to be asked now and then, and :meth:`hear_out` called for each.

        The loop may not say so: libuv, and with it uvloop, reports a socket that was reset once and then never
        again. Where bytes are waiting, that one call reads them, and the peer's end would go unnoticed for ever.
        """
        by_fd = {channel._fd: channel for channel in channels if not channel.is_closed}  # noqa: SLF001 - our own class
        asked = select.poll()
        for fd in by_fd:
            asked.register(fd, 0)  # errors are reported unasked
        return [by_fd[fd] for fd, events in asked.poll(0) if events & select.POLLERR]

    def hear_out(self) -> None:
        """The socket has failed: take what the peer said last, and close."""
        self._hear_out(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))

    def _hear_out(self, error: OSError) -> None:
        if self._is_reading:
            self._readable()
        self.close(error)

    def _drop_output(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._fd)
        self._queue.clear()
        self._buffered = self._waiting_descriptors = 0
        self.stalled_since = None
        self._wake_writers()

    def _wake_writers(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    async def writable(self) -> None:
        """Return when the output is not congested (or the channel closed)."""
        while self.is_congested and not self.is_closed:
            if self._drained is None:
                self._drained = asyncio.Event()
            await self._drained.wait()

    def _flush(self) -> None:
        """Write what the kernel takes; arrange to be called again for the rest."""
        queue = self._queue
        # Only here is it sure to be seen: all that waits may leave in one go.
        self._was_congested = self._was_congested or self.is_congested
        try:
            while queue:
                is_single = len(queue) == 1 and queue[0][1] is None
                self._consume(self._sock.send(queue[0][0]) if is_single else self._send_some())
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._write_failed(error)
            return
        if queue:
            if not self._is_writing:
                self._is_writing = True
                self._loop.add_writer(self._fd, self._flush)
        else:
            self.stalled_since = None
            if self._is_writing:
                self._is_writing = False
                self._loop.remove_writer(self._fd)
        few_descriptors = self._waiting_descriptors <= _MAX_WAITING_DESCRIPTORS // 2
        if self._was_congested and few_descriptors and self._buffered <= self._high_water // 2:
            self._was_congested = False
            self._wake_writers()
            # Not from here: what it sends would flush again, one level deeper each time.
            self._loop.call_soon(self._on_drained)
        if self._is_ending and not queue:
            self.close(self._reason)

    def _send_some(self) -> int:
        """One system call for the head of the queue: a descriptor with its bytes, or many buffers."""
        data, descriptor, on_refused = self._queue[0]
        if descriptor is not None:
            sent = self._send_descriptor(data, descriptor, on_refused)
            self._queue[0] = (data, None, None)
            self._waiting_descriptors -= 1
            return sent
        buffers: list[bytes | memoryview] = []
        total = 0
        for data, descriptor, _ in self._queue:
            if descriptor is not None or len(buffers) == _VECTOR_MAX:
                break
            buffers.append(data)
            total += len(data)
        return self._sock.send(b"".join(buffers)) if total <= _JOIN_MAX_BYTES else self._sock.sendmsg(buffers)

    def _send_descriptor(
        self, data: bytes | memoryview, descriptor: Descriptor, on_refused: Callable[[], None] | None
    ) -> int:
        """Send a descriptor with its bytes. The kernel has its own reference then; a rest of the bytes goes without."""
        try:
            return self._sock.sendmsg([data], rights_of(descriptor))
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS or on_refused is None:
                raise
            self._loop.call_soon(on_refused)  # not from here: what it sends would go out before what waits
            return len(data)

    def _consume(self, sent: int) -> None:
        """Take ``sent`` bytes off the queue."""
        self._buffered -= sent
        queue = self._queue
        self.stalled_since = self._loop.time()
        while sent:
            data, descriptor, on_refused = queue[0]
            if sent < len(data):
                queue[0] = (memoryview(data)[sent:], descriptor, on_refused)
                return
            sent -= len(data)
            queue.popleft()

    def end(self, reason: BaseException | None = None) -> None:
        """Take neither input nor output any more, and close as soon as what waits has been sent."""
        if self._is_ending or self.is_closed:
            return
        self._is_ending = True
        self._reason = reason
        self.pause()
        if not self._corked and not self._is_writing:
            self._flush()

    def abandon(self) -> None:
        """Let go of the socket without a word to the peer or the loop: after a fork, both are the parent's."""
        self.is_closed = True
        self._queue.clear()
        self._sock.close()

    def close(self, reason: BaseException | None = None) -> None:
        """Close at once; output that still waits is lost. Further calls do nothing."""
        if self.is_closed:
            return
        self.is_closed = True
        self.pause()
        self._drop_output()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._reason = None  # its traceback holds whatever its raisers held, descriptors too
        self._on_close(reason)
