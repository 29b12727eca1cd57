"""Counters: flat, one owner each, read by `stats`.

Whoever owns a counter is the only one that moves it. Nothing here locks: all of it lives on the event loop.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

__all__ = [
    "CdnStats",
    "DialectStats",
    "DoorStats",
    "HttpStats",
    "OriginStats",
    "StoreStats",
    "TierStats",
    "WriteBackStats",
]


@dataclass(slots=True)
class TierStats:
    """What one cache tier has done since the start, and what it holds now."""

    hits: int = 0  # reads that this tier answered
    misses: int = 0  # reads that asked this tier and went on to the next
    errors: int = 0  # faults that became misses (I/O, corrupt index); a corrupt object counts below too
    bytes: int = 0  # charged against max_bytes now, overhead included
    entries: int = 0  # objects held now
    max_bytes: int = 0  # the bound
    evictions: int = 0  # objects forgotten to make room


@dataclass(slots=True)
class CdnStats:
    """What was asked of the cdn."""

    hits: int = 0  # reads that it answered, with the first bytes at least
    misses: int = 0  # reads that asked it and went on to the origin: it had nothing, or failed before the first byte
    errors: int = 0  # requests that failed, at whatever byte, and lies; a "not found" is none
    skipped: int = 0  # reads that went past it unasked: breaker open, key distrusted, all connections in use
    bytes_read: int = 0
    lies: int = 0  # objects that did not have the digest or the size that they must have
    breaker_opened: int = 0  # how often it was found to fail, and left alone for a while
    breaker_open: bool = False  # whether it is left alone now
    purges: int = 0  # objects that it was told to forget, and did
    purge_errors: int = 0  # objects that it may still have, because it could not be told


@dataclass(slots=True)
class OriginStats:
    """What was asked of the origin."""

    hits: int = 0  # reads that found the object
    misses: int = 0  # reads that found none
    errors: int = 0  # requests that failed through no fault of the caller: no "not found", no refused key or size
    not_modified: int = 0  # conditional reads answered without a body
    puts: int = 0  # objects written
    bytes_read: int = 0
    bytes_written: int = 0
    # Only of an origin with a guard round it (an S3 bucket), which moves them.
    retries: int = 0  # requests and broken reads that were tried again
    retries_refused: int = 0  # ... that were not, because too many others had been
    hedges: int = 0  # reads that were asked for a second time, because the first answer was late
    hedges_won: int = 0  # ... and answered by the second
    breaker_opened: int = 0  # times that the origin was left alone after failures
    breaker_refused: int = 0  # requests refused at once meanwhile
    breaker_open: bool = False  # whether it is left alone now


@dataclass(slots=True)
class WriteBackStats:
    """Puts that were acknowledged before the origin had them."""

    entries: int = 0  # puts in the journal that the origin does not have yet
    bytes: int = 0  # what their files take
    oldest_s: float = 0.0  # the age of the oldest of them
    max_bytes: int = 0  # the bound; further puts go straight to the origin
    hits: int = 0  # reads that the journal answered
    uploads: int = 0  # puts that have come from the journal to the origin
    superseded: int = 0  # puts that a newer write of the same key replaced before they got there
    failures: int = 0  # attempts to upload that failed
    failing: int = 0  # puts whose last attempt failed, and which are tried again
    last_error: str = ""  # what the last attempt failed with; empty when none is failing
    bypassed: int = 0  # puts that went straight to the origin: the journal was full, or could not be written


@dataclass(slots=True)
class HttpStats:
    """What came in by the HTTP door."""

    connections: int = 0  # open now
    requests: int = 0  # answered, whatever with; what could not be read as HTTP is none
    failures: int = 0  # of those, with a 5xx
    cut_off: int = 0  # connections ended because the peer let the daemon wait for too long
    refused: int = 0  # connections closed as they came: all were in use
    forbidden: dict[str, int] = field(default_factory=dict)  # requests refused for want of a right, by who asked


@dataclass(slots=True)
class DialectStats:
    """What the build tools that speak one dialect have asked of the build cache."""

    hits: int = 0  # reads answered with content, whole and verified
    misses: int = 0  # reads answered "not there", for whatever reason
    failed: int = 0  # reads answered so because of a fault: the origin did not answer, or not in time
    damaged: int = 0  # entries and contents that were found damaged, and dropped
    puts: int = 0  # writes that were stored
    refused: int = 0  # writes that were not: too large, no room, no right to


@dataclass(slots=True)
class DoorStats:
    """What went through one of the small doors; what came of it is counted by dialect."""

    connections: int = 0  # peers that are connected now
    refused: int = 0  # peers that were not let in
    requests: int = 0  # commands that were understood
    malformed: int = 0  # connections that were ended because of what came through them

    def counters(self) -> dict[str, int]:
        """As plain data, for `stats`."""
        return asdict(self)


@dataclass(slots=True)
class StoreStats:
    """The store's own counters, across tiers."""

    fills: int = 0  # fills started
    coalesced: int = 0  # readers that joined a fill somebody else had started
    corrupt: int = 0  # objects found with wrong bytes, in whatever place
    stale_served: int = 0  # answers beyond their ttl, as the policy allowed
    negative_hits: int = 0  # "not found" answered from memory
    fills_cancelled: int = 0  # fills stopped because every reader had gone
    fills_superseded: int = 0  # fills not installed because a put or delete overtook them
    uploads: int = 0  # puts that reached the origin
    uploads_skipped: int = 0  # artifacts that the origin already had
    origin: OriginStats = field(default_factory=OriginStats)

    def counters(self) -> dict[str, object]:
        """As plain data, for `stats`."""
        return asdict(self)
