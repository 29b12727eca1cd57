"""What a request of ccache means: a key of the place that this socket stands for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from tiered_store.build.cache import BuildCache
from tiered_store.build.entry import Place
from tiered_store.errors import InvalidKey, PermissionDenied, StoreError
from tiered_store.servers.access import Caller, Gate, Right
from tiered_store.servers.crsh.codec import (
    DONE,
    GREETING,
    NOTHING,
    CrshReader,
    Operation,
    Request,
    error,
    found,
    identity,
    presence,
)
from tiered_store.servers.instances import Instances
from tiered_store.servers.intake import Intake
from tiered_store.servers.serial import Output
from tiered_store.servers.sockets import PeerCredentials
from tiered_store.store.spool import Staged

__all__ = ["CrshSession", "CrshSettings"]

_log = logging.getLogger("tiered_store.crsh")

#: Keys are hashes, of 20 bytes so far; in hex they have to fit the name of a file.
_KEY_MIN_BYTES: Final = 2
_KEY_MAX_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class CrshSettings:
    """What the door is told.

    Attributes:
        instance: whose keys they are.
        read_only: whether nobody may store anything.
        stop: what a request to stop does; None: it is refused.
        name: how the door names itself.
    """

    instance: str = "default"
    read_only: bool = False
    stop: Callable[[], None] | None = None
    name: str = "tiered_store"


class CrshSession:
    """One client. Its keys are those that ccache's HTTP storage has under the same instance.

    Args:
        cache: where everything is.
        gate: says what a client may do, by who it is.
        instances: what that comes to, for the instances of this dialect.
        settings: see there.
        output: where answers go.
        peer: who it is.
    """

    greeting = GREETING

    def __init__(
        self,
        cache: BuildCache,
        gate: Gate,
        instances: Instances,
        settings: CrshSettings,
        output: Output,
        peer: PeerCredentials,
    ) -> None:
        self._cache = cache
        self._settings = settings
        self._output = output
        self._gate = gate
        self._instances = instances
        self._peer = peer
        self.reader = CrshReader()
        self.is_over = False
        self._judge()

    def _judge(self) -> None:
        """Ask what this client may do."""
        self._granted_by = self._gate.version
        self._grant = self._gate.of(Caller(peer=self._peer))
        self._place, self._may_store = self._instances.of(self._grant, self._settings.instance)

    def refusal(self) -> StoreError | None:
        """See ``serial.Session``."""
        if self._granted_by != self._gate.version:
            self._judge()
        return None if self._may_store else self._denial()

    def _denial(self) -> PermissionDenied:
        if self._settings.read_only:
            return PermissionDenied("this door is read-only (crsh.read_only)")
        return PermissionDenied(f"{self._grant.name} may not store anything in {self._settings.instance}")

    def failure(self, fault: StoreError) -> bytes:
        """See ``serial.Session``."""
        return error(str(fault))

    def at_once(self, command: Request) -> bytes | None:
        """See ``serial.Session``. Every command comes by here first, so that each is judged by the rules there are."""
        if self._granted_by != self._gate.version:
            self._judge()
        if command.operation is Operation.GET and self._place is not None:
            hit = self._cache.peek(self._place, name_of(command.key))
            if hit is not None and isinstance(hit.body, bytes):
                return found(len(hit.body)) + hit.body
        return None

    async def answer(self, command: Request, intake: Intake | None) -> None:
        """See ``serial.Session``."""
        operation = command.operation
        if operation is Operation.GET:
            await self._get(name_of(command.key))
        elif operation is Operation.PUT:
            self._output.send(DONE if await self._put(command, intake) else NOTHING)
        elif operation is Operation.EXISTS:
            place, name = self._place, name_of(command.key)
            entry = None if place is None else await self._cache.head(place, name)
            self._output.send(presence(is_there=entry is not None))
        elif operation is Operation.REMOVE:
            is_removed = await self._cache.remove(self._place_to_write(), name_of(command.key))
            self._output.send(DONE if is_removed else NOTHING)
        elif operation is Operation.INFO:
            self._output.send(identity(self._settings.name))
        else:
            self._stop()

    async def _get(self, name: str) -> None:
        hit = None if self._place is None else await self._cache.get(self._place, name)
        if hit is None:
            self._output.send(NOTHING)
        elif isinstance(hit.body, bytes):
            self._output.send(found(len(hit.body)) + hit.body)
        else:
            damaged = partial(self._cache.unreadable, "ccache", hit.entry)
            await self._output.send_file(found(hit.body.size), hit.body, b"", damaged)

    async def _put(self, request: Request, intake: Intake | None) -> bool:
        place, name = self._place_to_write(), name_of(request.key)
        staged = await intake.finish() if intake is not None else Staged.of_bytes(request.value, hashed=True)
        return await self._cache.put(place, name, staged, overwrite=request.overwrite)

    def _place_to_write(self) -> Place:
        if self._place is None or not self._may_store:
            raise self._denial()
        return self._place

    def _stop(self) -> None:
        if self._settings.stop is None or not self._grant.may(Right.ADMIN):
            raise PermissionDenied("this server is not stopped by its clients (crsh.allow_stop)")
        _log.warning("a client asks for the stop")
        self._output.send(DONE)
        self._settings.stop()


def name_of(key: bytes) -> str:
    """The name of a key: in hex, spread over 256 directories, as ccache itself writes it into an HTTP storage.

    Raises:
        InvalidKey: it is too short or too long for any hash.
    """
    if not _KEY_MIN_BYTES <= len(key) <= _KEY_MAX_BYTES:
        raise InvalidKey(f"a key has {_KEY_MIN_BYTES} to {_KEY_MAX_BYTES} bytes, this one has {len(key)}")
    digits = key.hex()
    return f"{digits[:2]}/{digits[2:]}"
