"""File descriptors: how many the process may have, and who may hold how many of them.

Opens nothing. The invariant: no more are given away than the limit allows, whatever the settings say.
"""

from __future__ import annotations

import contextlib
import resource
from dataclasses import dataclass

from tiered_store.config.checks import opens_journal
from tiered_store.config.model import Config
from tiered_store.objects import INLINE_MAX_BYTES

__all__ = ["CannotStart", "DescriptorPlan", "divide_descriptors", "raise_descriptor_limit"]

#: Kept back for the interpreter, the event loop and the logs, SQLite's files (three per thread of the disk
#: tier), and the files of running fills (an origin's and a spool's each).
_RESERVED = 256
#: A connection holds its socket, and up to one more descriptor that is on its way in or out.
_PER_CONNECTION = 2
#: The HTTP door maps memfds, and Python keeps a duplicate of the descriptor with each map.
_PER_MAPPED = 2
#: An upload from the journal holds its file, and one more at an origin that is a directory.
_PER_UPLOAD = 2
#: With fewer than this to divide, next to nothing large could be cached.
_USABLE_MINIMUM = 64
#: Open files of the disk tier beyond this gain nothing: opening one costs some ten microseconds.
_DISK_MAXIMUM = 8192
#: The kernel's default for fs.nr_open; what "unlimited" is taken to mean.
_UNLIMITED = 2**20


class CannotStart(Exception):
    """The machine does not give what the configuration needs; the message says what to do."""


@dataclass(frozen=True, slots=True)
class DescriptorPlan:
    """Who may hold how many file descriptors.

    Attributes:
        limit: of the process (RLIMIT_NOFILE).
        connections: how many clients can be connected to the native socket.
        memory: how many objects of the memory tier may be memfds.
        disk: how many cache files the disk tier keeps open.
        http: how many clients can be connected to the HTTP door.
    """

    limit: int
    connections: int
    memory: int
    disk: int
    http: int = 0


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE to the hard limit, and give it back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _UNLIMITED if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Not fatal: the kernel may allow less than the limit says (fs.nr_open), and the old one works too.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def divide_descriptors(limit: int, config: Config) -> DescriptorPlan:
    """Divide the process's descriptors.

    256 are kept back, those for the connections to an S3 origin and a cdn, two for each upload from a journal, and two
    for each connection of the sockets for build tools, where there are such.
    Connections of clients come first, two each, but get at most half of the rest, and those of the HTTP door a quarter
    of it; what they leave goes to the tiers, half to each; an origin in memory, whose large objects are files too, is
    left half of it first. The memory tier takes no more than it could ever fill with objects large enough to be files,
    each of which is two descriptors where the HTTP door maps it, too; the disk tier takes at most 8192.

    Raises:
        CannotStart: if the limit leaves too little for any use.
    """
    reserved = _RESERVED
    if config.origin.backend == "s3":
        reserved += config.s3.max_connections
    if config.cdn.base_url:
        reserved += config.cdn.max_connections
    for door in (config.resp, config.crsh):
        if door.socket is not None:
            reserved += _PER_CONNECTION * door.max_connections
    if opens_journal(config):
        reserved += _PER_UPLOAD * config.write_back.uploads_at_once
    usable = limit - reserved
    if usable < _USABLE_MINIMUM:
        raise CannotStart(
            f"the process may open only {limit} files; allow at least {reserved + _USABLE_MINIMUM} "
            "(ulimit -n, or LimitNOFILE= in the systemd unit)"
        )
    http = min(config.http.max_connections, usable // 4 // _PER_CONNECTION) if config.http.is_on else 0
    connections = min(config.server.max_connections, usable // 2 // _PER_CONNECTION - http)
    rest = usable - (connections + http) * _PER_CONNECTION
    if config.origin.backend == "memory":
        rest //= 2
    per_memfd = _PER_MAPPED if config.http.is_on else 1
    share = rest // 2 if config.disk.enabled else rest
    memory = min(share // per_memfd, config.memory.max_bytes // INLINE_MAX_BYTES)
    disk = min(rest - memory * per_memfd, _DISK_MAXIMUM) if config.disk.enabled else 0
    return DescriptorPlan(limit, connections, memory, disk, http)
