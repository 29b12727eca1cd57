"""What the native door lets a peer use. Every bound is enforced before memory is spent."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NativeLimits", "RequestBytes"]


@dataclass(frozen=True, slots=True)
class NativeLimits:
    """Bounds of the native socket.

    Attributes:
        max_connections: connections at once; one more is refused with a reason.
        max_in_flight: requests of one connection being worked on; one more is refused. (It cannot wait in
            the socket: the frames that uploads in flight wait for would be behind it.)
        max_request_bytes: frames of requests of one connection being worked on, together; above it, its next
            ones wait in the socket.
        max_total_request_bytes: the same over all connections. Above it a connection has one such request
            worked on after the other.
        max_metadata_bytes: content type and user metadata of one object, together.
        write_buffer_bytes: replies of one connection waiting to be read; above it, its requests wait.
        hello_timeout_s: how long a peer may take to say who it is.
        stall_timeout_s: how long a peer may owe the rest of a frame or of an upload, or not read a
            reply, before it is disconnected.
        progress_interval_s: how often the sender of an upload is told that it is still being worked on.
        slow_request_s: requests that take longer leave a line in the log.
    """

    max_connections: int = 1024
    max_in_flight: int = 1024
    max_request_bytes: int = 16 * 1024 * 1024
    max_total_request_bytes: int = 256 * 1024 * 1024
    max_metadata_bytes: int = 16 * 1024
    write_buffer_bytes: int = 1024 * 1024
    hello_timeout_s: float = 10.0
    stall_timeout_s: float = 30.0
    progress_interval_s: float = 5.0
    slow_request_s: float = 1.0


@dataclass(slots=True)
class RequestBytes:
    """What the frames of all requests being worked on take, over all connections of a door."""

    used: int = 0
