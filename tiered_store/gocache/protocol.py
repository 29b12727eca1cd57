"""The protocol between a go command and its cache program (GOCACHEPROG): bytes to requests, replies to bytes.

Pure: no I/O, no files, no clock. ``cmd/go/internal/cacheprog`` of Go is normative. A request is one line of JSON; the
body of a put follows on a line of its own, as one JSON string in base64. Replies may come in any order.

Invariant: no more than one line, or one piece of a body, is ever kept.
"""

from __future__ import annotations

import binascii
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["Malformed", "Reader", "Request", "closed", "failed", "greeting", "hit", "miss", "quoted", "stored"]

#: A request has some hundred bytes.
_LINE_MAX_BYTES: Final = 64 * 1024
#: Go's action IDs have 32 bytes. Nothing is made of them but names.
_ACTION_MAX_BYTES: Final = 64
_OUTPUT_BYTES: Final = 32
#: Pieces of ``{"ID":7,"Command":"get","ActionID":"..."}`` and ``{"ID":7,"Command":"close"}``, cut at quotation marks.
_BEGIN: Final = [b"{", b"ID"]
_GET: Final = [b"Command", b":", b"get", b",", b"ActionID", b":"]
_CLOSE: Final = [b"Command", b":", b"close", b"}"]
_BLANK: Final = b" \t\r\n"


class Malformed(Exception):
    """What came is not this protocol, so that nobody can tell where the next request begins."""


class Request:
    """One request.

    Attributes:
        number: to be echoed in the reply.
        command: ``"get"``, ``"put"``, ``"close"``, or what else was asked for.
        action: the key, in hex; empty where there is none.
        output: sha256 of the body of a put, in hex.
        size: of the body of a put, in bytes.
        problem: why it cannot be answered; empty where it can.
    """

    __slots__ = ("action", "command", "number", "output", "problem", "size")

    def __init__(
        self, number: int, command: str, action: str = "", output: str = "", size: int = 0, problem: str = ""
    ) -> None:
        self.number = number
        self.command = command
        self.action = action
        self.output = output
        self.size = size
        self.problem = problem


class Reader:
    """Cuts what a go command sends into requests and bodies."""

    def __init__(self) -> None:
        self._buffer = b""
        #: Bytes of the body still to come; None outside of one.
        self._left: int | None = None
        self._is_open = False  # whether the body's first quotation mark was seen

    @property
    def is_midway(self) -> bool:
        """Whether the input must not end here."""
        return self._left is not None or bool(self._buffer)

    def receive(self, data: bytes) -> list[Request | bytes | None]:
        """Take the next bytes of the input.

        Gives what they complete, in order: a request; for a put, behind it, the pieces of its body, and None at the
        body's end.

        Raises:
            Malformed: this is no such protocol.
        """
        self._buffer += data
        events: list[Request | bytes | None] = []
        while self._body(events) if self._left is not None else self._line(events):
            pass
        return events

    def _line(self, events: list[Request | bytes | None]) -> bool:
        """Take one line; whether there may be more to take."""
        line, newline, rest = self._buffer.partition(b"\n")
        if len(line) > _LINE_MAX_BYTES:
            raise Malformed(f"a request of more than {_LINE_MAX_BYTES} bytes")
        if not newline:
            return False
        self._buffer = rest
        if not line.strip(_BLANK):
            return True
        request = _parse(line)
        events.append(request)
        if request.command == "put":
            self._left, self._is_open = request.size, not request.size
            if not request.size:
                self._end(events)
        return True

    def _body(self, events: list[Request | bytes | None]) -> bool:
        """Take what there is of a body; whether there may be more to take."""
        assert self._left is not None
        if not self._is_open:
            self._buffer = self._buffer.lstrip(_BLANK)
            if not self._buffer:
                return False
            if self._buffer[:1] != b'"':
                raise Malformed("a put without its body")
            self._buffer = self._buffer[1:]
            self._is_open = True
        at = self._buffer.find(b'"')
        text = self._buffer[:at] if at >= 0 else self._buffer[: len(self._buffer) // 4 * 4]
        try:
            piece = binascii.a2b_base64(text, strict_mode=True) if text else b""
        except binascii.Error as error:
            raise Malformed(f"the body of a put is not base64: {error}") from None
        self._left -= len(piece)
        if self._left < 0 or (at >= 0 and self._left):
            raise Malformed("the body of a put has not the size that was announced")
        if piece:
            events.append(piece)
        if at < 0:
            self._buffer = self._buffer[len(text) :]
            return False
        self._buffer = self._buffer[at + 1 :]
        self._end(events)
        return True

    def _end(self, events: list[Request | bytes | None]) -> None:
        self._left = None
        events.append(None)


def _parse(line: bytes) -> Request:
    """Read a request. What every go command sends is recognized by its form; whatever else is left to ``json``."""
    parts = line.split(b'"')
    if parts[:2] == _BEGIN and parts[-1] == b"}":
        number = parts[2]
        if number[:1] == b":" and number[-1:] == b"," and number[1:-1].isdigit() and len(number) < 20:
            if len(parts) == 11 and parts[3:9] == _GET and (action := _identifier(parts[9])):
                return Request(int(number[1:-1]), "get", action)
            if parts[3:] == _CLOSE:
                return Request(int(number[1:-1]), "close")
    return _parse_any(line)


def _identifier(text: object, size: int | None = None) -> str:
    """An identifier in hex, or nothing where it is none."""
    if isinstance(text, str):
        text = text.encode("utf-8", "replace")
    if not isinstance(text, bytes):
        return ""
    try:
        raw = binascii.a2b_base64(text, strict_mode=True) if text else b""
    except binascii.Error:
        return ""
    fits = len(raw) == size if size is not None else 0 < len(raw) <= _ACTION_MAX_BYTES
    return raw.hex() if fits else ""


def _parse_any(line: bytes) -> Request:
    import json

    try:
        said: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError):
        raise Malformed("a request that is not JSON") from None
    if not isinstance(said, dict) or not _is_count(said.get("ID")) or not isinstance(said.get("Command"), str):
        raise Malformed("a request without ID or Command")
    number, command = said["ID"], said["Command"]
    action = _identifier(said.get("ActionID"))
    if command == "get":
        return Request(number, command, action, problem="" if action else "no ActionID in base64")
    if command != "put":
        return Request(number, command)
    size = said.get("BodySize", 0)
    if not _is_count(size):
        raise Malformed("a put whose BodySize is no number of bytes")
    output = _identifier(said.get("OutputID"), _OUTPUT_BYTES)
    return Request(number, command, action, output, size, "" if action and output else "no ActionID, or no OutputID")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


# -- replies ----------------------------------------------------------------------------------------


def quoted(text: str) -> bytes:
    """A text as JSON."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return b'"' + text.encode() + b'"'
    import json

    return json.dumps(text).encode()


def greeting() -> bytes:
    """What a go command waits for before it does anything."""
    return b'{"ID":0,"KnownCommands":["get","put","close"]}\n'


def hit(number: int, output: str, size: int, stored_ns: int, path: bytes) -> bytes:
    """What was asked for is in a file.

    Args:
        number: of the request.
        output: sha256 of the file, in hex.
        size: of the file, in bytes.
        stored_ns: when it was put, nanoseconds since the epoch.
        path: of the file, as JSON.
    """
    at = time.gmtime(stored_ns // 1_000_000_000)
    return b'{"ID":%d,"OutputID":"%b","Size":%d,"Time":"%04d-%02d-%02dT%02d:%02d:%02d.%09dZ","DiskPath":%b}\n' % (
        number,
        binascii.b2a_base64(bytes.fromhex(output), newline=False),
        size,
        *at[:6],
        stored_ns % 1_000_000_000,
        path,
    )


def miss(number: int) -> bytes:
    """Nobody has what was asked for."""
    return b'{"ID":%d,"Miss":true}\n' % number


def stored(number: int, path: bytes) -> bytes:
    """A put is in a file; its path as JSON."""
    return b'{"ID":%d,"DiskPath":%b}\n' % (number, path)


def failed(number: int, why: str) -> bytes:
    """A request that cannot be answered otherwise."""
    return b'{"ID":%d,"Err":%b}\n' % (number, quoted(why))


def closed(number: int) -> bytes:
    """The last reply."""
    return b'{"ID":%d}\n' % number
