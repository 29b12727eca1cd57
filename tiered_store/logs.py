"""Structured logs over the standard library: one line per event, fields beside the message.

Whoever logs uses ``logging.getLogger(__name__)`` and gives fields through ``extra={...}``; this module
decides how they look and knows nothing of what they mean. The invariants: an event is one line (in the
human format a traceback follows it, indented), no line carries bytes of an object, and a field whose
name sounds like a secret is never shown.

Lines are written where they are made, on the event loop: they are few (starts, stops, faults, slow
requests), and a line that was handed to a thread is lost in the crash that it would explain.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

__all__ = ["Format", "HumanFormatter", "JsonFormatter", "set_up"]

Format = Literal["auto", "human", "json"]

#: What every record has; anything else came through ``extra`` and is a field.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_SECRET = re.compile(r"secret|token|passw|credential|authorization|api_?key|private", re.IGNORECASE)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_FIELD_MAX_CHARS = 1000
_COLOURS = {
    "DEBUG": "\x1b[2m",
    "INFO": "\x1b[32m",
    "WARNING": "\x1b[33m",
    "ERROR": "\x1b[31m",
    "CRITICAL": "\x1b[1;31m",
}
_RESET = "\x1b[0m"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time``, ``level``, ``logger``, ``event``, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for one record."""
        line: dict[str, object] = {
            "time": _time(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        for name, value in _fields(record).items():
            # A field never hides what every line has.
            line[f"{name}_" if name in line else name] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class HumanFormatter(logging.Formatter):
    """``time LEVEL  message  name=value ...`` for a person at a terminal, coloured if asked."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The line for one record, and its traceback below."""
        level = f"{record.levelname:<7}"
        if self._colour:
            level = f"{_COLOURS.get(record.levelname, '')}{level}{_RESET}"
        time = f"{_time(record).astimezone():%Y-%m-%d %H:%M:%S}.{int(record.msecs):03d}"
        line = f"{time} {level} {_escape(record.getMessage())}"
        fields = " ".join(f"{name}={_shown(value)}" for name, value in _fields(record).items())
        if fields:
            line += "  " + fields
        if record.exc_info:
            line += "\n" + "\n".join(f"    {row}" for row in self.formatException(record.exc_info).splitlines())
        return line


#: The SDK of S3, which writes each request's headers at the level "debug", session tokens included.
_TALKATIVE = ("aioboto3", "aiobotocore", "boto3", "botocore")


def set_up(level: str = "info", form: Format = "auto", stream: TextIO | None = None) -> logging.Handler:
    """Send the logs of the whole process to a stream, in place of whatever was set up before.

    Args:
        level: the least severe level that is written.
        form: ``auto`` is ``human`` on a terminal and ``json`` otherwise.
        stream: standard error if None.
    """
    target = sys.stderr if stream is None else stream
    terminal = target.isatty()
    handler = logging.StreamHandler(target)
    if form == "human" or (form == "auto" and terminal):
        handler.setFormatter(HumanFormatter(colour=terminal))
    else:
        handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.INFO, logging.getLogger().level))
    # A log line that cannot be written (the reader of the pipe has gone) must not hurt a request.
    logging.raiseExceptions = False
    return handler


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, tz=UTC)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: _safe(name, value) for name, value in vars(record).items() if name not in _STANDARD}


def _safe(name: str, value: object) -> object:
    """A field's value as it may be written: no secrets, no bodies, no endless texts."""
    if _SECRET.search(name):
        return "(hidden)"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, dict):
        return {str(key): _safe(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_safe("", item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= _FIELD_MAX_CHARS else f"{text[:_FIELD_MAX_CHARS]}... ({len(text)} characters)"


def _escape(text: str) -> str:
    """Keys and messages of others must not break the line or drive the terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if not isinstance(value, str):
        return _escape(json.dumps(value, ensure_ascii=False, default=str))
    text = _escape(value)
    return json.dumps(text, ensure_ascii=False) if not text or re.search(r'[\s"=]', text) else text
