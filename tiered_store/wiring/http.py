"""The HTTP door that a configuration describes. Imported only where there is one: aiohttp takes long to load."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping, Sequence

from tiered_store.config.httpmodel import HttpSection
from tiered_store.config.model import Config
from tiered_store.config.tls import TlsFault, server_context
from tiered_store.servers.access import Gate
from tiered_store.servers.http.api import api_mounts
from tiered_store.servers.http.dialects.mounts import dialect_mounts
from tiered_store.servers.http.door import HttpDoor, Listening
from tiered_store.servers.http.exchange import Mount, Mounts
from tiered_store.servers.http.limits import HttpLimits
from tiered_store.wiring.descriptors import CannotStart, DescriptorPlan
from tiered_store.wiring.opening import OpenStore

__all__ = ["http_limits", "start_http"]


def http_limits(config: Config, plan: DescriptorPlan) -> HttpLimits:
    """What one peer of the HTTP door may use."""
    section = config.http
    return HttpLimits(
        max_connections=plan.http,
        max_header_bytes=section.max_header_bytes,
        max_metadata_bytes=config.limits.max_metadata_bytes,
        header_timeout_s=section.header_timeout_s,
        stall_timeout_s=section.stall_timeout_s,
        keepalive_timeout_s=section.keepalive_timeout_s,
        slow_request_s=config.log.slow_request_s,
    )


async def start_http(
    config: Config,
    plan: DescriptorPlan,
    opened: OpenStore,
    gate: Gate,
    sockets: Sequence[socket.socket],
    statistics: Callable[[], Mapping[str, object]],
) -> HttpDoor:
    """Open the door.

    Args:
        config: what it is told.
        plan: how many connections it may have.
        opened: what it serves.
        gate: says who may do what.
        sockets: listening; owned by the door from here on.
        statistics: what ``/v1/stats`` answers.

    Raises:
        CannotStart: the certificate cannot be used.
    """
    mounts = Mounts(*api_mounts(statistics), *_dialects(opened))
    limits, origins = http_limits(config, plan), frozenset(config.http.cors_origins)
    tls = _tls(config.http)
    door = HttpDoor(opened.store, mounts, limits=limits, gate=gate, cors_origins=origins)
    await door.start([Listening(place, tls if place.family != socket.AF_UNIX else None) for place in sockets])
    return door


def _tls(section: HttpSection) -> ssl.SSLContext | None:
    """What makes TCP connections secret. Raises CannotStart: the files have changed since they were judged."""
    if section.tls_certificate is None or section.tls_key is None:
        return None
    try:
        return server_context(section.tls_certificate, section.tls_key)
    except TlsFault as fault:
        raise CannotStart(f"the certificate cannot be used: {fault.message}") from fault


def _dialects(opened: OpenStore) -> Sequence[Mount]:
    """The build tools' dialects, where there is a build cache."""
    return () if opened.build is None else dialect_mounts(opened.build)
