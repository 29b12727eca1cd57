"""One connection of the native door: the rules of the conversation, and the hot path of a read.

Frames come in from the channel; each becomes a reply at once (a hit, a ping) or a task. What a request
means is said in ``requests`` and ``transfers``; this module knows who may speak when, how much may be
under way, and what a violation costs: this connection, and no other.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final

from tiered_store.aio.channel import Channel
from tiered_store.errors import DaemonUnavailable, ProtocolError, StoreError
from tiered_store.objects import Descriptor, Entry
from tiered_store.protocol.frames import (
    HEADER,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    STREAM_WINDOW_BYTES,
    Flag,
    Frame,
    FrameReader,
    Opcode,
    encode_frame,
)
from tiered_store.protocol.messages import (
    VERSION,
    Welcome,
    decode_hello,
    encode_info,
    encode_span,
    encode_welcome,
)
from tiered_store.protocol.status import encode_error
from tiered_store.servers.door import Door
from tiered_store.servers.inflight import InFlight
from tiered_store.servers.sockets import PeerCredentials
from tiered_store.servers.transfers import Transfer

__all__ = ["Connection", "Handler", "Quick", "encode_wire"]

_log = logging.getLogger("tiered_store.native")

_unpack: Final = HEADER.unpack_from
_pack: Final = HEADER.pack
_OBJECT: Final = int(Opcode.OBJECT)
_GET: Final = int(Opcode.GET)
_ACCEPT_DESCRIPTOR: Final[int] = Flag.ACCEPT_DESCRIPTOR
_NO_PROMOTE: Final[int] = Flag.NO_PROMOTE
#: A GET is simple if of these it has ACCEPT_DESCRIPTOR alone: then whatever is at hand can be sent as it is. Any other
#: goes the long way round, where it is looked for, and counted, once.
_FORMS: Final[int] = Flag.STREAM | Flag.RANGE | Flag.ACCEPT_DESCRIPTOR
#: What mostly needs no wait, or only one, and does nothing before it that would need a task.
_AT_ONCE: Final = frozenset({Opcode.STAT, Opcode.EXISTS, Opcode.PUT, Opcode.DELETE, Opcode.COPY, Opcode.STATS})
#: A PUT with one of these has to wait for the peer, within a limit of time.
_TRANSFER: Final[int] = Flag.STREAM | Flag.DESCRIPTOR
_BULKY_AT_ONCE: Final = 4
#: Descriptors that may wait for their frame; a peer sends one per upload, and only when asked.
_MAX_DESCRIPTORS: Final = 4


#: Answers a request at once if it can, and tells whether it did.
Quick = Callable[["Connection", Frame], bool]
Handler = Callable[["Connection", Frame], Coroutine[Any, Any, None]]


class Connection:
    """One peer.

    Args:
        sock: accepted, owned from here on.
        door: where it came in.
        peer: who is at the other end, as the kernel says.
        handlers: what to do for each opcode that needs a task.
        quick: for some of them, how to try to answer at once.
        opened_at: now, on the loop's clock.
    """

    def __init__(
        self,
        sock: socket.socket,
        door: Door,
        peer: PeerCredentials,
        *,
        handlers: Mapping[int, Handler],
        quick: Mapping[int, Quick],
        opened_at: float,
    ) -> None:
        self.door = door
        self.store = door.store
        self._peek = door.store.peek
        self.peer = peer
        self.limits = door.limits
        self._handlers = handlers
        self._quick = quick
        self._reader = FrameReader()
        self._backlog: deque[Frame] = deque()
        self.in_flight = InFlight(
            peer, door.limits, door.request_bytes, fail=self.reply_error, ended=self._request_ended
        )
        #: Uploads and streams that wait for frames of the peer, by request id.
        self.transfers: dict[int, Transfer] = {}
        #: For requests whose answer is put together in memory, up to a frame of it, before it can be sent.
        self.bulky = asyncio.Semaphore(_BULKY_AT_ONCE)
        self._descriptors: deque[Descriptor] = deque()
        self._expected = 0
        self._is_open = False
        self._is_draining = False
        self._has_failed = False
        self._owed_since = opened_at  # since when the peer owes the rest of a frame, or its HELLO
        self._loop = asyncio.get_running_loop()
        self.channel = Channel(
            sock,
            on_data=self._data_received,
            on_close=self._closed,
            on_drained=self._process,
            high_water=self.limits.write_buffer_bytes,
        )
        self.expect_descriptors(0)
        self.channel.start()

    # -- incoming -----------------------------------------------------------------------------------

    def _data_received(self, data: bytes, descriptors: list[Descriptor]) -> None:
        """Take what one read gave.

        The usual read is one whole GET of something at hand, and nothing else under way: that is seen
        here, with no frame object made and no queue touched (docs/performance.md counts what it saves).
        Whatever is not exactly that goes through the frame reader.
        """
        is_calm = self.channel.stalled_since is None and not (self._backlog or descriptors or self._reader.is_midway)
        if is_calm and len(data) >= HEADER_BYTES:
            length, opcode, flags, head_length, request_id, _ = _unpack(data)
            is_simple = opcode == _GET and flags & _FORMS == _ACCEPT_DESCRIPTOR and not head_length
            if is_simple and length == len(data) - HEADER_BYTES and self._is_open and request_id:
                try:
                    key = data[HEADER_BYTES:].decode()
                    entry = self._peek(key, True) if flags & _NO_PROMOTE else self._peek(key)
                    if entry is not None:
                        if not self._send_small(request_id, entry):
                            self.reply_descriptor(Frame(opcode, flags, 0, request_id, 0, data[HEADER_BYTES:]), entry)
                        return
                except (UnicodeError, StoreError):
                    pass  # the long way round says what is wrong
        try:
            if descriptors:
                self._keep(descriptors)
            frames = self._reader.receive(data)
        except ProtocolError as error:
            self.fail(error)
            return
        if self._is_open and self._reader.is_midway:
            self._owed_since = self._loop.time()
        self._backlog.extend(frames)
        self._process()

    def expect_descriptors(self, change: int) -> None:
        """One more, or one less, has been asked for; while none is, the kernel closes what comes unasked."""
        self._expected += change
        self.channel.takes_descriptors = self._expected > 0

    def _keep(self, descriptors: list[Descriptor]) -> None:
        """Hold descriptors until the frame that they came with has been read."""
        if len(self._descriptors) + len(descriptors) > _MAX_DESCRIPTORS:
            raise ProtocolError("more descriptors than anybody asked for")
        self._descriptors.extend(descriptors)

    def _process(self) -> None:
        """Handle the frames that wait, as long as the peer reads its replies.

        Frames are handled strictly in order. That cannot lock up: a wait ends when the peer reads, or when
        cancelled requests have ended, and nothing that the peer may still have to send is needed for that.
        """
        backlog = self._backlog
        if len(backlog) > 1:
            self.channel.cork()
        try:
            while backlog and not self.channel.is_closed:
                if self.in_flight.is_held_up or self.channel.is_congested:
                    self.channel.pause()
                    return
                frame = backlog.popleft()
                if not self._is_hit(frame) and not self._is_quick(frame):
                    self._dispatch(frame)
        except ProtocolError as error:
            self.fail(error)
            return
        except Exception as error:  # a fault of ours must cost this peer its connection, not its patience
            _log.exception("connection failed", extra={"peer": str(self.peer)})
            self.fail(StoreError(f"internal error: {type(error).__name__}"))
            return
        finally:
            self.channel.uncork()
        if not self._reader.is_midway:
            # Descriptors belong to the DESCRIPTOR frame they came with; any other is nobody's.
            self._descriptors.clear()
        self.channel.start()

    def _is_hit(self, frame: Frame) -> bool:
        """Answer a read from what is at hand, without a task; False when that is not possible."""
        is_simple = frame.opcode == _GET and frame.flags & _FORMS == _ACCEPT_DESCRIPTOR and not frame.head_length
        if not (is_simple and frame.request_id and self._is_open):
            return False
        try:
            entry = self._peek(str(frame.payload, "utf-8"), bool(frame.flags & _NO_PROMOTE))
            if entry is None:
                return False
            if not self._send_small(frame.request_id, entry):
                self.reply_descriptor(frame, entry)
        except (UnicodeError, StoreError):
            return False  # the long way round says what is wrong
        return True

    def _is_quick(self, frame: Frame) -> bool:
        """As :meth:`_is_hit`, for the opcodes that somebody else knows how to answer."""
        quick = self._quick.get(frame.opcode)
        return quick is not None and bool(frame.request_id) and self._is_open and quick(self, frame)

    def _send_small(self, request_id: int, entry: Entry) -> bool:
        """Send an object whose body is bytes; False for any other."""
        body = entry.body
        if not isinstance(body, bytes):
            return False
        wire = entry.wire or encode_wire(entry)
        self.channel.send(_pack(len(wire) + len(body), _OBJECT, 0, len(wire), request_id, 0) + wire + body)
        return True

    def _dispatch(self, frame: Frame) -> None:
        opcode = frame.opcode
        if not self._is_open:
            self._hello(frame)
        elif opcode in self._handlers:
            self._begin(frame, self._handlers[opcode])
        elif opcode == Opcode.PING:
            if not frame.request_id:
                raise ProtocolError("request id 0 belongs to the connection")
            self.reply(encode_frame(Opcode.PONG, frame.request_id, body=frame.payload))
        elif opcode == Opcode.CANCEL:
            self._cancel(frame.request_id)
        elif Opcode.DATA <= opcode < Opcode.WELCOME:
            self._feed_transfer(frame)
        else:
            raise ProtocolError(f"{frame} is not a request")

    def _hello(self, frame: Frame) -> None:
        hello = decode_hello(frame)
        if not hello.lowest <= VERSION <= hello.highest:
            raise ProtocolError(
                f"this daemon speaks version {VERSION}, the client {hello.lowest} to {hello.highest}; "
                "upgrade the older of the two"
            )
        self._is_open = True
        self.reply(
            encode_welcome(
                Welcome(VERSION, 0, MAX_FRAME_BYTES, STREAM_WINDOW_BYTES, self.limits.max_in_flight, self.door.name)
            )
        )
        _log.debug("peer said hello", extra={"peer": str(self.peer), "client": hello.name})

    def _feed_transfer(self, frame: Frame) -> None:
        """Give a part of a stream to the request that waits for it.

        Parts for a request that has just ended (refused, failed) were sent before the peer could know, so
        they are dropped; what they could carry is bounded by the window they had been granted.
        """
        transfer = self.transfers.get(frame.request_id)
        descriptor = None
        if frame.opcode == Opcode.DESCRIPTOR and self._descriptors:
            descriptor = self._descriptors.popleft()
        if transfer is not None:
            if frame.opcode == Opcode.DESCRIPTOR and descriptor is None:
                raise ProtocolError("a DESCRIPTOR frame came without a descriptor, or we may open no more files")
            transfer.feed(frame, descriptor)

    # -- tasks --------------------------------------------------------------------------------------

    def _begin(self, frame: Frame, handler: Handler) -> None:
        """Work on a request, at once where that is allowed."""
        if self._is_draining and frame.request_id:
            self.reply_error(frame.request_id, DaemonUnavailable("the daemon is stopping"))
            return
        waits_for_peer = bool(frame.flags & _TRANSFER)
        at_once = frame.opcode in _AT_ONCE and not waits_for_peer
        # What waits for frames of the peer must not be a reason not to read them.
        weight = 0 if waits_for_peer else len(frame.payload)
        work = partial(handler, self, frame)
        self.in_flight.start(frame, work, at_once=at_once, weight=weight, waits_for_others=frame.opcode == Opcode.FLUSH)

    def _request_ended(self) -> None:
        if self._is_draining and not self.in_flight:
            self.channel.end()
        elif self._backlog:
            self._process()

    def _cancel(self, request_id: int) -> None:
        self.in_flight.cancel(request_id)
        self.transfers.pop(request_id, None)  # parts that are still to come are for nobody

    # -- outgoing -----------------------------------------------------------------------------------

    def reply(self, frame: bytes) -> None:
        """Send a frame."""
        self.channel.send(frame)

    def reply_error(self, request_id: int, error: StoreError) -> None:
        """Send an error."""
        self.channel.send(encode_error(request_id, error))

    def reply_descriptor(self, frame: Frame, entry: Entry, offset: int = 0, length: int | None = None) -> None:
        """Answer a read by passing the descriptor of its file; by a stream if the kernel refuses."""
        body = entry.body
        assert not isinstance(body, bytes)
        wire = entry.wire or encode_wire(entry)
        offset = min(offset, body.size)
        length = body.size - offset if length is None else min(length, body.size - offset)
        span = encode_span(body.offset + offset, length)
        reply = encode_frame(Opcode.OBJECT_DESCRIPTOR, frame.request_id, head=wire, body=span)

        def stream_instead() -> None:
            if self.channel.is_closed:
                return
            under_way = self.in_flight.get(frame.request_id)
            if under_way is not None:  # the task that sends this reply, about to end; or the id is in use again
                under_way.add_done_callback(lambda _: self._loop.call_soon(stream_instead))
                return
            try:
                self._begin(frame._replace(flags=frame.flags & ~Flag.ACCEPT_DESCRIPTOR, extra=0), self._handlers[_GET])
            except ProtocolError as error:  # the id has been used again by now
                self.fail(error)

        self.channel.send(reply, body.descriptor, stream_instead)

    def fail(self, error: StoreError) -> None:
        """Say what went wrong, as a rule with the peer, and end the connection; nothing more of it is handled."""
        if not self._has_failed:
            self._has_failed = True
            _log.warning("protocol violation", extra={"peer": str(self.peer), "error": str(error)})
            self._backlog.clear()
            self._descriptors.clear()
            self.reply_error(0, error)
            # Without the traceback, which holds what came with these bytes for as long as the channel lives.
            self.channel.end(error.with_traceback(None))

    # -- ending -------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Close the connection if the peer owes something for too long; called every second or so."""
        if self._backlog:  # it is we who do not read
            self._owed_since = now
        stalled = self.channel.stalled_since
        if stalled is not None and now - stalled > self.limits.stall_timeout_s:
            self.channel.close(TimeoutError("the peer does not read its replies"))
        elif not self._is_open and now - self._owed_since > self.limits.hello_timeout_s:
            self.fail(ProtocolError(f"no HELLO within {self.limits.hello_timeout_s} s"))
        elif self._reader.is_midway and now - self._owed_since > self.limits.stall_timeout_s:
            self.fail(ProtocolError(f"a frame stalled for {self.limits.stall_timeout_s} s"))

    def drain(self) -> None:
        """Take no further requests; end when those under way have been answered."""
        self._is_draining = True
        self.in_flight.give_up_waiting()
        if self._is_open:
            self.reply(encode_frame(Opcode.GOODBYE, 0))
        if not self.in_flight:
            self.channel.end()

    def close(self) -> None:
        """End at once."""
        self.channel.close(None)

    def _closed(self, reason: BaseException | None) -> None:
        if reason is not None and not isinstance(reason, ProtocolError | ConnectionError):
            _log.warning("connection closed", extra={"peer": str(self.peer), "reason": str(reason)})
        self.in_flight.cancel_all()
        self._backlog.clear()
        self._descriptors.clear()
        self.door.gone(self)

    async def finished(self) -> None:
        """Return when no request of this connection runs any more."""
        await self.in_flight.finished()


def encode_wire(entry: Entry) -> bytes:
    """Encode an entry's information once; later replies reuse it."""
    entry.wire = encode_info(entry.info, entry.tier, with_key=False)
    return entry.wire
