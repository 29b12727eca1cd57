"""Reading one object as a conversation (see ``operations.py``): its three forms, and a stream that is started anew.

A stream may fail when a part of it is here already: the daemon sends bytes on before it knows whether the rest will
come. Where whoever takes them can begin with the first byte again, the object is asked for once more.
"""

from __future__ import annotations

from collections.abc import Callable

from tiered_store.client.arguments import raw_key
from tiered_store.client.operations import RECEIVE, Blocking, Conversation, Incoming, Received, Sink, checked
from tiered_store.errors import DaemonUnavailable, ProtocolError, StoreError
from tiered_store.objects import FileBody, ObjectInfo
from tiered_store.protocol.frames import STREAM_WINDOW_BYTES, Opcode, encode_frame
from tiered_store.protocol.messages import decode_info, decode_span, encode_get

__all__ = ["get", "receive_object"]


def get(
    request_id: int,
    key: str,
    *,
    flags: int,
    span: tuple[int, int | None] | None = None,
    deadline_ms: int = 0,
    sink: Callable[[ObjectInfo], Sink] | None = None,
    may_restart: Callable[[], bool] = lambda: True,
) -> Conversation[Received]:
    """Read an object.

    Args:
        request_id: chosen by the driver.
        key: the object's key.
        flags: hints and what replies are welcome.
        span: offset, and length or None.
        deadline_ms: for the server; 0 for none.
        sink: for bytes that come as a stream; called once with the object's information, and gives a function
            that takes them, or says by a ``Blocking`` how they are taken. Without one they are collected.
        may_restart: whether the sink may be given the first byte again; asked when a stream has failed.
    """
    request = encode_get(request_id, raw_key(key), flags=flags, span=span, deadline_ms=deadline_ms)
    yield request, None
    incoming = yield RECEIVE
    return (yield from receive_object(request_id, key, incoming, request, sink=sink, may_restart=may_restart))


def receive_object(
    request_id: int,
    key: str,
    first: Incoming,
    request: bytes,
    *,
    sink: Callable[[ObjectInfo], Sink] | None = None,
    may_restart: Callable[[], bool] = lambda: True,
) -> Conversation[Received]:
    """Go on from the first frame of a reply to GET.

    A stream that fails in a way that may pass is started anew, once: ``request`` is sent again. Its id belongs to no
    request any more, the error was the last word about that.
    """
    try:
        return (yield from _receive_object(request_id, key, first, sink))
    except StoreError as error:
        # A daemon that goes away is the driver's business. What began with the error is no stream.
        is_over = first[0].opcode != Opcode.OBJECT_STREAM or isinstance(error, DaemonUnavailable | ProtocolError)
        if is_over or not error.retryable or not may_restart():
            raise
    yield request, None
    incoming = yield RECEIVE
    return (yield from _receive_object(request_id, key, incoming, sink))


def _receive_object(
    request_id: int, key: str, first: Incoming, sink: Callable[[ObjectInfo], Sink] | None
) -> Conversation[Received]:
    frame, descriptor = first
    checked(frame, Opcode.OBJECT, Opcode.OBJECT_DESCRIPTOR, Opcode.OBJECT_STREAM)
    if frame.opcode == Opcode.OBJECT:
        return Received(frame.head, key, frame.body)
    if frame.opcode == Opcode.OBJECT_DESCRIPTOR:
        if descriptor is None:
            raise ProtocolError("a reply by descriptor came without its descriptor")
        offset, length = decode_span(frame.body)
        return Received(frame.head, key, b"", FileBody(descriptor, offset, length, is_memory=False))
    head = frame.head
    collected = bytearray()
    info = decode_info(head, key)[0]
    write: Sink = collected.extend if sink is None else sink(info)
    granted = STREAM_WINDOW_BYTES
    while True:
        frame, _ = yield RECEIVE
        checked(frame, Opcode.DATA, Opcode.END)
        if frame.opcode == Opcode.END:
            return Received(head, key, bytes(collected))
        blocking = write(frame.payload)
        if isinstance(blocking, Blocking):
            yield blocking
        grant = min(len(frame.payload), info.size - granted)
        if grant > 0:
            # Never beyond the end: a daemon that stops closes the connection behind its last byte, and to send
            # what nobody needs would then fail, with the whole object here.
            granted += grant
            yield encode_frame(Opcode.WINDOW, request_id, extra=grant), None
