"""Every operation as a conversation, written once for both clients.

A conversation is a generator that does no I/O on sockets: it yields what to send (frame and, where one
goes along, a descriptor), ``RECEIVE``, or a ``Blocking`` to be run; it is sent what was received, and returns
its result. The synchronous and the asyncio client only drive it. Errors of the store are raised from
inside it; ``is_settled`` tells whether the connection is in order afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from tiered_store.client.arguments import raw_key, raw_keys, raw_target, unsendable
from tiered_store.errors import IntegrityError, InvalidKey, NotFound, ProtocolError, StoreError
from tiered_store.key import ARTIFACT_PREFIX, parse_key
from tiered_store.objects import Descriptor, FileBody, ObjectInfo
from tiered_store.protocol.batches import (
    ITEM_LARGE,
    decode_batch,
    decode_stored,
    encode_pairs,
    is_status,
    item_error,
)
from tiered_store.protocol.frames import DATA_MAX_BYTES, Flag, Frame, Opcode, encode_frame
from tiered_store.protocol.messages import (
    PutRequest,
    decode_info,
    decode_listing,
    encode_list_request,
    encode_put,
    encode_put_head,
)
from tiered_store.protocol.status import decode_error

__all__ = [
    "RECEIVE",
    "Blocking",
    "Conversation",
    "Incoming",
    "Outgoing",
    "Received",
    "Sink",
    "Upload",
    "answer",
    "checked",
    "copy",
    "delete",
    "delete_prefix",
    "exists_many",
    "flush",
    "get_many",
    "inline_head",
    "is_settled",
    "list_page",
    "ping",
    "put",
    "put_many",
    "stat",
    "stats",
]

T = TypeVar("T")
Outgoing: TypeAlias = tuple[bytes, Descriptor | None]
Incoming: TypeAlias = tuple[Frame, Descriptor | None]
Conversation: TypeAlias = Generator["Outgoing | Blocking | None", Incoming, T]
Sink: TypeAlias = Callable[[bytes], Any]

#: Yielded to ask for the next frame.
RECEIVE: Final = None


class Blocking:
    """Reading or writing that may block; the driver calls :meth:`run` where that hurts nobody."""

    def __init__(self, work: Callable[[], bytes]) -> None:
        self._work = work
        self.data = b""

    def run(self) -> None:
        """Do it; what was read is in ``data``."""
        self.data = self._work()


class Received:
    """An object as it came: its bytes, or the file that has them, or nothing where a sink took them.

    Args:
        head: its information as it came, decoded when somebody asks for it: reads mostly do not.
        key: what was asked for.
        data: the bytes.
        file: the file, or None.
    """

    __slots__ = ("_head", "_info", "_key", "data", "file")

    def __init__(self, head: bytes, key: str, data: bytes, file: FileBody | None = None) -> None:
        self._head = head
        self._key = key
        self._info: ObjectInfo | None = None
        self.data = data
        self.file = file

    @property
    def info(self) -> ObjectInfo:
        """What is known of the object."""
        if self._info is None:
            self._info = decode_info(self._head, self._key)[0]
        return self._info

    def described(self) -> Received:
        """The information without the bytes."""
        return Received(self._head, self._key, b"")


class Upload(NamedTuple):
    """The bytes of a put, in the one of three forms that suits them."""

    size: int | None
    inline: bytes | None = None
    descriptor: Descriptor | None = None
    #: Gives pieces of at most the size it is asked for, b"" at the end.
    read: Callable[[int], bytes] | None = None


def is_settled(last: Frame | None) -> bool:
    """Whether, after an error of the store, nothing more of this conversation can come.

    Args:
        last: the last frame that the conversation was given, or None. Behind a part of a stream further
            parts come, whoever raised the error: a function of the user that takes the bytes, say.
    """
    return last is None or last.opcode not in {Opcode.OBJECT_STREAM, Opcode.DATA, Opcode.WINDOW}


def checked(frame: Frame, *expected: int) -> Frame:
    """The frame, if it is what it should be; an ERROR reply is raised."""
    if frame.opcode in expected:
        return frame
    if frame.opcode == Opcode.ERROR:
        raise decode_error(frame)
    raise ProtocolError(f"unexpected reply {frame}")


def answer(expected: Opcode) -> Conversation[Frame]:
    """The one frame that answers a request which was sent already."""
    frame, _ = yield RECEIVE
    return checked(frame, expected)


def _exchange(request: bytes, expected: Opcode) -> Conversation[Frame]:
    yield request, None
    return (yield from answer(expected))


# -- reading ----------------------------------------------------------------------------------------


def get_many(
    request_id: int, keys: Sequence[str], *, flags: int = 0, deadline_ms: int = 0
) -> Conversation[tuple[dict[str, bytes], list[str]]]:
    """Read many small objects; gives what was found, and the keys of objects too large for a batch."""
    yield encode_frame(Opcode.GET_MANY, request_id, body=raw_keys(keys), flags=flags, extra=deadline_ms), None
    found: dict[str, bytes] = {}
    large: list[str] = []
    error: StoreError | None = None
    while True:
        frame, _ = yield RECEIVE
        checked(frame, Opcode.BATCH)
        indexes, sizes, bodies = decode_batch(frame)
        in_order = isinstance(indexes, range)
        if (len(indexes) if in_order else max(indexes, default=-1) + 1) > len(keys):
            raise ProtocolError(f"a batch answers key {max(indexes)} of {len(keys)}")
        if sizes and is_status(max(sizes)):
            for index, size, body in zip(indexes, sizes, bodies, strict=True):
                if not is_status(size):
                    found[keys[index]] = body
                elif size == ITEM_LARGE:
                    large.append(keys[index])
                else:
                    problem = item_error(size, keys[index])
                    if not isinstance(problem, NotFound):
                        error = error or problem
        elif in_order and len(indexes) == len(keys):  # all were at hand, which is the rule
            found = dict(zip(keys, bodies, strict=True))
        else:
            found.update(zip(map(keys.__getitem__, indexes), bodies, strict=True))
        if frame.flags & Flag.FINAL:
            if isinstance(error, InvalidKey) and error.key is not None:
                parse_key(error.key)  # of an item only the status travels; the rule it breaks is known here too
            if error is not None:
                raise error
            return found, large


def stat(request_id: int, key: str, *, deadline_ms: int = 0) -> Conversation[ObjectInfo]:
    """What is known of an object."""
    request = encode_frame(Opcode.STAT, request_id, body=raw_key(key), extra=deadline_ms)
    frame = yield from _exchange(request, Opcode.INFO)
    return decode_info(frame.head, key)[0]


def exists_many(request_id: int, keys: Sequence[str], *, deadline_ms: int = 0) -> Conversation[list[bool]]:
    """Whether there are objects under these keys."""
    request = encode_frame(Opcode.EXISTS, request_id, body=raw_keys(keys), extra=deadline_ms)
    frame = yield from _exchange(request, Opcode.EXISTENCE)
    if len(frame.body) != len(keys):
        raise ProtocolError("the answer about existence has another number of keys than the question")
    return [bool(flag) for flag in frame.body]


def list_page(
    request_id: int, prefix: str, cursor: bytes, limit: int, *, deadline_ms: int = 0
) -> Conversation[tuple[list[ObjectInfo], bytes]]:
    """One page of a listing, and the cursor of the next; empty at the end."""
    request = encode_list_request(request_id, raw_key(prefix), cursor, limit, deadline_ms=deadline_ms)
    frame = yield from _exchange(request, Opcode.LISTING)
    return decode_listing(frame)


# -- writing ----------------------------------------------------------------------------------------


def inline_head(key: str, data: bytes, content_type: str | None, metadata: dict[str, str]) -> bytes:
    """The head of a PUT that carries its bytes, for a driver that does without the conversation."""
    request = PutRequest(raw_target(key), len(data), content_type, metadata)
    try:
        return encode_put_head(request)
    except (AttributeError, ProtocolError) as error:
        raise unsendable(content_type, metadata, error) from None


def _put_request(
    request_id: int, request: PutRequest, *, body: bytes = b"", flags: int = 0, deadline_ms: int = 0
) -> bytes:
    try:
        return encode_put(request_id, request, body=body, flags=flags, deadline_ms=deadline_ms)
    except (AttributeError, ProtocolError) as error:
        raise unsendable(request.content_type, request.metadata, error) from None


def put(
    request_id: int,
    key: str | None,
    make_upload: Callable[[], Upload],
    *,
    content_type: str | None,
    metadata: dict[str, str],
    deadline_ms: int = 0,
) -> Conversation[ObjectInfo]:
    """Store an object; without a key, as an artifact that the server names by its bytes.

    ``make_upload`` is called here, so that an operation that is repeated starts with the first byte again.
    """
    raw = ARTIFACT_PREFIX.encode() if key is None else raw_target(key)
    upload = make_upload()
    request = PutRequest(raw, upload.size, content_type, metadata)
    if upload.inline is not None:
        frame = yield from _exchange(
            _put_request(request_id, request, body=upload.inline, deadline_ms=deadline_ms), Opcode.INFO
        )
    elif upload.descriptor is not None:
        frame = yield from _put_descriptor(request_id, request, upload.descriptor)
    else:
        assert upload.read is not None
        frame = yield from _put_stream(request_id, request, upload.read)
    return decode_info(frame.head)[0]


def _put_descriptor(request_id: int, request: PutRequest, descriptor: Descriptor) -> Conversation[Frame]:
    yield _put_request(request_id, request, flags=Flag.DESCRIPTOR), None
    is_asked = False
    while not is_asked:
        frame, _ = yield RECEIVE
        is_asked = checked(frame, Opcode.WINDOW).extra > 0
    yield encode_frame(Opcode.DESCRIPTOR, request_id), descriptor
    return (yield from _stored())


def _put_stream(request_id: int, request: PutRequest, read: Callable[[int], bytes]) -> Conversation[Frame]:
    """Send pieces as far as the server grants; a refusal in the middle ends it."""
    yield _put_request(request_id, request, flags=Flag.STREAM), None
    credit = 0
    piece = b""
    while True:
        while credit < max(1, len(piece)):
            frame, _ = yield RECEIVE
            credit += checked(frame, Opcode.WINDOW).extra
        if not piece:
            reading = Blocking(lambda: read(DATA_MAX_BYTES))
            yield reading
            piece = reading.data
        if not piece:
            break
        if credit < len(piece):
            continue
        yield encode_frame(Opcode.DATA, request_id, body=piece), None
        credit -= len(piece)
        piece = b""
    yield encode_frame(Opcode.END, request_id), None
    return (yield from _stored())


def _stored() -> Conversation[Frame]:
    """The end of an upload, behind grants for its last pieces and signs that the daemon is still at work."""
    while True:
        frame, _ = yield RECEIVE
        if frame.opcode != Opcode.WINDOW:
            return checked(frame, Opcode.INFO)


def put_many(
    request_id: int, items: Sequence[tuple[str, bytes]], *, deadline_ms: int = 0
) -> Conversation[list[ObjectInfo | StoreError]]:
    """Store many small objects; what became of each."""
    body = encode_pairs((key.encode(), data) for key, data in items)
    request = encode_frame(Opcode.PUT_MANY, request_id, body=body, extra=deadline_ms)
    frame = yield from _exchange(request, Opcode.STORED_MANY)
    return decode_stored(frame.body, [key for key, _ in items])


def delete(request_id: int, key: str, *, deadline_ms: int = 0) -> Conversation[int]:
    """Remove an object; how many there were."""
    request = encode_frame(Opcode.DELETE, request_id, body=raw_key(key), extra=deadline_ms)
    frame = yield from _exchange(request, Opcode.DONE)
    return frame.extra


def delete_prefix(request_id: int, prefix: str) -> Conversation[int]:
    """Remove all objects under a prefix; how many there were."""
    request = encode_frame(Opcode.DELETE_PREFIX, request_id, body=raw_key(prefix))
    frame = yield from _exchange(request, Opcode.DONE)
    return frame.extra


def copy(request_id: int, source: str, target: str, *, deadline_ms: int = 0) -> Conversation[ObjectInfo]:
    """Copy an object inside the origin."""
    pair: Iterable[tuple[bytes, bytes]] = [(raw_key(source), raw_key(target))]
    request = encode_frame(Opcode.COPY, request_id, body=encode_pairs(pair), extra=deadline_ms)
    frame = yield from _exchange(request, Opcode.INFO)
    return decode_info(frame.head, target)[0]


# -- the daemon -------------------------------------------------------------------------------------


def stats(request_id: int) -> Conversation[dict[str, Any]]:
    """The daemon's numbers."""
    frame = yield from _exchange(encode_frame(Opcode.STATS, request_id), Opcode.STATISTICS)
    try:
        numbers = json.loads(frame.body)
    except (ValueError, RecursionError):
        numbers = None
    if not isinstance(numbers, dict):
        raise ProtocolError("the daemon's numbers could not be read")
    return numbers


def flush(request_id: int, *, deadline_ms: int = 0) -> Conversation[int]:
    """Wait until what is pending is at the origin; how many puts were."""
    yield encode_frame(Opcode.FLUSH, request_id, extra=deadline_ms), None
    while True:
        frame, _ = yield RECEIVE
        if frame.opcode != Opcode.WINDOW:  # a sign that the daemon is still at work
            return checked(frame, Opcode.DONE).extra


def ping(request_id: int) -> Conversation[None]:
    """Nothing but a round trip."""
    frame = yield from _exchange(encode_frame(Opcode.PING, request_id, body=b"ping"), Opcode.PONG)
    if frame.payload != b"ping":
        raise IntegrityError("the daemon's echo differs from what was sent")
