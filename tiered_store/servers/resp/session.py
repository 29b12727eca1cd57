"""What Redis' commands mean here: as much of them as caches use, and an error for everything else.

Deliberate differences from Redis: a fault is a miss (``build/cache.py``), what is over its time is found missing but
not removed, and nothing is evicted by command.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from tiered_store.build.cache import BuildCache, Found
from tiered_store.errors import PermissionDenied, ProtocolError, StoreError
from tiered_store.servers.access import Caller, Gate, Grant
from tiered_store.servers.instances import Instances
from tiered_store.servers.intake import Intake
from tiered_store.servers.resp.codec import NULL, NULL_3, OK, RespReader, bulk, error
from tiered_store.servers.resp.values import Values, lifetime, set_options
from tiered_store.servers.serial import Output
from tiered_store.servers.sockets import PeerCredentials

__all__ = ["DATABASES", "RespSession", "RespSettings"]

#: As many as Redis has by default.
DATABASES: Final = 16
_ids = itertools.count(1)
#: The first version that knew HELLO: clients that go by it expect no more than is here.
_REDIS_VERSION: Final = "6.0.0"


@dataclass(frozen=True, slots=True)
class RespSettings:
    """What the door is told.

    Attributes:
        instance: whose keys database 0 is; others are ``<instance>.<number>``.
        read_only: whether nobody may store anything, whatever the gate says.
        version: of this program, for INFO.
    """

    instance: str = "default"
    read_only: bool = False
    version: str = ""


class RespSession:
    """One client.

    Args:
        cache: where everything is.
        gate: says what a client may do, by who it is and by its password, which is a token.
        instances: what that comes to, for the instances of this dialect.
        settings: see there.
        output: where answers go.
        peer: who it is.
    """

    greeting = b""

    def __init__(
        self,
        cache: BuildCache,
        gate: Gate,
        instances: Instances,
        settings: RespSettings,
        output: Output,
        peer: PeerCredentials,
    ) -> None:
        self._cache = cache
        self._gate = gate
        self._settings = settings
        self._instances = instances
        self._output = output
        self._peer = peer
        self._id = next(_ids)
        self._name = b""
        self._null = NULL
        self._instance = settings.instance
        self.reader = RespReader({b"SET": 2, b"SETEX": 3})
        self._token = ""
        self.is_over = False
        self._judge()

    def _judge(self) -> None:
        """Ask what this client may do."""
        self._granted_by = self._gate.version
        self._enter(self._gate.of(Caller(self._token, self._peer)))

    def _enter(self, grant: Grant) -> None:
        """From now on this client may do this."""
        self._grant = grant
        place, self._may_store = self._instances.of(grant, self._instance)
        self._values = None if place is None else Values(self._cache, place)
        self.reader.is_trusted = place is not None

    def refusal(self) -> StoreError | None:
        """See ``serial.Session``."""
        if self._granted_by != self._gate.version:
            self._judge()
        if self._may_store:
            return None
        if self._settings.read_only:
            return PermissionDenied("this door is read-only (resp.read_only)")
        return PermissionDenied(f"{self._grant.name} may not store anything in {self._instance}")

    def failure(self, fault: StoreError) -> bytes:
        """See ``serial.Session``."""
        if isinstance(fault, ProtocolError):
            return error(f"Protocol error: {fault.message}")
        if isinstance(fault, PermissionDenied):
            return error(fault.message, "READONLY" if self._settings.read_only else "NOPERM")
        return error(str(fault))

    def at_once(self, command: list[bytes]) -> bytes | None:
        """See ``serial.Session``. Every command comes by here first, so that each is judged by the rules there are."""
        if self._granted_by != self._gate.version:
            self._judge()
        if len(command) == 2 and command[0].upper() == b"GET" and self._values is not None:
            found = self._values.peek(command[1])
            if found is not None and isinstance(found.body, bytes):
                return bulk(found.body)
        return None

    async def answer(self, command: list[bytes], intake: Intake | None) -> None:
        """See ``serial.Session``."""
        name = command[0].upper()
        rule = _COMMANDS.get(name)
        if self._values is None and name not in _FOR_STRANGERS:
            reply: bytes | None = error("Authentication required.", "NOAUTH")
        elif rule is None:
            reply = error(f"unknown command '{_shown(command[0])}'")
        elif not rule.fewest <= len(command) - 1 <= rule.most:
            reply = error(f"wrong number of arguments for '{_shown(name.lower())}' command")
        elif rule.stores and (refusal := self.refusal()) is not None:
            raise refusal
        else:
            reply = await rule.answer(self, command, intake)
        if reply:
            self._output.send(reply)

    @property
    def _here(self) -> Values:
        """The values of the current database; only asked by commands that a stranger cannot give."""
        assert self._values is not None
        return self._values

    # -- reading and storing ------------------------------------------------------------------------

    async def _get(self, command: list[bytes], _: Intake | None) -> bytes | None:
        return await self._send_value(await self._here.get(command[1]))

    async def _mget(self, command: list[bytes], _: Intake | None) -> bytes | None:
        """One value after the other, at the pace of the reader: all of them together may be many times the memory.

        Misses may take the time of one read together. After that the origin is down or slow, and only what needs no
        wait is given: else a command of many keys would take that time for each.
        """
        self._output.send(b"*%d\r\n" % (len(command) - 1))
        values, missed_s = self._here, 0.0
        for key in command[1:]:
            if not await self._output.writable():
                return None
            if missed_s < self._cache.read_timeout_s:
                begun = time.monotonic()
                found = await values.get(key)
                missed_s += 0.0 if found is not None else time.monotonic() - begun
            else:
                found = values.peek(key)
            reply = await self._send_value(found)
            if reply is not None:
                self._output.send(reply)
        return None

    async def _send_value(self, found: Found | None) -> bytes | None:
        """The reply with a value; None if it has been sent already."""
        if found is None:
            return self._null
        if isinstance(found.body, bytes):
            return bulk(found.body)
        damaged = partial(self._cache.unreadable, "resp", found.entry)
        await self._output.send_file(b"$%d\r\n" % found.body.size, found.body, b"\r\n", damaged)
        return None

    async def _set(self, command: list[bytes], intake: Intake | None) -> bytes:
        options = set_options(command[3:])
        if isinstance(options, str):
            return error(options)
        is_stored = await self._here.put(command[1], command[2] if intake is None else intake, options)
        return OK if is_stored else self._null

    async def _setex(self, command: list[bytes], intake: Intake | None) -> bytes:
        options = lifetime(command[2], 1000)
        if isinstance(options, str):
            return error(options.replace("'set'", "'setex'"))
        await self._here.put(command[1], command[3] if intake is None else intake, options)
        return OK

    async def _exists(self, command: list[bytes], _: Intake | None) -> bytes:
        return b":%d\r\n" % await self._here.count(command[1:])

    async def _del(self, command: list[bytes], _: Intake | None) -> bytes:
        return b":%d\r\n" % await self._here.remove(command[1:])

    # -- about the connection -----------------------------------------------------------------------

    async def _ping(self, command: list[bytes], _: Intake | None) -> bytes:
        return bulk(command[1]) if len(command) > 1 else b"+PONG\r\n"

    async def _quit(self, _command: list[bytes], _: Intake | None) -> bytes:
        self.is_over = True
        return OK

    async def _select(self, command: list[bytes], _: Intake | None) -> bytes:
        if not command[1].isdigit():
            return error("value is not an integer or out of range")
        number = int(command[1][:9])
        if number >= DATABASES:
            return error("DB index is out of range")
        self._instance = f"{self._settings.instance}.{number}" if number else self._settings.instance
        self._enter(self._grant)
        return OK

    async def _auth(self, command: list[bytes], _: Intake | None) -> bytes:
        return self._login(command[1:])

    def _login(self, words: list[bytes]) -> bytes:
        """Take a password, which is a token; the name of the only user there is may come before it.

        A word that is no token changes nothing: it is as good as none, which may be good enough.
        """
        token = words[-1].decode("utf-8", "surrogateescape")
        grant = self._gate.of(Caller(token, self._peer))
        place, _ = self._instances.of(grant, self._instance)
        if place is None or (len(words) > 1 and words[0] != b"default"):
            return error("invalid username-password pair or user is disabled.", "WRONGPASS")
        self._token = token
        self._enter(grant)
        return OK

    async def _hello(self, command: list[bytes], _: Intake | None) -> bytes:
        """Who speaks, and in which version. Of version 3 there is as much as can be met here: a null and a map.

        It is there because some clients speak nothing else unless they are told to.
        """
        words = command[2:]
        version = command[1] if len(command) > 1 else b""
        if version not in {b"", b"2", b"3"}:
            return error("unsupported protocol version", "NOPROTO")
        while words:
            option = words[0].upper()
            if option == b"AUTH" and len(words) > 2:
                if (reply := self._login(words[1:3])) != OK:
                    return reply
                words = words[3:]
            elif option == b"SETNAME" and len(words) > 1:
                self._name = words[1]
                words = words[2:]
            else:
                return error(f"syntax error in HELLO option '{_shown(words[0])}'")
        if self._values is None:
            return error("HELLO must be called with the client already authenticated", "NOAUTH")
        if version:
            self._null = NULL if version == b"2" else NULL_3
        is_third = self._null is NULL_3
        told = {
            b"server": bulk(b"redis"),
            b"version": bulk(_REDIS_VERSION.encode()),
            b"proto": b":3\r\n" if is_third else b":2\r\n",
            b"id": b":%d\r\n" % self._id,
            b"mode": bulk(b"standalone"),
            b"role": bulk(b"master"),
            b"modules": b"*0\r\n",
        }
        head = b"%%%d\r\n" % len(told) if is_third else b"*%d\r\n" % (2 * len(told))
        return head + b"".join(bulk(name) + value for name, value in told.items())

    async def _client(self, command: list[bytes], _: Intake | None) -> bytes:
        what = command[1].upper()
        if what == b"ID":
            return b":%d\r\n" % self._id
        if what == b"GETNAME":
            return bulk(self._name)
        if what == b"SETNAME" and len(command) == 3:
            self._name = command[2]
            return OK
        if what == b"SETINFO" and len(command) == 4:
            return OK
        return error(f"unknown subcommand '{_shown(command[1])}'")

    async def _command(self, command: list[bytes], _: Intake | None) -> bytes:
        if len(command) > 1 and command[1].upper() == b"COUNT":
            return b":%d\r\n" % len(_COMMANDS)
        return b"*0\r\n"

    async def _info(self, _command: list[bytes], _: Intake | None) -> bytes:
        stats = self._cache.stats_of("resp")
        lines = [
            "# Server",
            "server_name:tiered_store",
            f"redis_version:{_REDIS_VERSION}",
            f"tiered_store_version:{self._settings.version}",
            "redis_mode:standalone",
            "# Stats",
            f"keyspace_hits:{stats.hits}",
            f"keyspace_misses:{stats.misses}",
        ]
        return bulk("".join(f"{line}\r\n" for line in lines).encode())


@dataclass(frozen=True, slots=True)
class _Rule:
    answer: Callable[[RespSession, list[bytes], Intake | None], Awaitable[bytes | None]]
    fewest: int
    most: int
    stores: bool = False


_MANY: Final = 2**31
# The methods of the class above, which are nobody else's.
# ruff: noqa: SLF001
_COMMANDS: Final[Mapping[bytes, _Rule]] = {
    b"GET": _Rule(RespSession._get, 1, 1),
    b"SET": _Rule(RespSession._set, 2, _MANY, stores=True),
    b"SETEX": _Rule(RespSession._setex, 3, 3, stores=True),
    b"MGET": _Rule(RespSession._mget, 1, _MANY),
    b"EXISTS": _Rule(RespSession._exists, 1, _MANY),
    b"DEL": _Rule(RespSession._del, 1, _MANY, stores=True),
    b"PING": _Rule(RespSession._ping, 0, 1),
    b"QUIT": _Rule(RespSession._quit, 0, _MANY),
    b"SELECT": _Rule(RespSession._select, 1, 1),
    b"AUTH": _Rule(RespSession._auth, 1, 2),
    b"HELLO": _Rule(RespSession._hello, 0, _MANY),
    b"CLIENT": _Rule(RespSession._client, 1, _MANY),
    b"COMMAND": _Rule(RespSession._command, 0, _MANY),
    b"INFO": _Rule(RespSession._info, 0, _MANY),
}
_FOR_STRANGERS: Final = frozenset({b"AUTH", b"HELLO", b"QUIT"})


def _shown(word: bytes) -> str:
    return word[:128].decode("ascii", "replace")
