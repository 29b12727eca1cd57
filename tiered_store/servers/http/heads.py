"""The head of an answer as bytes. Pure, but for the date.

aiohttp's own responses cost as much as everything else that a small read needs; what is sent here is the same, with
the fields of an object rendered once for as long as it is at hand.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from tiered_store.key import Key
from tiered_store.objects import ObjectInfo
from tiered_store.servers.http.fields import object_fields
from tiered_store.store.policy import Policy

__all__ = ["SERVER", "Heads", "date_line", "has_no_body", "head_of", "lines_of"]

_FORBIDDEN: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_REMEMBERED: Final = 4096
#: Longer ones, with much metadata, are few; all that are remembered take 10 MiB at most.
_REMEMBERED_MAX_BYTES: Final = 2048
SERVER: Final = "tiered_store"
_OK: Final = f"HTTP/1.1 200 OK\r\nServer: {SERVER}\r\n".encode()
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


def head_of(status: int, fields: Mapping[str, str], size: int | None) -> bytes:
    """Status line and fields, without the date and the empty line that end it.

    Raises:
        ValueError: a field that would end early, and let its sender go on in its place.
    """
    length = "" if size is None else f"Content-Length: {size}\r\n"
    start = f"HTTP/1.1 {status} {_REASONS.get(status, '-')}\r\nServer: {SERVER}\r\n"
    return (start + lines_of(fields) + length).encode()


def lines_of(fields: Mapping[str, str]) -> str:
    """Fields as they stand in a head. Raises ValueError as :func:`head_of`."""
    for name, value in fields.items():
        if _FORBIDDEN.search(value) or _FORBIDDEN.search(name):
            raise ValueError(f"the field {name[:40]!r} has a control character")
    return "".join([f"{name}: {value}\r\n" for name, value in fields.items()])


def has_no_body(status: int) -> bool:
    """Whether answers with this status have neither body nor length (RFC 9110, section 8.6)."""
    return status in {204, 304}


class _Date:
    """Now, as HTTP has it, to the second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def __call__(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._line = f"Date: {formatdate(now, usegmt=True)}\r\n".encode()
        return self._line


date_line: Final = _Date()


class Heads:
    """Heads of whole objects, for as long as they do not change."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[ObjectInfo, bytes]] = {}

    def of(self, info: ObjectInfo, policy: Callable[[Key], Policy]) -> bytes:
        """As :func:`head_of`, for a 200 with all of an object, whose policy is asked for if it is not known yet."""
        known = self._known.get(info.key)
        if known is not None and known[0] is info:
            return known[1]
        length = f"Content-Length: {info.size}\r\n"
        head = _OK + (lines_of(object_fields(info, policy(Key(info.key)))) + length).encode()
        if len(head) <= _REMEMBERED_MAX_BYTES:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[info.key] = (info, head)
        return head
