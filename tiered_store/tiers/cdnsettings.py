"""What a cdn tier is told: place, headers, times, sizes. Values only; nothing here speaks to a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

__all__ = ["CdnSettings"]

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class CdnSettings:
    """One CDN.

    Attributes:
        base_url: stands before every name; without a "/" at its end.
        purge_url: the same, for purges; empty: they go to ``base_url``.
        timeout_s: how long the first byte may take, and any later one, in seconds.
        headers: sent with every request; the values may be secrets.
        max_connections: open to the CDN at once, purges not counted.
        part_bytes: larger objects are asked for in ranges of this size.
        parts_at_once: ranges on their way ahead of all readers together; each is in memory. Fewer than
            ``max_connections``.
    """

    base_url: str
    purge_url: str = ""
    timeout_s: float = 2.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    max_connections: int = 64
    part_bytes: int = 8 * _MIB
    parts_at_once: int = 8

    def url(self, name: str) -> str:
        """Where an object is."""
        return f"{self.base_url}/{quote(name)}"

    def url_to_purge(self, name: str) -> str:
        """Where an object is purged."""
        return f"{self.purge_url or self.base_url}/{quote(name)}"
