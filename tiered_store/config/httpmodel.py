"""The settings of the HTTP door: types, defaults, and bounds that a value keeps by itself."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from tiered_store.config.corsvalues import CorsOrigins
from tiered_store.config.section import Section
from tiered_store.config.values import ByteSize, Mode, OptionalPath, Seconds

__all__ = ["HttpSection", "is_loopback"]


def parse_host(value: object) -> object:
    """An address of this machine. Names are not looked up: they may have several, and they change."""
    if isinstance(value, str):
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError(f"must be an IP address such as '127.0.0.1' or '::1', not {value[:80]!r}") from None
    return value


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return ipaddress.ip_address(host).is_loopback


class HttpSection(Section):
    """The HTTP door; it is off where neither a socket nor a port is said."""

    socket: OptionalPath = None
    mode: Mode = 0o660
    group: str = ""
    host: Annotated[str, BeforeValidator(parse_host)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
    open: bool = False
    anonymous: Literal["none", "read", "write"] = "read"
    tls_certificate: OptionalPath = None
    tls_key: OptionalPath = None
    cors_origins: CorsOrigins = ()
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = 512
    max_header_bytes: Annotated[ByteSize, Field(ge=4096, le=64 * 1024)] = 8 * 1024
    header_timeout_s: Annotated[Seconds, Field(gt=0)] = 10.0
    stall_timeout_s: Annotated[Seconds, Field(gt=0)] = 30.0
    keepalive_timeout_s: Annotated[Seconds, Field(gt=0)] = 75.0

    @property
    def is_on(self) -> bool:
        """Whether it listens anywhere."""
        return self.socket is not None or self.port != 0
