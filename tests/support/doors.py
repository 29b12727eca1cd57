"""A native door over a real store, in the test's own event loop, and peers that speak to it by hand.

Nothing waits for time to pass: peers' sockets do not block, and the loop turns until what is waited for is there.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.store import Rig, store_rig
from tiered_store.aio.rights import ANCILLARY_BYTES, own_descriptors
from tiered_store.errors import StoreError
from tiered_store.objects import Descriptor
from tiered_store.protocol.frames import Frame, FrameReader, Opcode, encode_frame
from tiered_store.protocol.messages import encode_hello
from tiered_store.protocol.status import decode_error
from tiered_store.servers.connection import Connection
from tiered_store.servers.limits import NativeLimits
from tiered_store.servers.native import NativeDoor
from tiered_store.store.limits import StoreLimits

_STORE_LIMITS = StoreLimits()

__all__ = ["Peer", "Served", "eventually", "served"]


async def eventually(condition: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Let the loop turn until the condition holds; its value."""
    async with asyncio.timeout(timeout_s):
        while not (value := condition()):
            await asyncio.sleep(0)
        return value


@dataclass
class Peer:
    """One end of a connection to the door."""

    sock: socket.socket
    connection: Connection
    is_ended: bool = False
    frames: list[Frame] = field(default_factory=list)
    descriptors: list[Descriptor] = field(default_factory=list)
    reader: FrameReader = field(default_factory=FrameReader)

    async def send(self, data: bytes, *files: int) -> None:
        """All of it, and descriptors with its first byte."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        view = memoryview(data)
        async with asyncio.timeout(20):
            while view:
                try:
                    view = view[self.sock.sendmsg([view], rights) :]
                    rights = []
                except BlockingIOError:
                    await asyncio.sleep(0)

    def read(self) -> None:
        """Take what is there now."""
        try:
            data, ancillary, _, _ = self.sock.recvmsg(1 << 16, ANCILLARY_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data, ancillary = b"", []
        self.descriptors += own_descriptors(ancillary)
        self.is_ended = self.is_ended or not data
        self.frames += self.reader.receive(data)

    async def receive(self) -> Frame:
        """The next frame; ``EOFError`` at the end."""
        async with asyncio.timeout(20):
            while not self.frames:
                self.read()
                if self.is_ended and not self.frames:
                    raise EOFError
                await asyncio.sleep(0)
        return self.frames.pop(0)

    async def answer(self) -> Frame:
        """The next frame that is no grant."""
        while (frame := await self.receive()).opcode == Opcode.WINDOW:
            pass
        return frame

    async def error(self) -> tuple[StoreError, int]:
        """The error that comes next, and whose it is."""
        frame = await self.answer()
        assert frame.opcode == Opcode.ERROR, frame
        return decode_error(frame), frame.request_id

    async def rest(self) -> list[Frame]:
        """All frames until the door closes the connection."""
        frames = []
        with contextlib.suppress(EOFError):
            while True:
                frames.append(await self.receive())
        return frames

    async def get(self, key: str, request_id: int = 99, flags: int = 0) -> Frame:
        """Ask for an object; the first frame of the answer."""
        await self.send(encode_frame(Opcode.GET, request_id, body=key.encode(), flags=flags))
        return await self.answer()

    async def is_well(self) -> bool:
        """Whether the connection still answers; everything else must have been read."""
        await self.send(encode_frame(Opcode.PING, 98, body=b"well?"))
        frame = await self.answer()
        return (frame.opcode, frame.request_id, frame.payload) == (Opcode.PONG, 98, b"well?")


@dataclass
class Served:
    """A door that is open."""

    door: NativeDoor
    rig: Rig
    path: str
    peers: list[Peer] = field(default_factory=list)

    async def connect(self, *, hello: bool = True) -> Peer:
        """A new peer."""
        before = set(self.door._acceptor._peers)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(self.path)
        sock.setblocking(False)
        (connection,) = await eventually(lambda: set(self.door._acceptor._peers) - before)
        peer = Peer(sock, connection)
        self.peers.append(peer)
        if hello:
            await peer.send(encode_hello("test"))
            assert (await peer.receive()).opcode == Opcode.WELCOME
        return peer

    async def is_well(self) -> bool:
        """Whether a connection of its own gets right answers."""
        peer = await self.connect()
        key = "the/test's/own"
        await self.rig.there(key, b"there")
        frame = await peer.get(key)
        is_well = frame.opcode == Opcode.OBJECT and frame.body == b"there" and await peer.is_well()
        peer.sock.close()
        await eventually(lambda: peer.connection.channel.is_closed)
        return is_well


@asynccontextmanager
async def served(
    limits: NativeLimits | None = None, *, store_limits: StoreLimits = _STORE_LIMITS, **options: Any
) -> AsyncIterator[Served]:
    """A door; closed at the end, when nothing of any connection may be left.

    Args:
        limits: of the door.
        store_limits: of the store.
        options: of ``store_rig``.
    """
    directory = tempfile.mkdtemp(prefix="ts-")
    try:
        async with store_rig(limits=store_limits, **options) as rig:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(f"{directory}/s")
                listener.listen(64)
                door = NativeDoor(rig.store, listener, limits=limits or NativeLimits())
                door.start()
                it = Served(door, rig, f"{directory}/s")
                try:
                    yield it
                finally:
                    for peer in it.peers:
                        peer.sock.close()
                        peer.descriptors.clear()
                    rig.origin.heal()
                    await door.drain(0.0)
                    for peer in it.peers:
                        await eventually(lambda: not any(peer.connection.in_flight for peer in it.peers))
                        assert not peer.connection.transfers
                        assert not peer.connection._descriptors
                    it.peers.clear()
    finally:
        shutil.rmtree(directory)
