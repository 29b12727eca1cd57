"""Reading and writing the variable parts of messages. Pure; trusts no length it is given."""

from __future__ import annotations

import struct
from typing import Final

from tiered_store.errors import ProtocolError

__all__ = ["Cursor", "pack_pairs"]

_PAIR: Final = struct.Struct("<HH")  # length of a name, length of its value


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


def pack_pairs(metadata: dict[str, str]) -> bytes:
    """Names and values, each behind its length."""
    parts = []
    for name, value in metadata.items():
        raw_name, raw_value = name.encode(), value.encode()
        parts += [_PAIR.pack(len(raw_name), len(raw_value)), raw_name, raw_value]
    return b"".join(parts)
