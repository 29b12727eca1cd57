"""Reading and writing the variable parts of messages. Pure; trusts no length it is given."""

from __future__ import annotations

import struct
from typing import Final

from tiered_store.errors import ProtocolError, TooLarge

__all__ = ["TEXT_MAX_BYTES", "Cursor", "pack", "pack_pairs", "raw_text"]

_PAIR: Final = struct.Struct("<HH")  # length of a name, length of its value
#: Lengths of texts are 16 bits wide, and one of them is sent plus one.
TEXT_MAX_BYTES: Final = 0xFFFE


class Cursor:
    """Walks over bytes, never past their end."""

    __slots__ = ("_data", "position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        """The next fields."""
        start = self.position
        self.position = start + layout.size
        if self.position > len(self._data):
            raise ProtocolError("a message ends in the middle of a field")
        return layout.unpack_from(self._data, start)

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        start = self.position
        self.position = start + size
        if self.position > len(self._data):
            raise ProtocolError("a message ends in the middle of a field")
        return self._data[start : self.position]

    def text(self, size: int) -> str:
        """The next ``size`` bytes as text."""
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError:
            raise ProtocolError("a text field is not UTF-8") from None

    def pairs(self, count: int) -> dict[str, str]:
        """``count`` names and values."""
        pairs = {}
        for _ in range(count):
            name, value = self.unpack(_PAIR)
            text = self.text(name)  # first: in an assignment Python evaluates the right side before the key
            pairs[text] = self.text(value)
        return pairs

    def end(self) -> None:
        """Nothing may follow."""
        if self.position != len(self._data):
            raise ProtocolError(f"a message has {len(self._data) - self.position} bytes too many")


def pack(layout: struct.Struct, *fields: int | bytes) -> bytes:
    """Fields as they travel.

    Raises:
        TooLarge: if a length does not fit its field.
    """
    try:
        return layout.pack(*fields)
    except struct.error:
        raise TooLarge("a field of a message is too long to be sent") from None


def raw_text(text: str, what: str) -> bytes:
    """A text as it travels.

    Raises:
        ProtocolError: if it is not Unicode. TooLarge: if its length does not fit its field.
    """
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError:
        raise ProtocolError(f"the {what} cannot be sent, it is not valid Unicode") from None
    if len(raw) > TEXT_MAX_BYTES:
        raise TooLarge(f"the {what} has {len(raw)} bytes, more than the {TEXT_MAX_BYTES} that a message can carry")
    return raw


def pack_pairs(metadata: dict[str, str]) -> bytes:
    """Names and values, each behind its length.

    Raises:
        ProtocolError, TooLarge: as :func:`raw_text`.
    """
    parts = []
    for name, value in metadata.items():
        raw_name, raw_value = raw_text(name, "name of a metadata field"), raw_text(value, "value of a metadata field")
        parts += [_PAIR.pack(len(raw_name), len(raw_value)), raw_name, raw_value]
    return b"".join(parts)
