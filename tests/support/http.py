"""An HTTP door over a real store, in the test's own event loop, and ways to speak to it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from tests.support.store import Rig, store_rig
from tiered_store.servers.access import AccessSettings, Gate
from tiered_store.servers.http.door import HttpDoor, Listening
from tiered_store.servers.http.exchange import Mount, Mounts
from tiered_store.servers.http.limits import HttpLimits
from tiered_store.store.limits import StoreLimits

__all__ = ["Answer", "ServedHttp", "door_over", "served_http"]


_STORE_LIMITS = StoreLimits()


@dataclass
class Answer:
    """A whole answer."""

    status: int
    headers: Any
    body: bytes


@dataclass
class ServedHttp:
    """A door that is open."""

    door: HttpDoor
    rig: Rig
    path: str
    session: aiohttp.ClientSession

    async def ask(self, method: str, target: str, data: Any = None, **headers: str) -> Answer:
        """Send a request; ``target`` goes out as it stands, and ``x_meta_a`` becomes ``x-meta-a``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = URL("http://door" + target, encoded=True)
        async with self.session.request(method, url, data=data, headers=named) as response:
            return Answer(response.status, response.headers, await response.read())

    async def raw(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own; everything that comes back until the door closes it."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            writer.write(data)
            async with asyncio.timeout(20):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def served_http(
    *mounts: Mount,
    limits: HttpLimits | None = None,
    access: AccessSettings | None = None,
    cors_origins: Collection[str] = (),
    store_limits: StoreLimits = _STORE_LIMITS,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[ServedHttp]:
    """A door with these mounts; closed at the end, when nothing of any connection may be left.

    Args:
        mounts: who answers.
        limits: of the door.
        access: who may do what; everybody everything if None.
        cors_origins: whose pages may use it.
        store_limits: of the store.
        tls: makes connections secret; the session then cannot be used.
        options: of ``store_rig``, which is there when the mounts are asked for.
    """
    async with (
        store_rig(limits=store_limits, **options) as rig,
        door_over(rig, mounts, limits=limits, access=access, cors_origins=cors_origins, tls=tls) as it,
    ):
        yield it


@asynccontextmanager
async def door_over(
    rig: Rig,
    mounts: Iterable[Mount],
    *,
    limits: HttpLimits | None = None,
    access: AccessSettings | None = None,
    cors_origins: Collection[str] = (),
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[ServedHttp]:
    """As :func:`served_http`, over a store that is there."""
    directory = tempfile.mkdtemp(prefix="ts-")
    try:
        gate = Gate(access or AccessSettings())
        door = HttpDoor(rig.store, Mounts(*mounts), limits=limits or HttpLimits(), gate=gate, cors_origins=cors_origins)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(f"{directory}/h")
            listener.listen(64)
            await door.start([Listening(listener, tls)])
            session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(f"{directory}/h"), auto_decompress=False)
            try:
                yield ServedHttp(door, rig, f"{directory}/h", session)
            finally:
                await session.close()
                rig.origin.heal()
                await door.drain(5.0)
        del session, door
    finally:
        shutil.rmtree(directory)
