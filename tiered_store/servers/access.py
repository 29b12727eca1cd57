"""Who may do what: credentials in, a :class:`Grant` out. Knows no wire, no status and no store.

The rules, which docs/security.md states for operators:

- A known token decides alone. Without one the way in decides: the credentials of a unix socket's peer, or, for a TCP
  peer, whether the door is open to this machine. An unknown token is none, so that tools that must be given some word
  as a token can be given any.
- Entries of build caches are ordinary objects under reserved names. Only an administrator touches those by key: all
  others reach them through :meth:`Grant.place`, which knows instances and quarantines.
- Artifacts have one name here, ``sha256:``. Their names at the origin are reserved, too: a rule for those would be one
  for artifacts that does not look like it. Only an administrator deletes artifacts, which are many owners' at once.
- What a grant says depends on the key alone and never on what is stored, so no refusal tells whether a key exists.
"""

from __future__ import annotations

import enum
import functools
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from tiered_store.build.entry import ENTRY_PREFIX, QUARANTINE_PREFIX, Place
from tiered_store.key import ARTIFACT_DIRECTORY, ARTIFACT_PREFIX
from tiered_store.servers.credentials import hash_of
from tiered_store.servers.sockets import PeerCredentials

__all__ = [
    "EVERY_INSTANCE",
    "AccessSettings",
    "Anonymous",
    "Caller",
    "Gate",
    "Grant",
    "PeerRule",
    "Right",
    "Role",
    "Rule",
    "TokenRule",
    "beyond_hidden",
    "is_own_name",
]

Role: TypeAlias = Literal["read", "write", "admin"]
#: What somebody without credentials may do with a build cache's instance, or with objects, where the door lets such in
#: at all.
Anonymous: TypeAlias = Literal["none", "read", "write"]

#: In a list of instances: all of them.
EVERY_INSTANCE: Final = "*"
_RESERVED: Final = (ENTRY_PREFIX, QUARANTINE_PREFIX, ARTIFACT_DIRECTORY)
#: A name, or an address in brackets, and a port; or an address of IPv6 alone.
_HOST: Final = re.compile(r"(?:\[([0-9a-f:.]+)\]|([0-9a-z._\-]+))(?::[0-9]{0,5})?\Z|([0-9a-f:.]+)\Z")
#: The last of all characters, in the order of UTF-8's bytes.
_LAST: Final = "\U0010ffff"
#: An object under such a name would keep a local origin from making the directory.
_RESERVED_NAMES: Final = frozenset({*(prefix.removesuffix("/") for prefix in _RESERVED), "artifacts"})


class Right(enum.Enum):
    """What can be allowed."""

    READ = "read"
    """To read an object, ask about it, and copy from it."""
    WRITE = "write"
    """To put an object, and copy to it."""
    DELETE = "delete"
    """To delete an object; an artifact only for who has :attr:`ADMIN`."""
    LIST = "list"
    """To see which objects there are."""
    ADMIN = "admin"
    """To see and do what concerns everybody: statistics, and the entries of all build caches by key."""


_RIGHTS: Final[Mapping[Role, frozenset[Right]]] = {
    "read": frozenset({Right.READ}),
    "write": frozenset({Right.READ, Right.WRITE, Right.DELETE}),
    "admin": frozenset(Right),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What somebody who is known may do.

    Attributes:
        name: for logs, and of the quarantine; no secret.
        role: what may be done.
        prefixes: with which objects: the beginnings of their keys.
        can_list: whether listings are allowed, below those prefixes.
        instances: with which build caches; ``*`` is all.
        quarantine: whether what is written to build caches is seen by this writer alone.
    """

    name: str
    role: Role
    prefixes: tuple[str, ...] = ("",)
    can_list: bool = False
    instances: frozenset[str] = frozenset({EVERY_INSTANCE})
    quarantine: bool = False


@dataclass(frozen=True, slots=True)
class TokenRule:
    """A token's rule, and the sha256 by which the token is known, as 64 lowercase hex digits."""

    rule: Rule
    digest: str


@dataclass(frozen=True, slots=True)
class PeerRule:
    """The rule of a unix socket's peers with this user and this group; None is any."""

    rule: Rule
    uid: int | None = None
    gid: int | None = None

    def fits(self, peer: PeerCredentials) -> bool:
        """Whether it is about this peer."""
        return self.uid in {None, peer.uid} and self.gid in {None, peer.gid}


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Everything a gate knows.

    Attributes:
        tokens: rules by token.
        peers: rules by who is at the other end of a unix socket, the first that fits; without any, whoever may open
            the socket may do everything, as on the native one.
        is_open: whether somebody without credentials is let in over TCP, from this machine.
        anonymous: what such a one may do with a build cache, by its instance; ``*`` is for those not named.
        anonymous_objects: and with objects.
    """

    tokens: Sequence[TokenRule] = ()
    peers: Sequence[PeerRule] = ()
    is_open: bool = False
    anonymous: Mapping[str, Anonymous] = field(default_factory=dict)
    anonymous_objects: Anonymous = "read"


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of whoever asks.

    Attributes:
        token: what was presented as one, or empty.
        peer: of a unix socket; None on TCP.
        is_local: on TCP, whether the request is one of a program on this machine (see :func:`is_own_name`).
    """

    token: str = ""
    peer: PeerCredentials | None = None
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class Grant:
    """What one caller may do.

    Attributes:
        name: who it is, for logs; never a secret.
        is_known: whether the caller proved who it is, so that other credentials are the only remedy for a refusal.
    """

    name: str
    is_known: bool
    _rights: frozenset[Right]
    _prefixes: tuple[str, ...]
    _instances: Mapping[str, frozenset[Right]]
    _writer: str = ""

    def may(self, right: Right, key: str = "") -> bool:
        """Whether this right is given for a key; for :attr:`Right.LIST`, for what a listing of a prefix may show.

        Args:
            right: what is wanted. A listing shows only keys that may be read: whoever lists has to leave out others.
            key: a key, or the prefix of a listing. Unused for :attr:`Right.ADMIN`.
        """
        if Right.ADMIN in self._rights:
            return True
        if right is Right.DELETE and key.startswith(ARTIFACT_PREFIX):
            return False
        return right in self._rights and key.startswith(self._prefixes) and not _is_reserved(key)

    def may_any(self, right: Right) -> bool:
        """Whether the right is given for any key at all."""
        return right in self._rights and bool(self._prefixes)

    def may_all(self, right: Right, prefix: str) -> bool:
        """Whether the right is given for every key that begins with a prefix, whatever there is or will be."""
        kept = (*_RESERVED, ARTIFACT_PREFIX) if right is Right.DELETE else _RESERVED
        hides = any(reserved.startswith(prefix) for reserved in kept)
        return self.may(right, prefix) and (not hides or Right.ADMIN in self._rights)

    def place(self, dialect: str, instance: str, right: Right) -> Place | None:
        """Where this caller's entries of a build cache are; None where it may not do that.

        Where it is a quarantine, reads go there first, and then to what everybody sees (``Place.writer`` empty).

        Raises:
            InvalidKey: no dialect or instance can have this name.
        """
        place = _place(dialect, instance, self._writer)
        rights = self._instances.get(instance)
        if rights is None:
            rights = self._instances.get(EVERY_INSTANCE, frozenset())
        return place if right in rights else None


@functools.lru_cache(maxsize=1024)
def _place(dialect: str, instance: str, writer: str) -> Place:
    """A place, whose names are looked at once and not with each request."""
    return Place(dialect, instance, writer)


def beyond_hidden(key: str) -> str:
    """After which key a listing goes on that has come to one that it may not show: the last there could be with it.

    Whoever may list something may read all of that but what is reserved. So nothing that could be shown is left out,
    pages full of hidden keys are not fetched, and where a listing goes on tells no reserved key.
    """
    reserved = next((prefix for prefix in _RESERVED if key.startswith(prefix)), "")
    return reserved + _LAST if reserved else key


def _is_reserved(key: str) -> bool:
    return key.startswith(_RESERVED) or key in _RESERVED_NAMES


class Gate:
    """Says of each caller what it may do, by rules that can be replaced.

    Attributes:
        version: another one with each replacement; whoever keeps a grant for longer than a request asks again then.
    """

    def __init__(self, settings: AccessSettings) -> None:
        self.version = 0
        self.replace(settings)

    def replace(self, settings: AccessSettings) -> None:
        """Judge by these rules from now on."""
        self.version += 1
        self._tokens = [(known.digest, _grant_of("token", known.rule)) for known in settings.tokens]
        self._peers = [(known, _grant_of("peer", known.rule)) for known in settings.peers]
        self._everybody = _grant_of("unix socket", Rule("", "admin"))
        self._nobody = Grant("nobody", False, frozenset(), (), {})
        self._anonymous = _open_grant(settings) if settings.is_open else self._nobody

    def of(self, caller: Caller) -> Grant:
        """What a caller may do."""
        known = self._of_token(caller.token) if caller.token else None
        if known is not None:
            return known
        if caller.peer is not None:
            return self._of_peer(caller.peer)
        return self._anonymous if caller.is_local else self._nobody

    def _of_token(self, token: str) -> Grant | None:
        """The grant of a token; takes as long whichever of them it is, and if it is none."""
        digest, found = hash_of(token), None
        for known, grant in self._tokens:
            if hmac.compare_digest(known, digest):
                found = grant
        return found

    def _of_peer(self, peer: PeerCredentials) -> Grant:
        if not self._peers:
            return self._everybody
        return next((grant for rule, grant in self._peers if rule.fits(peer)), self._nobody)


def _grant_of(kind: str, rule: Rule) -> Grant:
    rights = _RIGHTS[rule.role] | ({Right.LIST} if rule.can_list else frozenset())
    in_caches = rights & {Right.READ, Right.WRITE}
    instances = dict.fromkeys(rule.instances, in_caches)
    writer = rule.name if rule.quarantine else ""
    return Grant(f"{kind} {rule.name}".rstrip(), True, rights, rule.prefixes, instances, writer)


def _open_grant(settings: AccessSettings) -> Grant:
    """Programs of this machine, where the operator has opened the door to them. They list nothing."""

    def rights(kind: Anonymous) -> frozenset[Right]:
        return frozenset() if kind == "none" else _RIGHTS[kind]

    named: Mapping[str, Anonymous] = {EVERY_INSTANCE: "read", **settings.anonymous}
    in_caches = {name: rights(kind) for name, kind in named.items()}
    return Grant("anonymous", False, rights(settings.anonymous_objects), ("",), in_caches)


def is_own_name(host: str) -> bool:
    """Whether a ``Host`` header names this machine's loopback: ``localhost`` or such an address; a port may follow.

    A page in a browser reaches a loopback address, too, under a name of its own that it has had resolved to it (DNS
    rebinding). Its requests carry that name, and are no requests of this machine's programs.
    """
    found = _HOST.match(host.strip().lower())
    return found is not None and _is_own(found[1] or found[2] or found[3])


@functools.lru_cache(maxsize=64)
def _is_own(name: str) -> bool:
    """The same of the name alone."""
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761: never resolved to anything else
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
