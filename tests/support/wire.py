"""The wire format in tests: golden frames with their fields, and a daemon that follows a script."""

from __future__ import annotations

import array
import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.support.origins import memfd_body
from tiered_store.client.operations import Received
from tiered_store.errors import IntegrityError, ProtocolError, StoreError
from tiered_store.objects import FileBody, ObjectInfo
from tiered_store.protocol.batches import (
    decode_batch,
    decode_keys,
    decode_pairs,
    decode_stored,
    encode_batch,
    encode_keys,
    encode_pairs,
    encode_stored,
)
from tiered_store.protocol.frames import (
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
    Hello,
    PutRequest,
    Welcome,
    decode_get,
    decode_hello,
    decode_info,
    decode_list_request,
    decode_listing,
    decode_put,
    decode_span,
    decode_welcome,
    encode_get,
    encode_hello,
    encode_info,
    encode_list_request,
    encode_listing,
    encode_put,
    encode_span,
    encode_welcome,
)
from tiered_store.protocol.status import decode_error, encode_error, error_of_status, status_of_error

__all__ = [
    "GOLDEN",
    "GOLDEN_PATH",
    "ScriptedDaemon",
    "ServerSide",
    "decode_message",
    "encode_message",
    "info",
    "one_frame",
    "welcome",
]

GOLDEN_PATH = Path(__file__).resolve().parent.parent / "golden" / "frames.json"
#: Every golden frame: ``name``, ``hex``, ``header`` and ``message``, see ``docs/protocol.md``.
GOLDEN: list[dict[str, Any]] = json.loads(GOLDEN_PATH.read_text()) if GOLDEN_PATH.exists() else []

Fields = dict[str, Any]


def one_frame(data: bytes) -> Frame:
    """The frame that these bytes are."""
    (frame,) = FrameReader().receive(data)
    return frame


def info(key: str = "a/b", size: int = 3, **more: Any) -> ObjectInfo:
    """What is known of an object."""
    return ObjectInfo(key, size, more.pop("etag", "e1"), **more)


# -- fields as plain data -------------------------------------------------------------------------


def _info_fields(value: ObjectInfo) -> Fields:
    return {
        "key": value.key,
        "size": value.size,
        "etag": value.etag,
        "content_type": value.content_type,
        "metadata": value.metadata,
        "modified_ns": value.modified_ns,
    }


def _text(raw: bytes) -> str:
    """Keys travel raw, and the codec leaves them so; here they must fit into JSON."""
    return raw.decode("utf-8", "surrogateescape")


def _error_fields(error: StoreError) -> Fields:
    fields: Fields = {"status": status_of_error(error), "message": error.message, "retryable": error.retryable}
    fields["key"] = error.key
    if isinstance(error, IntegrityError):
        fields |= {"expected": error.expected, "actual": error.actual, "source": error.source}
    return fields


def _error(fields: Fields) -> StoreError:
    key, retryable = fields["key"], fields["retryable"]
    if "expected" in fields:
        details = {name: fields[name] for name in ("expected", "actual", "source")}
        return IntegrityError(fields["message"], key=key, retryable=retryable, **details)
    return error_of_status(fields["status"], fields["message"], key=key, retryable=retryable)


def _stored(fields: Fields) -> ObjectInfo | StoreError:
    return _error(fields) if "status" in fields else ObjectInfo(**fields)


Encode = Callable[[int, int, int, Fields], bytes]
Decode = Callable[[Frame], Fields]


def _plain(opcode: Opcode, *, field: str | None = None, text: bool = True) -> tuple[Encode, Decode]:
    """A message that is its header, and at most one field as its body."""

    def encode(request_id: int, flags: int, extra: int, fields: Fields) -> bytes:
        body = b""
        if field is not None:
            body = fields[field].encode() if text else bytes.fromhex(fields[field])
        return encode_frame(opcode, request_id, body=body, flags=flags, extra=extra)

    def decode(frame: Frame) -> Fields:
        if field is None:
            return {}
        return {field: _text(frame.payload) if text else frame.payload.hex()}

    return encode, decode


def _encode_get(request_id: int, flags: int, extra: int, fields: Fields) -> bytes:
    span = (fields["offset"], fields["length"]) if flags & Flag.RANGE else None
    return encode_get(request_id, fields["key"].encode(), flags=flags & ~Flag.RANGE, span=span, deadline_ms=extra)


def _decode_get(frame: Frame) -> Fields:
    request = decode_get(frame)
    return {"key": _text(request.key), "offset": request.offset, "length": request.length}


def _encode_put(request_id: int, flags: int, extra: int, fields: Fields) -> bytes:
    request = PutRequest(fields["key"].encode(), fields["size"], fields["content_type"], fields["metadata"])
    return encode_put(request_id, request, body=bytes.fromhex(fields["body"]), flags=flags, deadline_ms=extra)


def _decode_put(frame: Frame) -> Fields:
    return {**decode_put(frame)._asdict(), "key": _text(decode_put(frame).key), "body": frame.body.hex()}


def _encode_object(opcode: Opcode) -> Encode:
    def encode(request_id: int, flags: int, extra: int, fields: Fields) -> bytes:
        head = encode_info(ObjectInfo(**fields["info"]), fields["tier"], with_key=bool(fields["info"]["key"]))
        if opcode == Opcode.OBJECT_DESCRIPTOR:
            body = encode_span(fields["offset"], fields["length"])
        else:
            body = bytes.fromhex(fields["body"])
        return encode_frame(opcode, request_id, head=head, body=body, flags=flags, extra=extra)

    return encode


def _decode_object(frame: Frame) -> Fields:
    value, tier = decode_info(frame.head)
    fields: Fields = {"info": _info_fields(value), "tier": tier}
    if frame.opcode == Opcode.OBJECT_DESCRIPTOR:
        fields["offset"], fields["length"] = decode_span(frame.body)
    else:
        fields["body"] = frame.body.hex()
    return fields


def _decode_welcome(frame: Frame) -> Fields:
    return dict(decode_welcome(frame)._asdict())


def _decode_hello(frame: Frame) -> Fields:
    return dict(decode_hello(frame)._asdict())


def _decode_copy(frame: Frame) -> Fields:
    pairs = decode_pairs(frame.payload)
    if len(pairs) != 1:
        raise ProtocolError("COPY names one source and one target")
    return {"source": _text(pairs[0][0]), "target": _text(pairs[0][1])}


_PLAIN: dict[Opcode, tuple[str | None, bool]] = {
    Opcode.PING: ("body", False),
    Opcode.PONG: ("body", False),
    Opcode.STAT: ("key", True),
    Opcode.DELETE: ("key", True),
    Opcode.DELETE_PREFIX: ("prefix", True),
    Opcode.STATS: (None, True),
    Opcode.FLUSH: (None, True),
    Opcode.DATA: ("body", False),
    Opcode.END: (None, True),
    Opcode.WINDOW: (None, True),
    Opcode.DESCRIPTOR: (None, True),
    Opcode.CANCEL: (None, True),
    Opcode.EXISTENCE: ("answers", False),
    Opcode.DONE: (None, True),
    Opcode.STATISTICS: ("json", True),
    Opcode.GOODBYE: (None, True),
}

_CODECS: dict[Opcode, tuple[Encode, Decode]] = {
    Opcode.HELLO: (
        lambda _id, _flags, _extra, m: encode_hello(
            m["name"], lowest=m["lowest"], highest=m["highest"], features=m["features"]
        ),
        _decode_hello,
    ),
    Opcode.WELCOME: (lambda _id, _flags, _extra, m: encode_welcome(Welcome(**m)), _decode_welcome),
    Opcode.GET: (_encode_get, _decode_get),
    Opcode.GET_MANY: (
        lambda number, flags, extra, m: encode_frame(
            Opcode.GET_MANY, number, body=encode_keys([key.encode() for key in m["keys"]]), flags=flags, extra=extra
        ),
        lambda frame: {"keys": [_text(key) for key in decode_keys(frame.payload)]},
    ),
    Opcode.EXISTS: (
        lambda number, flags, extra, m: encode_frame(
            Opcode.EXISTS, number, body=encode_keys([key.encode() for key in m["keys"]]), flags=flags, extra=extra
        ),
        lambda frame: {"keys": [_text(key) for key in decode_keys(frame.payload)]},
    ),
    Opcode.PUT: (_encode_put, _decode_put),
    Opcode.PUT_MANY: (
        lambda number, flags, extra, m: encode_frame(
            Opcode.PUT_MANY,
            number,
            body=encode_pairs((key.encode(), bytes.fromhex(body)) for key, body in m["items"]),
            flags=flags,
            extra=extra,
        ),
        lambda frame: {"items": [[_text(key), body.hex()] for key, body in decode_pairs(frame.payload)]},
    ),
    Opcode.COPY: (
        lambda number, flags, extra, m: encode_frame(
            Opcode.COPY,
            number,
            body=encode_pairs([(m["source"].encode(), m["target"].encode())]),
            flags=flags,
            extra=extra,
        ),
        _decode_copy,
    ),
    Opcode.LIST: (
        lambda number, _flags, extra, m: encode_list_request(
            number, m["prefix"].encode(), m["cursor"].encode(), m["limit"], deadline_ms=extra
        ),
        lambda frame: dict(
            zip(
                ("prefix", "cursor", "limit"),
                [_text(part) if isinstance(part, bytes) else part for part in decode_list_request(frame)],
                strict=True,
            )
        ),
    ),
    Opcode.LISTING: (
        lambda number, _flags, _extra, m: encode_listing(
            number, [encode_info(ObjectInfo(**item)) for item in m["items"]], m["cursor"].encode()
        ),
        lambda frame: {
            "items": [_info_fields(item) for item in decode_listing(frame)[0]],
            "cursor": _text(decode_listing(frame)[1]),
        },
    ),
    Opcode.OBJECT: (_encode_object(Opcode.OBJECT), _decode_object),
    Opcode.OBJECT_DESCRIPTOR: (_encode_object(Opcode.OBJECT_DESCRIPTOR), _decode_object),
    Opcode.OBJECT_STREAM: (_encode_object(Opcode.OBJECT_STREAM), _decode_object),
    Opcode.INFO: (_encode_object(Opcode.INFO), _decode_object),
    Opcode.BATCH: (
        lambda number, flags, _extra, m: encode_batch(
            number,
            [index for index, _, _ in m["items"]],
            [size for _, size, _ in m["items"]],
            [bytes.fromhex(body) for _, _, body in m["items"]],
            final=bool(flags & Flag.FINAL),
        ),
        lambda frame: {
            "items": [[index, size, body.hex()] for index, size, body in zip(*decode_batch(frame), strict=True)]
        },
    ),
    Opcode.STORED_MANY: (
        lambda number, flags, extra, m: encode_frame(
            Opcode.STORED_MANY,
            number,
            body=encode_stored(_stored(item) for item in m["items"]),
            flags=flags,
            extra=extra,
        ),
        lambda frame: {
            "items": [
                _info_fields(item) if isinstance(item, ObjectInfo) else _error_fields(item)
                for item in decode_stored(frame.payload, ["a/b", "a//b", "sha256:" + "0" * 64])
            ]
        },
    ),
    Opcode.ERROR: (
        lambda number, _flags, _extra, m: encode_error(number, _error(m)),
        lambda frame: _error_fields(decode_error(frame)),
    ),
    **{opcode: _plain(opcode, field=field, text=text) for opcode, (field, text) in _PLAIN.items()},
}


def encode_message(header: Fields, message: Fields) -> bytes:
    """The frame of a golden entry, made by the codec."""
    opcode = Opcode[header["opcode"]]
    return _CODECS[opcode][0](header["request_id"], header["flags"], header["extra"], message)


def decode_message(frame: Frame) -> Fields:
    """The fields of any frame, by the codec. Raises ProtocolError."""
    return _CODECS[Opcode(frame.opcode)][1](frame)


# -- a daemon that follows a script ---------------------------------------------------------------


def welcome(max_in_flight: int = 64) -> bytes:
    """The daemon's first frame."""
    return encode_welcome(Welcome(VERSION, 0, MAX_FRAME_BYTES, STREAM_WINDOW_BYTES, max_in_flight, "scripted"))


class ServerSide:
    """The daemon's end of one connection, in a thread of its own; reads wait at most 20 seconds."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(20.0)
        self._reader = FrameReader()
        self._frames: list[Frame] = []
        self.descriptors: list[int] = []

    def greet(self, max_in_flight: int = 64) -> Hello:
        """Take HELLO, answer WELCOME."""
        hello = decode_hello(self.receive())
        self.send(welcome(max_in_flight))
        return hello

    def receive(self) -> Frame:
        """The next frame; ``EOFError`` when the client has gone."""
        while not self._frames:
            data, descriptors, _, _ = socket.recv_fds(self.sock, 65536, 4)
            self.descriptors += descriptors
            if not data:
                raise EOFError
            self._frames += self._reader.receive(data)
        return self._frames.pop(0)

    def wait_for_end(self) -> list[Frame]:
        """Read until the client closes; what it still sent."""
        frames = []
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                frames.append(self.receive())
        return frames

    def send(self, data: bytes, *files: int) -> None:
        """Send bytes, and descriptors with their first one."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        sent = self.sock.sendmsg([data], rights)
        self.sock.sendall(data[sent:])

    def send_object(self, request_id: int, body: bytes, key: str = "a/b") -> None:
        """Answer a GET inline."""
        head = encode_info(info(key, len(body)), "memory", with_key=False)
        self.send(encode_frame(Opcode.OBJECT, request_id, head=head, body=body))


Script = Callable[[ServerSide], object]


class ScriptedDaemon:
    """Listens on a unix socket; the n-th connection is served by the n-th script, later ones by the last.

    What a script raises fails the test, when the daemon is closed. Scripts end when their client has gone.
    """

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self._directory = tempfile.mkdtemp(prefix="ts-")
        self.path = f"{self._directory}/s"
        self.accepted = 0
        self._failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(128)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.accepted, len(self._scripts) - 1)]
            self.accepted += 1
            self._open.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock, script), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, script: Script) -> None:
        side = ServerSide(sock)
        try:
            script(side)
        except (EOFError, ConnectionError):
            pass  # the client has gone
        except BaseException as error:
            self._failures.append(error)
        finally:
            for number in side.descriptors:
                with contextlib.suppress(OSError):
                    os.close(number)
            sock.close()

    def close(self) -> None:
        """Stop; raise what a script raised."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(20)
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._failures:
            raise self._failures[0]


def as_received(info: ObjectInfo, data: bytes, file: FileBody | None = None) -> Received:
    """What a client's operation gives for an object."""
    return Received(encode_info(info), info.key, data, file)


def by_file(data: bytes, *, offset: int = 0, size: int | None = None) -> Received:
    """As the daemon's answer by descriptor: the object is a part of a memfd."""
    whole = memfd_body(b"\xee" * offset + data)
    size = len(data) if size is None else size
    return as_received(info("a", size), b"", FileBody(whole.descriptor, offset, size, is_memory=False))
