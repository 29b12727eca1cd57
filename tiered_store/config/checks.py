"""Faults that one value cannot show: settings that contradict each other, or this machine.

Looks at the file system and never changes it. Each check yields ``(setting, message)``; the loader adds
where the value came from.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tiered_store.config.model import Config, PolicyRule
from tiered_store.config.places import obstacle
from tiered_store.config.sizes import format_size
from tiered_store.config.socketchecks import check_sockets
from tiered_store.errors import InvalidKey
from tiered_store.key import ARTIFACT_PREFIX, parse_prefix

__all__ = [
    "Finding",
    "check",
    "check_policies",
    "installed_bytes",
    "journal_notices",
    "opens_journal",
    "uses_journal",
    "waiting_puts",
]

Finding = tuple[str, str]


def check(config: Config, named: Mapping[str, bool]) -> Iterator[Finding]:
    """Every fault that shows when the settings are seen together.

    Args:
        config: all settings.
        named: by ``section.name``, whether somebody named that very value: what is missing there is not made.
    """
    yield from check_sockets(config)
    yield from _check_memory(config)
    if config.origin.backend == "local":
        yield from _check_origin(config, must_exist=named["origin.path"])
    if config.disk.enabled:
        yield from _check_cache(config)
    if uses_journal(config):
        yield from _check_journal(config)


def installed_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _check_memory(config: Config) -> Iterator[Finding]:
    installed = installed_bytes()
    sizes = {
        "memory.max_bytes": config.memory.max_bytes,
        "fills.buffer_bytes": config.fills.buffer_bytes,
        "fills.spool_memory_bytes": config.fills.spool_memory_bytes,
        "fills.upload_buffer_bytes": config.fills.upload_buffer_bytes,
    }
    for setting, size in sizes.items():
        if size > installed:
            yield setting, f"{format_size(size)} is more memory than this machine has ({format_size(installed)})"


def _check_origin(config: Config, *, must_exist: bool) -> Iterator[Finding]:
    if config.origin.quota_bytes:
        yield "origin.quota_bytes", "bounds the memory backend only; remove it, or bound the directory's file system"
    path = config.origin.path
    found = obstacle(path)
    if found is not None:
        yield "origin.path", f"{path} cannot be used: {found.reason}"
    elif must_exist and not path.exists():
        # Made anew it would answer "no such object" to everything, and take puts that vanish behind the next mount.
        yield "origin.path", f"{path} does not exist; mount what holds it, or make it (mkdir -p) if it shall be new"


def _check_cache(config: Config) -> Iterator[Finding]:
    path = config.disk.path
    found = obstacle(path)
    if found is not None:
        # A disk that is read-only or fails now is the tier's to handle: reads go on, and it is taken back later.
        if not found.is_passing:
            yield "disk.path", f"{path} cannot be used: {found.reason}"
    else:
        yield from _check_owner("disk.path", path)
    if config.origin.backend == "local" and _overlap(config.origin.path, path):
        message = f"{path} and origin.path ({config.origin.path}) must not lie in one another: files of "
        yield "disk.path", message + "the cache would be taken for objects; choose separate directories"


def uses_journal(config: Config) -> bool:
    """Whether some policy has puts acknowledged by the journal."""
    return any(rule.write_back for rule in config.policies)


def opens_journal(config: Config) -> bool:
    """Whether a journal is opened: a policy asks for one, or the build cache would have its writes go there."""
    return uses_journal(config) or (config.build.enabled and config.build.write_back and config.origin.backend == "s3")


def _check_journal(config: Config) -> Iterator[Finding]:
    path = config.write_back.path
    found = obstacle(path)
    if found is not None:
        yield "write_back.path", f"{path} cannot be used: {found.reason}"
    else:
        yield from _check_owner("write_back.path", path)
    others = {"origin.path": config.origin.path} if config.origin.backend == "local" else {}
    if config.disk.enabled:
        others["disk.path"] = config.disk.path
    for setting, other in others.items():
        if _overlap(other, path):
            message = f"{path} and {setting} ({other}) must not lie in one another; choose separate directories"
            yield "write_back.path", message


def journal_notices(config: Config) -> Iterator[str]:
    """What waits in a journal that no policy asks for any more."""
    if not opens_journal(config) and (count := waiting_puts(config.write_back.path)):
        yield (
            f"no policy says write_back, and {config.write_back.path} holds {count} puts that are not at the origin "
            "yet: the daemon uploads them"
        )


def waiting_puts(path: Path) -> int:
    """How many puts wait in a journal, which may not be there; its entries are named by ``store/journal.py``."""
    try:
        with os.scandir(path) as found:
            return sum(entry.name.endswith(".put") for entry in found)
    except OSError:
        return 0


def _overlap(one: Path, other: Path) -> bool:
    first, second = (Path(os.path.realpath(place)) for place in (one, other))
    return first == second or first in second.parents or second in first.parents


def _check_owner(setting: str, path: Path) -> Iterator[Finding]:
    """Disk tier and journal use no directory that somebody else could write to (``aio/ownership.py``)."""
    try:
        found = path.lstat()
    except OSError:  # it will be made
        return
    if stat.S_ISLNK(found.st_mode):
        yield setting, f"{path} is a symbolic link; name the directory itself: {os.path.realpath(path)}"
    elif found.st_uid != os.geteuid():
        message = f"{path} belongs to uid {found.st_uid}, and this is uid {os.geteuid()}; "
        yield setting, message + "run this as that user, change the owner, or choose another path"
    elif found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        yield setting, f"{path} can be written by others (mode {mode:04o}); chmod go-w, or choose another path"


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
