"""The doors for build tools that have sockets of their own, as a configuration describes them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial

from tiered_store import __version__
from tiered_store.build.cache import BuildCache
from tiered_store.config.model import Config, ToolDoorSection
from tiered_store.servers.access import Gate
from tiered_store.servers.crsh.codec import NO_GREETING
from tiered_store.servers.crsh.session import CrshSession, CrshSettings
from tiered_store.servers.instances import Instances
from tiered_store.servers.resp.codec import error
from tiered_store.servers.resp.session import RespSession, RespSettings
from tiered_store.servers.serial import SerialDoor, SerialLimits

__all__ = ["serial_limits", "tool_doors"]


def tool_doors(
    config: Config,
    cache: BuildCache | None,
    gate: Gate,
    sockets: Mapping[str, socket.socket],
    *,
    stop: Callable[[], None],
) -> list[SerialDoor]:
    """A door for each socket that was claimed.

    Args:
        config: all settings.
        cache: what is served; there is one where sockets are configured, which the configuration's checks see to.
        gate: says who may do what.
        sockets: listening, by the name of their section; owned by the doors from here on.
        stop: what a client's request to stop does, where that is allowed.
    """
    doors = []
    if cache is not None and "resp" in sockets:
        settings = RespSettings(config.resp.instance, config.resp.read_only, __version__)
        doors.append(
            SerialDoor(
                "resp",
                cache,
                sockets["resp"],
                limits=serial_limits(config, config.resp),
                session=partial(RespSession, cache, gate, Instances("resp", read_only=settings.read_only), settings),
                refuse=lambda refusal: error(str(refusal)),
            )
        )
    if cache is not None and "crsh" in sockets:
        stopping = stop if config.crsh.allow_stop else None
        crsh = CrshSettings(config.crsh.instance, config.crsh.read_only, stopping, f"tiered_store {__version__}")
        doors.append(
            SerialDoor(
                "crsh",
                cache,
                sockets["crsh"],
                limits=serial_limits(config, config.crsh),
                session=partial(CrshSession, cache, gate, Instances("ccache", read_only=crsh.read_only), crsh),
                refuse=lambda _: NO_GREETING,
            )
        )
    return doors


def serial_limits(config: Config, section: ToolDoorSection) -> SerialLimits:
    """What one peer of such a socket may use."""
    return SerialLimits(
        max_connections=section.max_connections,
        idle_timeout_s=section.idle_timeout_s,
        stall_timeout_s=config.server.stall_timeout_s,
    )
