"""Faults of the sockets to listen on: where they are, whose they are, and what they stand for.

Looks at the file system and never changes it, as ``checks`` does.
"""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tiered_store.config.httpmodel import HttpSection
from tiered_store.config.model import Config, ServerSection, ToolDoorSection
from tiered_store.config.places import obstacle

__all__ = ["SOCKET_PATH_MAX_BYTES", "check_sockets"]

#: sockaddr_un on Linux has room for 108 bytes, the last of which is the terminating zero (unix(7)).
SOCKET_PATH_MAX_BYTES = 107
#: The number above it means "leave the group as it is" (chown(2)).
_GID_MAX = 2**32 - 2


def check_sockets(config: Config) -> Iterator[tuple[str, str]]:
    """What is wrong with the sockets: pairs of a setting and a message."""
    taken: dict[Path, str] = {}
    sections: dict[str, ServerSection | HttpSection | ToolDoorSection] = {
        "server": config.server,
        "http": config.http,
        "resp": config.resp,
        "crsh": config.crsh,
    }
    for name, section in sections.items():
        path = section.socket
        if path is None:
            continue
        if path in taken:
            yield f"{name}.socket", f"{path} is {taken[path]}.socket already; each protocol has a socket of its own"
        taken[path] = name
        yield from _check_path(f"{name}.socket", path)
        if section.group:
            yield from _check_group(f"{name}.group", section.group)
        if isinstance(section, ToolDoorSection) and not config.build.enabled:
            yield f"{name}.socket", "needs the build cache; set build.enabled, or remove the socket"


def _check_path(setting: str, path: Path) -> Iterator[tuple[str, str]]:
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_MAX_BYTES:
        yield (
            setting,
            f"{path} has {size} bytes, the system allows {SOCKET_PATH_MAX_BYTES}; choose a shorter path",
        )
        return
    try:
        mode = path.lstat().st_mode
    except OSError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        yield setting, f"{path} is a directory; name the socket itself, such as {path / 'store.sock'}"
    elif mode is not None and not stat.S_ISSOCK(mode):
        yield setting, f"{path} is a file that is no socket; remove it or choose another path"
    elif (found := obstacle(path.parent)) is not None:
        yield setting, f"{path} cannot be created: {found.reason}"


def _check_group(setting: str, group: str) -> Iterator[tuple[str, str]]:
    try:
        number = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
    except (KeyError, ValueError):  # a ValueError is a name, or a number, that there cannot be
        yield setting, f"there is no group {group!r}; create it, or give a numeric id"
        return
    if number > _GID_MAX:
        yield setting, f"a group's number is at most {_GID_MAX}, not {group}"
    elif os.geteuid() != 0 and number not in {os.getegid(), *os.getgroups()}:
        message = (
            f"the socket cannot be given to {group!r}: uid {os.geteuid()} is neither root nor a member of that group; "
        )
        yield setting, message + "add the user to it (usermod -aG), or choose another group"
