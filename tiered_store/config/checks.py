"""Faults that one value cannot show: settings that contradict each other, or this machine.

Looks at the file system and never changes it. Each check yields ``(setting, message)``; the loader adds
where the value came from.
"""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from tiered_store.config.model import Config, PolicyRule
from tiered_store.config.sizes import format_size
from tiered_store.errors import InvalidKey
from tiered_store.key import ARTIFACT_PREFIX, parse_prefix

__all__ = ["SOCKET_PATH_MAX_BYTES", "check", "check_policies"]

#: sockaddr_un on Linux has room for 108 bytes, the last of which is the terminating zero (unix(7)).
SOCKET_PATH_MAX_BYTES = 107

Finding = tuple[str, str]


def check(config: Config) -> Iterator[Finding]:
    """Every fault that shows when the settings are seen together."""
    yield from _check_socket(config)
    yield from _check_memory(config)
    yield from _check_directories(config)


def _check_socket(config: Config) -> Iterator[Finding]:
    path = config.server.socket
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_MAX_BYTES:
        yield (
            "server.socket",
            f"{path} has {size} bytes, the system allows {SOCKET_PATH_MAX_BYTES}; choose a shorter path",
        )
        return
    try:
        mode = path.lstat().st_mode
    except OSError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        yield "server.socket", f"{path} is a directory; name the socket itself, such as {path / 'store.sock'}"
    elif mode is not None and not stat.S_ISSOCK(mode):
        yield "server.socket", f"{path} is a file that is no socket; remove it or choose another path"
    elif (reason := _unwritable(path.parent)) is not None:
        yield "server.socket", f"{path} cannot be created: {reason}"
    if config.server.group:
        yield from _check_group(config.server.group)


def _check_group(group: str) -> Iterator[Finding]:
    if group.isdecimal():
        return
    try:
        grp.getgrnam(group)
    except KeyError:
        yield "server.group", f"there is no group {group!r}; create it, or give a numeric id"


def _check_memory(config: Config) -> Iterator[Finding]:
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    sizes = {
        "memory.max_bytes": config.memory.max_bytes,
        "fills.buffer_bytes": config.fills.buffer_bytes,
        "fills.spool_memory_bytes": config.fills.spool_memory_bytes,
    }
    for setting, size in sizes.items():
        if size > installed:
            yield setting, f"{format_size(size)} is more memory than this machine has ({format_size(installed)})"


def _check_directories(config: Config) -> Iterator[Finding]:
    if config.origin.backend == "local" and config.origin.quota_bytes:
        yield "origin.quota_bytes", "bounds the memory backend only; remove it, or bound the directory's file system"
    used: list[tuple[str, Path]] = []
    if config.origin.backend == "local":
        used.append(("origin.path", config.origin.path))
    if config.disk.enabled:
        used.append(("disk.path", config.disk.path))
    for setting, path in used:
        reason = _unwritable(path)
        if reason is not None:
            yield setting, f"{path} cannot be used: {reason}"
    if len(used) == 2:
        origin, cache = (Path(os.path.realpath(path)) for _, path in used)
        if origin == cache or origin in cache.parents or cache in origin.parents:
            message = (
                f"{config.disk.path} and origin.path ({config.origin.path}) must not lie in one another: files of "
            )
            yield "disk.path", message + "the cache would be taken for objects; choose separate directories"


def check_policies(rules: Sequence[tuple[int, PolicyRule]]) -> Iterator[Finding]:
    """Every fault of the rules, each given with its place in the list, counted from 1."""
    seen: dict[str, int] = {}
    for number, rule in rules:
        setting = f"policies[{number}]"
        try:
            parse_prefix(rule.prefix)
        except InvalidKey as error:
            yield f"{setting}.prefix", f"no key can start with {rule.prefix!r}: {error.message}"
        if rule.prefix.startswith(ARTIFACT_PREFIX) and not rule.immutable:
            yield f"{setting}.prefix", "artifacts are immutable by definition; remove the rule"
        if rule.prefix in seen:
            yield f"{setting}.prefix", f"{rule.prefix!r} has a rule already, number {seen[rule.prefix]}; merge them"
        seen.setdefault(rule.prefix, number)
        timed = {"ttl_s", "stale_while_revalidate_s"} & rule.model_fields_set
        if rule.immutable and timed:
            yield (
                f"{setting}.{min(timed)}",
                "has no meaning for an immutable prefix, which is never asked for again; remove one of the two",
            )


def _unwritable(directory: Path) -> str | None:
    """Why files cannot be created in a directory, which may have to be created first; None if they can.

    Only asks the kernel (``access``), so that a fault is found before anything exists.
    """
    for place in (directory, *directory.parents):
        try:
            mode = place.stat().st_mode
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            continue  # a parent is a file; the loop comes to it
        except OSError as error:
            return f"{place}: {error.strerror}"
        if not stat.S_ISDIR(mode):
            return f"{place} is not a directory"
        if not os.access(place, os.W_OK | os.X_OK):
            return f"{place} is not writable for this user; change its owner or choose another path"
        return None
    return None
