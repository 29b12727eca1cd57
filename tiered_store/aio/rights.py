"""Descriptors as ancillary data of a unix socket's messages. Light: no asyncio here."""

from __future__ import annotations

import array
import socket
from typing import Final

from tiered_store.objects import Descriptor

__all__ = ["ANCILLARY_BYTES", "CLOEXEC", "own_descriptors", "rights_of"]

_INT_BYTES: Final = array.array("i").itemsize
#: Room for the descriptors of one message; the kernel closes those that do not fit.
ANCILLARY_BYTES: Final = socket.CMSG_SPACE(4 * _INT_BYTES) if hasattr(socket, "CMSG_SPACE") else 0
#: Received descriptors must not leak into children; only Linux can say so in the call itself.
CLOEXEC: Final[int] = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def own_descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[Descriptor]:
    """Own the descriptors that came with a message."""
    owned = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % _INT_BYTES])
            owned += [Descriptor(number) for number in numbers]
    return owned


def rights_of(descriptor: Descriptor) -> list[tuple[int, int, array.array[int]]]:
    """The ancillary data that passes a descriptor."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor.fd]))]
