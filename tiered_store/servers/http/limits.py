"""What the HTTP door lets a peer use. Every bound is enforced before memory is spent."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HttpLimits"]


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of the HTTP door.

    Attributes:
        max_connections: connections at once, over all sockets; one more is told so and closed.
        max_header_bytes: a request line, or one header field; one longer is refused.
        max_headers: header fields of one request.
        max_metadata_bytes: content type and user metadata of one object, together.
        header_timeout_s: how long a peer may take from the first byte of a request to the end of its headers.
        stall_timeout_s: how long a peer may send nothing of a body that it owes, or take nothing of a reply.
        keepalive_timeout_s: how long a connection may be open without a request.
        slow_request_s: requests that take longer before their answer begins leave a line in the log.
    """

    max_connections: int = 512
    max_header_bytes: int = 8 * 1024
    max_headers: int = 100
    max_metadata_bytes: int = 16 * 1024
    header_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0
    keepalive_timeout_s: float = 75.0
    slow_request_s: float = 1.0
