"""Faults of the HTTP door that one value cannot show; as in ``checks``."""

from __future__ import annotations

from collections.abc import Iterator

from tiered_store.config.checks import Finding
from tiered_store.config.httpmodel import is_loopback
from tiered_store.config.model import Config

__all__ = ["check_http"]


def check_http(config: Config) -> Iterator[Finding]:
    """Every fault of whom the door lets in."""
    section = config.http
    if section.open and not is_loopback(section.host):
        yield (
            "http.open",
            f"lets in who connects, and {section.host} is not of this machine alone; remove it, or listen on 127.0.0.1",
        )
    if section.port and not section.open and not config.access.tokens:
        yield (
            "http.port",
            "nobody could do anything there: add a token (access.tokens), or let in programs of this machine (open)",
        )
