"""A small door over a build cache, in the test's own event loop, and clients that speak to it by hand."""

from __future__ import annotations

import asyncio
import shutil
import struct
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.build import BuildRig, build_rig
from tiered_store.build.cache import BuildLimits
from tiered_store.servers.access import AccessSettings, Gate
from tiered_store.servers.crsh.codec import NO_GREETING, Operation
from tiered_store.servers.crsh.session import CrshSession, CrshSettings
from tiered_store.servers.instances import Instances
from tiered_store.servers.resp.codec import bulk, error
from tiered_store.servers.resp.session import RespSession, RespSettings
from tiered_store.servers.serial import SerialConnection, SerialDoor, SerialLimits
from tiered_store.servers.sockets import bind_unix

__all__ = ["CRSH_KEY", "ServedDoor", "array", "asked", "crsh_door", "crsh_put", "resp_door"]

#: As ccache makes them.
CRSH_KEY = bytes(range(20))
_LIMIT_S = 20.0
_RESP, _CRSH, _EVERYBODY = RespSettings(), CrshSettings(), AccessSettings()
_LIMITS, _PATIENT = SerialLimits(), BuildLimits(read_timeout_s=60.0)


def array(*words: bytes | str) -> bytes:
    """A command of Redis."""
    raw = [word.encode() if isinstance(word, str) else word for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(map(bulk, raw))


def asked(operation: Operation, key: bytes = CRSH_KEY) -> bytes:
    """A request of ccache with a key."""
    return bytes([operation, len(key)]) + key


def crsh_put(value: bytes, key: bytes = CRSH_KEY, *, overwrite: bool = True) -> bytes:
    """A put of ccache."""
    return asked(Operation.PUT, key) + bytes([overwrite]) + struct.pack("=Q", len(value)) + value


class Talker:
    """A client: bytes out, bytes in, and no wait without an end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(_LIMIT_S):
            await self.writer.drain()

    async def hear(self, size: int) -> bytes:
        """So many bytes."""
        async with asyncio.timeout(_LIMIT_S):
            return await self._reader.readexactly(size)

    async def line(self) -> bytes:
        """One line, without its end."""
        async with asyncio.timeout(_LIMIT_S):
            return (await self._reader.readuntil(b"\r\n"))[:-2]

    async def rest(self) -> bytes:
        """All until the door ends the connection."""
        async with asyncio.timeout(_LIMIT_S):
            return await self._reader.read()

    async def ask(self, *words: bytes | str) -> Any:
        """A command of Redis, and its reply."""
        await self.say(array(*words))
        return await self.reply()

    async def reply(self) -> Any:
        """A reply of Redis: errors and simple strings as they stand, numbers, bytes, None, lists."""
        line = await self.line()
        kind, rest = line[:1], line[1:]
        if kind in b"+-":
            return line.decode()
        if kind == b":":
            return int(rest)
        if kind == b"_" or rest == b"-1":
            return None
        if kind == b"$":
            return (await self.hear(int(rest) + 2))[:-2]
        return [await self.reply() for _ in range(int(rest) * (2 if kind == b"%" else 1))]


@dataclass
class ServedDoor:
    """A door that accepts."""

    build: BuildRig
    door: SerialDoor
    path: Path
    _talkers: list[Talker] = field(default_factory=list)

    async def connect(self) -> Talker:
        """A new client."""
        talker = Talker(*await asyncio.open_unix_connection(str(self.path), limit=2**20))
        self._talkers.append(talker)
        return talker

    @property
    def connections(self) -> set[SerialConnection]:
        """The door's ends."""
        return self.door._acceptor._peers

    def check(self, later_s: float) -> None:
        """Let the door look after its connections as it would in so many seconds."""
        now = asyncio.get_running_loop().time()
        for connection in list(self.connections):
            connection.check(now + later_s)

    async def close(self) -> None:
        for talker in self._talkers:
            talker.writer.close()
        await self.door.drain(5.0)


@asynccontextmanager
async def resp_door(
    settings: RespSettings = _RESP, access: AccessSettings = _EVERYBODY, **options: Any
) -> AsyncIterator[ServedDoor]:
    """A door that speaks Redis' protocol."""

    def make(build: BuildRig) -> Callable[..., RespSession]:
        instances = Instances("resp", read_only=settings.read_only)
        return partial(RespSession, build.cache, Gate(access), instances, settings)

    async with _served("resp", make, lambda refusal: error(str(refusal)), **options) as served:
        yield served


@asynccontextmanager
async def crsh_door(
    settings: CrshSettings = _CRSH, access: AccessSettings = _EVERYBODY, **options: Any
) -> AsyncIterator[ServedDoor]:
    """A door that speaks with ccache."""

    def make(build: BuildRig) -> Callable[..., CrshSession]:
        instances = Instances("ccache", read_only=settings.read_only)
        return partial(CrshSession, build.cache, Gate(access), instances, settings)

    async with _served("crsh", make, lambda _: NO_GREETING, **options) as served:
        yield served


@asynccontextmanager
async def _served(
    name: str,
    make: Callable[..., Any],
    refuse: Callable[..., bytes],
    limits: SerialLimits = _LIMITS,
    build: BuildLimits = _PATIENT,
    **options: Any,
) -> AsyncIterator[ServedDoor]:
    directory = tempfile.mkdtemp(prefix="ts-")
    try:
        async with build_rig(build, **options) as rig:
            with bind_unix(Path(directory) / "s") as listener:
                door = SerialDoor(name, rig.cache, listener.socket, limits=limits, session=make(rig), refuse=refuse)
                door.start()
                served = ServedDoor(rig, door, listener.path)
                try:
                    yield served
                finally:
                    await served.close()
    finally:
        shutil.rmtree(directory)
