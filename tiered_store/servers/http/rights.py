"""Who asks over HTTP: from a connection and a request's headers to what ``access`` wants to know, and refusals.

Invariant: a refusal is given before anything is looked for, and says the same whether there is something or not.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from multidict import CIMultiDictProxy

from tiered_store.build.entry import Place
from tiered_store.errors import InvalidKey
from tiered_store.servers.access import Caller, Grant, Right, is_own_name
from tiered_store.servers.credentials import token_of
from tiered_store.servers.http.problems import Refusal
from tiered_store.servers.sockets import PeerCredentials, peer_credentials

__all__ = ["Right", "Sender", "caller_of", "granted_place", "refusal_of_right", "sender_of"]

#: Only this scheme is offered. Browsers would ask people for a user and a password, and then send them for pages
#: of others, too, if it were Basic.
_CHALLENGE: Final = 'Bearer realm="tiered_store"'


@dataclass(frozen=True, slots=True)
class Sender:
    """Who is at the other end of a connection.

    Attributes:
        peer: of a unix socket; None on TCP.
        is_loopback: on TCP, whether the address is this machine's own.
    """

    peer: PeerCredentials | None = None
    is_loopback: bool = False


def sender_of(transport: asyncio.BaseTransport) -> Sender:
    """Who has connected. One that has gone already is nobody."""
    connection = transport.get_extra_info("socket")
    if connection is None:
        return Sender()
    try:
        if connection.family == socket.AF_UNIX:
            return Sender(peer=peer_credentials(connection))
        return Sender(is_loopback=_is_loopback(transport.get_extra_info("peername")[0]))
    except (OSError, ValueError, TypeError, LookupError):
        return Sender()


@functools.lru_cache(maxsize=64)
def _is_loopback(text: str) -> bool:
    """Whether an address is this machine's own. Raises ValueError where it is none."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def caller_of(sender: Sender, headers: CIMultiDictProxy[str], cors_origins: Collection[str]) -> Caller:
    """What is known of whoever sent a request.

    Args:
        sender: of its connection.
        headers: of the request.
        cors_origins: whose pages may use this door.
    """
    said = headers.getall("Authorization", ())
    token = token_of(said[0]) if len(said) == 1 else ""  # of two, somebody in between may have believed the other
    return Caller(token, sender.peer, sender.is_loopback and _is_programs_own(headers, cors_origins))


def _is_programs_own(headers: CIMultiDictProxy[str], cors_origins: Collection[str]) -> bool:
    """Whether a request from this machine is one of a program, or of a page that is allowed, and of no other page.

    Browsers send pages' requests to loopback addresses, too. They name the page's origin with all but plain reads, and
    of plain reads those that are not too old say that a page sends them (Fetch Metadata); a name that its owner has
    resolve to a loopback address stands in ``Host``.
    """
    origin = headers.get("Origin")
    if origin is not None and origin not in cors_origins:
        return False
    if origin is None and headers.get("Sec-Fetch-Site", "none") != "none":  # "none": somebody has typed the address
        return False
    return is_own_name(headers.get("Host", ""))


def refusal_of_right(grant: Grant) -> Refusal:
    """The answer to somebody who may not do this: credentials are wanted, or these are not enough."""
    if grant.is_known:
        detail = f"{grant.name} may not do this; its rule says what it may (access)"
        return Refusal(403, "PermissionDenied", detail, is_of_right=True)
    challenge = {"WWW-Authenticate": _CHALLENGE}
    detail = "this needs a token that is known (access.tokens)"
    return Refusal(401, "Unauthenticated", detail, headers=challenge, is_of_right=True)


def granted_place(grant: Grant, dialect: str, instance: str, right: Right) -> Place:
    """Where a caller's entries of a build cache are; refusals are those that build tools understand.

    To a read nothing is there: some tools end the build for any other answer than 200 and 404. A write is forbidden,
    and never 401, after which some try again until they end the build.

    Raises:
        Refusal: the caller may not do this, or there can be no such instance.
    """
    try:
        place = grant.place(dialect, instance, right)
    except InvalidKey as error:
        if right is not Right.READ:
            raise Refusal(400, "InvalidKey", error.message) from None
        place = None
    if place is not None:
        return place
    if right is Right.READ:
        raise Refusal(404, "NotFound", "nothing is there", is_of_right=True)
    remedy = "its rule (access)" if grant.is_known else "a token, or the instance's rule (build.instances)"
    detail = f"{grant.name} may not write to the instance {instance!r}; {remedy} can allow it"
    raise Refusal(403, "PermissionDenied", detail, is_of_right=True)
