"""One blocking connection to the daemon: frames out, frames in, with a deadline.

The kernel keeps the time (``SO_RCVTIMEO``): a Python socket with a timeout polls before each call, which
would be two more system calls per request.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import time
from collections import deque
from typing import Final, TypeVar

from tiered_store.aio.rights import ANCILLARY_BYTES, CLOEXEC, own_descriptors, rights_of
from tiered_store.client import downloads, operations
from tiered_store.client.arguments import no_key
from tiered_store.client.operations import Blocking, Conversation, Incoming, Received
from tiered_store.errors import DaemonUnavailable, DeadlineExceeded, InvalidKey, ProtocolError, StoreError
from tiered_store.key import MAX_KEY_BYTES
from tiered_store.objects import Descriptor, FileBody
from tiered_store.protocol.frames import HEADER, HEADER_BYTES, Frame, FrameReader, Opcode, encode_frame
from tiered_store.protocol.messages import Welcome, decode_span, decode_welcome, encode_hello
from tiered_store.protocol.status import decode_error

__all__ = ["Link", "breaks_link", "connect_error"]

T = TypeVar("T")

_GET: Final = int(Opcode.GET)
_OBJECT: Final = int(Opcode.OBJECT)
_OBJECT_DESCRIPTOR: Final = int(Opcode.OBJECT_DESCRIPTOR)
_unpack: Final = HEADER.unpack_from
_pack: Final = HEADER.pack
#: A reply with an inline object fits one read.
_READ_BYTES: Final = 72 * 1024
#: For batches and streams: a hundred objects of 1 KiB come in one read and need not be put together. Below the 128 KiB
#: from which on the C library maps fresh pages for each allocation.
_BULK_READ_BYTES: Final = 120 * 1024


def connect_error(path: str, error: OSError) -> DaemonUnavailable:
    """What to tell a user whose daemon does not answer: what was tried, and what to do."""
    if error.errno == errno.ENOENT:
        reason = "no such socket"
    elif error.errno == errno.ECONNREFUSED:
        reason = "the socket is there, but nobody listens on it" if _is_socket(path) else "that is no socket"
    elif error.errno == errno.EAGAIN:
        reason = "it took no connection in time"
    elif error.errno in {errno.EACCES, errno.EPERM}:
        reason = f"user {os.getuid()} may not use the socket"
    else:
        reason = error.strerror or str(error)
    return DaemonUnavailable(
        f"no daemon at {path} ({reason}); start one with 'tiered-store serve --socket {path}', "
        "or name another socket with --socket or $TIERED_STORE_SOCKET"
    )


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)  # noqa: PTH116 - pathlib costs an import of 5 ms
    except OSError:
        return True  # it has gone meanwhile


def _timeval(seconds: float | None) -> bytes:
    """A C ``struct timeval``; zero means no limit, so a tiny time is rounded up."""
    if seconds is None:
        return struct.pack("@ll", 0, 0)
    microseconds = max(1, int(seconds * 1e6))
    return struct.pack("@ll", microseconds // 1_000_000, microseconds % 1_000_000)


class Link:
    """One connected socket; used by one caller at a time.

    Args:
        path: the daemon's socket.
        timeout_s: for connecting, and for each operation as a whole unless it is a stream, where it
            bounds each silence; None waits for ever.

    Raises:
        DaemonUnavailable: nobody answers there, or the daemon refuses.
    """

    def __init__(self, path: str, timeout_s: float | None) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._reader = FrameReader()
        self._frames: deque[Frame] = deque()
        self._descriptors: deque[Descriptor] = deque()
        #: Of the operation under way.
        self.request_id = 0
        self._deadline: float | None = None
        #: How long the kernel waits now, where that is less than ``timeout_s``.
        self._shortened_s: float | None = None
        #: Whether at least one operation has been completed; a fresh link that fails is no accident.
        self.is_proven = False
        #: Whether nothing is left over from the last operation, so that another may follow.
        self.is_clean = True
        #: Whether the daemon has said goodbye: no further request on this link.
        self.is_leaving = False
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._limit_time(timeout_s)
            self._sock.connect(path)
        except OSError as error:
            self._sock.close()
            raise connect_error(path, error) from None
        self._recvmsg = self._sock.recvmsg
        self._sendall = self._sock.sendall
        try:
            self.welcome = self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> Welcome:
        self.begin()
        # A daemon that refuses closes at once; why it did is then already here to be read.
        with contextlib.suppress(ConnectionError):
            self._sendall(encode_hello("python"))
        try:
            frame, _ = self.receive()
        except ConnectionError:
            raise DaemonUnavailable(f"the daemon at {self._path} closed the connection at once") from None
        return decode_welcome(frame)

    def _limit_time(self, seconds: float | None) -> None:
        value = _timeval(seconds)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def begin(self) -> int:
        """Start an operation: its id, and its deadline from now on."""
        self.is_clean = False
        if self._timeout_s is not None:
            self._deadline = time.monotonic() + self._timeout_s
            if self._shortened_s is not None:
                self._restore_time()
        self.request_id = (self.request_id + 1) & 0xFFFFFFFF or 1
        return self.request_id

    def extend(self) -> None:
        """Something of a stream has arrived: the deadline counts from here."""
        if self._timeout_s is not None:
            self._deadline = time.monotonic() + self._timeout_s
            if self._shortened_s is not None:
                self._restore_time()

    def _restore_time(self) -> None:
        self._shortened_s = None
        self._limit_time(self._timeout_s)

    def send(self, data: bytes, descriptor: Descriptor | None = None) -> None:
        """Send a frame.

        Raises:
            ConnectionError: the daemon has gone. DeadlineExceeded: it takes nothing.
            DaemonUnavailable: the kernel carries no further descriptor for this user.
        """
        try:
            if descriptor is None:
                self._sendall(data)
            else:
                sent = self._sock.sendmsg([data], rights_of(descriptor))
                if sent < len(data):
                    self._sendall(data[sent:])
        except BlockingIOError:
            raise self._too_late() from None
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            raise DaemonUnavailable("too many descriptors of this user are on their way already") from None

    def fetch(self, key: str, flags: int, deadline_ms: int, *, bare: bool = True) -> bytes | Received:
        """Read an object; when ``bare``, its bytes alone where they come in one frame, which is the hot path.

        It does what :meth:`begin`, :meth:`send`, :meth:`receive` and the codec do, spelled out in one
        place: that halves the client's share of a small read (docs/performance.md).
        """
        request_id = self.begin()
        raw = request = b""
        try:
            raw = key.encode()
            request = _pack(len(raw), _GET, flags, 0, request_id, deadline_ms) + raw
            self._sendall(request)
            data, ancillary, _, _ = self._recvmsg(_READ_BYTES, ANCILLARY_BYTES, CLOEXEC)
        except BlockingIOError:
            raise self._too_late() from None
        except UnicodeEncodeError:
            raise InvalidKey("a key must be valid UTF-8", key=repr(key)[:80]) from None
        except AttributeError:
            raise no_key(key) from None
        except ConnectionError:
            if len(raw) > MAX_KEY_BYTES:  # looked at only here: a daemon closes the connection for far longer ones
                message = f"a key must have at most {MAX_KEY_BYTES} bytes, this one has {len(raw)}"
                raise InvalidKey(message, key=key[:80]) from None
            raise
        if len(data) >= HEADER_BYTES:
            length, opcode, _, head_length, answered, _ = _unpack(data)
            if answered == request_id and len(data) == HEADER_BYTES + length:
                body_at = HEADER_BYTES + head_length
                if opcode == _OBJECT and not ancillary:
                    self.is_clean = True
                    return data[body_at:] if bare else Received(data[HEADER_BYTES:body_at], key, data[body_at:])
                if opcode == _OBJECT_DESCRIPTOR and len(ancillary) == 1:
                    offset, size = decode_span(data[body_at:])
                    [descriptor] = own_descriptors(ancillary)
                    self.is_clean = True
                    file = FileBody(descriptor, offset, size, is_memory=False)
                    return Received(data[HEADER_BYTES:body_at], key, b"", file)
        self._sort(data, ancillary)
        return self.run(downloads.receive_object(request_id, key, self.receive(), request))

    def ask(self, opcode: Opcode, head: bytes, body: bytes, deadline_ms: int, expected: Opcode) -> Frame:
        """One request whose answer is one frame: what a conversation of that kind comes to, at a third of the price.

        Raises:
            TooLarge: head and body do not fit a frame. What the answer says, if it is an error.
        """
        request_id = self.begin()
        try:
            self._sendall(encode_frame(opcode, request_id, head=head, body=body, extra=deadline_ms))
            data, ancillary, _, _ = self._recvmsg(_READ_BYTES, ANCILLARY_BYTES, CLOEXEC)
        except BlockingIOError:
            raise self._too_late() from None
        if len(data) >= HEADER_BYTES and not ancillary:
            length, answer, flags, head_length, answered, extra = _unpack(data)
            if answered == request_id and len(data) == HEADER_BYTES + length and head_length <= length:
                self.is_clean = True
                return operations.checked(
                    Frame(answer, flags, head_length, answered, extra, data[HEADER_BYTES:]), expected
                )
        self._sort(data, ancillary)
        return self.run(operations.answer(expected))

    def receive(self) -> Incoming:
        """The next frame, and its descriptor.

        Raises:
            ConnectionError: the daemon has gone. DeadlineExceeded: no frame in time.
            StoreError: the daemon ends this connection, and why.
        """
        while True:
            while self._frames:
                frame = self._frames.popleft()
                if frame.request_id:
                    if frame.request_id != self.request_id:
                        raise ProtocolError(f"{frame} answers another request than {self.request_id}")
                    return frame, self._take_descriptor(frame)
                if frame.opcode == Opcode.GOODBYE:
                    self.is_leaving = True
                elif frame.opcode == Opcode.ERROR:
                    raise decode_error(frame)
                else:
                    return frame, None
            if self._reader.is_midway and self._deadline is not None:
                self._shorten()
            self._sort(*self._read())

    def _take_descriptor(self, frame: Frame) -> Descriptor | None:
        if frame.opcode != Opcode.OBJECT_DESCRIPTOR:
            return None
        if not self._descriptors:
            raise ProtocolError("a reply by descriptor came without its descriptor")
        return self._descriptors.popleft()

    def _read(self) -> tuple[bytes, list[tuple[int, int, bytes]]]:
        """One system call."""
        try:
            data, ancillary, _, _ = self._recvmsg(_BULK_READ_BYTES, ANCILLARY_BYTES, CLOEXEC)
        except BlockingIOError:
            raise self._too_late() from None
        return data, ancillary

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"no answer from the daemon at {self._path} within {self._timeout_s} s")

    def _sort(self, data: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        """Keep what one read gave: frames and descriptors."""
        if ancillary:
            self._descriptors.extend(own_descriptors(ancillary))
        if not data:
            raise ConnectionResetError("the daemon closed the connection")
        self._frames.extend(self._reader.receive(data))

    def _shorten(self) -> None:
        """Let the kernel wait no longer than what is left of the deadline, give or take a tenth."""
        assert self._deadline is not None
        assert self._timeout_s is not None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._too_late()
        if left < 0.9 * (self._shortened_s or self._timeout_s):
            self._shortened_s = left
            self._limit_time(left)

    def run(self, conversation: Conversation[T]) -> T:
        """Drive a conversation to its end.

        Raises:
            StoreError: the store's answer; the link is in order afterwards unless it was about the link.
        """
        is_settled = False
        last: Frame | None = None
        try:
            action = next(conversation)
            while True:
                if action is None:
                    incoming = self.receive()
                    last = incoming[0]
                    action = conversation.send(incoming)
                    self.extend()
                elif isinstance(action, Blocking):
                    action.run()
                    self.extend()
                    action = next(conversation)
                else:
                    self.send(*action)
                    action = next(conversation)
        except StopIteration as stop:
            is_settled = True
            result: T = stop.value
            return result
        except StoreError:
            is_settled = operations.is_settled(last)
            raise
        finally:
            conversation.close()
            is_empty = not (self._frames or self._descriptors or self._reader.is_midway)
            self.is_clean = is_settled and is_empty and not self.is_leaving

    def close(self) -> None:
        """Close this process's end; never ``shutdown``, which a fork's parent would feel."""
        self._sock.close()
        self._frames.clear()
        self._descriptors.clear()


def breaks_link(error: BaseException) -> bool:
    """Whether after this error the link cannot be used again."""
    return not isinstance(error, StoreError) or isinstance(error, ProtocolError | DeadlineExceeded | DaemonUnavailable)
